"""`freshet produce --source NAME`: append a file's lines to the topic of a source, as records of others.

So a file with one line an event (shown, clicked, bought) goes the way that the same records in a topic go:
the sources say which lines are what; `freshet ingest` makes events of them, and finds of what an action is.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from freshet.config import Config
from freshet.errors import ProduceError
from freshet.roles.opening import open_topics
from freshet.tools.produce import BATCH, append_patiently, producer_name
from ground import UNDECODABLE
from stream.errors import LogError
from stream.files.columns import DataSettings, to_id
from stream.files.csv_rows import Dialect, read_rows
from stream.files.tabular import open_text, refuse_packed
from stream.log.base import Outgoing
from stream.log.open import open_log
from stream.sources.settings import SourceSettings

Line = dict[str, object]

LINE_NUMBER = "line_number"
"""As the `request_id` of a source: each line of a file is a request, and gets this field, its number."""


def produce_lines(config: Config, file: Path, name: str, limit: int | None = None) -> int:
    """Append a file's lines, in order, as JSON to the topic of source `name`; returns their number.

    Lines with the same request id are records of one partition. A cell of a CSV file is an integer or a
    number if it is written as one, and else text; an empty one is left out. Other files keep their types.

    Raises:
        FreshetError: there is no such source, its format is another, or file or log cannot be used.
    """
    source = config.sources.get(name)
    if source is None:
        known = ", ".join(config.sources) or "none is declared"
        raise ProduceError(f"--source {name}: the config has no such source; known: {known}")
    if source.format != "json" or source.envelope != "none":
        raise ProduceError(
            f"--source {name}: lines are sent as plain JSON, and this source reads another format"
        )
    producer = producer_name(file)
    open_topics(config).close()
    log = open_log(source.log or config.log, config.stream.log)
    sent = 0
    try:
        try:
            log.partitions(source.topic)
        except LogError:
            log.create_topic(source.topic, config.stream.partitions)
        lines = islice(lines_of(file, config.data), limit)
        while batch := list(islice(lines, BATCH)):
            append_patiently(
                log,
                source.topic,
                [
                    Outgoing(_key(line, source), msgspec.json.encode(line), None, producer, sent + i)
                    for i, line in enumerate(_numbered(batch, source, producer, sent))
                ],
            )
            sent += len(batch)
    finally:
        log.close()
    if sent == 0:
        raise ProduceError(f"{file}: there are no lines in it")
    print(f"sent {sent:,} lines to topic {source.topic}, as producer {producer!r}", file=sys.stderr)
    return sent


def _numbered(lines: list[Line], source: SourceSettings, producer: str, first: int) -> list[Line]:
    """Lines with the field `LINE_NUMBER`, if that names their requests; `first` is the first's number."""
    if source.request_id != LINE_NUMBER:
        return lines
    return [{LINE_NUMBER: f"{producer}-{first + i}", **line} for i, line in enumerate(lines)]


def _key(line: Line, source: SourceSettings) -> bytes:
    """The request's id, if the source says where it is; where lines are requests, that of the person, so that
    what became of a line is behind it in its partition."""
    if source.request_id == LINE_NUMBER:
        return str(line.get(next(iter(source.context.values()), "").removesuffix("?"), "")).encode()
    return str(line.get(source.request_id.removesuffix("?"), "")).encode()


def lines_of(file: Path, settings: DataSettings) -> Iterator[Line]:
    """The lines of a file by column."""
    if file.suffix == ".parquet":
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                yield {name: cell for name, cell in row.items() if cell is not None}
        return
    refuse_packed(file)
    with open_text(file) as text:
        if file.name.removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json")):
            decode = msgspec.json.Decoder(Line).decode
            for number, one in enumerate(text, 1):
                if one.isspace():
                    continue
                try:
                    yield decode(one)
                except UNDECODABLE as error:
                    raise ProduceError(f"{file}:{number}: is no JSON object: {error}") from None
            return
        delimiter = "\t" if ".tsv" in file.suffixes and settings.delimiter == "," else settings.delimiter
        for _ in range(settings.skip_lines):
            text.readline()
        dialect = Dialect(delimiter, settings.quote, settings.escape)
        names = list(settings.columns)
        for row in read_rows(text, dialect, 1 + settings.skip_lines):
            if not row.cells and not row.error:
                continue
            if not names and not row.error:
                names = row.cells
                continue
            if row.error or len(row.cells) != len(names):
                raise ProduceError(
                    f"{file}:{row.line}: {row.error or f'{len(row.cells)} cells; expected {len(names)}'}"
                )
            yield {name: _typed(cell) for name, cell in zip(names, row.cells, strict=True) if cell}


def _typed(cell: str) -> int | float | str:
    """An integer or a number if the text is written as one, else the text.

    >>> _typed("42"), _typed("0042"), _typed("1.5"), _typed("1e3"), _typed("a1"), _typed("nan")
    (42, '0042', 1.5, 1000.0, 'a1', 'nan')
    """
    found = to_id(cell)
    if isinstance(found, int) or not any(c in cell for c in ".eE") or cell[-1] not in "0123456789.":
        return found
    try:
        return float(cell)
    except ValueError:
        return cell
