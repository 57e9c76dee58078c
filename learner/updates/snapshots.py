"""Topic `snapshots`: reading complete snapshots, and dropping records that they make superfluous.

A follower begins at the newest snapshot and needs only the updates after it. Earlier records are dropped,
but one snapshot late, so that a reader that is slow or in the middle of a snapshot still finds its records.
"""

import logging
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from learner.errors import UpdateDamagedError, UpdateGapError
from learner.updates.format import Update, decode_update, together
from stream.log.base import SNAPSHOTS, UPDATES, Log

READ_BYTES_MAX = 32 << 20
PARTS_BYTES_MAX = 2 << 20  # of a snapshot: whoever loads one may have little memory

_log = logging.getLogger("freshet.snapshots")


class Snapshot(NamedTuple):
    """A complete snapshot in the topic: where its parts are, and what they say of the whole."""

    offsets: list[int]  # of its parts, ascending
    head: Update  # without rows, arrays and entities

    @property
    def number(self) -> tuple[int, int, int]:
        """Term, epoch and number of the last update in the snapshot."""
        return self.head.term, self.head.epoch, self.head.seq


class _Part(NamedTuple):
    offset: int
    head: Update  # without rows, arrays and entities


class SnapshotReader:
    """Finds the complete snapshots in the topic, from its last position on; `parts_of` reads one."""

    def __init__(self) -> None:
        self._next = 0
        self._parts: dict[int, list[_Part]] = {}  # by shard
        self._of = (0, 0)  # epoch and number of `_parts`
        self._term = -1  # the highest begun; snapshots of lower terms do not count

    def read(self, log: Log) -> Iterator[Snapshot]:
        """The snapshots completed since the last call, in order.

        A snapshot with a damaged part is skipped.

        Raises:
            LogError: the log fails.
            UpdateError: a part is of another version of Freshet.
        """
        first, end = log.ends(SNAPSHOTS)[0]
        self._next = max(first, self._next)
        while self._next < end:
            records = log.read(SNAPSHOTS, 0, self._next, 100, PARTS_BYTES_MAX)
            if not records:
                self._next = end  # the rest are offsets without records
            for record in records:
                self._next = record.offset + 1
                try:
                    part = decode_update(record.value)
                except UpdateDamagedError as damage:
                    _log.warning(
                        "record %d of topic snapshots: %s; its snapshot is skipped", record.offset, damage
                    )
                    self._parts = {}
                    continue
                if part.term < self._term:
                    continue
                if part.term > self._term:
                    self._term, self._parts = part.term, {}
                if part.parts == 0:
                    continue  # a term begins
                head = msgspec.structs.replace(part, tables=[], arrays={}, entities=[])
                snapshot = self._add(head, record.offset)
                if snapshot is not None:
                    yield snapshot

    def _add(self, part: Update, offset: int) -> Snapshot | None:
        """Take a part; returns the snapshot if it was the last of all shards."""
        of = part.epoch, part.seq
        if part.part == 0:
            if not self._parts or of != self._of or part.shards < 2:
                self._parts, self._of = {}, of
            # A learner that crashed between parts sends some of them again.
            self._parts[part.shard] = []
        mine = self._parts.get(part.shard)
        if mine is None or of != self._of or part.part != len(mine):
            return None
        mine.append(_Part(offset, part))
        shards = [self._parts.get(shard, []) for shard in range(max(part.shards, 1))]
        if any(not one or len(one) < one[-1].head.parts for one in shards):
            return None
        self._parts = {}
        offsets = sorted(one.offset for parts in shards for one in parts)
        return Snapshot(offsets, together([[one.head for one in parts] for parts in shards])[-1])


def parts_of(snapshot: Snapshot, log: Log) -> Iterator[Update]:
    """Read the parts of a snapshot, one after the other; those of several shards in any order among them.

    Raises:
        LogError: the log fails.
        UpdateGapError: it has dropped a part.
        UpdateDamagedError: a part is damaged.
    """
    offsets = deque(snapshot.offsets)
    while offsets:
        records = log.read(SNAPSHOTS, 0, offsets[0], 100, PARTS_BYTES_MAX)
        for record in records:
            if not offsets or record.offset > offsets[0]:
                break
            if record.offset == offsets[0]:
                offsets.popleft()
                yield decode_update(record.value)
        if offsets and (not records or records[0].offset > offsets[0]):
            raise UpdateGapError(f"the log has dropped record {offsets[0]} of topic snapshots")


def first_update_after(log: Log, snapshot: Update) -> int:
    """An offset at or before the first update after a snapshot, given the snapshot's head."""
    if snapshot.updates_from >= 0:
        return snapshot.updates_from
    here = snapshot.epoch, snapshot.seq
    low, high = log.ends(UPDATES)[0]
    while low < high:
        middle = (low + high) // 2
        probe, update = _readable(log, middle, high)
        if update is not None and (update.epoch, update.seq) <= here:
            low = probe + 1
        else:
            high = middle
    return low


def _readable(log: Log, first: int, end: int) -> tuple[int, Update | None]:
    """The first undamaged update from an offset on, and its offset; None if there is none before `end`."""
    while first < end:
        records = log.read(UPDATES, 0, first, 1)
        if not records or records[0].offset >= end:
            break
        try:
            return records[0].offset, decode_update(records[0].value)
        except UpdateDamagedError:
            first = records[0].offset + 1
    return end, None


class Trimmer:
    """Drops the snapshots before the second newest, and the updates that the second newest holds."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._reader = SnapshotReader()
        self._newest: list[Snapshot] = []  # at most two

    def trim(self) -> None:
        """Drop the records that are superfluous now.

        Raises:
            LogError: the log fails.
            UpdateError: a snapshot in the log is of another version of Freshet.
        """
        before = self._newest
        for snapshot in self._reader.read(self._log):
            # A snapshot that was sent twice counts once.
            if not self._newest or snapshot.number > self._newest[-1].number:
                self._newest = [*self._newest[-1:], snapshot]
        if len(self._newest) == 2 and self._newest is not before:
            older = self._newest[0]
            self._log.trim(SNAPSHOTS, 0, older.offsets[0])
            self._log.trim(UPDATES, 0, first_update_after(self._log, older.head))
