"""One schedule: who is there, what goes wrong and when, all drawn from a seed; then the books."""

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from ledger import Ledger
from sim_books import close_books
from sim_machines import Machine, Rates
from sim_roles import joiner, learner, producer, server
from sim_world import Process, World, WorldClock

from ground import FreshetError
from serving.replica.replica import Replica
from stream.errors import StateDamagedError
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES
from stream.log.testing import Faults, MemoryLog
from stream.state.testing import MemoryDisk

TROUBLE_S = 60.0  # for how long things go wrong, at most
HEAL_S = 300.0  # of simulated time, after which everything that could heal must have
QUIET_S = 4.0  # without anything to come, after which all copies must be at the end
RESTART_S = 3.0  # until a process that ended is started again, at most


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed stands for; printed with a seed that fails, and made smaller by `shrink`."""

    seed: int
    partitions: int
    joiners: int
    learners: int
    servers: int
    requests: int
    rates: Rates
    kills: int  # of any process, at a moment drawn
    pauses: int  # as by SIGSTOP
    skews: int  # wall clocks that jump
    lost_states: int  # a process that comes back without its folder
    lost_writes: int  # and one whose disk had not kept what it said it had
    damages: int  # a database goes bad on the disk


def draw_schedule(seed: int) -> Schedule:
    """The schedule of a seed: half of the kinds of trouble are absent from each."""
    rng = random.Random(seed)

    def some(most: float) -> float:
        return rng.random() * most if rng.random() < 0.5 else 0.0

    def few(most: int) -> int:
        return rng.randint(1, most) if rng.random() < 0.5 else 0

    network = Faults(
        append_lost=some(0.05), append_in_doubt=some(0.05), append_late=some(0.05), repeat=some(0.1),
        away=some(0.01), short_read=some(0.5), delay=some(0.05), delay_s_max=0.5,
    )  # fmt: skip
    return Schedule(
        seed=seed,
        partitions=rng.randint(1, 3),
        joiners=rng.randint(1, 2),
        learners=rng.randint(1, 2),
        servers=rng.randint(0, 1),
        requests=rng.randint(20, 150),
        rates=Rates(kill_at_disk=some(0.005), kill_at_log=some(0.01), full=some(0.01), network=network),
        kills=few(6),
        pauses=few(4),
        skews=few(3),
        lost_states=few(2),
        lost_writes=few(2),
        damages=few(1),
    )


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


class Run:
    """A schedule that is played.

    Args:
        say: told what happens to whom, with the simulated time.
    """

    def __init__(self, schedule: Schedule, say: bool = False) -> None:
        self.schedule = schedule
        self.world = World(schedule.seed)
        self.log = MemoryLog(clock=WorldClock(self.world))
        self.disk = MemoryDisk()
        self.ledger = Ledger(schedule.seed)
        self.happened: Counter[str] = Counter()
        self.machines: dict[str, Machine] = {}
        self.replicas: dict[str, list[Replica]] = {}
        self.trouble = True
        self._quiet_at_s = 0.0
        self._starting: set[str] = set()
        self._say_it = say
        for topic in (EVENTS, EXAMPLES):
            self.log.create_topic(topic, schedule.partitions)
        for topic in (UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
            self.log.create_topic(topic, 1)
        for i in range(schedule.joiners):
            self._add(f"join-{i}", joiner)
        for i in range(schedule.learners):
            self._add(f"learn-{i}", learner)
        for i in range(schedule.servers):
            keep = self.replicas.setdefault(f"serve-{i}", [])
            self._add(f"serve-{i}", lambda machine, keep=keep: server(machine, keep))
        self.producer = self._add(
            "producer", lambda machine: producer(machine, self.ledger, schedule.requests, 5)
        )
        # a client that is killed is not what is tried here
        network = schedule.rates.network
        self.machines["producer"].rates = Rates(network=network)
        self.roles = [p for p in self.world.processes if p is not self.producer]

    def play(self) -> Outcome:
        """Play it, and close the books."""
        began_s = time.perf_counter()
        outcome = Outcome(self.schedule.seed)
        try:
            self._play(outcome)
        except (AssertionError, FreshetError) as error:
            outcome.wrong = f"{type(error).__name__}: {error}"
        for machine in self.machines.values():
            self.happened += machine.happened
            if machine.faults is not None:
                self.happened += machine.faults
        for process in self.roles:
            self.happened += process.ends
        outcome.happened = {name: n for name, n in sorted(self.happened.items()) if n}
        outcome.simulated_s, outcome.turns = self.world.now_s, self.world.turns
        outcome.real_s = time.perf_counter() - began_s
        self._end_all()
        return outcome

    def _play(self, outcome: Outcome) -> None:
        world = self.world
        self._plan()
        for process in world.processes:
            process.start()
        over = world.run(lambda: self._watch() and self.producer.over and world.now_s >= 20.0, TROUBLE_S)
        self._say("trouble ends" if over else "trouble is ended")
        self._settle()
        assert world.run(lambda: self._watch() and self.producer.over, HEAL_S), "the producer does not end"
        last = self.ledger.close(self.schedule.partitions)
        self.log.append(EVENTS, last)
        healing_s = world.now_s
        assert world.run(lambda: self._watch() and self._quiet(), HEAL_S), f"not healed: {self._why()}"
        outcome.healed_s = world.now_s - healing_s
        for process in self.roles:
            process.stop.set()
        stopped = world.run(lambda: all(process.over for process in self.roles), HEAL_S)
        self._check_ends()
        assert stopped, "a role does not stop"
        followers = [kept[0] for kept in self.replicas.values()]
        learners = [p.name for p in self.roles if p.name.startswith("learn")]
        outcome.books = close_books(self.log, self.disk, self.ledger, learners, followers)
        wrong = {name: value for name, value in outcome.books.items() if value}
        assert not wrong, f"the books do not balance: {wrong}"

    # --- what goes wrong ---

    def _plan(self) -> None:
        world, schedule = self.world, self.schedule
        plans = {
            self._kill: schedule.kills,
            self._pause: schedule.pauses,
            self._skew: schedule.skews,
            self._lose_state: schedule.lost_states,
            self._lose_writes: schedule.lost_writes,
            self._damage: schedule.damages,
        }
        for act, count in plans.items():
            for _ in range(count):
                world.at(world.random.random() * TROUBLE_S * 0.5, lambda act=act: self._do(act))

    def _do(self, act: Any) -> None:
        if self.trouble:
            act(self.world.random.choice(self.roles))

    def _kill(self, process: Process) -> None:
        if not process.dead:
            self._note("kill", process)
            process.kill()

    def _pause(self, process: Process) -> None:
        self._note("pause", process)
        process.paused_until_s = self.world.now_s + self.world.random.random() * 20.0

    def _skew(self, process: Process) -> None:
        self._note("skew", process)
        process.skew_s = self.world.random.uniform(-1.0, 1.0) * 10.0 ** self.world.random.randint(0, 7)

    def _lose_state(self, process: Process) -> None:
        self._note("lose state", process)
        self._kill(process)
        self.disk.remove(Path(process.name))

    def _lose_writes(self, process: Process) -> None:
        self._kill(process)
        lost = self.disk.lose_writes(Path(process.name), self.world.random.randint(1, 3))
        if lost:
            self._note("lose writes", process)

    def _damage(self, process: Process) -> None:
        self._note("damage", process)
        self._kill(process)  # while it runs it reads little of what it has written
        self.disk.damage(Path(process.name))

    # --- what puts it right ---

    def _watch(self) -> bool:
        """What an operator's tools do: start again what has ended."""
        for process in self.roles:
            if process.over and process.name not in self._starting:
                self._check_end(process)
                self._starting.add(process.name)
                delay_s = 0.2 + self.world.random.random() * RESTART_S
                self.world.at(delay_s, lambda process=process: self._start(process))
        return True

    def _start(self, process: Process) -> None:
        self._starting.discard(process.name)
        self._note("start", process)
        process.start()

    def _check_ends(self) -> None:
        for process in self.roles:
            self._check_end(process)

    def _check_end(self, process: Process) -> None:
        wrong = process.wrong()
        if wrong is not None:
            raise AssertionError(f"{process.name} ended by a defect: {wrong!r}") from wrong
        for thread in process.threads:
            if isinstance(thread.failure, StateDamagedError) and process.over:
                # what its message says: move the folder away
                self.disk.remove(Path(process.name))
            if thread.failure is not None:
                process.ends[type(thread.failure).__name__] += 1
                self._say(f"{process.name} ended: {thread.failure}")

    def _settle(self) -> None:
        self.trouble = False
        for machine in self.machines.values():
            machine.settle()
        for process in self.world.processes:
            process.paused_until_s = 0.0

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
        for kept in self.replicas.values():
            if not kept or kept[0].unready():
                return "a server is not ready" + (f": {kept[0].unready()}" if kept else "")
        return ""

    # --- small things ---

    def _add(self, name: str, role: Any) -> Process:
        process = self.world.process(name, lambda process: main(process))
        machine = self.machines[name] = Machine(process, self.log, self.disk, self.schedule.rates)
        main = role(machine)
        return process

    def _end_all(self) -> None:
        for process in self.world.processes:
            if not process.dead:
                process.dead = True
        self.world.bury()

    def _note(self, what: str, process: Process) -> None:
        self.happened[what] += 1
        self._say(f"{what}: {process.name}")

    def _say(self, what: str) -> None:
        if self._say_it:
            print(f"{self.world.now_s:9.3f} s  {what}", flush=True)


def play(schedule: Schedule, say: bool = False) -> Outcome:
    """Play a schedule."""
    return Run(schedule, say).play()
