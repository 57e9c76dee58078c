"""Duplicate records, detected by their producers' sequence numbers."""

from collections import OrderedDict
from collections.abc import Sequence
from operator import itemgetter

import msgspec

from stream.log.base import Record
from stream.state.role_state import Commit, RoleState

PRODUCERS_MAX = 10_000
"""Default number of producers per partition whose numbers are kept."""

_NONE = (-1, -1)


def producers_prefix(topic: str, partition: int) -> bytes:
    """The key prefix of a partition's producers and their numbers in a state."""
    return b"runner/producer/" + f"{topic}/{partition}/".encode()


def last_numbers(state: RoleState, topic: str, partition: int) -> dict[str, int]:
    """The last sequence number of each producer of a partition that a state has, the stalest first."""
    prefix = producers_prefix(topic, partition)
    found = [
        (*msgspec.msgpack.decode(value, type=tuple[int, int]), key[len(prefix) :].decode())
        for key, value in state.scan(prefix)
    ]
    return {producer: seq for seq, _, producer in sorted(found, key=itemgetter(1))}


class Repeats:
    """The last sequence number of each producer of one partition.

    Of at most `producers_max`: the stalest is evicted, and its duplicates would then be taken.
    """

    def __init__(self, producers_max: int, last: dict[str, int] | None = None) -> None:
        """Start with the numbers in `last`, the stalest first."""
        self._max = producers_max
        known = last or {}
        # (number, offset of its record); in this order of offsets, those in `last` before all that follow
        entries = ((name, (seq, i - len(known))) for i, (name, seq) in enumerate(known.items()))
        # a plain dict takes long to find its first entry once many before it were removed
        self._last: OrderedDict[str, tuple[int, int]] = OrderedDict(entries)
        self._before: dict[str, tuple[int, int] | None] | None = None  # see `begin`

    def begin(self) -> None:
        """Note from here on what `roll_back` needs."""
        self._before = {}

    def roll_back(self) -> None:
        """Undo what was noted since `begin`."""
        assert self._before is not None
        for producer, entry in self._before.items():
            self._last.pop(producer, None)
            if entry is not None:
                self._last[producer] = entry
        self._last = OrderedDict(sorted(self._last.items(), key=lambda item: item[1][1]))
        self._before = {}

    def leave_out(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records, in order, without those sent before; notes their numbers."""
        fresh: list[Record] = []
        # records of one producer come in runs: its number is looked up and noted once for each
        producer, newest, offset = "", -1, -1
        for record in records:
            seq = record.seq
            if seq >= 0 and record.producer:
                if record.producer != producer:
                    self._note(producer, newest, offset)
                    producer, offset = record.producer, -1
                    newest = self._last.get(producer, _NONE)[0]
                if seq <= newest:
                    continue
                newest, offset = seq, record.offset
            fresh.append(record)
        self._note(producer, newest, offset)
        return fresh

    def _note(self, producer: str, seq: int, offset: int) -> None:
        """Note a producer's newest number; offset -1: nothing of it was new."""
        if offset < 0:
            return
        last = self._last
        before = last.pop(producer, None)  # taking it out and in again moves it to the end
        self._changes(producer, before)
        last[producer] = seq, offset
        self._noted(producer, seq, offset)
        if len(last) > self._max:
            stalest, entry = last.popitem(last=False)
            self._changes(stalest, entry)
            self._forgotten(stalest)

    def _changes(self, producer: str, entry: tuple[int, int] | None) -> None:
        """A producer's entry, None if it had none, is about to change."""
        if self._before is not None:
            self._before.setdefault(producer, entry)

    def _noted(self, producer: str, seq: int, offset: int) -> None:
        """A producer's newest number has changed."""

    def _forgotten(self, producer: str) -> None:
        """A producer's number is not kept any longer."""


class SavedRepeats(Repeats):
    """The same, kept in the reader's state."""

    def __init__(self, state: RoleState, topic: str, partition: int, producers_max: int) -> None:
        """Resume from the numbers in the state."""
        super().__init__(producers_max, last_numbers(state, topic, partition))
        self._prefix = producers_prefix(topic, partition)
        self._unsaved: dict[str, tuple[int, int]] = {}  # producer -> (number, offset)
        self._gone: set[str] = set()
        self._saving_before: dict[str, tuple[tuple[int, int] | None, bool]] = {}

    def begin(self) -> None:
        super().begin()
        self._saving_before = {}

    def roll_back(self) -> None:
        super().roll_back()
        for producer, (unsaved, gone) in self._saving_before.items():
            self._unsaved.pop(producer, None)
            self._gone.discard(producer)
            if unsaved is not None:
                self._unsaved[producer] = unsaved
            if gone:
                self._gone.add(producer)
        self._saving_before = {}

    def save(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for producer, entry in self._unsaved.items():
            commit.put(self._prefix + producer.encode(), msgspec.msgpack.encode(entry))
        for producer in self._gone:
            commit.delete(self._prefix + producer.encode())
        self._unsaved.clear()
        self._gone.clear()

    def _changes(self, producer: str, entry: tuple[int, int] | None) -> None:
        super()._changes(producer, entry)
        if self._before is not None:
            was = self._unsaved.get(producer), producer in self._gone
            self._saving_before.setdefault(producer, was)

    def _noted(self, producer: str, seq: int, offset: int) -> None:
        self._unsaved[producer] = seq, offset
        self._gone.discard(producer)

    def _forgotten(self, producer: str) -> None:
        self._unsaved.pop(producer, None)
        self._gone.add(producer)
