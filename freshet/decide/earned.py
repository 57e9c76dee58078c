"""What an order is worth, and by what a run orders: arithmetic over targets and the candidates' numbers.

Both are expressions as of `rank.by`. A run's order comes from one over its predictions; what was earned, from
one over what became of the candidates: `click * (0.1 + 30 * buy)` is 30.1 where somebody clicked and bought.
"""

import sys
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from freshet.decide.comparison import Run
from freshet.errors import CompareError
from freshet.files import JsonView
from learner.features.spec import FeatureSpec
from serving.errors import RankError
from serving.replica.ranking import Ranking, ranking_by
from stream.records.targets import Target, Targets

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Expression:
    """An expression over the targets and numbers of one run.

    Args:
        by: the expression; empty: the first target.
        option: where it was given, for messages.

    Raises:
        CompareError: it is no expression, or of nothing that the run has.
    """

    def __init__(self, by: str, run: Run, option: str) -> None:
        self._run = run
        self.targets = targets_of(run.report)
        features = msgspec.convert(run.report.get("config", {}).get("features", {}), dict[str, FeatureSpec])
        self.by = by or self.targets.primary
        try:
            self._ranking: Ranking = ranking_by(self.by, self.targets.names, features)
        except RankError as error:
            why = str(error).removeprefix("rank.by: ")
            raise CompareError(f"{option}, for {run.name}: {why}") from None

    @property
    def named(self) -> tuple[str, ...]:
        """The targets in it."""
        return self._ranking.targets

    @property
    def is_probability(self) -> bool:
        """Whether it is one target that is an event, so between 0 and 1."""
        return self.by in self.targets.names and self.targets[self.by].kind == "event"

    def predicted(self, prediction: str, rows: Ints) -> Floats:
        """Its value by the run's predictions, of rows of the file, (n,).

        Args:
            prediction: "base" or "corrected".
        """
        primary = self.targets.primary
        return self._at({
            name: np.asarray(getattr(self._run.predicted, prediction))[rows]
            if name == primary
            else self._column(f"{prediction}.{name}", rows)
            for name in self.named
        }, rows)  # fmt: skip

    def outcome(self, rows: Ints) -> Floats:
        """Its value by what became of the candidates, of rows of the file, (n,); NaN: not known."""
        primary = self.targets.primary
        known = {
            name: np.asarray(self._run.predicted.y)[rows]
            if name == primary
            else self._column(f"label.{name}", rows)
            for name in self.named
        }
        found = self._at({name: np.nan_to_num(labels) for name, labels in known.items()}, rows)
        return np.where(np.any([np.isnan(labels) for labels in known.values()], axis=0), np.nan, found)

    def _at(self, values: dict[str, Floats], rows: Ints) -> Floats:
        numbers = {name: self._numbers(name, rows) for name in self._ranking.numbers}
        return np.broadcast_to(self._ranking({**values, **numbers}), len(rows)).astype(np.float64)

    def _column(self, name: str, rows: Ints) -> Floats:
        found = _read(self._run, name)
        if found is None:
            raise CompareError(
                f"{self._run.predicted.path}: has no column {name}, which {self.by!r} needs; replay again "
                "with --predictions"
            )
        return found[rows]

    def _numbers(self, name: str, rows: Ints) -> Floats:
        """A number of each candidate; what a candidate lacks comes from the context."""
        found = np.full(len(rows), np.nan)
        columns = [c for c in self._run.predicted.columns if c.feature == name]
        for column in sorted(columns, key=lambda c: c.where == "candidate"):
            if column.kind in ("int", "uint", "number"):
                read = _read(self._run, column.column)
                assert read is not None
                found = np.where(np.isnan(read[rows]), found, read[rows])
        lacking = np.count_nonzero(np.isnan(found))
        if lacking:
            raise CompareError(
                f"{self._run.predicted.path}: {self.by!r} needs the number {name!r} of each candidate; "
                f"{lacking:,} of {len(rows):,} have none"
            )
        return found


class DecidedRows(NamedTuple):
    """Of requests, which are decided for all targets of an expression."""

    rows: npt.NDArray[np.bool_]  # (n,), of the candidates
    undecided: int  # requests left out, at the end of the log and before


def decided(expression: Expression, outcome: Floats, request: Ints, time: Floats) -> DecidedRows:
    """Which candidates are of requests that are decided for all targets.

    A request is left out as a whole. If some are not decided yet, so are all of the last window of the
    expression's targets: those that are decided there would be the ones with little to wait for.

    Args:
        outcome, request, time: (n,), request ascending from 0.
    """
    unknown = np.zeros(int(request[-1]) + 1, dtype=np.bool_)
    unknown[request[np.isnan(outcome)]] = True
    if unknown.any():
        window_s = max(expression.targets[name].window_s for name in expression.named)
        unknown[request[time > time.max() - window_s]] = True
    return DecidedRows(~unknown[request], int(unknown.sum()))


def say_undecided(expression: Expression, left_out: int) -> None:
    """Tell of requests that are left out."""
    print(
        f"{left_out:,} requests are left out that are not decided yet for {', '.join(expression.named)}, "
        "or are as new as those",
        file=sys.stderr,
    )


def targets_of(report: JsonView) -> Targets:
    """The targets of a replay's report."""
    config: Any = report.get("config", {})
    declared = {
        one["name"]: msgspec.convert({k: v for k, v in one.items() if k != "name"}, Target)
        for one in config.get("targets", [])
    }
    return Targets(declared, config.get("join", {}).get("window_s", 60.0))


def _read(run: Run, column: str) -> Floats | None:
    """A column of a run's predictions file as floats, (n,); None: there is none."""
    import pyarrow.parquet

    path = run.predicted.path
    if column not in pyarrow.parquet.read_schema(path).names:
        return None
    values = pyarrow.parquet.read_table(path, columns=[column])[column]
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
