"""`freshet evaluate`: estimate what an order by this model would have earned.

It uses the requests of a replay whose order was drawn at random and logged with the probability of each place
(`propensity`). The policy puts the highest value of `rank.by` first, without one the highest prediction of
the first target; what is earned is that value too, from what became of the candidates: without one, clicks. A
request is predicted before the model trains on it, so no model is judged by clicks in its training data.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.decide.compare import read_runs
from freshet.decide.earned import Expression, decided, say_undecided
from freshet.decide.offpolicy import (
    Estimate,
    Ints,
    Logged,
    difference,
    doubly_robust,
    effective_requests,
    greedy_places,
    greedy_weight,
    guesses,
    ips,
    on_policy,
    snips,
)
from freshet.decide.paired import Interval
from freshet.errors import CompareError
from freshet.files import write_json
from stream.records.targets import UNDECLARED

if TYPE_CHECKING:
    import pyarrow

ESTIMATORS = ("ips", "snips", "dr")
FEW = 100.0
"""Effective requests below which the interval is not reliable."""


class Value(NamedTuple):
    """The value of one run's order, per request, by each estimator."""

    name: str
    by: str  # the order
    estimates: dict[str, Estimate]
    over_logged: dict[str, Interval]  # minus the value of the order that was shown
    effective: float


def run_evaluate(
    reports: Sequence[Path],
    prediction: str,
    top: int | None,
    report_to: Path | None,
    by: str = "",
    value: str = "",
) -> None:
    """Print the value of each run's order beside that of the order shown, and write the report.

    Args:
        reports: of the runs.
        prediction: "base" or "corrected".
        top: what is earned at later places counts nothing.
        report_to: where the report goes; None: nowhere.
        by: the order of all runs; empty: each one's own `rank.by`, or its first target.
        value: what is earned; empty: the `rank.by` of the first run, or its first target.

    Raises:
        CompareError: there are no propensities, or the runs used different data, or an expression cannot be
            used.
    """
    runs = read_runs(reports, values=True)
    orders = [Expression(by or run.report.get("rank_by", ""), run, "--by") for run in runs]
    worth = [Expression(value or runs[0].report.get("rank_by", ""), run, "--value") for run in runs]
    logged, rows = read_logged(runs[0].predicted.path, top, worth[0])
    shown = on_policy(logged)
    values = [
        value_of(run.name, order, earned, prediction, logged, rows, shown)
        for run, order, earned in zip(runs, orders, worth, strict=True)
    ]
    unit = earned_of(worth[0])
    _print(logged, shown, values, top, unit)
    if report_to is not None:
        report = {
            "requests": logged.requests,
            "value": worth[0].by,
            "shown": shown.value._asdict(),
            "values": [
                {
                    "name": one.name,
                    "by": one.by,
                    "effective_requests": one.effective,
                    **{name: e.value._asdict() for name, e in one.estimates.items()},
                    "over_shown": {name: i._asdict() for name, i in one.over_logged.items()},
                }
                for one in values
            ],
        }
        write_json(report_to, report, CompareError)


def earned_of(worth: Expression) -> str:
    """What is earned, in words."""
    return "clicks" if worth.by == UNDECLARED.primary else worth.by


def read_logged(path: Path, top: int | None = None, worth: Expression | None = None) -> tuple[Logged, Ints]:
    """The requests of a predictions file whose order was drawn at random, and their rows in the file.

    Args:
        path: the file.
        top: what is earned at later places counts nothing.
        worth: what is earned; None: the labels.

    Raises:
        CompareError: there are no such requests.
    """
    import pyarrow.parquet

    there = pyarrow.parquet.read_schema(path).names
    names = ["candidate", "time", "place", "propensity", "label", "log_odds"]
    table = pyarrow.parquet.read_table(
        path, columns=[*names, *(name for name in ("candidate_count",) if name in there)]
    )
    candidate, odds, y, time = (table[n].to_numpy() for n in ("candidate", "log_odds", "label", "time"))
    propensity = np.asarray(table["propensity"].to_numpy(zero_copy_only=False), dtype=np.float64)
    drawn = np.isfinite(propensity)
    whole = _shown_whole(table, candidate)
    rows = np.flatnonzero(drawn & whole)
    left_out = len(np.unique(np.cumsum(candidate == 0)[drawn & ~whole]))
    if left_out:
        print(
            f"{path}: {left_out:,} requests are left out of which only some candidates were shown: how a "
            "policy would have ranked the others is not in an example",
            file=sys.stderr,
        )
    if len(rows) == 0 and left_out:
        raise CompareError(f"{path}: of no request with a drawn order all candidates were shown")
    if len(rows) == 0:
        raise CompareError(
            f"{path}: no request has propensities; only sampled orders that were logged with their "
            'propensities can be used (explore = "thompson" under [server])'
        )
    if np.any(odds[rows] != 0.0):
        raise CompareError(
            f"{path}: negatives were thinned (join.negative_rate), so it is not known what else was shown; "
            "keep all negatives to evaluate orders"
        )
    place = np.asarray(table["place"].to_numpy(zero_copy_only=False), dtype=np.float64)
    numbers = np.cumsum(candidate == 0)
    earned = y[rows]
    if worth is not None:
        earned = worth.outcome(rows)
        _, request = np.unique(numbers[rows], return_inverse=True)
        known = decided(worth, earned, request.astype(np.int64), time[rows])
        if known.undecided:
            say_undecided(worth, known.undecided)
        rows, earned = rows[known.rows], earned[known.rows]
        if len(rows) == 0:
            raise CompareError(f"{path}: no request with a drawn order is decided for {worth.by!r} yet")
    places = np.where(np.isfinite(place), place, candidate)[rows].astype(np.int64)
    _, request = np.unique(numbers[rows], return_inverse=True)
    counted = earned if top is None else np.where(places < top, earned, 0.0)
    return Logged(request.astype(np.int64), places, propensity[rows], counted), rows


def _shown_whole(table: "pyarrow.Table", candidate: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which rows (n,) are of requests all of whose candidates were shown, or of which nobody said it."""
    request = np.cumsum(candidate == 0) - 1
    if "candidate_count" not in table.column_names:
        return np.ones(len(candidate), dtype=np.bool_)
    counts = np.nan_to_num(np.asarray(table["candidate_count"].to_numpy(zero_copy_only=False), np.float64))
    whole: npt.NDArray[np.bool_] = counts <= np.bincount(request)[request]
    return whole


def value_of(
    name: str,
    order: Expression,
    worth: Expression,
    prediction: str,
    logged: Logged,
    rows: Ints,
    shown: Estimate,
) -> Value:
    """Estimate what the order by a run's predictions would have earned."""
    target = greedy_places(logged, order.predicted(prediction, rows))
    weight = greedy_weight(logged, target)
    p = worth.predicted(prediction, rows)
    q, expected = guesses(logged, p, target, most=1.0 if worth.is_probability else np.inf)
    estimates = {
        "ips": ips(logged, weight),
        "snips": snips(logged, weight),
        "dr": doubly_robust(logged, weight, q, expected),
    }
    over = {name: difference(shown, estimate) for name, estimate in estimates.items()}
    return Value(name, order.by, estimates, over, effective_requests(logged, weight))


def _print(logged: Logged, shown: Estimate, values: Sequence[Value], top: int | None, unit: str) -> None:
    where = f" at the first {top} places" if top else ""
    print(f"{unit} a request{where}, over {logged.requests:,} requests with a sampled order (95 % intervals)")
    print(f"  {'as shown':<24}{_interval_text(shown.value)}")
    for value in values:
        if value.by != unit and unit != "clicks":
            print(f"  {value.name} ordered by {value.by}")
        for name in ESTIMATORS:
            over = value.over_logged[name]
            print(
                f"  {f'{value.name}, {name.upper()}':<24}{_interval_text(value.estimates[name].value)}"
                f"   {over.value:+.4f} ({over.low:+.4f} to {over.high:+.4f}) against as shown"
            )
        if value.effective < FEW:
            print(
                f"  {value.name}: the order shown rarely agrees with its order: only {value.effective:.0f} "
                "effective requests, too few for a reliable interval"
            )
    for value in values[1:]:
        gain = difference(values[0].estimates["dr"], value.estimates["dr"])
        verdict = "more than" if gain.low > 0.0 else "less than" if gain.high < 0.0 else "about as much as"
        print(
            f"{value.name} would have earned {verdict} {values[0].name}: {gain.value:+.4f} {unit} a "
            f"request ({gain.low:+.4f} to {gain.high:+.4f}, doubly robust)"
        )


def _interval_text(interval: Interval) -> str:
    return f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f})"
