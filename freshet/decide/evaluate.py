"""`freshet evaluate`: estimate the clicks that an order by this model would have earned.

It uses the requests of a replay whose order was drawn at random and logged with the probability of each place
(`propensity`). The policy puts the highest prediction first. A request is predicted before the model trains
on it, so no model is judged by clicks in its training data.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.decide.compare import read_runs
from freshet.decide.comparison import Run
from freshet.decide.offpolicy import (
    Estimate,
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

if TYPE_CHECKING:
    import pyarrow

ESTIMATORS = ("ips", "snips", "dr")
FEW = 100.0
"""Effective requests below which the interval is not reliable."""


class Value(NamedTuple):
    """The value of one run's order, in clicks per request, by each estimator."""

    name: str
    estimates: dict[str, Estimate]
    over_logged: dict[str, Interval]  # minus the value of the order that was shown
    effective: float


def run_evaluate(reports: Sequence[Path], prediction: str, top: int | None, report_to: Path | None) -> None:
    """Print the value of each run's order beside that of the order shown, and write the report.

    Raises:
        CompareError: there are no propensities, or the runs used different data.
    """
    runs = read_runs(reports)
    logged, rows = read_logged(runs[0].predicted.path, top)
    shown = on_policy(logged)
    values = [value_of(run, prediction, logged, rows, shown) for run in runs]
    _print(logged, shown, values, top)
    if report_to is not None:
        report = {
            "requests": logged.requests,
            "shown": shown.value._asdict(),
            "values": [
                {
                    "name": value.name,
                    "effective_requests": value.effective,
                    **{name: e.value._asdict() for name, e in value.estimates.items()},
                    "over_shown": {name: i._asdict() for name, i in value.over_logged.items()},
                }
                for value in values
            ],
        }
        write_json(report_to, report, CompareError)


def read_logged(path: Path, top: int | None = None) -> tuple[Logged, Any]:
    """The requests of a predictions file whose order was drawn at random, and their rows in the file.

    Args:
        top: clicks at later places count nothing.

    Raises:
        CompareError: there are no such requests.
    """
    import pyarrow.parquet

    there = pyarrow.parquet.read_schema(path).names
    names = ["candidate", "place", "propensity", "label", "log_odds"]
    table = pyarrow.parquet.read_table(
        path, columns=[*names, *(name for name in ("candidate_count",) if name in there)]
    )
    candidate, odds, y = (table[name].to_numpy() for name in ("candidate", "log_odds", "label"))
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
    places = np.where(np.isfinite(place), place, candidate)[rows].astype(np.int64)
    _, request = np.unique(np.cumsum(candidate == 0)[rows], return_inverse=True)
    clicked = y[rows] if top is None else np.where(places < top, y[rows], 0.0)
    return Logged(request.astype(np.int64), places, propensity[rows], clicked), rows


def _shown_whole(table: "pyarrow.Table", candidate: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which rows (n,) are of requests all of whose candidates were shown, or of which nobody said it."""
    request = np.cumsum(candidate == 0) - 1
    if "candidate_count" not in table.column_names:
        return np.ones(len(candidate), dtype=np.bool_)
    counts = np.nan_to_num(np.asarray(table["candidate_count"].to_numpy(zero_copy_only=False), np.float64))
    whole: npt.NDArray[np.bool_] = counts <= np.bincount(request)[request]
    return whole


def value_of(run: Run, prediction: str, logged: Logged, rows: Any, shown: Estimate) -> Value:
    """Estimate the clicks of the order by a run's predictions."""
    p = np.asarray(getattr(run.predicted, prediction))[rows]
    target = greedy_places(logged, p)
    weight = greedy_weight(logged, target)
    q, expected = guesses(logged, p, target)
    estimates = {
        "ips": ips(logged, weight),
        "snips": snips(logged, weight),
        "dr": doubly_robust(logged, weight, q, expected),
    }
    over = {name: difference(shown, estimate) for name, estimate in estimates.items()}
    return Value(run.name, estimates, over, effective_requests(logged, weight))


def _print(logged: Logged, shown: Estimate, values: Sequence[Value], top: int | None) -> None:
    where = f" at the first {top} places" if top else ""
    print(f"clicks a request{where}, over {logged.requests:,} requests with a sampled order (95 % intervals)")
    print(f"  {'as shown':<24}{_interval_text(shown.value)}")
    for value in values:
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
            f"{value.name} would have earned {verdict} {values[0].name}: {gain.value:+.4f} clicks a "
            f"request ({gain.low:+.4f} to {gain.high:+.4f}, doubly robust)"
        )


def _interval_text(interval: Interval) -> str:
    return f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f})"
