"""The states of N shards become those of M: rows by owner, offsets by partition, what is equal as it is.

All old states are brought to the last update that all of them have, and what of it is unsent is sent. Then
the new states are written beside them. They count from one rename on (`learner.shards.reshard.folders`).

A table keeps the form that it has. If its rows rest, they go from disk to disk a page at a time; what
`memory_rows` says now counts from the next start of a learner on.

One process has no turns: N or M may be 1. Its state has the same entries under the same names.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from embeddings import Table, TableSpec
from embeddings.rest.dealing import new_part
from embeddings.rest.snapshot import RestingSnapshot
from embeddings.rest.table import RestingTable
from embeddings.save.entries import put_deleted
from embeddings.save.snapshot import TableSnapshot
from ground.clock import SYSTEM_CLOCK, Clock
from learner.entities.saved import PREFIX as ENTITIES
from learner.errors import ShardError
from learner.keepers import prefix_of
from learner.meta import ARRAY, BAD_SHARE, KEY, PENDING, POSITION, LearnerMeta
from learner.model.identity import fingerprint
from learner.role.anew import is_marked
from learner.role.boundary import KEY as BOUNDARY
from learner.role.saved_metrics import TargetMetrics
from learner.role.setup import Learning
from learner.role.taking.saved_refusals import united
from learner.shards.live.kept import read_meta
from learner.shards.live.meeting import ROLE, ShardFolder, Standing, check_log, common_update, gone_back
from learner.shards.live.session import check_shardable, shard_fingerprint
from learner.shards.live.watch import check_partitions
from learner.shards.owners import Keys, Owners
from learner.shards.owning import owned_spec
from learner.shards.reshard.folders import WHOLE, WRITING, place_folder, state_folder
from learner.shards.reshard.rows import deal_resting_table, deal_table
from learner.shards.reshard.stretches import past_of
from learner.shards.working import WorkingModel
from learner.train.waiting import PendingRows
from learner.updates.chain import UpdatePosition
from learner.updates.unsaid import unsaid_keys
from stream.errors import StateError
from stream.log.base import EXAMPLES, UPDATES, Log
from stream.state.disk import ROCKS_DISK, Disk
from stream.state.repeats import producers_prefix
from stream.state.role_state import Commit, RoleState

_Keeper = TableSnapshot | RestingSnapshot

NOTHING_LEARNED = (
    "learned nothing yet: set the new number, and start the learner once with `freshet learn --anew`, by "
    "which nothing is lost"
)
_SUMS = ("examples", "requests", "of_history", "forgets", "refused", "update_bytes", "snapshot_bytes")


class Resharded(NamedTuple):
    """What a resharding has made."""

    seq: int  # the update after which the new shards go on
    rows: list[int]  # by new rank, of all tables together


def reshard(
    log: Log,
    folder: Path,
    learning: Learning,
    before: int,
    after: int,
    clock: Clock = SYSTEM_CLOCK,
    disk: Disk = ROCKS_DISK,
) -> Resharded:
    """Write the states of `after` processes from those of `before`, which must be stopped.

    When it returns the new ones count; `finish_resharding` puts them into their place.

    Args:
        folder: of the learner's states.

    Raises:
        ShardError: the states do not fit together, or there are too few partitions.
        StateError: one cannot be read, is in use, or is of another config.
        TableError: a new shard would own more rows than it has room for.
        LogError: the log fails.
    """
    partitions = log.partitions(EXAMPLES)
    check_shardable(learning)
    check_partitions(after, partitions)
    with ExitStack() as held:
        if before > 1:
            for rank in range(before):  # shards that are being started hold these before their states
                held.callback(disk.hold(place_folder(state_folder(folder, before, rank)), clock).release)
            held.callback(disk.hold(folder, clock).release)
        olds = _open(held, folder, learning, before, clock, disk)
        metas = [read_meta(state, clock) for state in olds]
        for state in olds:
            _send(log, state)
        position = _position(log, olds, metas)
        disk.remove(folder / WRITING)
        with ExitStack() as made:
            news = [
                made.enter_context(_make(folder / WRITING, learning, after, rank, clock, disk))
                for rank in range(after)
            ]
            rows = _deal(learning, olds, news, metas[0].clock)
            for rank, new in enumerate(news):
                commit = new.begin()
                _put_common(commit, olds)
                commit.put(POSITION, msgspec.msgpack.encode(position))
                mine = range(rank, partitions, after)
                commit.put(KEY, msgspec.msgpack.encode(_meta(metas, rank, mine)))
                _put_partitions(commit, olds, mine)
                _metrics(learning, olds, rank, after).save(commit)
                share = olds[rank % before].get(BAD_SHARE)
                if share is not None:
                    commit.put(BAD_SHARE, share)
                if rank == 0:
                    for key, value in past_of(olds, metas[0].seq).items():
                        commit.put(key, value)
                new.commit(commit)
        disk.move(folder / WRITING, folder / WHOLE)
    return Resharded(metas[0].seq, rows)


def open_one(folder: Path, learning: Learning, clock: Clock, disk: Disk) -> RoleState:
    """The state of a learner in one process; raises as `RoleState` does."""
    made = fingerprint(learning.features, learning.settings, learning.targets)
    return RoleState(folder, "learner", made, True, clock, disk, learning.rest)


def _open(
    held: ExitStack, folder: Path, learning: Learning, shards: int, clock: Clock, disk: Disk
) -> list[RoleState]:
    """Open the states at the last update that all of them have."""
    places = [state_folder(folder, shards, rank) for rank in range(shards)]
    for rank, place in enumerate(places):
        if not disk.is_begun(place / "db"):
            raise ShardError(
                f"{place} holds no state of shard {rank} of {shards}: bring the folders of all shards onto "
                "this machine"
            )
        if is_marked(place, disk):
            raise ShardError(f"{place} is to begin anew: start its learner, with any number of shards")
    if shards == 1:
        state = held.enter_context(open_one(folder, learning, clock, disk))
        _check_one(state, read_meta(state, clock))
        return [state]
    wheres = [
        ShardFolder(place, shard_fingerprint(learning, rank, shards), disk, learning.rest)
        for rank, place in enumerate(places)
    ]
    states = []
    for where in wheres:
        state = where.open(clock)
        states.append(state)
        held.callback(partial(_close, states, len(states) - 1))
    metas = [read_meta(state, clock) for state in states]
    common = common_update([Standing(meta.epoch, meta.seq) for meta in metas])
    if common == 0:
        raise ShardError(f"{folder}: these shards have {NOTHING_LEARNED}")
    for rank, meta in enumerate(metas):
        if meta.seq > common:
            states[rank].close()
            states[rank] = gone_back(wheres[rank], common, clock)
    first = dict(states[0].scan(ARRAY))
    for rank, state in enumerate(states):
        if dict(state.scan(ARRAY)) != first:
            raise ShardError(
                f"shards {rank} and 0 have different dense weights, both at update {common}: restore all "
                "shards' states from copies of one moment"
            )
    return states


def _close(states: Sequence[RoleState], rank: int) -> None:
    states[rank].close()


def _check_one(state: RoleState, meta: LearnerMeta) -> None:
    if meta.seq == 0:
        raise ShardError(f"state {state.path} has {NOTHING_LEARNED}")
    if not meta.makes_room:
        raise ShardError(
            f"state {state.path} was begun by a Freshet whose full tables refuse new ids; shards evict: "
            "begin anew with `freshet learn --anew`"
        )
    if state.get(BOUNDARY) is not None:
        raise ShardError(
            f"state {state.path} began with history from files (freshet train), whose requests it still "
            "compares with those of the log; shards cannot"
        )
    pending = state.get(PENDING)
    if pending is not None and PendingRows.count(pending):
        raise ShardError(f"state {state.path} has an incomplete group, which is to be learned first")


def _send(log: Log, state: RoleState) -> None:
    """Send what is committed and unsent."""
    for block in state.unsent():
        log.append(block.topic, block.records)
        state.mark_sent(block.number)
    state.commit(state.begin())


def _position(log: Log, states: Sequence[RoleState], metas: Sequence[LearnerMeta]) -> UpdatePosition:
    """Where in topic `updates` the new shards go on; checks that nobody else has published since."""
    found = [state.get(POSITION) for state in states]
    told = [msgspec.msgpack.decode(one, type=UpdatePosition).offset for one in found if one is not None]
    epoch, seq, term = metas[0].epoch, metas[0].seq, max(meta.term for meta in metas)
    check_log(log, min(told, default=0), Standing(epoch, seq), term)
    return UpdatePosition(log.ends(UPDATES)[0][1], term, epoch, seq, term)


def _make(folder: Path, learning: Learning, shards: int, rank: int, clock: Clock, disk: Disk) -> RoleState:
    if shards == 1:
        return open_one(folder, learning, clock, disk)
    made = shard_fingerprint(learning, rank, shards)
    return RoleState(state_folder(folder, shards, rank), ROLE, made, True, clock, disk, learning.rest)


def _deal(
    learning: Learning, olds: Sequence[RoleState], news: Sequence[RoleState], clock: float
) -> list[int]:
    """Write the tables, one after the other; returns how many rows each new shard has."""
    model = WorkingModel(learning.features, learning.settings, learning.targets, learning=True)
    rows = [0] * len(news)
    for name, spec in model.specs.items():
        before = [_read(state, name, owned_spec(spec, len(olds))) for state in olds]
        made = owned_spec(spec, len(news))
        if any(isinstance(keeper, RestingSnapshot) for keeper in before):
            counts = _deal_rest(before, news, name, made, clock)
        else:
            counts = _deal_whole(before, news, name, made, clock)
        rows = [all_of_it + count for all_of_it, count in zip(rows, counts, strict=True)]
    return rows


def _deal_whole(
    before: Sequence[_Keeper], news: Sequence[RoleState], name: str, spec: TableSpec, clock: float
) -> list[int]:
    after = [Table(spec) for _ in news]
    gone = deal_table([keeper.table for keeper in before], after, clock)
    for state, table, mine, unsaid in zip(news, after, gone, _unsaid(before, len(news)), strict=True):
        pages = _Pages(state)
        keeper = TableSnapshot(table, prefix_of(name))
        keeper.save_base(pages, pages.write)
        keeper.save_whole(pages)
        put_deleted(pages, prefix_of(name), np.concatenate([mine, unsaid]))
        pages.write()
    return [len(table) for table in after]


def _deal_rest(
    before: Sequence[_Keeper], news: Sequence[RoleState], name: str, spec: TableSpec, clock: float
) -> list[int]:
    parts = [new_part(spec, prefix_of(name), _Pages(state)) for state in news]
    for part, unsaid in zip(parts, _unsaid(before, len(news)), strict=True):
        put_deleted(part.sink, part.prefix, unsaid)
    return deal_resting_table([keeper.table for keeper in before], parts, clock)


def _unsaid(before: Sequence[_Keeper], shards: int) -> list[Keys]:
    """The keys that each of so many shards still has to report as deleted."""
    keys = np.concatenate([keeper.gone for keeper in before])
    whose = Owners(shards).of(keys)
    return [keys[whose == rank] for rank in range(shards)]


def _read(state: RoleState, name: str, spec: TableSpec) -> _Keeper:
    """A table of a state, in the form that it has there; of rows that rest only the newest are in memory."""
    prefix, where = prefix_of(name), f"state {state.path}"
    resting = RestingSnapshot(RestingTable(spec, spec.rows_max), state, prefix, where)
    keeper: _Keeper = resting
    if not resting.restore():
        keeper = whole = TableSnapshot(Table(spec), prefix, where)
        if not whole.restore(state):
            raise StateError(f"{where}: it holds no table {name!r}; restore it from a copy")
    keeper.gone = np.concatenate([keeper.gone, unsaid_keys(state, name)])
    return keeper


class _Pages:
    """Takes a table's pages for a state that nobody reads yet."""

    def __init__(self, state: RoleState) -> None:
        self._state = state
        self._commit = state.begin()

    def put(self, key: bytes, value: bytes) -> None:
        self._commit.put(key, value)

    def delete(self, key: bytes) -> None:
        self._commit.delete(key)

    def delete_range(self, first: bytes, end: bytes) -> None:
        """Nothing is there."""

    def write(self) -> None:
        """Write what was taken."""
        self._state.commit(self._commit)
        self._commit = self._state.begin()


def _put_common(commit: Commit, olds: Sequence[RoleState]) -> None:
    for key, value in [*olds[0].scan(ARRAY), *olds[0].scan(ENTITIES), *united(olds)]:
        commit.put(key, value)


def _meta(metas: Sequence[LearnerMeta], rank: int, partitions: range) -> LearnerMeta:
    """The counters of a new shard; sums are shard 0's."""
    marks = {p: at for meta in metas for p, at in meta.watermark.items() if p in partitions}
    meta = msgspec.structs.replace(
        metas[0],
        watermark=marks,
        event_time=max(meta.event_time for meta in metas),
        ingest_ms=max(meta.ingest_ms for meta in metas),
        term=max(meta.term for meta in metas),
        refusals_clock=min(meta.refusals_clock for meta in metas),
        purging=False,  # the new files hold nothing that is deleted
    )
    for name in _SUMS:
        setattr(meta, name, 0 if rank else sum(getattr(one, name) for one in metas))
    return meta


def _put_partitions(commit: Commit, olds: Sequence[RoleState], partitions: range) -> None:
    """Put where the readers of some partitions are, and which numbers of producers they have seen."""
    for partition in partitions:
        old = olds[partition % len(olds)]
        offset = old.offset(EXAMPLES, partition)
        if offset is None:
            continue
        commit.set_offset(EXAMPLES, partition, offset)
        for key, value in old.scan(producers_prefix(EXAMPLES, partition)):
            commit.put(key, value)


def _metrics(learning: Learning, olds: Sequence[RoleState], rank: int, after: int) -> TargetMetrics:
    """The metrics of a new shard: those of the old one of its rank, and the sums of those without a rank."""
    targets, window = learning.targets, learning.settings.window
    mine, *others = [
        *(TargetMetrics(targets, window, state) for state in olds[rank::after]),
        *([] if rank < len(olds) else [TargetMetrics(targets, window)]),
    ]
    for other in others:
        mine.absorb(other)
    mine.renew()
    return mine
