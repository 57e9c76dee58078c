"""A world in one process: simulated time, threads that run one at a time, processes that can be killed.

The code under test is the real one, with its loops and threads. Its `Clock` is a `ProcessClock`: whatever
waits hands control back to the `World`, which lets time pass and picks who runs next, by one seed. So one
seed is one run. Its threads are greenlets, which take turns within one thread of the machine: a hand-over
between the machine's threads costs ten times as much, and more where others use its cores. A process that is
killed meets `KilledError` at its next wait, or at its next use of disk or network, and whatever it does in
its `finally` blocks reaches neither.
"""

import atexit
import heapq
import logging
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

from greenlet import getcurrent, greenlet

from ground import FreshetError

EPOCH_S = 1_700_100_000.0  # Unix time at which the world begins: after all event times of the ledger
SLICE_S = 0.002  # of simulated time that a thread's turn takes, on average
TURNS_UNSEEN = 4  # between two looks whether what is waited for has come
NEVER_S = float("inf")
IDLE_S_MAX = 5.0  # of simulated time that passes at once where nothing happens
LATE_S = 0.4  # how much later than asked for a thread may wake up: few turns, and many interleavings
TURN_CPU_S_MAX = 10.0  # a thread that has run for so long never hands back
LOOK_REAL_S = 2.0  # between two looks whether a turn has ended
IDLE_LOOKS_MAX = 100  # in a row at which it had not run: it waits for another's lock
IDLE_CPU_S = 0.001  # that the looks themselves take; on a busy machine what does run runs for longer


class KilledError(BaseException):
    """The process is gone, as by SIGKILL: no handler of errors is to catch this."""


class StuckError(AssertionError):
    """A thread waits for something that only another thread of this world could bring."""


class _Thread(greenlet):
    """A thread of a simulated process; it runs when the world says so."""

    def __init__(self, process: "Process", work: Callable[[], None], name: str) -> None:
        super().__init__(parent=process.world.hub)
        self.name = f"{process.name}: {name}"
        self.process = process
        self.work = work
        self.wake_at_s = 0.0
        self.event: threading.Event | None = None  # that it waits for, as well as for its time
        self.other: _Thread | None = None  # whose end it waits for
        self.alone = False  # while it waits, no other thread of its process may run: it may hold a lock
        self.done = False
        self.failure: BaseException | None = None

    def start(self) -> None:
        self.process.world.add(self)

    def run(self) -> None:
        try:
            if not self.process.dead:
                self.work()
        except KilledError:
            pass
        except BaseException as error:
            self.failure = error
        self.done = self.process.world.unburied = True

    def is_alive(self) -> bool:
        return not self.done

    def join(self, timeout: float | None = None) -> None:
        if getcurrent() is not self:
            self.process.world.wait(
                self.process, timeout if timeout is not None else float("inf"), other=self
            )


class Process:
    """A process with threads, a clock of its own and a fate.

    Args:
        main: what its first thread does; called anew at each start.
    """

    def __init__(self, world: "World", name: str, main: Callable[["Process"], None]) -> None:
        self.world = world
        self.name = name
        self.main = main
        self.threads: list[_Thread] = []
        self.stop = threading.Event()
        self.dead = True
        self.paused_until_s = 0.0
        self.skew_s = 0.0  # of its wall clock
        self.rate = 1.0  # of its monotonic clock, see `drift`
        self._shown_s = self._since_s = 0.0  # what that clock showed at a moment of the world
        self.ends: Counter[str] = Counter()  # how its lives ended
        self.on_death: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin a life."""
        self.dead = False
        self.paused_until_s = 0.0  # what stopped was the process before it
        self.stop = threading.Event()
        self.threads = []
        _Thread(self, lambda: self.main(self), "main").start()

    def now_s(self) -> float:
        """What its monotonic clock shows."""
        return self._shown_s + (self.world.now_s - self._since_s) * self.rate

    def drift(self, rate: float) -> None:
        """From now on its clocks run at a rate; neither steps."""
        self._shown_s, self._since_s = self.now_s(), self.world.now_s
        self.rate = rate

    @property
    def over(self) -> bool:
        """Whether its main thread has ended, or it was killed."""
        return self.dead or self.threads[0].done

    def kill(self) -> None:
        """End it at once."""
        self.dead = self.world.unburied = True
        self.ends["killed"] += 1
        self.on_death()

    def check(self) -> None:
        """To be called before anything that others could see. Raises KilledError if it is dead."""
        if self.dead:
            raise KilledError

    def wrong(self) -> BaseException | None:
        """What ended its life, if it is nothing that may happen."""
        for thread in self.threads:
            if thread.failure is not None and not isinstance(thread.failure, FreshetError):
                return thread.failure
        return None


class ProcessClock:
    """A `Clock` of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world

    def now_s(self) -> float:
        return self._process.now_s()

    def unix_s(self) -> float:
        return EPOCH_S + self._process.now_s() + self._process.skew_s

    def sleep(self, seconds: float) -> None:
        self._world.wait(self._process, seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self._world.wait(self._process, seconds, event=event)
        return event.is_set()

    def wait_on(self, condition: threading.Condition, seconds: float) -> bool:
        condition.release()
        try:
            self._world.wait(self._process, seconds)
        finally:
            condition.acquire()
        return False

    def thread(self, work: Callable[[], None], name: str, daemon: bool) -> _Thread:
        return _Thread(self._process, work, name)

    def draw(self) -> float:
        return self._world.random.random()

    def token(self) -> str:
        return f"{self._world.random.getrandbits(128):032x}"


class NetworkClock(ProcessClock):
    """What a call of the network waits by: meanwhile its process does nothing else."""

    def sleep(self, seconds: float) -> None:
        self._world.wait(self._process, seconds, alone=True)


class WorldClock:
    """The clock of the log itself: true time, whoever asks; who waits for a record lets others run."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def now_s(self) -> float:
        return self._world.now_s

    def unix_s(self) -> float:
        return EPOCH_S + self._world.now_s

    def wait_on(self, condition: threading.Condition, seconds: float) -> bool:
        thread = getcurrent()
        assert isinstance(thread, _Thread), "only threads of the world read a log to wait"
        return ProcessClock(thread.process).wait_on(condition, seconds)


class World:
    """Time, and whose turn it is.

    Args:
        seed: of every choice.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.turns = 0
        self.hub = getcurrent()  # to which every thread hands back
        self.processes: list[Process] = []
        self.unburied = False  # a process or a thread has ended since the last burial
        self._threads: list[_Thread] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def process(self, name: str, main: Callable[[Process], None]) -> Process:
        """Add a process; `start` begins its life."""
        made = Process(self, name, main)
        self.processes.append(made)
        return made

    def at(self, delay_s: float, act: Callable[[], None]) -> None:
        """Do something a while from now, between two turns."""
        self._number += 1
        heapq.heappush(self._agenda, (self.now_s + delay_s, self._number, act))

    def add(self, thread: _Thread) -> None:
        """A thread that has been started; it runs from its next turn on."""
        thread.wake_at_s = self.now_s
        thread.process.threads.append(thread)
        self._threads.append(thread)

    def wait(
        self,
        process: Process,
        seconds: float,
        event: threading.Event | None = None,
        other: _Thread | None = None,
        alone: bool = False,
    ) -> None:
        """Called by a thread of the world: let others run, for a while at least.

        Raises:
            KilledError: its process has been killed.
        """
        process.check()
        thread = getcurrent()
        if not isinstance(thread, _Thread):  # the world itself, or a real thread beside the simulated ones
            return
        late_s = 0.0 if alone else self.random.random() * LATE_S
        thread.wake_at_s = self.now_s + max(seconds, 0.0) / process.rate + late_s
        thread.event, thread.other, thread.alone = event, other, alone
        self.hub.switch()
        thread.event = thread.other = None
        thread.alone = False
        process.check()

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until something holds, for at most so long; whether it came to hold."""
        deadline_s = self.now_s + limit_s
        while not until():
            if self.now_s > deadline_s:
                return False
            for _ in range(TURNS_UNSEEN):
                self.turn()
        return True

    def turn(self) -> None:
        """Let one thread run to its next wait; or, if none is due, let time pass to whatever is next."""
        while self._agenda and self._agenda[0][0] <= self.now_s:
            heapq.heappop(self._agenda)[2]()
        if self.unburied:
            self.bury()
        # This is what a schedule does most often, so it looks at each thread once, and calls little.
        now_s = self.now_s
        due: list[_Thread] = []
        alone: list[Process] = []
        next_s = self._agenda[0][0] if self._agenda else NEVER_S
        for thread in self._threads:
            process, wake_at_s = thread.process, thread.wake_at_s
            if thread.alone:
                alone.append(process)
            if process.paused_until_s > now_s:
                wake_at_s = max(wake_at_s, process.paused_until_s)
            elif (
                wake_at_s <= now_s
                or ((event := thread.event) is not None and event.is_set())
                or ((other := thread.other) is not None and other.done)
            ):
                due.append(thread)
                continue
            if wake_at_s < next_s:
                next_s = wake_at_s
        if alone:
            blocked = [thread for thread in due if not thread.alone and thread.process in alone]
            due = [thread for thread in due if thread not in blocked]
            next_s = min([next_s, *(thread.wake_at_s for thread in blocked if thread.wake_at_s > now_s)])
        if due:
            self._resume(due[self.random.randrange(len(due))])
            self.now_s += self.random.random() * 2.0 * SLICE_S
            return
        if self._threads and next_s == NEVER_S:
            raise StuckError("every thread waits for another")
        self.now_s = min(now_s + IDLE_S_MAX, next_s)

    def bury(self) -> None:
        """Let the threads of dead processes run to their end: each meets KilledError at once."""
        self.unburied = False
        for thread in [thread for thread in self._threads if thread.process.dead]:
            while not thread.done:
                self._resume(thread)
        if any(thread.done for thread in self._threads):
            self._threads = [thread for thread in self._threads if not thread.done]

    def _resume(self, thread: _Thread) -> None:
        self.turns += 1
        thread.switch()


class _Watch:
    """Notes how long the present turn has taken."""

    def __init__(self) -> None:
        self._seen: tuple[_Thread, int] | None = None
        self._began_s = self._looked_s = 0.0  # of processor time, for elapsed time depends on who else runs
        self._idle_looks = 0

    def look(self, *_: object) -> None:
        """Called by a signal, in the thread whose turn it is. Raises StuckError in it."""
        thread = getcurrent()
        if not isinstance(thread, _Thread):
            return
        now_s = time.process_time()
        idle = now_s - self._looked_s < IDLE_CPU_S
        self._looked_s = now_s
        if self._seen != (turn := (thread, thread.process.world.turns)):
            self._seen, self._began_s, self._idle_looks = turn, now_s, 0
            return
        self._idle_looks = self._idle_looks + 1 if idle else 0
        if now_s - self._began_s > TURN_CPU_S_MAX:
            raise StuckError(f"thread {thread.name} does not hand back: it runs in a circle")
        if self._idle_looks >= IDLE_LOOKS_MAX:
            raise StuckError(f"thread {thread.name} does not hand back: it waits for a lock of another's")


def watch_turns() -> None:
    """Let a turn that does not end fail its schedule. For a process that does nothing but play."""
    signal.signal(signal.SIGALRM, _Watch().look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_REAL_S, LOOK_REAL_S)
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0.0)  # else it ends the process while Python ends


def name_thread(record: logging.LogRecord) -> bool:
    """Let a line of a log say which thread of the world it is from; a filter of handlers."""
    record.threadName = getattr(getcurrent(), "name", record.threadName)
    return True
