"""The parts of a comparison: the runs, their differences, and the verdict."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from freshet.decide.paired import Differences, SliceDifference
from freshet.decide.slices import PredictionsFile
from freshet.files import JsonView
from learner.metrics import Summary

FURTHER_METRICS = {
    "logloss": "log loss",
    "auc": "AUC",
    "ndcg": "NDCG",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "loglik": "log likelihood",
    "calibration": "calibration",
}
"""Of further targets, in the order in which they are shown; the errors are of values."""


class CompareVerdict(NamedTuple):
    """`kind` for programs, `sentence` for people."""

    kind: Literal["better", "worse", "mixed", "undecided"]
    sentence: str


class Run(NamedTuple):
    """One replay: its report and its predictions."""

    name: str
    report: JsonView
    predicted: PredictionsFile


class Stretch(NamedTuple):
    """A period of the stream."""

    from_time: float
    to_time: float
    difference: SliceDifference
    auc: tuple[float | None, float | None]  # of the first run and of the other


class Cut(NamedTuple):
    """The differences within the slices of one cut."""

    title: str
    slices: list[tuple[str, SliceDifference]]


class FurtherTarget(NamedTuple):
    """A target after the first, whose metrics come from the reports: not paired, so without intervals."""

    name: str
    of: str
    candidates: int
    metrics: dict[str, tuple[float, float]]  # known in both runs: of the first run and of the other
    why_not: str  # why it is not compared; "": it is


class Comparison(NamedTuple):
    """One run compared with the first."""

    first: str
    other: str
    changed: list[str]  # settings of the other that differ
    summaries: tuple[Summary, Summary]
    differences: Differences
    stretches: list[Stretch]
    cuts: list[Cut]
    verdict: CompareVerdict
    primary: str = ""  # the name of the first target where there are several
    further: Sequence[FurtherTarget] = ()
