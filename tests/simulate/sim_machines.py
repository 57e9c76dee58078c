"""What a simulated process has of the world: its view of the disk and its connection to the log.

Both may fail, and the process may be killed before, within or after whatever it does there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from sim_world import KilledError, NetworkClock, Process

from stream.log.base import READ_BYTES_MAX, READ_RECORDS_MAX, Log, Outgoing, Record
from stream.log.testing import Faults, FaultyLog, MemoryLog
from stream.state.testing import MemoryDisk


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """How likely what is, per use of disk or log."""

    kill_at_disk: float = 0.0
    kill_at_log: float = 0.0
    full: float = 0.0  # of a write: the disk has no room, for a while
    full_s_max: float = 3.0
    network: Faults = Faults()


class Machine:
    """One process's disk and log.

    Args:
        log: what all processes share.
        disk: the same.
    """

    def __init__(self, process: Process, log: MemoryLog, disk: MemoryDisk, rates: Rates) -> None:
        self.process = process
        self.rates = rates
        self.happened: Counter[str] = Counter()
        self._shared = log
        self._full_until_s = 0.0
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
        self._full_until_s = 0.0
        if self._faulty is not None:
            self._faulty.settle()

    def hits(self, what: str, rate: float) -> bool:
        """Whether something that happens at a rate happens now."""
        hit = rate > 0.0 and self.process.world.random.random() < rate
        self.happened[what] += hit
        return hit

    def die(self, what: str, rate: float) -> None:
        """Be killed, at a rate."""
        self.process.check()
        if self.hits(what, rate):
            self.process.kill()
            raise KilledError

    def _trouble(self, what: str, folder: Path) -> None:
        world = self.process.world
        self.die(f"killed at disk: {what}", self.rates.kill_at_disk)
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
        try:
            return self._log.append(topic, records)
        finally:
            self._machine.die("killed after an append", rate)

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
        self._check()
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
        self._log.trim(topic, partition, before_offset)

    def enforce_retention(self) -> None:
        self._check()
        self._log.enforce_retention()

    def close(self) -> None:
        self._log.close()

    def _check(self) -> None:
        self._machine.process.check()
