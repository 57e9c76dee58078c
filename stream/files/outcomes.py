"""Labels in a data file: of the first target, and of further ones, with a column for each."""

import math
from collections.abc import Callable, Iterator, Sequence

from stream.files.columns import DataSettings, LabelColumn, label_columns, number_reader
from stream.files.times import Cell, shown
from stream.limits import VALUE_MAX, WEIGHT_MAX
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Example, picked

Outcome = dict[str, float | None]
"""By further target: a candidate's label; None: its `of` did not happen."""

_WORDS: dict[str, float] = {"true": 1.0, "false": 0.0}  # labels in the CSV files of many tools


class LabelColumns:
    """Reads the labels of one line.

    Raises:
        ValueError: `labels` names no further target, or not the `of` of one that it names.
    """

    def __init__(self, settings: DataSettings, targets: Targets = UNDECLARED) -> None:
        for name in settings.labels:
            if name == targets.names[0]:
                raise ValueError(f"labels names {name!r}, the first target, whose column is data.label")
            if name not in targets.names[1:]:
                known = ", ".join(targets.names[1:]) or "none"
                raise ValueError(f"labels names {name!r}, which is no further target; known: {known}")
            of = targets[name].of
            if of and of != targets.primary and of not in settings.labels:
                raise ValueError(f"labels names {name} and not {of}, among which it is learned")
        self.columns = label_columns(settings)
        self._names = [name for name in targets.ordered if name in settings.labels]
        self._at = {name: at for at, name in enumerate(settings.labels)}
        self._of = {name: targets[name].of for name in self._names}
        self._primary = targets.primary
        self._read = {
            name: value_reader(settings)
            if targets[name].kind == "value"
            else _event_reader(settings, settings.labels[name])
            for name in self._names
        }
        first = targets[""].kind == "value"
        self.read_first: Callable[[Cell], float] = (
            value_reader(settings) if first else _event_reader(settings, settings)
        )
        """Reads the label of the first target."""

    def __bool__(self) -> bool:
        return bool(self._names)

    def read(self, first: float, cells: Sequence[object]) -> Outcome:
        """The labels of one candidate.

        Args:
            first: its label of the first target.
            cells: of `columns`.

        Raises:
            ValueError: a cell is no label; names its column.
        """
        found: Outcome = {self._primary: first}
        for name in self._names:
            of = self._of[name]
            if of and not found[of]:
                found[name] = None
                continue
            at = self._at[name]
            try:
                found[name] = self._read[name](cells[at])
            except ValueError as error:
                raise ValueError(f"column {self.columns[at]!r}: {error}") from None
        del found[self._primary]
        return found


def label_reader(
    positive_from: float | None, positive: Sequence[str] = (), decimal: str = ".", thousands: str = ""
) -> Callable[[Cell], float]:
    """Return a function that converts a label cell to 0.0 or 1.0; numbers in text may contain these marks.

    >>> label_reader(4.0)("3.5"), label_reader(None)("1"), label_reader(None)("False")
    (0.0, 1.0, 0.0)
    >>> label_reader(None, ["buy"])("buy"), label_reader(None, ["buy"])("view")
    (1.0, 0.0)
    >>> label_reader(4.0, decimal=",")("4,5")
    1.0
    """
    if positive:
        return _named_label_reader(frozenset(positive))
    number = float if decimal == "." and not thousands else number_reader(decimal, thousands)

    def read(cell: Cell) -> float:
        try:
            value = number(cell)
        except (TypeError, ValueError):
            value = _WORDS.get(cell.strip().lower(), math.nan) if isinstance(cell, str) else math.nan
        if positive_from is None:
            if value == 0.0 or value == 1.0:
                return value
            raise ValueError(
                f"{shown(cell)} is no label; expected 0 or 1 (for ratings or amounts set positive_from, "
                "for words set positive)"
            )
        if math.isnan(value):
            raise ValueError(
                f"{shown(cell)} is no label; expected a number to compare with {positive_from:g}"
            )
        return 1.0 if value >= positive_from else 0.0

    return read


def _named_label_reader(positive: frozenset[str]) -> Callable[[Cell], float]:
    def read(cell: Cell) -> float:
        if cell is None or cell == "":
            raise ValueError("an empty cell is no label")
        return 1.0 if str(cell) in positive else 0.0

    return read


def _event_reader(settings: DataSettings, of: DataSettings | LabelColumn) -> Callable[[Cell], float]:
    return label_reader(of.positive_from, of.positive, settings.decimal, settings.thousands)


def value_reader(settings: DataSettings) -> Callable[[Cell], float]:
    """Return a function that converts a cell to a value: a finite number of at least 0."""
    expected = f"is no value; expected a finite number of at least 0, at most {VALUE_MAX:g}"
    return _reader_up_to(settings, VALUE_MAX, expected)


def weight_reader(settings: DataSettings) -> Callable[[Cell], float]:
    """Return a function that converts a cell to a weight: a finite number of at least 0."""
    expected = f"is no weight; expected a number of at least 0, at most {WEIGHT_MAX:g} (1 is as usual, 0 is "
    return _reader_up_to(settings, WEIGHT_MAX, expected + "predicted and not learned)")


def _reader_up_to(settings: DataSettings, most: float, expected: str) -> Callable[[Cell], float]:
    number = number_reader(settings.decimal, settings.thousands)

    def read(cell: Cell) -> float:
        try:
            value = number(cell) if isinstance(cell, str) else float(cell)
        except (TypeError, ValueError):
            value = math.nan
        if not 0.0 <= value <= most:
            raise ValueError(f"{shown(cell)} {expected}")
        return value

    return read


def split(example: Example, outcomes: Sequence[Outcome]) -> Iterator[Example]:
    """The examples of a request: of the first target, and of each further one that has a sample.

    Args:
        outcomes: one for each candidate.
    """
    yield example
    for name in outcomes[0] if outcomes else ():
        said = {at: label for at, outcome in enumerate(outcomes) if (label := outcome[name]) is not None}
        if said:
            at = list(said)
            yield Example(
                example.request_id,
                example.time,
                example.decided,
                [example.candidates[i] for i in at],
                list(said.values()),
                example.context,
                target=name,
                weight=picked(example.weight, at),
            )
