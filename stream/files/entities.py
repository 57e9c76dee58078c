"""Files of entities: a row says what is true of one item or person, of no time or from a time on.

A file is a table (CSV, JSON Lines, Parquet), the `movies.dat` or `movies.csv` of a rating set, or JSON Lines
of entity events as topic `events` takes them.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from ground import UNDECODABLE
from ground.short_repr import ShortRepr
from stream.errors import RecordError, SourceError
from stream.files.columns import DataSettings, Kind, check_marks, missing_test, to_id
from stream.files.content_cells import content_converters, takes_of
from stream.files.movielens import movies_of
from stream.files.requests import OnBad, refuse
from stream.files.sources import detect_format
from stream.files.tabular import open_table, open_text, parquet_columns, with_paths
from stream.files.times import Cell, TimeUnit, time_reader
from stream.records.decoding import Decoder
from stream.records.entities.checking import checked
from stream.records.entities.record import EntityEvent, Told
from stream.records.fields import Declared, tidy_value

Rows = Iterator[tuple[int, EntityEvent | SourceError]]
"""Line, and what it says or why it cannot be used."""


class EntityColumns(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [entities.FEATURE]: a file of this feature's entities, and which column is what.

    `features`, `types` and the marks of numbers are as in [data]; without `types` a cell is read as its
    feature's kind says.
    """

    file: str = ""  # what `freshet replay` and `freshet train` know of entities; "": nothing beside the log
    id: str = ""  # the column of the id; "": named as the feature
    time: str = "time"  # from when on it is true; a file without the column: always
    time_unit: TimeUnit = "auto"
    time_format: str = ""
    features: dict[str, str] = {}  # {attribute: column}; empty: the columns named as attributes
    types: dict[str, Kind] = {}
    columns: list[str] = []  # names of the columns, for a CSV file without a line of names
    delimiter: str = ","
    list_separator: str = "|"
    missing: list[str] = []
    decimal: str = "."
    thousands: str = ""

    def __post_init__(self) -> None:
        check_marks(self.decimal, self.thousands)


class EntitySchema(NamedTuple):
    """What the columns of files of entities may be."""

    declared: Declared
    kinds: Mapping[str, Kind]  # of attributes
    columns: Mapping[str, EntityColumns]  # by feature


def read_entities(
    path: Path, schema: EntitySchema, on_bad: OnBad | None = None, feature: str = ""
) -> Iterator[EntityEvent]:
    """The entity events of a file, in its order.

    Args:
        on_bad: called with the error of each row that is left out; None: the first one is raised.
        feature: whose entities they are; "": the file's columns say it.

    Raises:
        SourceError: the file cannot be read, or a row cannot be used.
    """
    settings = DataSettings(skip_bad=on_bad is not None)
    try:
        for line, found in _rows(path, schema, feature):
            try:
                if isinstance(found, SourceError):
                    raise found
                yield checked(found, schema.declared)
            except SourceError as error:
                refuse(error, settings, on_bad)
            except RecordError as error:
                refuse(SourceError(f"{path}:{line}: {error}"), settings, on_bad)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error


def _rows(path: Path, schema: EntitySchema, feature: str) -> Rows:
    if is_movies(path):
        return _movies(path, feature or _owner(path, schema, ["movie"]))
    kind = detect_format(path, DataSettings())
    if kind == "jsonl" and _holds_events(path):
        return _events(path)
    only = next(iter(schema.columns.values())) if len(schema.columns) == 1 else EntityColumns()
    names = _names(path, kind, schema.columns.get(feature, EntityColumns()) if feature else only)
    owner = feature or _owner(path, schema, names)
    return _table(path, kind, names, owner, schema)


def _owner(path: Path, schema: EntitySchema, names: list[str]) -> str:
    """The feature whose entities a file has: its id is a column, and it is no attribute of another such."""
    owners = schema.declared.owners or {}
    found = [name for name in owners if (schema.columns.get(name, EntityColumns()).id or name) in names]
    found = [name for name in found if not any(name in owners[other] for other in found)]
    if len(found) == 1:
        return found[0]
    if not owners:
        raise SourceError(
            f"{path}: no feature is an attribute of another; declare one with of: [features.category] "
            'kind = "id", of = "item"'
        )
    expected = ", ".join(repr(schema.columns.get(name, EntityColumns()).id or name) for name in owners)
    raise SourceError(
        f"{path}: {'several columns are' if found else 'no column is'} the id of an entity; expected one of "
        f"{expected} (name the column in [entities.FEATURE] id); the columns are {', '.join(names)}"
    )


def _table(path: Path, kind: str, names: list[str], owner: str, schema: EntitySchema) -> Rows:
    columns = schema.columns.get(owner, EntityColumns())
    attributes = (schema.declared.owners or {}).get(owner, ())
    wanted = columns.features or {name: name for name in attributes if name in names}
    if not wanted:
        raise SourceError(
            f"{path}: no column is an attribute of {owner}: expected {', '.join(attributes)}, or their "
            f"columns in [entities.{owner}.features]; the columns are {', '.join(names)}"
        )
    timed = columns.time in names
    settings = DataSettings(
        format=kind,  # type: ignore[arg-type]
        columns=columns.columns,
        time=columns.time if timed else "",
        label=columns.id or owner,
        features=wanted,
        types={**{n: k for n, k in schema.kinds.items() if n in wanted}, **columns.types},
        delimiter=columns.delimiter,
        list_separator=columns.list_separator,
        missing=columns.missing,
        decimal=columns.decimal,
        thousands=columns.thousands,
    )
    rows, convert, default = open_table(path, kind, settings)
    convert = {**convert, **content_converters(settings, schema.declared)}
    takes, is_missing = takes_of(settings, schema.declared), missing_test(settings)
    read_time = time_reader(columns.time_unit, columns.time_format)
    for row in rows:
        if isinstance(row, SourceError):
            yield 0, row
            continue
        column = settings.label
        try:
            entity = _id(row.label)
            column = settings.time
            time = read_time(row.time) if timed else 0.0
            told: dict[str, Told] = {}
            for column, cell in row.cells.items():
                if not is_missing(cell):
                    told[column] = tidy_value(convert.get(column, default)(cell), *takes(column))
        except ValueError as error:
            yield row.line, SourceError(f"{path}:{row.line}: {column}: {error}")
            continue
        if told:
            yield row.line, EntityEvent(owner, entity, time, told)


def _id(cell: Cell) -> int | str:
    if isinstance(cell, str) and cell:
        return to_id(cell)
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    raise ValueError(f"{str(cell)[:40]!r} is no id; expected an integer or text")


def _movies(path: Path, owner: str) -> Rows:
    for line, (movie, title, genres) in enumerate(movies_of(path), 2 if path.suffix == ".csv" else 1):
        yield line, EntityEvent(owner, movie, 0.0, {"title": title, "genres": genres})


def _holds_events(path: Path) -> bool:
    first = next(iter(_lines(path)), b"{}")
    try:
        found = msgspec.json.decode(first, type=dict[str, msgspec.Raw])
    except UNDECODABLE:
        return False
    return {"feature", "id", "set"} <= found.keys()


def _events(path: Path) -> Rows:
    decode = Decoder[EntityEvent](EntityEvent).decode
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield number, decode(_typed(line))
        except RecordError as error:
            yield number, SourceError(f"{path}:{number}: {error}")


def _typed(line: bytes) -> bytes:
    """The event with its `type` and `time`, which a file of entities alone need not have."""
    try:
        found = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except UNDECODABLE:
        return line
    return msgspec.json.encode({"type": "entity", "time": 0.0, **found})


def _lines(path: Path) -> Iterator[bytes]:
    with open_text(path) as file:
        for line in file:
            yield line.encode()


def is_movies(path: Path) -> bool:
    """Whether a file is the `movies.dat` of MovieTweetings or an older MovieLens, or MovieLens' `movies.csv`.

    Raises:
        OSError: it cannot be read.
    """
    if path.name != "movies.csv":
        return path.name == "movies.dat"
    with path.open("rb") as file:
        return file.readline(100).startswith(b"movieId,title,genres")


def _names(path: Path, kind: str, columns: EntityColumns) -> list[str]:
    """The names of a table's columns: of JSON Lines, of the first hundred rows."""
    if columns.columns:
        return columns.columns
    if kind == "parquet":
        return parquet_columns(path)
    if kind == "csv":
        from stream.files.csv_rows import Dialect, read_rows

        with open_text(path) as file:
            suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
            usual = "\t" if suffix == ".tsv" and columns.delimiter == "," else columns.delimiter
            dialect = Dialect(usual, '"', "")
            first = next((row for row in read_rows(file, dialect, 1) if row.cells), None)
        return [] if first is None else first.cells
    names: dict[str, None] = {}
    for line in itertools.islice(_lines(path), 100):
        try:
            names |= dict.fromkeys(with_paths(msgspec.json.decode(line, type=dict[str, Cell])))
        except UNDECODABLE:
            continue  # its row says what is wrong
    return list(names)
