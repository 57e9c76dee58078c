"""The roles, wired to a simulated machine as `freshet.roles` wires them to a real one."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ledger import WINDOW_S, Ledger
from sim_machines import Machine
from sim_world import Process, ProcessClock

from error_memory import MemorySettings
from ground.retry import Backoff, Pauses
from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.role.setup import Callbacks, Folders, Learning
from learner.role.succession import Succession
from learner.settings import LearnerSettings
from learner.updates.snapshots import Trimmer
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.errors import LogAwayError
from stream.group.membership import GroupSettings, Member
from stream.join.assignment import Shares
from stream.join.joiner import Joiner
from stream.join.settings import JoinSettings
from stream.log.base import EVENTS
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

FEATURES = {
    "user": FeatureSpec(dim=2),
    "item": FeatureSpec(dim=2),
    "once": FeatureSpec(dim=2, pairs=False),
}
RUNNER = RunnerSettings(read_max=20, commit_every_s=0.3, wait_s=0.5)
JOIN = JoinSettings(
    window_s=WINDOW_S, late="learn", pending_max_memory=40, dead_letter_window=400, max_ahead_s=1e9
)
LEARN = LearnerSettings(
    deep="none", publish_every_s=0.5, snapshot_bytes_min=20_000, dead_letter_share_max=1.0
)
SERVE = ServerSettings()
MEMORY = MemorySettings(capacity=64)
GROUP = GroupSettings(beat_s=1.0, timeout_s=6.0, snapshot_every_s=10.0)
SHARED = Path("snapshots")
IDLE_S = 0.5
PRODUCE_PAUSES = Pauses(first_s=0.2, longest_s=2.0)

Main = Callable[[Process], None]


def joiner(machine: Machine) -> Main:
    """A joiner."""

    def main(process: Process) -> None:
        clock = ProcessClock(process)
        log = machine.connect()
        with (
            RoleState(process.name, "joiner", {"partitions": "x"}, clock=clock, disk=machine.disk) as state,
            Member(log, "join", process.name, GROUP, clock) as member,
        ):
            made = Joiner(state, JOIN)
            runner = Runner(log, state, made, Subscription(EVENTS, "join", partitions=()), RUNNER, clock)
            runner.open()
            Shares(log, state, made, runner, member, clock).run(process.stop)

    return main


def learner(machine: Machine, settings: LearnerSettings = LEARN) -> Main:
    """A learner, that leads or stands by."""

    def main(process: Process) -> None:
        clock = ProcessClock(process)
        log = machine.connect()
        with Member(log, "learn", process.name, GROUP, clock) as member:
            trim = Trimmer(log).trim

            @contextlib.contextmanager
            def at_work(runner: Runner, made: Learner) -> Iterator[Callable[[], None]]:
                yield trim

            Succession(
                log,
                member,
                Folders(Path(process.name), SHARED, machine.disk),
                Learning(FEATURES, settings, RUNNER),
                Callbacks(lambda: None, at_work),
                clock,
            ).run(process.stop)

    return main


def server(machine: Machine, keep: list[Replica], settings: LearnerSettings = LEARN) -> Main:
    """A replica; `keep` holds the newest."""

    def main(process: Process) -> None:
        clock = ProcessClock(process)
        log = machine.connect()
        replica = Replica(log, FEATURES, settings, MEMORY, SERVE, clock)
        keep[:] = [replica]
        backoff = Backoff(PRODUCE_PAUSES, clock)
        while not process.stop.is_set():
            try:
                if not replica.step():
                    clock.wait(process.stop, IDLE_S)
                backoff.reset()
            except LogAwayError:
                backoff.wait(process.stop)

    return main


def producer(machine: Machine, ledger: Ledger, requests: int, at_once: int) -> Main:
    """Sends so many requests of a ledger, as a client does that repeats what was not confirmed.

    It is never killed: what it has made up and not sent yet would be lost with it.
    """

    def main(process: Process) -> None:
        clock = ProcessClock(process)
        log = machine.connect()
        left = requests
        while left > 0:
            count = min(left, at_once)
            records = ledger.take(count)
            left -= count
            backoff = Backoff(PRODUCE_PAUSES, clock)
            while True:
                try:
                    log.append(EVENTS, records)
                    break
                except LogAwayError:
                    backoff.sleep()
            clock.sleep(0.3)

    return main
