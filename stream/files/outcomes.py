"""Labels of further targets in a data file: a column for each, beside that of the first target."""

import math
from collections.abc import Callable, Iterator, Sequence

from stream.files.columns import DataSettings, label_columns, label_reader, number_reader
from stream.files.times import Cell, shown
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Example, picked

Outcome = dict[str, float | None]
"""By further target: a candidate's label; None: its `of` did not happen."""


class LabelColumns:
    """Reads the labels of one line.

    Raises:
        ValueError: `labels` names no further target, or not the `of` of one that it names.
    """

    def __init__(self, settings: DataSettings, targets: Targets = UNDECLARED) -> None:
        for name in settings.labels:
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
            else label_reader(settings.labels[name].positive_from, settings.labels[name].positive)
            for name in self._names
        }
        first = targets[""].kind == "value"
        self.read_first: Callable[[Cell], float] = (
            value_reader(settings) if first else label_reader(settings.positive_from, settings.positive)
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


def value_reader(settings: DataSettings) -> Callable[[Cell], float]:
    """Return a function that converts a cell to a value: a finite number of at least 0."""
    number = number_reader(settings.decimal, settings.thousands)

    def read(cell: Cell) -> float:
        try:
            value = number(cell) if isinstance(cell, str) else float(cell)
        except (TypeError, ValueError):
            value = math.nan
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{shown(cell)} is no value; expected a finite number of at least 0")
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
