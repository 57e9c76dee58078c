"""The parts of a comparison: the runs, their differences, and the verdict."""

from typing import Literal, NamedTuple

from freshet.decide.paired import Differences, SliceDifference
from freshet.decide.slices import PredictionsFile
from freshet.files import JsonView
from learner.metrics import Summary


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
