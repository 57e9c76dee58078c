"""A live shard from meeting the others to its end: turns, commits, and what is sent after them.

    meet           all are at the last update that every one has committed, and send what of it is unsent
    begin a term   shard 0 claims it, and writes the records that begin it; updates of lower terms are void
    turn           read, learn, add up; an empty turn ends after one exchange, so an idle shard delays nobody
    commit         when one wants to and none has taken more than it has learned: each writes its state, all
                   wait until all have, and each sends its part of the update

A failure ends the session, and a new one begins by meeting.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import msgspec

from ground import FreshetError
from ground.clock import Clock
from ground.retry import Backoff
from learner.errors import ShardError, ShardLostError
from learner.model.identity import fingerprint
from learner.role.anew import is_marked, unmark
from learner.role.setup import Folders, Learning
from learner.shards.gloo import Gloo, drive
from learner.shards.live.kept import KeptShard
from learner.shards.live.meeting import ShardFolder, Standing, check_log, meet
from learner.shards.live.watch import ShardWatch, check_partitions
from learner.shards.messages import Exchanges, Said
from learner.shards.owners import Owners
from learner.shards.shard import Shard
from learner.updates.chain import UpdatePosition
from learner.updates.format import term_begins
from stream.errors import LogAwayError
from stream.group.membership import SNAPSHOTS_KEPT, Member
from stream.log.base import EXAMPLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.run.contract import Subscription
from stream.run.runner import AWAY_PAUSES, Runner
from stream.state.role_state import RoleState

_log = logging.getLogger("freshet.shards")

EXCHANGE_S_MAX = 300.0
"""For one exchange, and for all to come: longer than rows take to be loaded. Who is gone, the beats say."""


class ShardPlace(NamedTuple):
    """Which shard this is, and where all meet."""

    rank: int
    shards: int
    host: str  # of shard 0
    port: int


Connect = Callable[[ShardPlace, AbstractContextManager[object]], Exchanges]
"""Gives a shard's end of the exchange; the context is entered while it waits for others."""


def by_gloo(place: ShardPlace, waiting: AbstractContextManager[object]) -> Exchanges:
    """The exchange between processes."""
    return Gloo(place.rank, place.shards, place.host, place.port, EXCHANGE_S_MAX, waiting)


class ShardCallbacks(NamedTuple):
    """What a live shard calls.

    Fields:
        on_ready: when it has met the others, and learns.
        at_work: entered with the shard; gives a function that is called after each turn.
        end: called from another thread when the process must end at once; gets the reason.
    """

    on_ready: Callable[[], None]
    at_work: Callable[[Runner, KeptShard, "TurnMeter"], AbstractContextManager[Callable[[], None]]]
    end: Callable[[FreshetError], None]


class TurnMeter:
    """What turns have cost."""

    def __init__(self) -> None:
        self.turns = 0  # with requests
        self.turn_s = 0.0  # spent in them
        self.bytes_sent = 0  # to other shards
        self.requests = 0  # of all shards
        self.busiest = 0  # of the shard that had most in each turn

    def values(self, shards: int) -> dict[str, float | int | None]:
        """Its numbers for a log line or a dashboard; of the last: 1 is best, the number of shards worst."""
        return {
            "turns": self.turns,
            "turn_s": round(self.turn_s, 3),
            "turn_bytes": self.bytes_sent,
            "busiest_over_fair_share": self.busiest * shards / self.requests if self.requests else None,
        }


def check_shardable(learning: Learning) -> None:
    """Check that this model can be learned in shards.

    Raises:
        ShardError: it is to go back when it is told to.
    """
    if learning.model is not None:
        raise ShardError(
            f"group.snapshots_kept is over {SNAPSHOTS_KEPT}, and shards keep no snapshots to go back to: "
            "leave it out, or learn in one process (learner.shards.count = 1)"
        )


def shard_fingerprint(learning: Learning, rank: int, shards: int) -> dict[str, str]:
    """What a shard's state depends on: name -> canonical text."""
    made = fingerprint(learning.features, learning.settings, learning.targets)
    return {**made, "shards": f"shard {rank} of {shards}"}


class ShardSession:
    """One life of a live shard.

    Args:
        member: its membership of the group of learners, joined.
        folders: its state is in its own folder.
        connect: gives its end of the exchange.

    Raises:
        ShardError: the model cannot be learned in shards, or there are too few partitions.
    """

    def __init__(
        self,
        log: Log,
        member: Member,
        place: ShardPlace,
        folders: Folders,
        learning: Learning,
        callbacks: ShardCallbacks,
        clock: Clock,
        connect: Connect = by_gloo,
    ) -> None:
        check_shardable(learning)
        check_partitions(place.shards, log.partitions(EXAMPLES))
        self._log, self._member, self._place, self._clock = log, member, place, clock
        self._folders, self._learning, self._callbacks = folders, learning, callbacks
        self._connect = connect
        self._watch = ShardWatch(member, place.shards, callbacks.end, clock)
        made = shard_fingerprint(learning, place.rank, place.shards)
        self._where = ShardFolder(folders.state, made, folders.disk, learning.rest)
        self._meter = TurnMeter()

    def run(self, stop: threading.Event) -> None:
        """Meet the others, then learn until `stop` is set here or at another shard.

        Raises:
            ShardLostError: a shard is gone, or stops; begin again.
            ShardError: the shards do not fit together.
            FreshetError: the state or the log cannot be used.
        """
        place = self._place
        self._watch.check_alone()
        self._watch.start()
        try:
            others = self._connect(place, self._watch)
            others.join()
            with self._watch:
                state, epoch = meet(others, self._where, self._clock)
            with state:
                self._live(others, state, epoch, stop)
            others.close()
        finally:
            self._watch.stop()

    def _live(self, others: Exchanges, state: RoleState, epoch: int, stop: threading.Event) -> None:
        learning, place = self._learning, self._place
        with self._watch:
            owners = Owners(place.shards)
            shard = Shard(place.rank, owners, learning.features, learning.settings, learning.targets)
            kept = KeptShard(shard, learning.settings, state, self._clock, others)
            kept.begin_epoch(epoch)
            kept.publish_to(self._log)
        self._check_equal(others, kept)
        runner = self._open(state, kept)
        others.gather(True)  # all have sent what was unsent of the last update: now a term may begin
        term, offset = others.gather(self._begin_term(kept) if place.rank == 0 else (0, 0))[0]
        meta = kept.meta
        kept.lead(term, UpdatePosition(offset + 1, term, meta.epoch, meta.seq, term))
        _log.info("shard %d of %d, in term %d, from update %d on", place.rank, place.shards, term, meta.seq)
        with self._callbacks.at_work(runner, kept, self._meter) as report:
            self._callbacks.on_ready()
            self._learn(others, runner, state, kept, report, stop)

    def _check_equal(self, others: Exchanges, kept: KeptShard) -> None:
        hashes = others.gather(kept.equal_everywhere())
        for rank, there in enumerate(hashes):
            if there != hashes[0]:
                raise ShardError(
                    f"shard {rank} has dense weights of hash {there}, shard 0 of hash {hashes[0]}, both at "
                    f"update {kept.meta.seq}: restore all shards' states from copies of one moment"
                )

    def _open(self, state: RoleState, kept: KeptShard) -> Runner:
        """The runner of this shard's partitions, which commits and reads when it is told to."""
        shards, partitions = self._place.shards, self._log.partitions(EXAMPLES)
        mine = range(self._place.rank, partitions, shards)
        settings = self._learning.runner
        turn = self._learning.settings.shards.turn
        settings = msgspec.structs.replace(
            settings,
            commit_every_s=1e9,
            commit_records_max=1 << 30,
            commit_bytes_max=1 << 40,
            read_max=max(min(settings.read_max, turn // (shards * len(mine))), 1),
        )
        subscription = Subscription(EXAMPLES, "learn", list(mine))
        return Runner(self._log, state, kept, subscription, settings, self._clock).open()

    def _begin_term(self, kept: KeptShard) -> tuple[int, int]:
        """Claim a term and begin it; returns it, and the offset in `updates` of the record that begins it."""
        meta = kept.meta
        if not is_marked(self._folders.state, self._folders.disk):
            offset = kept.position.offset if meta.seq else 0
            check_log(self._log, offset, Standing(meta.epoch, meta.seq), meta.term)
        term = self._member.claim()
        begin = term_begins(meta.epoch, term)
        offset = 0
        for topic in (SNAPSHOTS, UPDATES):  # in this order: see `learner.role.session`
            ((_, offset),) = self._log.append(topic, [Outgoing(b"term", begin, 0)])
        return term, offset

    def _learn(
        self,
        others: Exchanges,
        runner: Runner,
        state: RoleState,
        kept: KeptShard,
        report: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        settings = self._learning.settings
        more, busy = False, True
        since_s: float | None = None
        while True:
            self._member.turn()
            if not more:
                self._read(runner, 0.0 if busy else self._learning.runner.wait_s)
            now_s = self._clock.now_s()
            since_s = (since_s or now_s) if runner.uncommitted else None
            due = since_s is not None and now_s - since_s >= settings.publish_every_s
            share = kept.next_share()
            said = Said(
                more=bool(kept.shares),
                commit=due or kept.commit_due,
                stop=stop.is_set(),
                news=share.news,
            )
            learnt, size = drive(kept.shard.turn(share.labelled, said), others)
            heard = kept.shard.heard
            kept.learned(share, learnt, heard)
            self._measure(heard, size, self._clock.now_s() - now_s)
            more = any(one.more for one in heard)
            busy = more or any(one.requests for one in heard)
            stops = [rank for rank, one in enumerate(heard) if one.stop]
            if not more and stops:
                self._watch.stop()  # who is done leaves the group, which is no loss
            if not more and (stops or any(one.commit for one in heard)):
                self._commit(runner, state, kept, stop)
                since_s = None
            report()
            if not more and stops:
                if not stop.is_set():
                    raise ShardLostError(f"shard {stops[0]} stops: waits until it is started again")
                return

    def _read(self, runner: Runner, wait_s: float) -> None:
        try:
            runner.step(wait_s)
        except LogAwayError as error:
            _log.warning("%s; goes on without new examples", error)

    def _commit(self, runner: Runner, state: RoleState, kept: KeptShard, stop: threading.Event) -> None:
        """Commit what all have learned since the last commit, and send it."""
        if not self._member.leads(kept.meta.term):
            raise ShardLostError("other shards, or another learner, have begun a later term")
        try:
            if runner.uncommitted:
                runner.commit()
            else:
                runner.emit(lambda commit: None)
        except LogAwayError as error:
            _log.warning("%s; what is committed is sent when it is back", error)
        self._send(runner, state, stop)
        meta = kept.meta
        offset = runner.last_sent[UPDATES] + 1
        kept.position = UpdatePosition(offset, meta.term, meta.epoch, meta.seq, meta.term)
        if is_marked(self._folders.state, self._folders.disk):
            unmark(self._folders.state, self._folders.disk)

    def _send(self, runner: Runner, state: RoleState, stop: threading.Event) -> None:
        """Send what is committed: no shard may begin the next update before."""
        backoff = Backoff(AWAY_PAUSES, self._clock)
        with self._watch:
            while state.unsent():
                if stop.is_set():
                    raise ShardLostError("stopped while the log is away: what is unsent is sent at the start")
                try:
                    runner.commit()  # nothing is uncommitted: it only sends
                except LogAwayError:
                    backoff.wait(stop)

    def _measure(self, heard: list[Said], size: int, took_s: float) -> None:
        requests = [one.requests for one in heard]
        if any(requests):
            meter = self._meter
            meter.turns += 1
            meter.turn_s += took_s
            meter.bytes_sent += size
            meter.requests += sum(requests)
            meter.busiest += max(requests)
