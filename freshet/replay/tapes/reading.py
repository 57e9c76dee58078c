"""The records of a range of a log, for a tape, and the times that bound it."""

from collections.abc import Iterator

from freshet.config import Config
from freshet.errors import ReplayError
from stream.files.times import time_reader
from stream.log.base import Log, Record
from stream.records.targets import UNKNOWN, Targets
from stream.state.journal import JournalStretch
from stream.state.repeats import Repeats


def log_records(
    log: Log,
    topic: str,
    partition: int,
    first: int,
    end: int,
    repeats: Repeats,
    named: JournalStretch | None = None,
) -> Iterator[Record]:
    """Records [first, end) of one partition, without duplicates.

    Args:
        repeats: the last numbers of the partition's producers; updated.
        named: the journal entry that names the records, for an error.

    Raises:
        ReplayError: the journal names records that the log has dropped.
    """
    offset = first
    while offset < end:
        records = log.read(topic, partition, offset)
        if named is not None and (not records or records[0].offset != offset):
            raise ReplayError(
                f"the log no longer holds offset {offset} of partition {partition}, which the journal names; "
                "only a journal whose records are all there can be followed (retain_s, retain_bytes)"
            )
        if not records:
            return
        offset = records[-1].offset + 1
        yield from repeats.leave_out([record for record in records if record.offset < end])


def read_time(name: str, text: str) -> float:
    """The event time in an option, Unix seconds.

    Raises:
        ReplayError: it is not a time.
    """
    try:
        return time_reader("auto")(text)
    except ValueError as error:
        raise ReplayError(f"{name}: {error}") from None


def targets_in(config: Config) -> Targets:
    """The targets that a log's examples are of; any, where there is only the log and no config."""
    return config.known_targets() if config.features else UNKNOWN
