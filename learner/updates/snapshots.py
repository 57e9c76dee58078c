"""Topic `snapshots`: reading complete snapshots, and dropping records that they make superfluous.

A follower begins at the newest snapshot and needs only the updates after it. Earlier records are dropped,
but one snapshot late, so that a reader that is slow or in the middle of a snapshot still finds its records.
"""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from learner.errors import UpdateDamagedError
from learner.updates.format import Update, decode_update
from stream.log.base import SNAPSHOTS, UPDATES, Log

READ_BYTES_MAX = 32 << 20

_log = logging.getLogger("freshet.snapshots")


class Snapshot(NamedTuple):
    """A complete snapshot."""

    offset: int  # of the first part
    parts: list[Update]

    @property
    def number(self) -> tuple[int, int, int]:
        """Term, epoch and number of the last update in the snapshot."""
        last = self.parts[-1]
        return last.term, last.epoch, last.seq


class SnapshotReader:
    """Reads the topic from its last position on.

    Args:
        heads: without rows and arrays.
    """

    def __init__(self, *, heads: bool = False) -> None:
        self._heads = heads
        self._next = 0
        self._offset = 0  # of the first of `_parts`
        self._parts: list[Update] = []
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
            records = log.read(SNAPSHOTS, 0, self._next, 100, READ_BYTES_MAX)
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
                    self._parts = []
                    continue
                if part.term < self._term:
                    continue
                if part.term > self._term:
                    self._term, self._parts = part.term, []
                if part.parts == 0:
                    continue  # a term begins
                if self._heads:
                    part = msgspec.structs.replace(part, tables=[], arrays={})
                if part.part == 0:
                    self._parts, self._offset = [], record.offset
                # A learner that crashed between parts sends some of them again.
                same = not self._parts or (part.epoch, part.seq) == (self._parts[0].epoch, self._parts[0].seq)
                if same and part.part == len(self._parts):
                    self._parts.append(part)
                    if len(self._parts) == part.parts:
                        whole, self._parts = Snapshot(self._offset, self._parts), []
                        yield whole


def first_update_after(log: Log, snapshot: Update) -> int:
    """An offset at or before the first update after a snapshot, given the snapshot's last part."""
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
        self._reader = SnapshotReader(heads=True)
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
            self._log.trim(SNAPSHOTS, 0, older.offset)
            self._log.trim(UPDATES, 0, first_update_after(self._log, older.parts[-1]))
