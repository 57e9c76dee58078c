"""What a simulated process has of the world: its view of the disk and its connection to the log.

Both may fail, and the process may be killed before, within or after whatever it does there.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from greenlet import getcurrent
from sim_config import Config
from sim_schedule import Rates
from sim_world import KilledError, NetworkClock, Process, ProcessClock

from stream.errors import LogAwayError
from stream.group.signs import Beat, Claim
from stream.log.base import (
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
    ROLES,
    SNAPSHOTS,
    UPDATES,
    Log,
    Outgoing,
    Record,
)
from stream.log.testing import FaultyLog, MemoryLog
from stream.state.testing import MemoryDisk

AWAY_S_MAX = 8.0  # how long a call waits for a log that is away,
AWAY_SHARE = 0.1  # or up to this share of what is left: hours of retries would find what minutes do;
AWAY_S_LONGEST = 60.0  # far below what healing may take, for trouble may end before the outage does
ASKS_AGAIN_S = 7.0  # more than the longest pause after no answer, on a slow clock
MERGE_S_MAX = 2.0
GAP_MAX = 3  # offsets that an aborted transaction and its marker take


Place = Literal["anywhere", "disk", "helper"]
"""Where a defect comes up: at the next use of disk or log, of the disk, or in a helper thread."""


class DefectError(RuntimeError):
    """What no code expects: it must end the role, whichever thread it comes up in."""


def shows_defect(error: BaseException | None) -> bool:
    """Whether an error's traceback shows a defect."""
    while error is not None and not isinstance(error, DefectError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error is not None


def is_claim(record: Outgoing) -> bool:
    """Whether a record of topic `roles` claims to lead."""
    return isinstance(msgspec.msgpack.decode(record.value, type=Beat | Claim), Claim)


class Machine:
    """One process's disk and log.

    Args:
        log: what all processes share.
        disk: the same.
    """

    def __init__(
        self, process: Process, log: MemoryLog, disk: MemoryDisk, rates: Rates, config: Config
    ) -> None:
        self.process = process
        self.rates = rates
        self.config = config  # with which its process starts next
        self.happened: Counter[str] = Counter()
        self._shared = log
        self._full_until_s = 0.0
        self.away_until_s = 0.0  # no call reaches the log
        self.topics_away: dict[str, float] = {}  # nothing can be appended to them, until a moment
        self.early: dict[tuple[str, int], int] = {}  # by partition: what is before it was dropped too early
        self.met_early = False  # in the present life
        self.freezes_at = ""  # the topic before whose next append it stops
        self.froze: Callable[[], None] = lambda: None
        self.began_term: Callable[[], None] = lambda: None
        self.cuts_claim = False  # it gets no answer to what it asks behind its next claim to lead
        self._unanswered = False  # what it asks next
        self.spoils_next = False  # of the next update or snapshot that it appends a bit flips
        self.spoiled: Callable[[str, Outgoing], None] = lambda topic, record: None
        self.defect: Place | None = None  # where one is to come up
        self.failed_s: float | None = None  # when a thread met one, in the present life
        self.failed_in_main = False  # it was the main thread
        self.unanswered_until_s = 0.0  # when its main thread will have asked the log again
        self.keep: Callable[[str, int, int], None] = lambda topic, partition, before: None
        self.disk = disk.connect(self._trouble)
        process.on_death = self.disk.crash
        self._faulty: FaultyLog | None = None

    def connect(self) -> Log:
        """A connection to the log, for one life of the process."""
        seed = self.process.world.random.getrandbits(32)
        clock = NetworkClock(self.process)
        self._faulty = FaultyLog(self._shared.connect(), seed, self.rates.network, clock)
        return _Connection(self, self._faulty)

    @property
    def faults(self) -> Counter[str] | None:
        """What the network did in the last life."""
        return None if self._faulty is None else self._faulty.happened

    def settle(self) -> None:
        """End all trouble."""
        self.rates = Rates()
        self._full_until_s = self.away_until_s = 0.0
        self.topics_away.clear()
        self.early.clear()
        self.freezes_at = ""
        self.spoils_next = self.cuts_claim = self._unanswered = False
        self.defect = None
        if self._faulty is not None:
            self._faulty.settle()

    def hits(self, what: str, rate: float) -> bool:
        """Whether something that happens at a rate happens now."""
        hit = rate > 0.0 and self.process.world.random.random() < rate
        if hit:
            self.happened[what] += 1
        return hit

    def die(self, what: str, rate: float) -> None:
        """Be killed, at a rate."""
        self.process.check()
        if self.hits(what, rate):
            self.process.kill()
            raise KilledError

    def fail(self, place: Place = "anywhere") -> None:
        """Meet the defect, if there is to be one here."""
        if self.defect is not None and self._is_at(self.defect, place):
            self.defect = None
            self.failed_s = self.process.world.now_s
            self.failed_in_main = getcurrent() is self.process.threads[0]
            self.happened["defects met"] += 1
            raise DefectError("a defect")

    def _is_at(self, wanted: Place, place: Place) -> bool:
        if wanted == "helper":
            return getcurrent() is not self.process.threads[0]
        return wanted in ("anywhere", place)

    def reach(self) -> None:
        """Wait for a log that is away; LogAwayError if that takes too long."""
        self.process.check()
        if self.defect is not None:
            self.fail()
        if self._unanswered:
            self._unanswered = False
            raise LogAwayError("the log does not answer")
        world = self.process.world
        left_s = self.away_until_s - world.now_s
        if getcurrent() is self.process.threads[0]:
            self.unanswered_until_s = 0.0
        if left_s > 0.0:
            longest_s = min(max(AWAY_S_MAX, AWAY_SHARE * left_s), AWAY_S_LONGEST)
            wait_s = world.random.random() * longest_s
            # whichever thread asks: its process does nothing else until the call ends
            self.unanswered_until_s = world.now_s + min(wait_s, left_s) + ASKS_AGAIN_S
            NetworkClock(self.process).sleep(min(wait_s, left_s))
            if wait_s < left_s:
                raise LogAwayError("the log does not answer")

    def reach_topic(self, topic: str, numbered: bool) -> None:
        """Before an append: LogAwayError if its topic is away; stop there if that is wanted.

        Args:
            numbered: the records have a producer, as all updates have.
        """
        self.reach()
        if self.topics_away.get(topic, 0.0) > self.process.world.now_s:
            self.happened["appends to a topic that is away"] += 1
            raise LogAwayError(f"topic {topic!r} does not answer")
        if self.freezes_at == topic and numbered:
            self.freezes_at = ""
            self.froze()
            NetworkClock(self.process).sleep(0.0)

    def cut_claim(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Behind a claim to lead, if that is wanted: the next answer does not come."""
        if self.cuts_claim and topic == ROLES and is_claim(records[0]):
            self.happened["claim cut off"] += 1
            self.cuts_claim, self._unanswered = False, True

    def leave_gap(self, topic: str) -> None:
        """Behind an append, sometimes, an aborted transaction of somebody."""
        if self.hits("offsets without records", self.rates.gaps):
            random = self.process.world.random
            partition = random.randrange(self._shared.partitions(topic))
            self._shared.skip(topic, partition, random.randint(1, GAP_MAX))

    def spoil(self, topic: str, records: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """The records as the log will hold them: perhaps with a flipped bit in one."""
        if not self.spoils_next or topic not in (UPDATES, SNAPSHOTS) or not records[0].producer:
            return records
        self.spoils_next = False
        self.happened["a bit flips on the log"] += 1
        random = self.process.world.random
        spoiled = list(records)
        number = random.randrange(len(records))
        record = records[number]
        self.spoiled(topic, record)
        value = bytearray(record.value)
        value[random.randrange(len(value))] ^= 1 << random.randrange(8)
        spoiled[number] = msgspec.structs.replace(record, value=bytes(value))
        return spoiled

    def _trouble(self, what: str, folder: Path) -> None:
        world = self.process.world
        self.die(f"killed at disk: {what}", self.rates.kill_at_disk)
        if what != "read":
            self.fail("disk")
        if what == "merging":
            ProcessClock(self.process).sleep(world.random.random() * MERGE_S_MAX)
            if self.hits("merge fails", self.rates.merge_fails):
                raise OSError(28, "No space left on device")
        if what in ("write", "make"):
            if self.hits("disk full", self.rates.full):
                self._full_until_s = world.now_s + world.random.random() * self.rates.full_s_max
            if world.now_s < self._full_until_s:
                raise OSError(28, "No space left on device")


class _Connection(Log):
    """A log that its process may die at."""

    def __init__(self, machine: Machine, log: Log) -> None:
        self._machine = machine
        self._log = log

    def __str__(self) -> str:
        return str(self._log)

    def create_topic(self, topic: str, partitions: int) -> None:
        self._check()
        self._log.create_topic(topic, partitions)

    def partitions(self, topic: str) -> int:
        self._check()
        return self._log.partitions(topic)

    def record_bytes_max(self, topic: str) -> int:
        return self._log.record_bytes_max(topic)

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        rate = self._machine.rates.kill_at_log
        self._machine.die("killed before an append", rate)
        self._machine.reach_topic(topic, bool(records[0].producer))
        try:
            taken = self._log.append(topic, self._machine.spoil(topic, records))
        finally:
            self._machine.die("killed after an append", rate)
        if topic == UPDATES and not records[0].producer:
            self._machine.began_term()
        self._machine.cut_claim(topic, records)
        self._machine.leave_gap(topic)
        return taken

    def read_any(
        self,
        topic: str,
        offsets: Mapping[int, int],
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> dict[int, list[Record]]:
        self._check()
        if early := self._machine.early:
            offsets = {p: max(offset, early.get((topic, p), 0)) for p, offset in offsets.items()}
        found = self._log.read_any(topic, offsets, max_records, max_bytes, wait_s)
        self._machine.process.check()
        return found

    def ends(self, topic: str) -> list[tuple[int, int]]:
        self._check()
        ends = self._log.ends(topic)
        if early := self._machine.early:
            ends = [(max(first, early.get((topic, p), 0)), end) for p, (first, end) in enumerate(ends)]
        return ends

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        self._check()
        self._log.commit(group, topic, offsets)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        self._check()
        return self._log.committed(group, topic)

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        self._check()
        self._machine.keep(topic, partition, before_offset)
        self._log.trim(topic, partition, before_offset)

    def enforce_retention(self) -> None:
        self._check()
        self._log.enforce_retention()

    def close(self) -> None:
        self._log.close()

    def _check(self) -> None:
        self._machine.reach()
