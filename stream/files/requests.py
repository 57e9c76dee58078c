"""The lines of a file as requests, in file order; what is wrong with a line names it and its column."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from stream.errors import SourceError
from stream.files.columns import (
    Convert,
    DataSettings,
    RawRow,
    missing_test,
    to_int,
    to_number,
)
from stream.files.content_cells import content_converters, takes_of
from stream.files.outcomes import LabelColumns, Outcome, label_reader, weight_reader
from stream.files.tabular import open_table
from stream.files.times import Cell, shown, time_reader
from stream.limits import CANDIDATES_MAX, FEATURES_MAX
from stream.records.fields import tidy_value
from stream.records.types import Example, Features, Value

OnBad = Callable[[SourceError], None]

_KNOWN_MAX = 1 << 16  # cells of a column whose values are kept


class _Known(dict[str, Value]):
    """A cache of one column's converted cells: most cells recur, and a lookup is faster than a conversion.

    Raises:
        ValueError: a cell that is empty, cannot be converted, or is over a record's limits.
    """

    def __init__(
        self, convert: Convert, is_missing: Callable[[Cell], bool], takes: tuple[bool, bool]
    ) -> None:
        super().__init__()
        self._convert, self._is_missing, self._takes = convert, is_missing, takes

    def __missing__(self, cell: str) -> Value:
        if self._is_missing(cell):
            raise ValueError("an empty cell")
        value = tidy_value(self._convert(cell), *self._takes)
        if isinstance(value, list):
            return value  # not cached: the caller may change it
        if len(self) >= _KNOWN_MAX:
            self.clear()
        self[cell] = value
        return value


class _Request:
    """A request that is collected from its lines."""

    def __init__(self, line: int, name: str, key: Cell, time: float) -> None:
        self.line, self.name, self.key, self.time, self.decided = line, name, key, time, time
        self.context: Features = {}
        self.candidates: list[Features] = []
        self.labels: list[float] = []
        self.weights: list[float] = []
        self.outcomes: list[Outcome] = []
        self.places: list[int] = []
        self.propensities: list[float] = []

    def add(
        self,
        context: Features,
        features: Features,
        label: float,
        weights: list[float],
        outcomes: list[Outcome],
        places: list[int],
        propensities: list[float],
    ) -> None:
        """Add a candidate; the lists have one entry, or none where the file does not say it."""
        self.context = context
        self.candidates.append(features)
        self.labels.append(label)
        self.weights += weights
        self.outcomes += outcomes
        self.places += places
        self.propensities += propensities

    def read(self) -> "Read":
        example = Example(
            self.name, self.time, self.decided, self.candidates, self.labels, self.context,
            weight=self.weights or None, place=self.places or None, propensity=self.propensities or None,
        )  # fmt: skip
        return self.line, example, False, self.outcomes


Read = tuple[int, Example, bool, list[Outcome]]
"""First line, request, whether it is known to fit the limits of a record, labels of further targets."""


def read_requests(
    path: Path,
    kind: str,
    settings: DataSettings,
    on_bad: OnBad | None,
    declared: Collection[str] | None,
    labels: LabelColumns,
) -> Iterator[Read]:
    """The requests in file order."""
    rows, convert, default = open_table(path, kind, settings)
    takes = takes_of(settings, declared)
    convert = {**convert, **content_converters(settings, declared)}
    read_time = time_reader(settings.time_unit, settings.time_format)
    read_label = labels.read_first
    read_weight = weight_reader(settings)
    in_context = frozenset(settings.context)
    is_missing = missing_test(settings)
    unlabelled = frozenset(settings.unlabelled)
    grouped = settings.request is not None
    open_request: _Request | None = None
    known: list[tuple[str, _Known]] | None = None
    plain = (
        kind == "csv"
        and not grouped
        and not in_context
        and not unlabelled
        and not settings.shown
        and not settings.weight
        and not settings.place
        and not settings.propensity
        and not labels
    )
    for row in rows:
        column = settings.time
        try:
            if isinstance(row, SourceError):
                raise row
            if plain:
                if known is None:
                    known = [
                        (name, _Known(convert.get(name, default), is_missing, takes(name)))
                        for name in row.cells
                    ]
                fast = _plain(row, known, read_time, read_label)
                if fast is not None:
                    yield row.line, fast, len(known) <= FEATURES_MAX, []
                    continue
            if settings.shown:
                column = settings.shown
                if not _was_shown(row.shown):
                    continue  # nobody saw it, so its label says nothing
            column = settings.time
            time = read_time(row.time)
            column = settings.label
            if unlabelled and _as_text(row.label) in unlabelled:
                if on_bad is not None:
                    on_bad(SourceError(f"{path}:{row.line}: {column}: {shown(row.label)} is no label"))
                continue
            label = read_label(row.label)
            column = settings.weight
            weights = [read_weight(row.weight)] if settings.weight else []
            column = settings.place
            places = [_place(row.drawn[0], settings.place_from)] if column else []
            column = settings.propensity
            propensities = [_propensity(row.drawn[1])] if column else []
            column = "labels"
            outcomes = [labels.read(label, row.outcomes)] if labels else []
            context: Features = {}
            features: Features = {}
            for column, cell in row.cells.items():
                if is_missing(cell):
                    continue  # unknown here: the feature is absent, which every model must bear
                try:
                    value = tidy_value(convert.get(column, default)(cell), *takes(column))
                except ValueError:
                    if declared is None or column in declared:
                        raise
                    continue  # no feature: what it holds is not looked at
                if column in in_context:
                    context[column] = value
                else:
                    features[column] = value
            if not grouped:
                alone = _Request(row.line, str(row.line), None, time)
                alone.add(context, features, label, weights, outcomes, places, propensities)
                yield alone.read()
                continue
            column = str(settings.request)
            name = _request_name(row)
            if open_request is None or open_request.key != row.request:
                if open_request is not None:
                    yield open_request.read()
                open_request = _Request(row.line, name, row.request, time)
            elif open_request.context != context:
                column = "context"
                raise ValueError(
                    f"differs from that of line {open_request.line}, of the same request; "
                    "a feature that differs between candidates is no context"
                )
        except SourceError as error:
            refuse(error, settings, on_bad)
            continue
        except ValueError as error:
            line = row.line if isinstance(row, RawRow) else 0
            refuse(SourceError(f"{path}:{line}: {column}: {error}"), settings, on_bad)
            continue
        open_request.add(context, features, label, weights, outcomes, places, propensities)
        open_request.decided = max(open_request.decided, time)
    if open_request is not None:
        yield open_request.read()


def _plain(
    row: RawRow,
    known: list[tuple[str, _Known]],
    read_time: Callable[[Cell], float],
    read_label: Callable[[Cell], float],
) -> Example | None:
    """Convert an ordinary line quickly; None: use the general way."""
    try:
        time = read_time(row.time)
        features = {name: at[cell] for (name, at), cell in zip(known, row.cells.values(), strict=True)}
        return Example(str(row.line), time, time, [features], [read_label(row.label)], {})
    except ValueError:
        return None


def _was_shown(cell: object) -> bool:
    """Whether a candidate was shown, of one cell.

    >>> _was_shown("1"), _was_shown(0), _was_shown("false")
    (True, False, False)
    """
    try:
        return label_reader(None)(cell) == 1.0
    except ValueError:
        raise ValueError(f"{shown(cell)} does not say whether it was shown; expected 0 or 1") from None


def _place(cell: Cell, first: int) -> int:
    """Where a candidate was shown, 0 for the first place."""
    try:
        place = to_int(cell) - first
    except (ValueError, TypeError):
        place = -1
    if not 0 <= place < CANDIDATES_MAX:
        raise ValueError(
            f"{shown(cell)} is no place; expected a whole number from {first} on, which place_from says, at "
            f"most {first + CANDIDATES_MAX - 1:,}"
        )
    return place


def _propensity(cell: Cell) -> float:
    try:
        found = to_number(cell)
    except ValueError:
        found = 0.0
    if not 0.0 < found <= 1.0:
        raise ValueError(f"{shown(cell)} is no propensity; expected a probability above 0, at most 1")
    return found


def _as_text(cell: Cell) -> str:
    """A cell as `unlabelled` names it; a missing one is empty."""
    return "" if cell is None or cell != cell else str(cell)


def _request_name(row: RawRow) -> str:
    if row.request is None or row.request == "":
        raise ValueError("an empty cell; expected the request's id")
    if isinstance(row.request, str | int):
        return str(row.request)
    raise ValueError(f"{row.request!r} is no request id; expected a string or an integer")


def refuse(error: SourceError, settings: DataSettings, on_bad: OnBad | None) -> None:
    """Leave a line out if the settings say so.

    Raises:
        SourceError: they do not.
    """
    if not settings.skip_bad:
        hint = "correct it, or leave such lines out with skip_bad = true in [data]"
        raise SourceError(f"{error}; {hint}") from None
    if on_bad is not None:
        on_bad(error)
