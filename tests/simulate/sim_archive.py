"""All that was ever appended to a simulated log, also what it has dropped since: for the books."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from learner.errors import UpdateDamagedError, UpdateGapError
from learner.updates.chain import Chain, UpdatePosition
from learner.updates.format import Update, decode_update
from learner.updates.snapshots import Snapshot, SnapshotReader
from stream.log.base import UPDATES, Log, Outgoing, Record
from stream.log.testing import MemoryLog

EVERYTHING = 10**7, 1 << 50


class _Replay:
    """The clock of a log that is filled with what another one had: it shows when that one took a record."""

    def __init__(self) -> None:
        self.unix_ms = 0

    def unix_s(self) -> float:
        return (self.unix_ms + 0.5) / 1e3

    def now_s(self) -> float:
        return 0.0


def _readable(records: Iterable[Record]) -> Iterator[tuple[Record, Update]]:
    for record in records:
        with contextlib.suppress(UpdateDamagedError):
            yield record, decode_update(record.value)


class Archive:
    """Keeps what a log drops, and what its records were before a bit flipped.

    Args:
        log: before it drops something, `keep` is called.
    """

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._gone: dict[tuple[str, int], dict[int, Record]] = defaultdict(dict)
        self._whole: dict[tuple[str, str, int], bytes] = {}  # of those with a flipped bit, by their number

    def spoiled(self, topic: str, record: Outgoing) -> None:
        """Of this record a bit will flip."""
        self._whole[topic, record.producer, record.seq] = record.value

    def trimmed(self, topic: str, partition: int, before: int) -> None:
        """A role drops the records before an offset.

        Raises:
            AssertionError: a reader of the second newest snapshot needs some of them.
        """
        if topic == UPDATES:
            self._check_updates(before)
        self.keep(topic, partition, before)

    def _check_updates(self, before: int) -> None:
        newest: list[Snapshot] = []
        for snapshot in SnapshotReader().read(self._log):
            if not newest or snapshot.number > newest[-1].number:
                newest = [*newest[-1:], snapshot]
        assert len(newest) == 2, "updates are dropped before there are two snapshots"
        last = newest[0].head
        chain = Chain(UpdatePosition(0, last.term, last.epoch, last.seq, last.term))
        for record, update in self.updates():
            if record.offset >= before:
                return
            later = (update.epoch, update.seq) == (last.epoch, last.seq + 1)
            if later and record.offset >= last.updates_from and chain.take(update) is not None:
                raise AssertionError("an update is dropped that the older snapshot needs")

    def keep(self, topic: str, partition: int, before: int) -> None:
        """Keep the records before an offset."""
        gone = self._gone[topic, partition]
        for record in self._log.read(topic, partition, 0, *EVERYTHING):
            if record.offset >= before:
                break
            gone[record.offset] = record

    def records(self, topic: str, partition: int) -> list[Record]:
        """All records that a partition ever had, without flipped bits, but for updates that nobody could read
        and a later leader made again.
        """
        held, sent = self._held(topic, partition), self.sent(topic, partition)
        if topic != UPDATES or not self._whole:
            return sent
        firsts: dict[tuple[int, int], int] = {}  # by epoch and term, the number of the first update
        for _, update in _readable(sent):
            if update.parts:
                of = update.epoch, update.term
                firsts[of] = min(update.seq, firsts.get(of, update.seq))

        def made_again(update: Update) -> bool:
            """Whether a later leader went on from before it."""
            return any(
                epoch == update.epoch and term > update.term and first <= update.seq
                for (epoch, term), first in firsts.items()
            )

        return [
            there if there.value != whole.value and made_again(decode_update(whole.value)) else whole
            for there, whole in zip(held, sent, strict=True)
        ]

    def sent(self, topic: str, partition: int) -> list[Record]:
        """All records that a partition ever had, as they were sent."""
        return [self._before_it_flipped(record) for record in self._held(topic, partition)]

    def _held(self, topic: str, partition: int) -> list[Record]:
        there = {record.offset: record for record in self._log.read(topic, partition, 0, *EVERYTHING)}
        return [record for _, record in sorted((self._gone[topic, partition] | there).items())]

    def _before_it_flipped(self, record: Record) -> Record:
        value = self._whole.get((record.topic, record.producer, record.seq))
        return record if value is None else msgspec.structs.replace(record, value=value)

    def updates(self) -> Iterator[tuple[Record, Update]]:
        """What topic `updates` ever had, without what nobody could read and a later leader made again."""
        return _readable(self.records(UPDATES, 0))

    def counted(self) -> Iterator[Update]:
        """The last part of each update that counts, in order."""
        chain = Chain(UpdatePosition())
        for _, update in self.updates():
            try:
                parts = chain.take(update)
            except UpdateGapError:  # the books see it
                chain.jump(update.epoch, update.seq, update.term)
                continue
            if parts is not None:
                yield parts[-1]

    def log(self, *topics: str) -> Log:
        """A log with all records of some topics at their offsets."""
        clock = _Replay()
        made = MemoryLog(clock=clock, notes_times=self._log.notes_times)  # type: ignore[arg-type]
        for topic in topics:
            partitions = self._log.partitions(topic)
            made.create_topic(topic, partitions)
            for partition in range(partitions):
                end = 0
                together: list[Outgoing] = []  # what stands behind one another and has one time
                for record in self.records(topic, partition):
                    taken_ms = record.ingest_ms or record.created_ms
                    if record.offset > end or taken_ms != clock.unix_ms:
                        made.append(topic, together)
                        together = []
                        clock.unix_ms = taken_ms
                    if record.offset > end:
                        made.skip(topic, partition, record.offset - end)
                    again = Outgoing(record.key, record.value, partition, record.producer, record.seq)
                    together.append(again)
                    end = record.offset + 1
                made.append(topic, together)
        return made
