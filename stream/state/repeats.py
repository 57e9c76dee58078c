"""Duplicate records, detected by their producers' sequence numbers."""

from collections.abc import Sequence
from operator import itemgetter

import msgspec

from stream.log.base import Record
from stream.state.role_state import Commit, RoleState

PRODUCERS_MAX = 10_000
"""Default number of producers per partition whose numbers are kept."""


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
        self._last = dict(last or {})

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
                    newest = self._last.get(producer, -1)
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
        last.pop(producer, None)  # taking it out and in again moves it to the end
        last[producer] = seq
        self._noted(producer, seq, offset)
        if len(last) > self._max:
            stalest = next(iter(last))
            del last[stalest]
            self._forgotten(stalest)

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

    def save(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for producer, entry in self._unsaved.items():
            commit.put(self._prefix + producer.encode(), msgspec.msgpack.encode(entry))
        for producer in self._gone:
            commit.delete(self._prefix + producer.encode())
        self._unsaved.clear()
        self._gone.clear()

    def _noted(self, producer: str, seq: int, offset: int) -> None:
        self._unsaved[producer] = seq, offset
        self._gone.discard(producer)

    def _forgotten(self, producer: str) -> None:
        self._unsaved.pop(producer, None)
        self._gone.add(producer)
