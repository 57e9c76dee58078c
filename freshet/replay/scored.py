"""Predictions and labels of a replay, in order, and the metrics over them."""

import sys
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from freshet.files import Json
from freshet.replay.growing import ROWS_MAX, Growing
from freshet.replay.passes import Passes, request_parts
from learner.exposure import ItemExposure
from learner.metrics import Summary, summarize
from learner.model.scales import Scales
from learner.ranking import TOP

Floats = npt.NDArray[np.float64]

WINDOWS_MAX = 1_000
"""Windows in a report."""
Ids = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


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
        value: their labels are numbers, whose log densities are collected too.
    """

    def __init__(self, rows_max: int = ROWS_MAX, value: bool = False) -> None:
        self.value = value
        self._densities = [Growing(np.float64, rows_max) for _ in range(3)]
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

    def add_densities(
        self,
        scales: Scales,
        target: int,
        both: tuple[Floats, Floats],
        s2: Floats,
        spread: Floats,
        y: Floats,
        keep: Mask,
    ) -> None:
        """Append the log densities of labels by base, corrected and their running mean; of a value.

        Args:
            both: the means of base and corrected, (n,) each.
            s2, spread, y: as for `Scales.log_likelihoods`.
            keep: which of them.
        """
        if not self.value:
            return
        alike, none = np.c_[spread[:, :2], np.ones(len(y))], np.zeros(len(y))
        *by_model, by_mean = self._densities
        for z, densities in zip(both, by_model, strict=True):
            densities.add(scales.log_likelihoods(z, s2, spread, y, target)[keep])
        by_mean.add(scales.log_likelihoods(none, none, alike, y, target)[keep])

    @property
    def densities(self) -> tuple[Floats, Floats, Floats] | None:
        """The log densities by base, corrected and the running mean, (n,) each; None of an event."""
        base, corrected, by_mean = (column.array() for column in self._densities)
        return (base, corrected, by_mean) if self.value else None

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
        densities: of a value, (n,) each: log densities of the labels by base, corrected and the running mean.
    """

    def __init__(
        self,
        candidates: Candidates,
        top: int = TOP,
        rows_max: int = ROWS_MAX,
        value: bool = False,
        densities: tuple[Floats, Floats, Floats] | None = None,
    ) -> None:
        self.candidates = candidates
        base, corrected, by_mean = densities or (None, None, None)
        self.density: Floats | None = base
        self.density_corrected: Floats | None = corrected
        self.density_of_mean: Floats | None = by_mean
        self._value = value
        self._top = top
        self._rows_max = rows_max
        self._passes: Passes | None = None

    @classmethod
    def of_target(cls, scored: ScoredCandidates, top: int) -> Self:
        """Of the candidates that a replay has scored for one target."""
        return cls(scored.arrays(), top, value=scored.value, densities=scored.densities)

    def of(self, p: Floats, first: int = 0, end: int | None = None, density: Floats | None = None) -> Summary:
        """Metrics of predictions p (n,) for the candidates [first, end); of a value with log densities."""
        _, _, y, user, _, request, weight = self.candidates
        end = len(y) if end is None else end
        if self._value:
            part = slice(first, end)
            found = summarize(p[part], y[part], user[part], weight=weight[part], value=True)
            if density is not None:
                total = float(weight[part].sum())
                found["loglik"] = float((weight[part] * density[part]).sum()) / total if total else None
            return found
        if end - first <= self._rows_max:
            part = slice(first, end)
            return summarize(p[part], y[part], user[part], request[part], self._top, weight[part])
        if self._passes is None:
            self._passes = Passes(y, user, request, weight, self._top, self._rows_max)
        return self._passes.summary(p, first, end)

    def halves(self, p: Floats, density: Floats | None = None) -> Json:
        """Metrics of predictions p (n,) overall and over the last half."""
        return {
            "overall": self.of(p, density=density),
            "last_half": self.of(p, len(p) // 2, density=density),
        }

    def exposure(self, items: Ids) -> Json:
        """Exposure of items (n,) if the candidates were shown as they came, and as base and corrected order
        them."""
        base, corrected, _, _, time, request, _ = self.candidates
        found: Json = {}
        for name, p in (("shown", None), ("base", base), ("corrected", corrected)):
            counted = ItemExposure(self._top)
            for part in request_parts(request, 0, len(request), self._rows_max):
                counted.add(items[part], request[part], time[part], None if p is None else p[part])
            found[name] = counted.summary()
        return found

    def report(self, window: int) -> Json:
        """Metrics of base and corrected: overall, over the last half, and over windows of candidates."""
        base, corrected, _, _, time, _, _ = self.candidates
        n = len(time)
        windows = []
        for first in range(0, n, window):
            end = min(first + window, n)
            between = {"from_time": float(time[first]), "to_time": float(time[end - 1])}
            both = {
                "base": self.of(base, first, end, self.density),
                "corrected": self.of(corrected, first, end, self.density_corrected),
            }
            windows.append(between | both)
        return {
            "base": self.halves(base, self.density),
            "corrected": self.halves(corrected, self.density_corrected),
            "windows": windows,
        }


def window_of(wanted: int, examples: int) -> int:
    """Candidates per window: as wanted, but so that there are 20 to 1,000 windows, a chart's worth."""
    return max(min(wanted, max(examples // 20, 500)), -(-examples // WINDOWS_MAX))


def _among(part: Json) -> str:
    return f" of {part['of']}" if part["of"] else ""


def print_summary(report: Json) -> None:
    """Print a replay's report for people, to stderr."""

    def line(name: str, part: Json, kind: str = "event") -> str:
        keys = ["auc", "request_auc", "ndcg", "logloss", "calibration"]
        if kind == "value":
            keys = ["mean", "mae", "rmse", "loglik", "calibration"]
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
    for of, found in report.get("exposure", {}).items():
        for who in ("shown", "corrected"):
            told = "  ".join(
                f"{key} {'–' if value is None else format(value, '.3f')}" for key, value in found[who].items()
            )
            print(f"  {of}s {'as shown' if who == 'shown' else 'as ordered'}: {told}", file=sys.stderr)
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
