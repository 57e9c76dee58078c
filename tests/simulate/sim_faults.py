"""What goes wrong in a schedule, and what an operator does about it."""

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sim_archive import EVERYTHING, Archive
from sim_config import Config
from sim_machines import Machine, Place
from sim_roles import SHARED
from sim_schedule import Schedule
from sim_world import Process, World

from stream.errors import LogError, StateDamagedError
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES
from stream.log.testing import MemoryLog
from stream.state.layout import offset_key
from stream.state.testing import MemoryDisk

TROUBLE_S = 60.0  # for how long things go wrong, outages of the log not counted
PAUSE_S_MAX = 20.0
FROZEN_S_MAX = 25.0
WAKES_S_MAX = 0.3  # how long after another one has begun to lead
DEPOSED_TOO = 0.5  # how often the next leader is killed at once
OUTAGE_S_MAX = 7200.0
TOPIC_OUTAGE_S_MAX = 8.0
STOPS_MEANWHILE = 0.6
MOVES_S_MAX = 3.0  # how long after the clock of the events jumps a joiner stops, of several
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
        self._frozen: Process | None = None  # a leader, until another one leads
        self.spoils = False  # bits flip on the log
        self.away_until_s = 0.0
        self._schedule, self._world, self._log, self._archive = schedule, world, log, archive
        self._disk, self._machines, self._roles, self._say = disk, machines, roles, say

    def plan(self) -> None:
        """Draw what happens when."""
        acts: dict[str, Callable[[Process], None]] = {
            "kills": self.kill,
            "stops": self._stop,
            "pauses": self._pause,
            "skews": self._skew,
            "drifts": self._drift,
            "outages": self._outage,
            "topic_outages": self._topic_outage,
            "depositions": self._depose,
            "lost_states": self._lose_state,
            "lost_writes": self._lose_writes,
            "reordered": self._reorder,
            "misdirected": self._misdirect,
            "flips": self._flip,
            "damages": self._damage,
            "bad_snapshots": self._spoil_snapshot,
            "bad_records": self._spoil_record,
            "backups": self._backup,
            "rollouts": self._roll_out,
            "trims": self._trim,
            "early_trims": self._trim_early,
            "defects": self._defect,
            "cut_claims": self._cut_claim,
        }
        world = self._world
        for name, act in acts.items():
            # a deposition takes long, and a claim must come after what is to cut it
            within_s = TROUBLE_S * (0.2 if name in ("depositions", "cut_claims") else 0.5)
            for _ in range(getattr(self._schedule, name)):
                world.at(world.random.random() * within_s, lambda act=act: self._do(act))

    def _do(self, act: Callable[[Process], None]) -> None:
        self._do_to(act, self._world.random.choice(self._roles))

    def _do_to(self, act: Callable[[Process], None], process: Process) -> None:
        if not self.over:
            act(process)

    # --- processes ---

    def kill(self, process: Process) -> None:
        """As SIGKILL does."""
        self._bring_back(process)  # its state may change, and with it what it needs
        if not process.dead:
            self.note("kill", process)
            process.kill()

    def _stop(self, process: Process) -> None:
        self.note("stop", process)
        process.stop.set()

    def move_soon(self) -> None:
        """A joiner stops, and others take over, while records from before a jump are remembered."""
        joiners = [one for one in self._roles if one.name.startswith("join")]
        if len(joiners) > 1:
            one = self._world.random.choice(joiners)
            self._world.at(self._world.random.random() * MOVES_S_MAX, lambda: self._do_to(self._stop, one))

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
        place: Place = self._world.random.choice(("anywhere", "disk", "helper"))
        self.note(f"defect to come: {place}", process)
        self._machines[process.name].defect = place

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

    def _depose(self, process: Process) -> None:
        """Whoever sends the next update stops before that, until another one leads."""
        learners = [one for one in self._roles if one.name.startswith("learn")]
        if len(learners) > 1 and not self.waits:
            self._say("the leader is to stop")
            for one in learners:
                machine = self._machines[one.name]
                machine.freezes_at = UPDATES
                machine.froze = lambda one=one: self._freeze(one, learners)

    def _cut_claim(self, process: Process) -> None:
        """The log does not answer right after the next claim to lead of each learner."""
        self._say("claims are to be cut off")
        for one in self._roles:
            self._machines[one.name].cuts_claim = one.name.startswith("learn")

    def _freeze(self, process: Process, learners: Sequence[Process]) -> None:
        self.note("pause of the leader", process)
        process.paused_until_s = self._world.now_s + FROZEN_S_MAX
        self._frozen = process
        for one in learners:
            machine = self._machines[one.name]
            machine.freezes_at = ""
            machine.began_term = lambda one=one: self._wake(process, one, learners)

    def _wake(self, process: Process, leader: Process, learners: Sequence[Process]) -> None:
        """Another one has begun a term: the one before goes on before it has sent an update."""
        self._frozen = None
        for one in learners:
            self._machines[one.name].began_term = lambda: None
        if leader is process or process.dead or self.over:
            return
        self.note("leader deposed", process)
        process.paused_until_s = self._world.now_s + self._world.random.random() * WAKES_S_MAX
        if self._world.random.random() < DEPOSED_TOO:
            self._world.at(self._world.random.random() * WAKES_S_MAX, lambda: self._do_to(self.kill, leader))

    @property
    def waits(self) -> bool:
        """Whether a leader is to be deposed, so trouble is not to end yet."""
        frozen = self._frozen
        return frozen is not None and not frozen.dead and frozen.paused_until_s > self._world.now_s

    # --- the log ---

    def _outage(self, process: Process) -> None:
        seconds = OUTAGE_S_MAX ** (self._world.random.random() ** 1.5)  # most are short
        self.happened["log away"] += 1
        self._say(f"the log is away for {seconds:.0f} s")
        self.away_until_s = max(self.away_until_s, self._world.now_s + seconds)
        for machine in self._machines.values():
            machine.away_until_s = self.away_until_s

    def _topic_outage(self, process: Process) -> None:
        topic = self._world.random.choice((EXAMPLES, EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS))
        seconds = self._world.random.random() * TOPIC_OUTAGE_S_MAX
        self.happened["topic away"] += 1
        self._say(f"topic {topic} takes nothing for {seconds:.1f} s")
        for machine in self._machines.values():
            machine.topics_away[topic] = self._world.now_s + seconds
        if self._world.random.random() < STOPS_MEANWHILE:
            self._world.at(self._world.random.random() * seconds, lambda: self._do(self._stop))

    def _spoil_record(self, process: Process) -> None:
        """A bit flips in one record of the next updates or snapshots that a learner appends."""
        self._say("a bit is to flip on the log")
        self.spoils = True
        self.hurt_ever.add("learners' updates")
        for one in self._roles:
            self._machines[one.name].spoils_next = one.name.startswith("learn")

    def _trim_early(self, process: Process) -> None:
        """The log drops what the only joiner has yet to read: it must say so, and then it is brought back."""
        joiners = [one for one in self._roles if one.name.startswith("join")]
        if len(joiners) != 1:
            return
        (process,) = joiners
        self.kill(process)
        folder = Path(process.name) / "db"
        if not self._disk.is_whole(folder):
            return
        with contextlib.suppress(Exception):  # it is damaged
            database = self._disk.connect().open(folder, True)
            for partition, (_, end) in enumerate(self._log.ends(EVENTS)):
                held = database.get(offset_key(EVENTS, partition))
                if held is not None and (first := int.from_bytes(held, "big") + 1) <= end:
                    self.note("events dropped too early", process)
                    self._machines[process.name].early[EVENTS, partition] = first

    def _bring_back(self, process: Process) -> None:
        if self._machines[process.name].early:
            self.note("events brought back", process)
            self._machines[process.name].early.clear()

    def _trim(self, process: Process) -> None:
        """The log drops what nobody needs who begins at the oldest snapshot kept.

        Nothing if that one is of a deposed leader's update, which does not count: learners leave it alone.
        """
        first, end = self._log.ends(ROLES)[0]
        if end - ROLES_KEPT > first:
            self._archive.keep(ROLES, 0, end - ROLES_KEPT)
            self._log.trim(ROLES, 0, end - ROLES_KEPT)
            self.happened["roles trimmed"] += 1
        snapshots = [name for name in self._disk.names(SHARED) if name.startswith("learn-")]
        if not snapshots:
            return
        term, seq = map(int, snapshots[0].split("-")[1:])
        updates = self._archive.counted()
        known = next((u.watermark for u in updates if (u.term, u.seq) == (term, seq)), {})
        compacts = self._world.random.random() < 0.5
        if not known:
            return
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

    def _spoil_snapshot(self, process: Process) -> None:
        """The newest snapshot of the learners goes bad, and one of them has lost its state."""
        snapshots = [name for name in self._disk.names(SHARED) if name.startswith("learn-")]
        if snapshots:
            learners = [one for one in self._roles if one.name.startswith("learn")]
            victim = self._world.random.choice(learners)
            self._disk.damage(SHARED / snapshots[-1])
            self._hurt("damage the newest snapshot", victim)
            self._lose_state(victim)

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
            self._bring_back(process)
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
            if self._machines[process.name].met_early:  # perhaps just before trouble ended
                self._bring_back(process)
                return
            assert self.happened["examples trimmed"] + self.happened["examples compacted"], failure
            self.note("away for too long", process)
            self._disk.remove(folder)

    def settle(self) -> None:
        """End all trouble."""
        self.over = True
        if self.spoils:  # readers of the updates may wait for a snapshot on the log
            for process in self._roles:
                if process.name.startswith("learn"):
                    machine = self._machines[process.name]
                    machine.config = machine.config.with_snapshots()
                    process.stop.set()
        for machine in self._machines.values():
            machine.settle()
        for process in self._world.processes:
            process.paused_until_s = 0.0

    def note(self, what: str, process: Process) -> None:
        """Count what happens, and say it."""
        self.happened[what] += 1
        self._say(f"{what}: {process.name}")
