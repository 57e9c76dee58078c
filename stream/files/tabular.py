"""The rows of CSV, JSON Lines and Parquet files, before their cells are converted.

A reader yields a `RawRow` per line, or the `SourceError` of a line that cannot be split. It continues after
such a line, so that the caller can skip it.
"""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from ground import UNDECODABLE
from stream.errors import SourceError
from stream.files.columns import (
    Convert,
    DataSettings,
    RawRow,
    check_names,
    choose_columns,
    guess_kind,
    label_columns,
    missing_test,
    number_reader,
    special_columns,
    text_converter,
    typed_converter,
)
from stream.files.csv_rows import Dialect, read_rows
from stream.files.csv_rows import Row as CsvRow
from stream.files.times import Cell
from stream.limits import RECORD_BYTES_MAX

if TYPE_CHECKING:
    import pyarrow

_SAMPLE_ROWS = 1_000  # by which a CSV column's kind is guessed
_BATCH_ROWS = 8_192  # of Parquet, in memory at once
_DEPTH_MAX = 4  # of objects within others, whose fields are columns

_PACKED = (
    (b"\x1f\x8b", "gzip", "let its name end in .gz"),
    (b"PK\x03\x04", "zip (or is a spreadsheet)", "unzip it, or save it as CSV"),
    (b"\xfd7zXZ", "xz", "unpack it with `xz -d`"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unpack it with `zstd -d`"),
    (b"BZh", "bzip2", "unpack it with `bzip2 -d`"),
)
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)  # what reading a broken .gz may raise

Row = RawRow | SourceError


def open_table(
    path: Path, kind: str, settings: DataSettings
) -> tuple[Iterator[Row], Mapping[str, Convert], Convert]:
    """The file's rows, the conversion of each feature's cells, and that of all features without one.

    Raises:
        SourceError: a column that the settings name is not there.
    """
    if kind == "csv":
        return _open_csv(path, settings)
    number = number_reader(settings.decimal, settings.thousands)
    convert = {
        name: typed_converter(kind_, settings.list_separator, number)
        for name, kind_ in settings.types.items()
    }
    rows = _parquet_rows(path, settings) if kind == "parquet" else _json_rows(path, settings)
    return rows, convert, typed_converter(None, settings.list_separator)


# CSV


def _open_csv(path: Path, settings: DataSettings) -> tuple[Iterator[Row], Mapping[str, Convert], Convert]:
    rows = _csv_rows(path, settings)
    sample = list(itertools.islice(rows, _SAMPLE_ROWS))
    good = [row for row in sample if isinstance(row, RawRow)]
    separator = settings.list_separator
    is_missing = missing_test(settings)
    number = number_reader(settings.decimal, settings.thousands)
    convert = {}
    for name in good[0].cells if good else ():
        kind = settings.types.get(name)
        if kind is None:
            kind = guess_kind([row.cells[name] for row in good if not is_missing(row.cells[name])], separator)
        convert[name] = text_converter(kind, separator, number)
    return itertools.chain(sample, rows), convert, text_converter("id", separator)


def _csv_rows(path: Path, settings: DataSettings) -> Iterator[Row]:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    delimiter = "\t" if suffix == ".tsv" and settings.delimiter == "," else settings.delimiter
    if len(delimiter) != 1:
        raise SourceError(f"delimiter is {delimiter!r}; expected one character")
    refuse_packed(path)
    begin = 1 + settings.skip_lines
    line = 0  # of the last row that was read
    with open_text(path) as file:
        try:
            for _ in range(settings.skip_lines):
                file.readline()
            dialect = Dialect(delimiter, settings.quote, settings.escape)
            rows = read_rows(file, dialect, begin)
            header = settings.columns
            if not header:
                first = next((row for row in rows if row.cells or row.error), None)
                if first is not None and first.error:
                    raise SourceError(f"{path}:{first.line}: {first.error}")
                header = [] if first is None else first.cells
            if not header:
                raise SourceError(f"{path}: is empty; expected a first line with the columns' names")
            if len(set(header)) < len(header):
                raise SourceError(f"{path}:{begin}: two columns have the same name")
            try:
                columns = choose_columns(settings, header)
            except ValueError as error:
                raise SourceError(f"{path}:{begin}: {error}") from None
            for row in _csv_body(path, rows, header, columns, settings):
                if isinstance(row, RawRow):
                    line = row.line
                yield row
        except UnicodeDecodeError as error:
            raise SourceError(f"{path}: not UTF-8 after line {line}: {error.reason}") from None
        except DAMAGED as error:
            raise SourceError(f"{path}: the gzip file is damaged after line {line}: {error}") from None


def _csv_body(
    path: Path, rows: Iterator[CsvRow], header: list[str], columns: Mapping[str, str], settings: DataSettings
) -> Iterator[Row]:
    at = {column: i for i, column in enumerate(header)}
    time = at[settings.time] if settings.time else None
    label, width = at[settings.label], len(header)
    request = None if settings.request is None else at[settings.request]
    exposed = at[settings.shown] if settings.shown else None
    counts = at[settings.weight] if settings.weight else None
    place, chance = (at[name] if name else None for name in (settings.place, settings.propensity))
    further = [at[column] for column in label_columns(settings)]
    names, positions = list(columns), [at[column] for column in columns.values()]
    for line, row, error in rows:
        if len(row) == width:
            cells = dict(zip(names, [row[i] for i in positions], strict=True))
            when = line if time is None else row[time]
            asked = None if request is None else row[request]
            seen = None if exposed is None else row[exposed]
            weight = None if counts is None else row[counts]
            said = tuple([row[i] for i in further])
            drawn = (None if place is None else row[place], None if chance is None else row[chance])
            yield RawRow(line, when, row[label], asked, cells, seen, weight, said, drawn)
        elif error:
            yield SourceError(f"{path}:{line}: {error}")
        elif row:
            named = "named in columns" if settings.columns else "in the line of names"
            yield SourceError(f"{path}:{line}: {len(row)} cells; expected {width}, as {named}")


def refuse_packed(path: Path) -> None:
    """Check that a file which is read as it is has not been packed.

    Raises:
        SourceError: it has; the message says how to unpack it.
    """
    if path.suffix == ".gz":
        return
    try:
        with path.open("rb") as file:
            begins = file.read(6)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    for mark, what, how in _PACKED:
        if begins.startswith(mark):
            raise SourceError(f"{path}: is packed with {what}; {how}")


def open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


# JSON Lines


def _json_rows(path: Path, settings: DataSettings) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    special, labelled = set(special_columns(settings)), label_columns(settings)
    wanted = settings.features
    if wanted:
        try:
            check_names(settings, list(wanted))
        except ValueError as error:
            raise SourceError(f"{path}: {error}") from None
    refuse_packed(path)
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for line in itertools.count(1):
            try:
                text = file.readline(RECORD_BYTES_MAX + 1)
            except DAMAGED as error:
                raise SourceError(
                    f"{path}: the gzip file is damaged after line {line - 1}: {error}"
                ) from None
            if not text:
                return
            if len(text) > RECORD_BYTES_MAX:
                raise SourceError(f"{path}:{line}: more than {RECORD_BYTES_MAX:,} bytes in one line")
            if text.isspace():
                continue
            if line == 1 and text.lstrip().startswith(b"["):
                raise SourceError(
                    f"{path}: is one JSON array; expected an object a line, which `jq -c '.[]'` makes of it"
                )
            try:
                found = decoder.decode(text)
            except UNDECODABLE as error:
                other = _python_json(text)
                if other is None:
                    yield SourceError(f"{path}:{line}: is no JSON object: {error}")
                    continue
                found = other
            found = with_paths(found)
            if wanted:
                cells = {name: found.get(column) for name, column in wanted.items()}
            else:
                cells = {name: cell for name, cell in found.items() if name not in special}
            request = None if settings.request is None else found.get(settings.request)
            time = found.get(settings.time) if settings.time else line
            exposed = found.get(settings.shown) if settings.shown else None
            weight = found.get(settings.weight) if settings.weight else None
            further = tuple([found.get(column) for column in labelled])
            drawn = (found.get(settings.place), found.get(settings.propensity))
            label = found.get(settings.label)
            yield RawRow(line, time, label, request, cells, exposed, weight, further, drawn)


def with_paths(found: dict[str, Cell]) -> dict[str, Cell]:
    """An object, and beside each object in it that one's fields, under names such as `user.id`.

    A field that has such a name itself goes first. Objects within `_DEPTH_MAX` others stay as they are.

    >>> with_paths({"user": {"id": 7}, "y": 1})
    {'user': {'id': 7}, 'y': 1, 'user.id': 7}
    """
    if not any(type(value) is dict for value in found.values()):
        return found
    inside: dict[str, Cell] = {}
    level = [(f"{name}.", value) for name, value in found.items() if type(value) is dict]
    for _ in range(_DEPTH_MAX):
        fields = [(prefix + name, value) for prefix, part in level for name, value in part.items()]
        inside |= fields
        level = [(f"{path}.", value) for path, value in fields if type(value) is dict]
    return found | {path: value for path, value in inside.items() if path not in found}


def _python_json(text: bytes) -> dict[str, object] | None:
    """An object as Python writes it, with NaN and Infinity for numbers; None: it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


# Parquet


def _parquet_rows(path: Path, settings: DataSettings) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            try:
                columns = choose_columns(settings, _paths_of(file.schema_arrow))
            except ValueError as error:
                raise SourceError(f"{path}: {error}") from None
            wanted = list(dict.fromkeys([*special_columns(settings), *columns.values()]))
            line = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
                table = {name: _cells_of(batch, name) for name in wanted}
                times = table[settings.time] if settings.time else itertools.count(line + 1)
                labels = table[settings.label]
                requests = table[settings.request] if settings.request else itertools.repeat(None)
                exposed = table[settings.shown] if settings.shown else itertools.repeat(None)
                weights = table[settings.weight] if settings.weight else itertools.repeat(None)
                drawn = zip(
                    *(
                        table[name] if name else itertools.repeat(None)
                        for name in (settings.place, settings.propensity)
                    ),
                    strict=False,
                )
                features = [table[column] for column in columns.values()]
                values = zip(*features, strict=True) if features else itertools.repeat(())
                others = [table[column] for column in label_columns(settings)]
                further = zip(*others, strict=True) if others else itertools.repeat(())
                rows = zip(times, labels, requests, values, exposed, weights, further, drawn, strict=False)
                for time, label, request, cells, seen, weight, said, drew in rows:
                    line += 1
                    named = dict(zip(columns, cells, strict=True))
                    yield RawRow(line, time, label, request, named, seen, weight, tuple(said), drew)
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path}: cannot be read as Parquet: {error}") from None


def parquet_columns(path: Path) -> list[str]:
    """The names of a file's columns, and of the fields of structs, such as `user.id`.

    Raises:
        ArrowException: it is no Parquet.
    """
    import pyarrow.parquet

    return _paths_of(pyarrow.parquet.read_schema(path))


def _paths_of(schema: "pyarrow.Schema") -> list[str]:
    import pyarrow

    names = list(schema.names)
    level = [(field.name, field.type) for field in schema]
    for _ in range(_DEPTH_MAX):
        level = [
            (f"{path}.{part.name}", part.type)
            for path, kind in level
            if pyarrow.types.is_struct(kind)
            for part in kind
        ]
        names.extend(path for path, _ in level)
    return list(dict.fromkeys(names))


def _cells_of(batch: "pyarrow.RecordBatch", path: str) -> list[Cell]:
    """A column's cells, or those of a field of a struct; None where the struct is none."""
    if path in batch.schema.names:
        return list(batch.column(path).to_pylist())
    import pyarrow.compute

    outer = path
    while outer not in batch.schema.names:
        outer = outer.rpartition(".")[0]
    cells, kind = batch.column(outer), batch.schema.field(outer).type
    rest = path[len(outer) + 1 :]
    while rest:
        name = next(part.name for part in kind if rest == part.name or rest.startswith(f"{part.name}."))
        cells, kind = pyarrow.compute.struct_field(cells, name), kind.field(name).type
        rest = rest[len(name) + 1 :]
    return list(cells.to_pylist())


def count_parquet(path: Path) -> int:
    """The number of rows, from the file's footer."""
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path}: cannot be read as Parquet: {error}") from None
