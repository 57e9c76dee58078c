"""Predictions and labels of a replay, in order, and the metrics over them."""

import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.files import Json
from freshet.replay.growing import ROWS_MAX, Growing
from freshet.replay.passes import Passes
from learner.metrics import Summary, summarize
from learner.ranking import TOP

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.uint64]


class Candidates(NamedTuple):
    """n candidates, each (n,)."""

    base: Floats
    corrected: Floats
    y: Floats
    user: Ids
    time: Floats  # event time, Unix seconds
    request: Ids  # the same number for the candidates of one request
    weight: Floats  # above 0

    def kept(self, keep: npt.NDArray[np.bool_]) -> "Candidates":
        """The candidates where `keep` (n,) is true."""
        base, corrected, y, user, time, request, weight = self
        return Candidates(
            base[keep], corrected[keep], y[keep], user[keep], time[keep], request[keep], weight[keep]
        )


class ScoredCandidates:
    """Collects candidates with their predictions; 56 bytes each, on disk if they are many.

    Args:
        rows_max: how many are kept in memory, and sorted at once.
    """

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self._floats = [Growing(np.float64, rows_max) for _ in range(5)]
        self._ids = [Growing(np.uint64, rows_max) for _ in range(2)]

    @property
    def count(self) -> int:
        """How many there are."""
        return self._floats[0].rows

    def add(self, candidates: Candidates) -> None:
        """Append candidates."""
        base, corrected, y, user, time, request, weight = candidates
        for numbers, values in zip(self._floats, (base, corrected, y, time, weight), strict=True):
            numbers.add(values)
        for ids, named in zip(self._ids, (user, request), strict=True):
            ids.add(named)

    def arrays(self) -> Candidates:
        """All candidates, concatenated, to be read only."""
        base, corrected, y, time, weight = (column.array() for column in self._floats)
        user, request = (column.array() for column in self._ids)
        return Candidates(base, corrected, y, user, time, request, weight)


class Summaries:
    """Metrics over candidates: exact, but for some of more than `rows_max` (see `Passes`).

    Args:
        candidates: of a whole replay.
        top: places that NDCG and recall count.
        rows_max: how many are sorted at once.
        value: their labels are numbers.
    """

    def __init__(
        self, candidates: Candidates, top: int = TOP, rows_max: int = ROWS_MAX, value: bool = False
    ) -> None:
        self.candidates = candidates
        self._value = value
        self._top = top
        self._rows_max = rows_max
        self._passes: Passes | None = None

    def of(self, p: Floats, first: int = 0, end: int | None = None) -> Summary:
        """Metrics of predictions p (n,) for the candidates [first, end)."""
        _, _, y, user, _, request, weight = self.candidates
        end = len(y) if end is None else end
        if self._value:
            part = slice(first, end)
            return summarize(p[part], y[part], user[part], weight=weight[part], value=True)
        if end - first <= self._rows_max:
            part = slice(first, end)
            return summarize(p[part], y[part], user[part], request[part], self._top, weight[part])
        if self._passes is None:
            self._passes = Passes(y, user, request, weight, self._top, self._rows_max)
        return self._passes.summary(p, first, end)

    def halves(self, p: Floats) -> Json:
        """Metrics of predictions p (n,) overall and over the last half."""
        return {"overall": self.of(p), "last_half": self.of(p, len(p) // 2)}

    def report(self, window: int) -> Json:
        """Metrics of base and corrected: overall, over the last half, and over windows of candidates."""
        base, corrected, _, _, time, _, _ = self.candidates
        n = len(time)
        windows = []
        for first in range(0, n, window):
            end = min(first + window, n)
            between = {"from_time": float(time[first]), "to_time": float(time[end - 1])}
            both = {"base": self.of(base, first, end), "corrected": self.of(corrected, first, end)}
            windows.append(between | both)
        return {"base": self.halves(base), "corrected": self.halves(corrected), "windows": windows}


def _among(part: Json) -> str:
    return f" of {part['of']}" if part["of"] else ""


def print_summary(report: Json) -> None:
    """Print a replay's report for people, to stderr."""

    def line(name: str, part: Json, kind: str = "event") -> str:
        keys = ["auc", "request_auc", "ndcg", "logloss", "calibration"]
        if kind == "value":
            keys = ["mean", "mae", "rmse", "calibration"]
        return f"  {name:<22}" + "".join(
            f"{key} {'–' if part.get(key) is None else format(part[key], '.4f')}   " for key in keys
        )

    kind = "value" if "mae" in report["base"]["overall"] else "event"
    print(
        f"{report['events']:,} requests, {report['candidates']:,} candidates, "
        f"{report['events_per_second']:,.0f} requests/s, state {report['state_hash']}",
        *(
            line(f"{name}, {part.replace('_', ' ')}", report[name][part], kind)
            for part in ("overall", "last_half")
            for name in ("base", "corrected")
        ),
        *(line(name, found["last_half"], kind) for name, found in report["baselines"].items()),
        sep="\n",
        file=sys.stderr,
    )
    for name, part in list(report.get("targets", {}).items())[1:]:
        print(f"  {name}{_among(part)}: {part['candidates']:,} candidates, last half:", file=sys.stderr)
        if not part["candidates"]:
            continue
        lines = {who: part[who]["last_half"] for who in ("base", "corrected")}
        lines |= {who: found["last_half"] for who, found in part["baselines"].items()}
        for who, found in lines.items():
            print(line(f"  {who}", found, part["kind"]), file=sys.stderr)
    if report["skipped"]:
        first = f"; the first: {report['first_skipped']}" if report["first_skipped"] else ""
        print(f"  left out: {report['skipped']:,} that could not be used{first}", file=sys.stderr)
    if kind == "event" and report["base"]["overall"]["auc"] is None:
        print(
            "  no auc: all labels are the same; is label in [data] the right column?",
            file=sys.stderr,
        )
    for warning in report["warnings"]:
        print(f"  warning: {warning}", file=sys.stderr)
    if "live_state_hash" in report:
        equal = "the very state" if report["equals_live_state"] else "NOT the state"
        print(f"  this is {equal} of the live learner ({report['live_state_hash']})", file=sys.stderr)
