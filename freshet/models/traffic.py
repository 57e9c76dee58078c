"""`freshet share` and `freshet promote`: which model answers whom, changed at one place in the log.

An order is a record in topic `models`, which all servers follow. Each server goes over from one set of shares
to the next between two answers, so no answer is of two models. A server whose model is still loading keeps
the shares that it has until it is ready.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from freshet.config import Config
from freshet.errors import OrderError
from freshet.roles.opening import open_used
from freshet.sections.models import SHARE_ERROR
from ground.clock import SYSTEM_CLOCK, Clock
from serving.watch.pulse import MODEL
from stream.group.observer import Roll
from stream.log.base import EXAMPLES, Log
from stream.log.lag import LagMeter, Position
from stream.orders.names import MAIN
from stream.orders.orders import Traffic, give_order, newest_traffic
from stream.orders.view import log_of

LAG_S_MAX = 10.0
"""By default a model that is to answer may be so far behind the examples."""
SILENT_S = 10.0
"""A server without a beat for longer counts as gone."""
LOOK_EVERY_S = 0.2


class Servers(NamedTuple):
    """The servers whose beats were heard lately, by name: the order that each follows."""

    following: Mapping[str, float]


def shares_from_words(words: Sequence[str], config: Config) -> dict[str, float]:
    """The shares that "NAME=SHARE" words say.

    Raises:
        OrderError: a word is none, a model is unknown or named twice, or the shares do not add up to 1.
    """
    known = (MAIN, *config.models)
    shares: dict[str, float] = {}
    for word in words:
        name, sign, text = word.partition("=")
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not sign or not 0.0 <= share <= 1.0:
            raise OrderError(f"{word!r}: expected MODEL=SHARE with a share of 0 to 1, for example main=0.9")
        if name not in known:
            raise OrderError(f"{word!r}: there is no model {name!r}; the config has {', '.join(known)}")
        if name in shares:
            raise OrderError(f"{word!r}: model {name} is named twice")
        shares[name] = share
    total = sum(shares.values())
    if abs(total - 1.0) > SHARE_ERROR * len(known):
        said = " + ".join(f"{share:g}" for share in shares.values()) or "nothing"
        raise OrderError(f"the shares add up to {total:g}, not to 1: {said}; a model that is not named has 0")
    return shares


def order_shares(
    config: Config,
    shares: Mapping[str, float],
    why: str = "",
    lag_s_max: float = LAG_S_MAX,
    wait_s: float = 10.0,
    clock: Clock = SYSTEM_CLOCK,
) -> tuple[int, Servers]:
    """Order new shares, and wait until all servers follow them.

    Returns:
        The order's offset in topic `models`, and the servers that follow it or a later one.

    Raises:
        OrderError: there is one model only, a model that is to answer has not caught up, a server does not
            hold it, or a server did not follow in time.
        LogError: the log fails.
    """
    if not config.models:
        raise OrderError("the config has one model; declare others in sections [models.NAME]")
    log = open_used(config)
    try:
        before = newest_traffic(log)
        had = config.shares if before is None else before.order.shares
        for name, share in shares.items():
            if share > had.get(name, 0.0):
                _check_caught_up(log, name, lag_s_max)
        roll = Roll(log)
        roll.look()
        _check_held(roll, [name for name, share in shares.items() if share > 0.0])
        order = Traffic({name: share for name, share in shares.items() if share > 0.0}, clock.unix_s(), why)
        offset = give_order(log, order)
        return offset, _wait(roll, offset, wait_s, clock)
    finally:
        log.close()


def _check_caught_up(log: Log, name: str, lag_s_max: float) -> None:
    positions = log_of(log, name).committed("learn", EXAMPLES)
    if not positions:
        raise OrderError(
            f"model {name} has learned nothing yet: start its learner with `freshet learn"
            f"{'' if name == MAIN else f' --model {name}'}`, and wait until it has caught up"
        )
    # a partition that nothing was read of yet is behind by all that it holds
    firsts = {p: first for p, (first, _) in enumerate(log.ends(EXAMPLES))}
    reached = {p: Position(max(positions.get(p, 0), first), 0) for p, first in firsts.items()}
    lags = LagMeter(log, EXAMPLES, lambda: reached).measure()
    behind_s = max((lag.seconds for lag in lags if lag.records), default=0.0)
    if behind_s > lag_s_max:
        records = sum(lag.records for lag in lags)
        raise OrderError(
            f"model {name} has not caught up: its learner is {behind_s:,.0f} s and {records:,} examples "
            f"behind, more than {lag_s_max:g} s; wait, or allow more with --lag-max"
        )


def _servers(roll: Roll, clock: Clock) -> dict[str, Mapping[str, float]]:
    return {
        member.name: member.status.numbers
        for member in roll.members
        if member.group == "serve" and clock.now_s() - member.at_s <= SILENT_S
    }


def _check_held(roll: Roll, names: Sequence[str]) -> None:
    for server, numbers in _servers(roll, SYSTEM_CLOCK).items():
        for name in names:
            ready = numbers.get(f"{MODEL}{name}/ready")
            if ready is None:
                raise OrderError(f"server {server} does not hold model {name}: restart it with this config")
            if not ready:
                raise OrderError(f"model {name} is not ready in server {server}; try again in a moment")


def _wait(roll: Roll, offset: int, wait_s: float, clock: Clock) -> Servers:
    deadline = clock.now_s() + wait_s
    while True:
        roll.look()
        following = {s: numbers.get("shares_from", -1.0) for s, numbers in _servers(roll, clock).items()}
        late = sorted(server for server, order in following.items() if order < offset)
        if not late:
            return Servers(following)
        if clock.now_s() > deadline:
            raise OrderError(
                f"order {offset} is in the log, but after {wait_s:g} s it is not followed by "
                f"{', '.join(late)}; they follow it once they can: see their log lines and `freshet status`"
            )
        clock.sleep(LOOK_EVERY_S)


def print_shares(config: Config, words: Sequence[str], lag_s_max: float, why: str, as_json: bool) -> None:
    """`freshet share`: order new shares, or print those that count.

    Raises:
        OrderError, LogError: as `order_shares`.
    """
    if words:
        _print_order(config, shares_from_words(words, config), lag_s_max, why, as_json)
        return
    log = open_used(config)
    try:
        newest = newest_traffic(log) if config.models else None
    finally:
        log.close()
    shares = dict(config.shares if newest is None else newest.order.shares)
    every = {name: shares.get(name, 0.0) for name in (MAIN, *config.models)}
    if as_json:
        said = {"shares": every, "order": -1 if newest is None else newest.offset}
        sys.stdout.write(json.dumps(said) + "\n")
        return
    whence = "of the config"
    if newest is not None:
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(newest.order.time))
        why = f": {newest.order.why}" if newest.order.why else ""
        whence = f"by order {newest.offset} of {at}{why}"
    print(f"{' '.join(f'{name}={share:g}' for name, share in every.items())} ({whence})")


def print_promotion(config: Config, name: str, lag_s_max: float, why: str, as_json: bool) -> None:
    """`freshet promote`: one model answers all requests from here on; the others become shadows.

    Raises:
        OrderError, LogError: as `order_shares`.
    """
    _print_order(config, shares_from_words([f"{name}=1"], config), lag_s_max, why, as_json)


def _print_order(
    config: Config, shares: Mapping[str, float], lag_s_max: float, why: str, as_json: bool
) -> None:
    offset, servers = order_shares(config, shares, why, lag_s_max)
    if as_json:
        said = {"order": offset, "shares": dict(shares), "servers": sorted(servers.following)}
        sys.stdout.write(json.dumps(said) + "\n")
        return
    who = ", ".join(sorted(servers.following)) or "no server runs now"
    what = " ".join(f"{name}={share:g}" for name, share in shares.items())
    print(f"{what} from order {offset} on; followed by: {who}")
