"""A log that fails as a seed decides.

It wraps any log, and lets calls fail in the ways that `stream.log.base.Log` allows. The same seed and the
same calls bring the same faults.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock
from ground.short_repr import ShortRepr
from stream.errors import LogAwayError
from stream.log.base import READ_BYTES_MAX, READ_RECORDS_MAX, Log, Outgoing, Record, destination

T = TypeVar("T")

APPEND_FAULTS = ("append_lost", "append_in_doubt", "append_late")
LATE_MAX = 100  # appends that a FaultyLog holds back at a time


class Faults(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a `FaultyLog` does what; rates are probabilities per call, 0 to 1."""

    append_lost: float = 0.0  # LogAwayError, and nothing is there
    append_in_doubt: float = 0.0  # LogAwayError, and each partition has a prefix of its records
    append_late: float = 0.0  # the same, but the front comes only some calls later, behind other records
    repeat: float = 0.0  # numbered records are appended twice, as after a lost answer
    away: float = 0.0  # from this call on, every call raises LogAwayError for a while
    away_calls_max: int = 20  # how long that lasts at most
    short_read: float = 0.0  # fewer records than there are, but one at least
    uneven: float = 0.0  # a read of several partitions gives the records of some of them only
    delay: float = 0.0  # the call takes up to `delay_s_max` seconds longer
    delay_s_max: float = 0.01
    late_calls_max: int = 20

    def __post_init__(self) -> None:
        for name in (
            "append_lost",
            "append_in_doubt",
            "append_late",
            "repeat",
            "away",
            "short_read",
            "uneven",
            "delay",
        ):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")


class FaultyLog(Log):
    """Any log, with faults that follow from a seed. All of them are faults that a `Log` may have.

    Args:
        log: what is wrapped; closing this closes it.
        seed: the same seed, faults and calls bring the same failures.
        faults: rates; the attribute `faults` may be set at any time, `Faults()` ends all trouble.
        clock: slept on for a delay.
    """

    def __init__(self, log: Log, seed: int, faults: Faults, clock: Clock = SYSTEM_CLOCK) -> None:
        self.faults = faults
        self.happened: Counter[str] = Counter()  # by the name of the rate
        self._log = log
        self._draw = random.Random(seed)
        self._clock = clock
        self._lock = threading.RLock()
        self._calls = 0
        self._away_until = 0
        self._late: list[tuple[int, str, list[Outgoing]]] = []  # (due at call, topic, records)

    def __str__(self) -> str:
        return f"faulty {self._log}"

    def settle(self) -> None:
        """Stop all faults, and append the delayed records now."""
        with self._lock:
            self.faults = Faults()
            self._away_until = 0
            self._bring_late(all_of_it=True)

    def create_topic(self, topic: str, partitions: int) -> None:
        self._call(lambda: self._log.create_topic(topic, partitions))

    def partitions(self, topic: str) -> int:
        return self._call(lambda: self._log.partitions(topic))

    def record_bytes_max(self, topic: str) -> int:
        return self._log.record_bytes_max(topic)

    def limit_advice(self, topic: str, record_bytes: int) -> str:
        return self._log.limit_advice(topic, record_bytes)

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self._begin()
        with self._lock:
            kind = self._append_fault() if records else ""
            if not kind:
                taken = self._log.append(topic, records)
                if all(record.seq >= 0 and record.producer for record in records) and self._hits("repeat"):
                    self._log.append(topic, records)
                return taken
            front = self._front(topic, records)
            if kind == "append_in_doubt" and front:
                self._log.append(topic, front)
            elif kind == "append_late" and front and len(self._late) < LATE_MAX:
                due = self._calls + self._draw.randint(1, max(self.faults.late_calls_max, 1))
                self._late.append((due, topic, front))
            raise LogAwayError(f"{self}: appending to topic {topic!r}: no answer ({kind})")

    def read_any(
        self,
        topic: str,
        offsets: Mapping[int, int],
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> dict[int, list[Record]]:
        self._begin()
        with self._lock:
            if self._hits("short_read"):
                max_records = self._draw.randint(1, max(max_records, 1))
            uneven = self._hits("uneven")
        found = self._log.read_any(topic, offsets, max_records, max_bytes, wait_s)
        if uneven and len(found) > 1:
            with self._lock:
                some = self._draw.sample(sorted(found), self._draw.randrange(1, len(found)))
            found = {p: found[p] for p in some}
        return found

    def ends(self, topic: str) -> list[tuple[int, int]]:
        return self._call(lambda: self._log.ends(topic))

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        self._call(lambda: self._log.commit(group, topic, offsets))

    def committed(self, group: str, topic: str) -> dict[int, int]:
        return self._call(lambda: self._log.committed(group, topic))

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        self._call(lambda: self._log.trim(topic, partition, before_offset))

    def enforce_retention(self) -> None:
        self._call(self._log.enforce_retention)

    def close(self) -> None:
        self._log.close()

    def _call(self, action: Callable[[], T]) -> T:
        self._begin()
        return action()

    def _begin(self) -> None:
        """What happens at each call, before it does anything."""
        with self._lock:
            self._calls += 1
            if self._late:
                self._bring_late()
            faults, draw = self.faults, self._draw.random
            if self._calls >= self._away_until and draw() < faults.away:
                self.happened["away"] += 1
                self._away_until = self._calls + self._draw.randint(1, max(faults.away_calls_max, 1))
            if self._calls < self._away_until:
                raise LogAwayError(f"{self} does not answer")
            delay_s = 0.0
            if draw() < faults.delay:
                self.happened["delay"] += 1
                delay_s = draw() * faults.delay_s_max
        if delay_s:
            self._clock.sleep(delay_s)  # without the lock: others' calls do not wait for this one

    def _bring_late(self, all_of_it: bool = False) -> None:
        due = [late for late in self._late if all_of_it or late[0] <= self._calls]
        self._late = [late for late in self._late if late not in due]
        for _, topic, records in due:
            self._log.append(topic, records)

    def _hits(self, name: Literal["repeat", "short_read", "uneven"]) -> bool:
        hit = self._draw.random() < getattr(self.faults, name)
        if hit:
            self.happened[name] += 1
        return hit

    def _append_fault(self) -> str:
        drawn = self._draw.random()
        for name in APPEND_FAULTS:
            drawn -= getattr(self.faults, name)
            if drawn < 0.0:
                self.happened[name] += 1
                return name
        return ""

    def _front(self, topic: str, records: Sequence[Outgoing]) -> list[Outgoing]:
        """A prefix of each partition's records; the seed decides its length."""
        partitions = self._log.partitions(topic)
        counts = Counter(destination(record, partitions) for record in records)
        left = {p: self._draw.randint(0, count) for p, count in sorted(counts.items())}
        front = []
        for record in records:
            p = destination(record, partitions)
            if left[p] > 0:
                left[p] -= 1
                front.append(record)
        return front
