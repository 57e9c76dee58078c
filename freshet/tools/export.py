"""`freshet export`: any range of a log, or any data file, as one Parquet file.

Examples and events become columns (`stream.files.record_columns`), one row per candidate, and can be read
back unchanged; records of other topics are written as bytes. The range is read twice, first to find the
columns, so memory is bounded.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from freshet.config import DEFAULT_FILE, Config, all_features, load_config, override_config
from freshet.errors import ExportError
from freshet.progress import progress
from freshet.replay.tape import ReplayOptions, Window, is_log, open_existing, open_tape, replay_config
from freshet.replay.tapes.reading import targets_in
from ground import FreshetError
from stream.files.record_columns import Holds, Survey
from stream.files.record_files import RecordWriter, whole_or_nothing
from stream.log.base import EVENTS, EXAMPLES, Log, Record
from stream.records.decoding import Decoder, split_batch
from stream.records.entities.record import AnyEvent, EntityEvent
from stream.records.fields import ANY_CONTENT
from stream.records.id_types import declared_of
from stream.records.types import Action, Event, Example, Exposure, Forget, Impression, Tick

RAW_BYTES_MAX = 32 << 20  # bytes of values in a row group

Exported = Example | Event


def run_export(
    config_file: str | None, overrides: list[str], options: ReplayOptions, topic: str, to: Path
) -> int:
    """Write the range in `options` to the file `to`; returns the number of records.

    Raises:
        ExportError: there is nothing to export, or the file cannot be written.
        FreshetError: the config or the data.
    """
    config = _config(config_file, overrides, options)
    if topic != EXAMPLES and options.data is not None and not is_log(options.data):
        raise ExportError(f"--topic {topic} needs a log, and {options.data} is a file of examples")
    try:
        if topic == EXAMPLES:
            return _examples(config, options, to)
        log = open_existing(config.log if options.data is None else options.data, config)
        try:
            window = Window(log, topic, options)
            return _events(config, log, window, to) if topic == EVENTS else _raw(log, window, topic, to)
        finally:
            log.close()
    except OSError as error:
        raise ExportError(f"{to}: cannot be written: {error.strerror}") from None


def _config(file: str | None, overrides: list[str], options: ReplayOptions) -> Config:
    """The config; only a data file needs one, for its columns."""
    if file is None and options.data is not None and is_log(options.data):
        return override_config(Config(), overrides)
    if file is None and options.data is None:
        return load_config(DEFAULT_FILE, overrides)
    return replay_config(file, overrides, options)


def _examples(config: Config, options: ReplayOptions, to: Path) -> int:
    tape = open_tape(config, options)
    try:
        return _write("examples", lambda: iter(tape), tape.total, to, lambda: tape.skipped)
    finally:
        tape.close()


def _events(config: Config, log: Log, window: Window, to: Path) -> int:
    features = all_features(config)
    declared = declared_of(features) if features else ANY_CONTENT
    kinds = (Impression, Action, Exposure, EntityEvent, Forget, Tick)
    decode = Decoder[AnyEvent | Forget | Tick](*kinds, declared=declared, targets=targets_in(config)).decode
    skipped = entities = 0

    def play() -> Iterator[Exported]:
        nonlocal skipped, entities
        skipped = entities = 0
        found = 0
        for record in window.records(log):
            try:
                events = [decode(part) for part in split_batch(record.value)]
            except FreshetError:
                skipped += 1
                continue
            for event in events:
                if isinstance(event, Forget | Tick):
                    continue
                if isinstance(event, EntityEvent):
                    entities += 1
                    continue
                if window.begin <= event.time < window.end:
                    if found == window.limit:
                        return
                    found += 1
                    yield event

    written = _write("events", play, window.total, to, lambda: skipped)
    if entities:
        print(
            f"{entities:,} entity events of this range are no rows of such a file and are left out; "
            "examples are exported with the attributes that they were learned with (--topic examples)",
            file=sys.stderr,
        )
    return written


def _write(
    holds: Holds,
    play: Callable[[], Iterator[Exported]],
    total: int | None,
    to: Path,
    skipped: Callable[[], int],
) -> int:
    """Play once to find the columns and once to write; returns the number of records."""
    survey = Survey(holds)
    with progress("looking ", total) as advance:
        for record in play():
            survey.add(record)
            advance(1)
    layout = survey.layout()
    if layout.records == 0:
        raise ExportError(f"there is nothing to export: no {holds} are in this range")
    written = 0
    with (
        whole_or_nothing(to) as making,
        RecordWriter(making, layout) as writer,
        progress("writing ", layout.records) as advance,
    ):
        for record in play():
            writer.add(record)
            advance(1)
            written += 1
    _tell(to, f"{written:,} {holds}, {writer.written:,} rows", skipped())
    return written


def _raw(log: Log, window: Window, topic: str, to: Path) -> int:
    """Write records as bytes."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [
            ("partition", pyarrow.int32()),
            ("offset", pyarrow.int64()),
            ("ingest_ms", pyarrow.int64()),
            ("producer", pyarrow.string()),
            ("seq", pyarrow.int64()),
            ("key", pyarrow.binary()),
            ("value", pyarrow.binary()),
        ]
    )
    written = 0
    with (
        whole_or_nothing(to) as making,
        pyarrow.parquet.ParquetWriter(making, schema, compression="zstd") as writer,
        progress("writing ", window.total) as advance,
    ):
        kept = (r for r in window.records(log) if window.begin <= r.ingest_ms / 1e3 < window.end)
        for group in _groups(itertools.islice(kept, window.limit)):
            columns = [[getattr(record, name) for record in group] for name in schema.names]
            arrays = [pyarrow.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            written += len(group)
            advance(len(group))
        if written == 0:
            raise ExportError(f"there is nothing to export: topic {topic!r} has no records in this range")
    _tell(to, f"{written:,} records of topic {topic!r}", 0)
    return written


def _groups(records: Iterator[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    size = 0
    for record in records:
        group.append(record)
        size += len(record.value)
        if size >= RAW_BYTES_MAX or len(group) >= 65_536:
            yield group
            group, size = [], 0
    if group:
        yield group


def _tell(to: Path, what: str, skipped: int) -> None:
    left_out = f"; {skipped:,} records that cannot be read were left out" if skipped else ""
    print(f"wrote {what} to {to} ({to.stat().st_size / 1e6:,.1f} MB){left_out}", file=sys.stderr)
