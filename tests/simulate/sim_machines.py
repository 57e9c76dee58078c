"""What a simulated process has of the world: its view of the disk and its connection to the log.

Both may fail, and the process may be killed before, within or after whatever it does there.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sim_schedule import Config, Rates
from sim_world import KilledError, NetworkClock, Process, ProcessClock

from stream.errors import LogAwayError
from stream.log.base import READ_BYTES_MAX, READ_RECORDS_MAX, Log, Outgoing, Record
from stream.log.testing import FaultyLog, MemoryLog
from stream.state.testing import MemoryDisk

AWAY_S_MAX = 8.0  # how long a call waits for a log that is away,
AWAY_SHARE = 0.1  # or up to this share of what is left: hours of retries would find what minutes do;
AWAY_S_LONGEST = 60.0  # far below what healing may take, for trouble may end before the outage does
MERGE_S_MAX = 2.0
GAP_MAX = 3  # offsets that an aborted transaction and its marker take


class DefectError(RuntimeError):
    """What no code expects: it must end the role, whichever thread it comes up in."""


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
        self.defect = False  # the next use of disk or log brings one
        self.failed_s: float | None = None  # when a thread met one, in the present life
        self.answered_s = 0.0  # when its server last had read what the log held
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
        self.defect = False
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

    def fail(self) -> None:
        """Meet the defect, if there is to be one."""
        if self.defect:
            self.defect = False
            self.failed_s = self.process.world.now_s
            self.happened["defects met"] += 1
            raise DefectError("a defect")

    def reach(self) -> None:
        """Wait for a log that is away; LogAwayError if that takes too long."""
        self.process.check()
        self.fail()
        world = self.process.world
        left_s = self.away_until_s - world.now_s
        if left_s > 0.0:
            longest_s = min(max(AWAY_S_MAX, AWAY_SHARE * left_s), AWAY_S_LONGEST)
            wait_s = world.random.random() * longest_s
            NetworkClock(self.process).sleep(min(wait_s, left_s))
            if wait_s < left_s:
                raise LogAwayError("the log does not answer")

    def leave_gap(self, topic: str) -> None:
        """Behind an append, sometimes, an aborted transaction of somebody."""
        if self.hits("offsets without records", self.rates.gaps):
            random = self.process.world.random
            partition = random.randrange(self._shared.partitions(topic))
            self._shared.skip(topic, partition, random.randint(1, GAP_MAX))

    def _trouble(self, what: str, folder: Path) -> None:
        world = self.process.world
        self.die(f"killed at disk: {what}", self.rates.kill_at_disk)
        if what != "read":
            self.fail()
        if what == "merging":
            ProcessClock(self.process).sleep(world.random.random() * MERGE_S_MAX)
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
        self._machine.reach()
        try:
            taken = self._log.append(topic, records)
        finally:
            self._machine.die("killed after an append", rate)
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
        found = self._log.read_any(topic, offsets, max_records, max_bytes, wait_s)
        self._machine.process.check()
        return found

    def ends(self, topic: str) -> list[tuple[int, int]]:
        self._check()
        return self._log.ends(topic)

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
