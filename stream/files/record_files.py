"""Parquet files of records: written by row groups, completely or not at all, and read back unchanged."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from stream.errors import RecordError, SourceError
from stream.files.record_columns import (
    LATER_COLUMNS,
    Holds,
    RecordColumns,
    RecordLayout,
    Survey,
    layout_of,
    records_of,
)
from stream.records.decoding import check
from stream.records.fields import ANY_CONTENT
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Event, Example

GROUP_ROWS_MAX = 65_536
GROUP_BYTES_MAX = 64 << 20  # uncompressed
READ_ROWS = 8_192


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` once the file is complete and on the disk.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield making
        with making.open("rb") as made:
            os.fsync(made.fileno())
        making.replace(path)
    finally:
        making.unlink(missing_ok=True)


class RecordWriter:
    """Writes records into one Parquet file, in bounded memory.

    Args:
        path: the file, which is replaced.
        layout: of the columns, from a `Survey` of the same records.
        more: names of further columns of numbers, whose values `add` gets.
    """

    def __init__(self, path: Path, layout: RecordLayout, more: Sequence[str] = ()) -> None:
        import pyarrow.parquet

        self.layout = layout
        self.written = 0  # rows
        self._more = tuple(more)
        self._schema = layout.schema(self._more)
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._begin()

    def add(self, record: Example | Event, more: Mapping[str, Sequence[float]] | None = None) -> None:
        """Write a record, with one number per candidate for each of the further columns."""
        self._rows.add(record)
        for name in self._more:
            assert more is not None
            self._beside[name].extend(more[name])
        if self._rows.rows >= GROUP_ROWS_MAX or self._rows.weight >= GROUP_BYTES_MAX:
            self._flush()

    def close(self) -> None:
        """Write the rest, and the file's footer."""
        self._flush()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self._writer.close()

    def _begin(self) -> None:
        self._rows = RecordColumns(self.layout)
        self._beside: dict[str, list[float]] = {name: [] for name in self._more}

    def _flush(self) -> None:
        import pyarrow

        if self._rows.rows == 0:
            return
        columns = {**self._rows.columns, **self._beside}
        arrays = [pyarrow.array(columns[field.name], field.type) for field in self._schema]
        self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))
        self.written += self._rows.rows
        self._begin()


def write_records(path: Path, holds: Holds, records: Sequence[Example | Event]) -> None:
    """Write records to a new file, from which `read_records` reads them back."""
    survey = Survey(holds)
    for record in records:
        survey.add(record)
    with RecordWriter(path, survey.layout()) as writer:
        for record in records:
            writer.add(record)


def read_layout(path: Path) -> RecordLayout | None:
    """The layout of a Parquet file; None if Freshet has not written it.

    Raises:
        SourceError: it is no Parquet file, or of another version of Freshet.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        return layout_of(pyarrow.parquet.read_schema(path))
    except (pyarrow.ArrowException, ValueError) as error:
        raise SourceError(f"{path}: cannot be read as Parquet: {error}") from None


def read_records(
    path: Path,
    on_bad: Callable[[SourceError], None] | None = None,
    targets: Targets = UNDECLARED,
) -> Iterator[Example | Event]:
    """Read the records of a file of `RecordWriter`, in file order.

    Args:
        on_bad: called with each invalid record, which is then left out; without it such a record is an
            error. Files that other programs have changed may hold invalid records.
        targets: those that labels may be of.

    Raises:
        SourceError: the file was not written by `RecordWriter`, or is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    layout = read_layout(path)
    if layout is None:
        raise SourceError(f"{path}: is not a file of `freshet export`")
    names = [*layout.fixed, *(column.column for column in layout.features)]
    later: set[str] = set()
    kept: dict[str, list[Any]] = {name: [] for name in names}
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in names if name not in file.schema_arrow.names]
            later.update(name for name in missing if name in LATER_COLUMNS)
            missing = [name for name in missing if name not in later]
            if missing:
                raise SourceError(f"{path}: column {missing[0]!r} is missing; export the records again")
            there = [name for name in names if name not in later]
            for batch in file.iter_batches(batch_size=READ_ROWS, columns=there):
                for name in names:
                    kept[name] += [None] * batch.num_rows if name in later else batch.column(name).to_pylist()
                # The last request may go on in the next batch.
                cut = len(kept["candidate"]) - 1
                while cut > 0 and kept["candidate"][cut] != 0 and not _is_action(kept, cut):
                    cut -= 1
                whole = {name: values[:cut] for name, values in kept.items()}
                kept = {name: values[cut:] for name, values in kept.items()}
                yield from _checked(path, row, records_of(layout, whole), on_bad, targets)
                row += cut
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path}: cannot be read as Parquet: {error}") from None
    yield from _checked(path, row, records_of(layout, kept), on_bad, targets)


def _is_action(columns: dict[str, list[Any]], row: int) -> bool:
    return "type" in columns and columns["type"][row] == "action"


def _checked(
    path: Path,
    row: int,
    records: Iterator[Example | Event],
    on_bad: Callable[[SourceError], None] | None,
    targets: Targets,
) -> Iterator[Example | Event]:
    for record in records:
        try:
            check(record, targets, ANY_CONTENT)
        except (RecordError, TypeError) as error:
            refused = SourceError(f"{path}: request {record.request_id!r}, behind row {row}: {error}")
            if on_bad is None:
                raise refused from None
            on_bad(refused)
            continue
        yield record
