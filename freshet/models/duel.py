"""`freshet duel`: which of two models is better, from what both predicted and from what people clicked.

It reads topic `examples`, in which the joiner keeps what each model of a server predicted of a request before
its labels were known.
"""

import sys
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np

from freshet.config import Config
from freshet.decide.paired import Differences, Interval, differences
from freshet.errors import OrderError
from freshet.files import Json
from freshet.replay.tape import ReplayOptions, open_tape
from freshet.roles.opening import open_used
from serving.models.confidence import TUNED_FOR
from serving.models.duel import REQUESTS_MIN, Duel, better
from serving.replica.status import DuelStatus
from stream.orders.names import MAIN
from stream.orders.orders import PlacedTraffic, newest_traffic

RESAMPLED_MAX = 200_000
"""Requests behind AUC and NDCG, the first ones: they need all predictions in memory."""
RESAMPLES = 400


class DuelResult(NamedTuple):
    """The result of a duel."""

    status: DuelStatus
    verdict: str  # "better", "worse", "mixed" or "undecided", of the other model
    usual: Differences | None  # with intervals for one look; None: too few requests
    order: PlacedTraffic | None  # from which on clicks are compared
    thinned: bool


def find(
    config: Config, first: str, other: str, options: ReplayOptions, tuned_for: int = TUNED_FOR
) -> DuelResult:
    """Compare two models on a range of the log.

    Args:
        options: the range; without a beginning: since the newest order of shares.

    Raises:
        OrderError: they are no two models of the config, or its first target is a value.
        LogError, ReplayError: the range cannot be read.
    """
    known = (MAIN, *config.models)
    for name in (first, other):
        if name not in known:
            raise OrderError(f"there is no model {name!r}; the config has {', '.join(known)}")
    if first == other:
        raise OrderError(f"model {first} cannot be compared with itself; name two of {', '.join(known)}")
    targets = config.known_targets()
    if targets[""].kind == "value":
        raise OrderError(
            f"the first target, {targets.primary}, is a value, and log losses are those of probabilities: "
            "look at the errors of both in /v1/model, or in the reports of two replays"
        )
    log = open_used(config)
    try:
        order = newest_traffic(log) if config.takes_orders else None
    finally:
        log.close()
    duel = Duel(first, other, config.route_by, tuned_for)
    requests: list[int] = []
    columns: list[list[np.ndarray]] = [[], [], []]
    since = order.order.time if order is not None else 0.0
    if options.begin is None and order is not None:
        options = msgspec.structs.replace(options, begin=repr(since))
    tape = open_tape(config, options)
    try:
        for example in tape:
            paired = duel.add(example, with_own=example.time >= since)
            if paired is not None and duel.requests <= RESAMPLED_MAX:
                requests += [duel.requests - 1] * len(paired.y)
                for column, values in zip(columns, (paired.y, paired.first, paired.other), strict=True):
                    column.append(values)
    finally:
        tape.close()
    usual = None
    if duel.requests >= REQUESTS_MIN:
        y, p, q = (np.concatenate(column) for column in columns)
        usual = differences(np.array(requests), y, p, q, RESAMPLES)
    status = duel.status()
    return DuelResult(status, better(status), usual, order, duel.thinned)


def print_duel(
    config: Config, names: tuple[str, str], options: ReplayOptions, tuned_for: int, as_json: bool
) -> None:
    """`freshet duel`: print which is better.

    Raises:
        OrderError, LogError, ReplayError: as `find`.
    """
    found = find(config, *names, options, tuned_for)
    if as_json:
        sys.stdout.write(msgspec.json.encode(_plain(found)).decode() + "\n")
    else:
        print("\n".join(_lines(found)))


def _plain(found: DuelResult) -> Json:
    usual = found.usual
    return {
        **msgspec.to_builtins(found.status),
        "verdict": found.verdict,
        "sentence": _sentence(found),
        "usual_intervals": None if usual is None else {
            name: value for name, value in usual._asdict().items() if value is not None
        },
        "clicks_since_order": None if found.order is None else found.order.offset,
    }  # fmt: skip


def _lines(found: DuelResult) -> list[str]:
    status = found.status
    lines = [
        f"{status.requests:,} requests that {status.first} and {status.other} both predicted before their "
        "labels were known"
    ]
    if status.logloss is not None:
        lines.append(_line("log loss", *status.logloss, status.logloss_difference, "at any time"))
    if found.usual is not None:
        for name, one in (("AUC", found.usual.auc), ("NDCG", found.usual.ndcg)):
            if one is not None:
                lines.append(f"  {name:<9}{_signed(one)}, at one look")
    first, other = status.answered
    lines.append(
        f"own traffic: {first:,} requests of {status.first}, {other:,} of {status.other}{_since(found)}"
    )
    if found.thinned:
        lines.append("  clicks are not compared: negatives were thinned (join.negative_rate)")
    elif status.clicks is None:
        lines.append("  clicks are not compared: one of them answered nobody")
    else:
        lines.append(_line("clicks", *status.clicks, status.clicks_difference, "at any time"))
    lines.append(_sentence(found))
    return lines


def _line(
    name: str, first: float, other: float, difference: tuple[float, float, float] | None, when: str
) -> str:
    if difference is None:
        return f"  {name:<9}{first:.4f} → {other:.4f}, too little to say more"
    return f"  {name:<9}{first:.4f} → {other:.4f}, {_signed(Interval(*difference))}, {when}"


def _signed(found: Interval) -> str:
    return f"{found.value:+.5f} (95 %: {found.low:+.5f} to {found.high:+.5f})"


def _since(found: DuelResult) -> str:
    if found.order is None:
        return ""
    at = datetime.fromtimestamp(found.order.order.time, UTC)
    return f", since order {found.order.offset} of {at:%Y-%m-%d %H:%M:%S} UTC"


def _sentence(found: DuelResult) -> str:
    status, difference = found.status, found.status.logloss_difference
    if status.logloss is None:
        return (
            f"Undecided: no example holds predictions of both {status.first} and {status.other}; they are "
            "logged by servers that hold both, and come with the labels"
        )
    if difference is None:
        return f"Undecided: {REQUESTS_MIN} requests are needed at least."
    share = difference[0] / status.logloss[0]
    if found.verdict == "undecided":
        return f"Undecided: the difference in log loss ({share:+.2%}) is within chance; look again later."
    if found.verdict == "mixed":
        return (
            f"Mixed: the log loss of {status.other} differs by {share:+.2%}, but people clicked otherwise; "
            "decide by what counts for you."
        )
    if found.verdict == "better":
        return f"Take {status.other}: its log loss is {-share:.2%} lower. freshet promote {status.other}"
    return f"Keep {status.first}: the log loss of {status.other} is {share:.2%} higher."
