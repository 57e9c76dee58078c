"""The incomplete group of a learner in one process: shards have none, so it is learned first."""

import threading
from contextlib import nullcontext

from ground.clock import SYSTEM_CLOCK, Clock
from learner.errors import ShardError
from learner.role.session import AsideError, Session
from learner.role.setup import Callbacks, Folders, Learning
from learner.role.succession import Succession
from learner.shards.reshard.states import open_one
from stream.group.membership import Member
from stream.log.base import Log


def learn_last_group(
    log: Log,
    member: Member,
    folders: Folders,
    learning: Learning,
    stop: threading.Event,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Lead for a moment: follow what is published, learn the group, and publish what it changed.

    Args:
        member: its membership of the group of learners, joined.

    Raises:
        ShardError: another learner leads, or the state is not where the updates end.
        FreshetError: the state or the log cannot be used.
    """
    callbacks = Callbacks(lambda: None, lambda runner, learner: nullcontext(lambda: None))
    group = Succession(log, member, folders, learning, callbacks, clock)
    give_up_s = clock.now_s() + 2.0 * member.settings.timeout_s
    with open_one(folders.state, learning, clock, folders.disk) as state:
        session = Session(group, state, stop)
        try:
            while not session.leading:
                if stop.is_set() or clock.now_s() > give_up_s:
                    leader = member.leader
                    name = "" if leader is None else f" ({leader.name})"
                    raise ShardError(f"another learner leads{name}: stop all learners first")
                session.turn()
            if session.learner.trainer.pending.n:
                session.learner.finish()
                session.runner.emit(lambda commit: None)
        except AsideError as error:
            raise ShardError(f"state {state.path} is not where topic updates ends: {error}") from None
        finally:
            session.end(finish=True)
