"""What goes wrong in a schedule, and what an operator does about it."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sim_archive import EVERYTHING, Archive
from sim_machines import Machine
from sim_roles import SHARED
from sim_schedule import Config, Schedule
from sim_world import Process, World

from learner.updates.format import decode_update
from stream.errors import LogError, StateDamagedError
from stream.log.base import EXAMPLES, ROLES, UPDATES
from stream.log.testing import MemoryLog
from stream.state.testing import MemoryDisk

TROUBLE_S = 60.0  # for how long things go wrong, outages of the log not counted
PAUSE_S_MAX = 20.0
OUTAGE_S_MAX = 7200.0
DRIFT_MAX = 1.2  # how much faster or slower a clock runs
ROLES_KEPT = 40
BACKUPS = Path("backups")
GONE = ("the log has dropped offsets", "the log does not hold offset", "the log no longer holds")
"""What roles say that were away for too long."""


class Troubles:
    """Lets things go wrong in a world.

    Args:
        say: told what happens to whom.
    """

    def __init__(
        self,
        schedule: Schedule,
        world: World,
        log: MemoryLog,
        archive: Archive,
        disk: MemoryDisk,
        machines: Mapping[str, Machine],
        roles: Sequence[Process],
        say: Callable[[str], None],
    ) -> None:
        self.happened: Counter[str] = Counter()
        self.hurt_ever: set[str] = set()  # whose database has been damaged
        self.restored: set[str] = set()  # whose folder has come from a backup
        self.over = False
        self.away_until_s = 0.0
        self._schedule, self._world, self._log, self._archive = schedule, world, log, archive
        self._disk, self._machines, self._roles, self._say = disk, machines, roles, say

    def plan(self) -> None:
        """Draw what happens when."""
        acts: dict[str, Callable[[Process], None]] = {
            "kills": self.kill,
            "pauses": self._pause,
            "skews": self._skew,
            "drifts": self._drift,
            "outages": self._outage,
            "lost_states": self._lose_state,
            "lost_writes": self._lose_writes,
            "reordered": self._reorder,
            "misdirected": self._misdirect,
            "flips": self._flip,
            "damages": self._damage,
            "backups": self._backup,
            "rollouts": self._roll_out,
            "trims": self._trim,
            "defects": self._defect,
        }
        world = self._world
        for name, act in acts.items():
            for _ in range(getattr(self._schedule, name)):
                world.at(world.random.random() * TROUBLE_S * 0.5, lambda act=act: self._do(act))

    def _do(self, act: Callable[[Process], None]) -> None:
        if not self.over:
            act(self._world.random.choice(self._roles))

    # --- processes ---

    def kill(self, process: Process) -> None:
        """As SIGKILL does."""
        if not process.dead:
            self.note("kill", process)
            process.kill()

    def _pause(self, process: Process) -> None:
        self.note("pause", process)
        process.paused_until_s = self._world.now_s + self._world.random.random() * PAUSE_S_MAX

    def _skew(self, process: Process) -> None:
        self.note("clock jumps", process)
        process.skew_s = self._world.random.uniform(-1.0, 1.0) * 10.0 ** self._world.random.randint(0, 7)

    def _drift(self, process: Process) -> None:
        self.note("clock drifts", process)
        process.drift(DRIFT_MAX ** self._world.random.uniform(-1.0, 1.0))

    def _defect(self, process: Process) -> None:
        self.note("defect to come", process)
        self._machines[process.name].defect = True

    def _roll_out(self, process: Process) -> None:
        self._say("another config is rolled out")
        rng, after_s = self._world.random, 0.0
        config = self._machines[process.name].config.changed(random.Random(rng.getrandbits(32)))
        for one in self._roles:
            after_s += rng.random() * 5.0
            asked = rng.random() < 0.7
            self._world.at(after_s, lambda one=one, asked=asked: self._configure(one, config, asked))

    def _configure(self, process: Process, config: Config, asked: bool) -> None:
        """Start a role again with a config, after it was asked to stop or killed."""
        if not self.over:
            self.note("another config", process)
            self._machines[process.name].config = config
            if asked:
                process.stop.set()
            else:
                self.kill(process)

    # --- the log ---

    def _outage(self, process: Process) -> None:
        seconds = OUTAGE_S_MAX ** (self._world.random.random() ** 1.5)  # most are short
        self.happened["log away"] += 1
        self._say(f"the log is away for {seconds:.0f} s")
        self.away_until_s = max(self.away_until_s, self._world.now_s + seconds)
        for machine in self._machines.values():
            machine.away_until_s = self.away_until_s

    def _trim(self, process: Process) -> None:
        """The log drops what nobody needs who begins at the oldest snapshot kept."""
        first, end = self._log.ends(ROLES)[0]
        if end - ROLES_KEPT > first:
            self._log.trim(ROLES, 0, end - ROLES_KEPT)
            self.happened["roles trimmed"] += 1
        snapshots = [name for name in self._disk.names(SHARED) if name.startswith("learn-")]
        if not snapshots:
            return
        term, seq = map(int, snapshots[0].split("-")[1:])
        updates = (decode_update(record.value) for record in self._archive.records(UPDATES, 0))
        known = next((u.watermark for u in updates if (u.term, u.seq) == (term, seq) and u.parts), {})
        compacts = self._world.random.random() < 0.5
        for partition, before in known.items():
            self._archive.keep(EXAMPLES, partition, before)
            if compacts:
                old = [r.offset for r in self._log.read(EXAMPLES, partition, 0, *EVERYTHING)]
                old = [offset for offset in old if offset < before and self._world.random.random() < 0.5]
                self._log.drop(EXAMPLES, partition, old)
            else:
                self._log.trim(EXAMPLES, partition, before)
        self.happened["examples compacted" if compacts else "examples trimmed"] += 1

    # --- the disk ---

    def _lose_state(self, process: Process) -> None:
        self.note("lose state", process)
        self.kill(process)
        self._disk.remove(Path(process.name))

    def _lose_writes(self, process: Process) -> None:
        self.kill(process)
        if self._disk.lose_writes(Path(process.name), self._world.random.randint(1, 3)):
            self.note("lose writes", process)

    def _reorder(self, process: Process) -> None:
        self.kill(process)
        if self._disk.reorder_writes(Path(process.name), self._world.random.randint(1, 2)):
            self._hurt("reorder writes", process)

    def _misdirect(self, process: Process) -> None:
        victim = self._world.random.choice(self._roles)
        self.kill(process)
        self.kill(victim)
        if self._disk.flip(Path(victim.name), self._world.random.choice):
            self._disk.lose_writes(Path(process.name), 1)  # it went to a place of the victim's
            self._hurt("misdirect a write", victim)

    def _flip(self, process: Process) -> None:
        self.kill(process)
        if self._disk.flip(Path(process.name), self._world.random.choice):
            self._hurt("flip a bit", process)

    def _damage(self, process: Process) -> None:
        self.kill(process)  # while it runs it reads little of what it has written
        self._disk.damage(Path(process.name))
        self._hurt("damage", process)

    def _backup(self, process: Process) -> None:
        folder = Path(process.name) / "db"
        if self._disk.is_whole(folder):
            self.note("backup", process)
            self._disk.remove(BACKUPS / process.name)
            self._disk.copy(folder, BACKUPS / process.name)

    def _hurt(self, what: str, process: Process) -> None:
        self.note(what, process)
        self.hurt_ever.add(process.name)

    # --- what puts it right ---

    def cure(self, process: Process, failure: BaseException) -> None:
        """What an operator does who reads a role's last message.

        Raises:
            AssertionError: it is not what has happened.
        """
        folder, backup = Path(process.name), BACKUPS / process.name
        if isinstance(failure, StateDamagedError):
            # a learner may have copied a snapshot of a damaged one
            kind = process.name.partition("-")[0]
            hurt = any(name.startswith(kind) for name in self.hurt_ever)
            assert hurt, f"{process.name}: nothing was damaged, and it says: {failure}"
            assert "restore the folder from a copy, or move it away" in str(failure), failure
            self._disk.remove(folder)
            if self._disk.is_whole(backup):
                self.note("restore from backup", process)
                self._disk.move(backup, folder / "db")
                self.restored.add(process.name)
            else:
                self.note("begin without folder", process)
        elif isinstance(failure, LogError) and any(words in str(failure) for words in GONE):
            assert self.happened["examples trimmed"] + self.happened["examples compacted"], failure
            self.note("away for too long", process)
            self._disk.remove(folder)

    def settle(self) -> None:
        """End all trouble."""
        self.over = True
        for machine in self._machines.values():
            machine.settle()
        for process in self._world.processes:
            process.paused_until_s = 0.0

    def note(self, what: str, process: Process) -> None:
        """Count what happens, and say it."""
        self.happened[what] += 1
        self._say(f"{what}: {process.name}")
