"""One schedule is played: trouble, then healing, then the books."""

import random
import time
from collections import Counter
from typing import Any
from unittest import mock

import msgspec
import xxhash
from ledger import BEGIN_S, WINDOW_S, Ledger
from ledger_targets import TargetsLedger
from sim_archive import EVERYTHING, Archive
from sim_books import Books
from sim_clients import TELLS, Answer, Forgets, Watch, WrongClock, forgetter, producer, teller
from sim_config import EXPIRE_SLOTS, config_of
from sim_faults import DRIFT_MAX, TROUBLE_S, Troubles
from sim_machines import DefectError, Machine, shows_defect
from sim_roles import joiner, learner, server
from sim_schedule import Rates, Schedule
from sim_world import EPOCH_S, Process, World, WorldClock

from ground import FreshetError
from serving.replica.replica import Replica
from stream.group.leavings import KEPT_S
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.testing import MemoryLog
from stream.state.role_state import PURGE_AGAIN_S
from stream.state.testing import MemoryDisk

HEAL_S = 300.0  # of simulated time, after which everything that could heal must have
QUIET_S = 4.0  # without anything to come, after which all copies must be at the end
RESTART_S = 3.0  # until a process that ended is started again, at most
ERASED_S = KEPT_S * DRIFT_MAX + 10.0
PURGED_S = 2.0 * PURGE_AGAIN_S * DRIFT_MAX + 3.0
DEFECT_S_MAX = 60.0  # until a role has ended of which a thread has
JUMP_WINDOWS = 2.5, 6.0
ASKED_AHEAD_S = 20.0, 290.0  # how far ahead of the log's clock a wrong clock may be, and is not refused


class Outcome(msgspec.Struct):
    """What came of a schedule."""

    seed: int
    wrong: str = ""  # "" if nothing is
    happened: dict[str, int] = {}
    books: dict[str, Any] = {}
    simulated_s: float = 0.0
    turns: int = 0
    healed_s: float = 0.0
    real_s: float = 0.0
    hash: str = ""  # of all that happened and of all that was sent: the same seed gives the same one


class Run:
    """A schedule that is played.

    Args:
        say: told what happens to whom, with the simulated time.
    """

    def __init__(self, schedule: Schedule, say: bool = False) -> None:
        self.schedule = schedule
        self.world = World(schedule.seed)
        self.log = MemoryLog(clock=WorldClock(self.world), notes_times=schedule.log_times)
        self.archive = Archive(self.log)
        self.disk = MemoryDisk()
        kind = TargetsLedger if schedule.targets else Ledger
        self.ledger = kind(schedule.seed, EPOCH_S if schedule.live else BEGIN_S, schedule.every_s)
        self.config = config_of(schedule)
        self.happened: Counter[str] = Counter()
        self.machines: dict[str, Machine] = {}
        self.replicas: dict[str, list[Replica]] = {}
        self.watches: list[Watch] = []
        self.answers: list[Answer] = []
        self.forgets = Forgets(self.config.features)
        self._quiet_at_s = 0.0
        self._starting: set[str] = set()
        self._say_it = say
        for topic in (EVENTS, EXAMPLES):
            self.log.create_topic(topic, schedule.partitions)
        for topic in (UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
            self.log.create_topic(topic, 1)
        for i in range(schedule.joiners):
            self._add(f"join-{i}", lambda machine: joiner(machine, schedule.partitions))
        for i in range(schedule.learners):
            self._add(f"learn-{i}", learner)
        for i in range(schedule.servers):
            keep = self.replicas.setdefault(f"serve-{i}", [])
            self._add(
                f"serve-{i}", lambda machine, keep=keep: server(machine, keep, self.watches, self.answers)
            )
        self.roles = list(self.world.processes)
        rng = random.Random(f"{schedule.seed} jumps")
        self._jumps = sorted(rng.randrange(schedule.requests) for _ in range(schedule.jumps))
        self._add("producer", lambda machine: producer(machine, self._take, schedule.requests, 5))
        if schedule.entities:
            self._add("teller", lambda machine: teller(machine, self.ledger.begin_s, TELLS))
        if schedule.forgets:
            self._add(
                "forgetter", lambda machine: forgetter(machine, self.ledger, self.forgets, schedule.forgets)
            )
        self.wrong = [self._wrong_clock(i) for i in range(schedule.wrong_clocks)]
        self.clients = self.world.processes[len(self.roles) :]
        for client in self.clients:  # a client that is killed is not what is tried here
            self.machines[client.name].rates = Rates(network=schedule.rates.network)
        self.troubles = Troubles(
            schedule, self.world, self.log, self.archive, self.disk, self.machines, self.roles, self._say
        )

    def play(self) -> Outcome:
        """Play it, and close the books."""
        began_s = time.perf_counter()
        outcome = Outcome(self.schedule.seed)
        try:
            self._play(outcome)
        except (AssertionError, FreshetError) as error:
            outcome.wrong = f"{type(error).__name__}: {error}"
        self.happened.update(self.troubles.happened)
        for machine in self.machines.values():
            self.happened.update(machine.happened)
            if machine.faults is not None:
                self.happened.update(machine.faults)
        for process in self.roles:
            self.happened.update(process.ends)
        outcome.happened = {name: n for name, n in sorted(self.happened.items()) if n}
        outcome.simulated_s, outcome.turns = self.world.now_s, self.world.turns
        outcome.hash = self._hash(outcome)
        outcome.real_s = time.perf_counter() - began_s
        self._end_all()
        return outcome

    def _play(self, outcome: Outcome) -> None:
        world = self.world
        self.troubles.plan()
        for process in world.processes:
            process.start()
        began_s = world.now_s

        def enough() -> bool:
            return self._sent() and world.now_s >= 20.0 and not self.troubles.waits

        while not enough():
            until_s = max(began_s + TROUBLE_S, self.troubles.away_until_s + TROUBLE_S / 2.0)
            if world.now_s >= until_s:
                break
            world.run(lambda: self._watch() and enough(), 5.0)
        self._say("trouble ends")
        self.troubles.settle()
        assert world.run(lambda: self._watch() and self._sent(), HEAL_S), "a client does not end"
        self.log.append(EVENTS, self.ledger.close(self.schedule.partitions))
        healing_s = world.now_s
        assert world.run(lambda: self._watch() and self._quiet(), HEAL_S), f"not healed: {self._why()}"
        outcome.healed_s = world.now_s - healing_s
        rates = self.schedule.rates
        if self.forgets.asked and (self.schedule.joiners > 1 or rates.merge_fails or rates.full):
            # by then what another joiner has is erased, and a purge that failed was tried again
            until_s = world.now_s + (ERASED_S if self.schedule.joiners > 1 else PURGED_S)
            world.run(lambda: self._watch() and world.now_s >= until_s, 2.0 * ERASED_S)
            assert world.run(lambda: self._watch() and self._quiet(), HEAL_S), f"not quiet: {self._why()}"
        for process in self.roles:
            process.stop.set()
        stopped = world.run(lambda: all(process.over for process in self.roles), HEAL_S)
        for process in self.roles:
            self._check_end(process)
        assert stopped, "a role does not stop"
        books = Books(self)
        outcome.books = books.close()
        self.happened += books.happened
        wrong = {name: value for name, value in outcome.books.items() if value}
        assert not wrong, f"the books do not balance: {wrong}"

    # --- what puts it right ---

    def _sent(self) -> bool:
        return all(client.over for client in self.clients)

    def _watch(self) -> bool:
        """What an operator's tools do: start again what has ended."""
        for process in self.roles:
            if process.over and process.name not in self._starting:
                self._check_end(process)
                self._starting.add(process.name)
                delay_s = 0.2 + self.world.random.random() * RESTART_S
                self.world.at(delay_s, lambda process=process: self._start(process))
            elif self.machines[process.name].failed_s is not None and not process.over:
                self._check_threads(process)
        return True

    def _start(self, process: Process) -> None:
        self._starting.discard(process.name)
        self.troubles.note("start", process)
        machine = self.machines[process.name]
        machine.failed_s, machine.unanswered_until_s = None, 0.0
        machine.met_early = bool(machine.early)
        process.start()

    def _check_end(self, process: Process) -> None:
        wrong = process.wrong()
        if wrong is not None and not isinstance(wrong, DefectError):
            raise AssertionError(f"{process.name} ended by a defect: {wrong!r}") from wrong
        machine = self.machines[process.name]
        failed = machine.failed_s is not None and machine.failed_in_main
        if failed and process.over and not process.dead:
            shown = any(shows_defect(thread.failure) for thread in process.threads)
            assert shown, f"{process.name} met a defect, and ended by something else"
        for thread in process.threads:
            if thread.failure is not None:
                process.ends[type(thread.failure).__name__] += 1
                self._say(f"{process.name} ended: {thread.failure}")
                if process.over:
                    self.troubles.cure(process, thread.failure)

    def _check_threads(self, process: Process) -> None:
        """No role goes on for long when one of its threads has ended by a defect."""
        failed_s = self.machines[process.name].failed_s
        if failed_s is not None:
            since_s = max(failed_s, process.paused_until_s, self.troubles.away_until_s)
            late = self.world.now_s - since_s > DEFECT_S_MAX
            assert not late, f"{process.name} works on, although a thread of it has ended by a defect"

    def _quiet(self) -> bool:
        """Whether nothing has been to come for a while: what was sent last has been followed."""
        if self._why():
            self._quiet_at_s = self.world.now_s + QUIET_S
        return self.world.now_s >= self._quiet_at_s

    def _why(self) -> str:
        """What is still to come; "" if nothing is."""
        for group, topic in (("join", EVENTS), ("learn", EXAMPLES)):
            taken = self.log.committed(group, topic)
            for partition, (_, end) in enumerate(self.log.ends(topic)):
                if end and taken.get(partition, 0) < end:
                    return f"{group}: partition {partition} is at {taken.get(partition, 0)} of {end}"
        if any(process.over for process in self.roles):
            return "a role is down"
        for process in self.roles:
            machine = self.machines[process.name]
            if machine.failed_s is not None:
                return f"{process.name} works on, although a thread of it has ended by a defect"
            if self.world.now_s < machine.unanswered_until_s:
                return f"{process.name} waits for an answer of the log"  # perhaps from before trouble ended
        for kept in self.replicas.values():
            if not kept or kept[0].unready():
                return "a server is not ready" + (f": {kept[0].unready()}" if kept else "")
        return ""

    # --- small things ---

    def _take(self, requests: int) -> list[Outgoing]:
        """The records of so many more requests; before them the stream may stand still."""
        while self._jumps and self._jumps[0] < self.ledger.requests + requests:
            del self._jumps[0]
            self.happened["the stream stands still"] += 1
            self.ledger.jump(self.world.random.uniform(*JUMP_WINDOWS) * WINDOW_S)
            self.troubles.move_soon()
        return self.ledger.take(requests)

    def _add(self, name: str, role: Any) -> Process:
        process = self.world.process(name, lambda process: main(process))
        machine = Machine(process, self.log, self.disk, self.schedule.rates, self.config)
        machine.keep, machine.spoiled = self.archive.trimmed, self.archive.spoiled
        self.machines[name] = machine
        main = role(machine)
        return process

    def _wrong_clock(self, number: int) -> WrongClock:
        rng = random.Random(f"{self.schedule.seed} {number}")
        off_s = rng.choice((-1.0, 1.0)) * 10.0 ** rng.uniform(2.0, 7.0)
        if self.schedule.live and rng.random() < 0.6:
            off_s = rng.uniform(*ASKED_AHEAD_S)
        wrong = WrongClock(rng, self.ledger.begin_s, off_s)
        requests = min(rng.randint(1, 10), max(self.schedule.requests // 8, 1))
        self._add(f"wrong-{number}", lambda machine: producer(machine, wrong.take, requests, 1))
        return wrong

    def _hash(self, outcome: Outcome) -> str:
        told = outcome.wrong, outcome.turns, outcome.simulated_s, outcome.happened, outcome.books
        hasher = xxhash.xxh3_128(repr(told).encode())
        for topic, partitions in self.log.topics().items():
            for partition in range(partitions):
                for record in self.log.read(topic, partition, 0, *EVERYTHING):
                    hasher.update(b"%d %s %s" % (record.offset, record.key, record.value))
        return hasher.hexdigest()

    def _end_all(self) -> None:
        for process in self.world.processes:
            if not process.dead:
                process.dead = True
        self.world.bury()

    def _say(self, what: str) -> None:
        if self._say_it:
            print(f"{self.world.now_s:9.3f} s  {what}", flush=True)


def play(schedule: Schedule, say: bool = False) -> Outcome:
    """Play a schedule."""
    with mock.patch("learner.role.learner.EXPIRE_SLOTS", EXPIRE_SLOTS):
        return Run(schedule, say).play()
