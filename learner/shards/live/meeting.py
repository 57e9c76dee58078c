"""How shards meet: all return to the last update that every one of them has committed.

An update counts when all shards have committed it, each in its own state. None begins the next one, and none
sends anything of it, before it knows that. So their states are at most one update apart, and who is ahead
undoes one (`stream.state.undo`). No record in the log has to say which update counts: N states on disk do,
and a decision that they hold cannot be lost or contradicted by one that was in doubt in the log.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ground.clock import Clock
from learner.errors import ShardError, UpdateDamagedError
from learner.shards.live.kept import read_meta
from learner.shards.messages import Exchanges
from learner.updates.format import decode_update
from learner.updates.snapshots import READ_BYTES_MAX
from stream.log.base import UPDATES, Log
from stream.state.disk import Disk
from stream.state.role_state import RoleState
from stream.state.undo import UndoableDisk, undo_commit

ROLE = "shard"


class Standing(msgspec.Struct, frozen=True):
    """How far a shard's state is."""

    epoch: int
    seq: int  # of the last update that it has committed; 0: none


class ShardFolder(NamedTuple):
    """Where a shard's state is, and what it was made with."""

    folder: Path
    fingerprint: dict[str, str]
    disk: Disk
    rows: bool = False  # rows of tables rest in it

    def open(self, clock: Clock) -> RoleState:
        """Open the state; raises as `RoleState` does."""
        return RoleState(self.folder, ROLE, self.fingerprint, True, clock, UndoableDisk(self.disk), self.rows)


def meet(others: Exchanges, where: ShardFolder, clock: Clock) -> tuple[RoleState, int]:
    """Open a shard's state at the last update that all shards have committed.

    Returns:
        The state, and the epoch of the model, which shard 0 decides when it is new.

    Raises:
        ShardError: the states are not of one learner.
        StateError: this one cannot be opened.
    """
    state = where.open(clock)
    try:
        meta = read_meta(state, clock)
        standings = others.gather(Standing(meta.epoch, meta.seq))
        common = common_update(standings)
        if meta.seq > common:
            state.close()
            state = gone_back(where, common, clock)
        begun = [standing.epoch for standing in standings if standing.seq]
        return state, begun[0] if common else standings[0].epoch
    except BaseException:
        state.close()
        raise


def gone_back(where: ShardFolder, common: int, clock: Clock) -> RoleState:
    """Undo the last update of a closed state, and open it.

    Raises:
        ShardError: it is not at update `common` then.
    """
    undo_commit(where.folder, where.disk)
    state = where.open(clock)
    seq = read_meta(state, clock).seq
    if seq == common:
        return state
    state.close()
    raise ShardError(
        f"state {state.path} is at update {seq} after one was undone, the other shards are at {common}: "
        "restore all shards' states from copies of one moment"
    )


def common_update(standings: Sequence[Standing]) -> int:
    """The number of the last update that all shards have committed.

    Raises:
        ShardError: they cannot be states of one learner.
    """
    begun = [(rank, standing) for rank, standing in enumerate(standings) if standing.seq]
    for rank, standing in begun[1:]:
        first, there = begun[0]
        if standing.epoch != there.epoch:
            raise ShardError(
                f"shard {rank} has a model of epoch {standing.epoch}, shard {first} of epoch {there.epoch}: "
                "give each shard its own state folder of one learner"
            )
    numbers = [standing.seq for standing in standings]
    if max(numbers) > min(numbers) + 1:
        old, new = numbers.index(min(numbers)), numbers.index(max(numbers))
        raise ShardError(
            f"shard {old} is at update {min(numbers)}, shard {new} at {max(numbers)}: the state of shard "
            f"{old} is lost or old. Restore all shards' states from copies of one moment, or begin anew with "
            "`freshet learn --anew`"
        )
    return min(numbers)


def check_log(log: Log, offset: int, standing: Standing, term: int) -> None:
    """Check that topic `updates` holds nothing from `offset` on that another learner has published.

    Args:
        offset: in the topic, at or before this learner's last update.
        standing: how far the shards are.
        term: in which they made their last update.

    Raises:
        ShardError: it does.
        LogError: the log fails.
    """
    first, end = log.ends(UPDATES)[0]
    at = max(offset, first)
    while at < end:
        records = log.read(UPDATES, 0, at, 100, READ_BYTES_MAX)
        if not records:
            return
        for record in records:
            at = record.offset + 1
            try:
                update = decode_update(record.value)
            except UpdateDamagedError:
                continue
            ours = update.epoch == standing.epoch and update.seq <= standing.seq and update.term <= term
            if update.parts and not ours:
                raise ShardError(
                    f"topic updates holds update {update.seq} of epoch {update.epoch}, term {update.term}, "
                    f"and the shards are at update {standing.seq} of epoch {standing.epoch} and term {term}: "
                    "another learner has published, or the shards' states are old. Restore them from copies "
                    "of one moment, or begin anew with `freshet learn --anew`"
                )
