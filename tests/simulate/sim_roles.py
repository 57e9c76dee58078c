"""The roles, wired to a simulated machine as `freshet.roles` wires them to a real one."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from sim_clients import PRODUCE_PAUSES, Answer, Watch, ask
from sim_machines import Machine
from sim_world import Process, ProcessClock

from ground.retry import Backoff
from learner.role.learner import Learner
from learner.role.setup import Callbacks, Folders, Learning
from learner.role.succession import Succession
from learner.updates.snapshots import Trimmer
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.errors import LogAwayError
from stream.group.membership import Member
from stream.join.assignment import Shares
from stream.join.joiner import Joiner, joiner_fingerprint
from stream.join.sharding.sent import check_outbox
from stream.log.base import EVENTS
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

SERVE = ServerSettings()
SHARED = Path("snapshots")
IDLE_S = 0.5

Main = Callable[[Process], None]


def joiner(machine: Machine, partitions: int) -> Main:
    """A joiner of events in so many partitions."""

    def main(process: Process) -> None:
        clock, config = ProcessClock(process), machine.config
        log, settings = machine.connect(), config.join
        fingerprint = joiner_fingerprint(partitions, config.targets, settings)
        with (
            RoleState(process.name, "joiner", fingerprint, clock=clock, disk=machine.disk) as state,
            Member(log, "join", process.name, config.group, clock, settings.shard_by) as member,
        ):
            check_outbox(log, state, settings.shard_by, member.held_up_by())
            made = Joiner(state, settings, targets=config.targets, partitions=partitions)
            topic = Subscription(EVENTS, "join", partitions=())
            runner = Runner(log, state, made, topic, config.runner, clock)
            runner.open()
            Shares(log, state, made, runner, member, clock).run(process.stop)

    return main


def learner(machine: Machine) -> Main:
    """A learner, that leads or stands by."""

    def main(process: Process) -> None:
        clock, config = ProcessClock(process), machine.config
        log = machine.connect()
        with Member(log, "learn", process.name, config.group, clock) as member:
            trim = Trimmer(log).trim

            @contextlib.contextmanager
            def at_work(runner: Runner, made: Learner) -> Iterator[Callable[[], None]]:
                yield trim

            Succession(
                log,
                member,
                Folders(Path(process.name), SHARED, machine.disk),
                Learning(config.features, config.learn, config.runner, config.targets),
                Callbacks(lambda: None, at_work),
                clock,
            ).run(process.stop)

    return main


def server(machine: Machine, keep: list[Replica], watches: list[Watch], answers: list[Answer]) -> Main:
    """A replica, and a client that asks it.

    Args:
        keep: holds the newest replica.
        watches: get one of each replica.
        answers: get all that was said.
    """

    def main(process: Process) -> None:
        clock, config = ProcessClock(process), machine.config
        log = machine.connect()
        replica = Replica(
            log, config.features, config.learn, config.memory, SERVE, config.targets, clock=clock
        )
        keep[:] = [replica]
        watches.append(Watch(replica))
        replica.attach(watches[-1])
        clock.thread(lambda: ask(process, replica, answers), "client", True).start()
        backoff = Backoff(PRODUCE_PAUSES, clock)
        while not process.stop.is_set():
            try:
                more = replica.step()
                if not more:
                    clock.wait(process.stop, IDLE_S)
                backoff.reset()
            except LogAwayError:
                backoff.wait(process.stop)

    return main
