"""The matcher: finds the request and the candidate of actions that name neither, in topic `matches`.

What was shown and what looks for it meet in one partition, under one key. A decision depends on the records
of the partition alone, in their order: an action goes to the newest impression known that fits; where none is
known, it waits in event time. Its number follows from the record that brought the two together.
"""

from collections.abc import Iterator, Sequence

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock
from stream.errors import RecordError
from stream.ingest.counts import MatchCounts
from stream.ingest.pace import Pace
from stream.ingest.records import Passing, Seeking, Showing, decode, encode
from stream.ingest.share import Begin, Passed
from stream.ingest.shown import SHOWN, Showings
from stream.ingest.waiting import WAITING, Waiter, Waiters
from stream.join.outputs import output_seq
from stream.log.base import DEAD_LETTERS, EVENTS, MATCHES, Log, Outgoing, Record
from stream.records.forgetting import Entity
from stream.records.types import Action, DeadLetter, Forget
from stream.records.types import encode as encode_event
from stream.run.runner import Runner
from stream.sources.settings import IngestSettings
from stream.state.repeats import producers_prefix
from stream.state.role_state import Commit, RoleState

COUNTS_KEY = b"match/counts"
PROGRESS = b"match/progress/"

CLOCK_AHEAD_S = 1.0  # event time counts as no further ahead of the log than this
REACHES = 4  # so many reaches back a record can have influence
POINTS = 32  # noted in them
TICK_S_MIN, TICK_S_MAX = 0.5, 15.0
TRIM_EVERY_S = 60.0
CLEAR_KEYS = 10_000


class _Progress(msgspec.Struct):
    """Where a partition is."""

    clock_s: float = 0.0  # event time
    ingest_s: float = 0.0  # of the last record
    points: list[Begin] = []  # where another one may begin, the oldest first
    sends_from: int = 0  # what comes of records before it is sent already


class _MatchPartition:
    def __init__(self, state: RoleState, number: int, reach_s: float, recent_max: int) -> None:
        self.number = number
        saved = state.get(_key(number))
        self.progress = _Progress() if saved is None else msgspec.msgpack.decode(saved, type=_Progress)
        self.shown = Showings(state, number, reach_s, recent_max)
        self.waiting = Waiters(state, number)
        self.offset = -1  # of the current record
        self.outputs = self.letters = 0  # of it
        self.touched_s = 0.0  # when a record came, by our clock


class Matcher(Passed):
    """A `Handler` for topic `matches`.

    Args:
        log: has the topic; it is trimmed, and gets ticks.
        reach_s: how far actions look back, and how long they wait, together; event time.
        clock: says when a tick is due.
        pace: keeps the sources from running ahead of it.
    """

    def __init__(
        self,
        log: Log,
        state: RoleState,
        settings: IngestSettings,
        reach_s: float,
        clock: Clock = SYSTEM_CLOCK,
        pace: Pace | None = None,
    ) -> None:
        saved = state.get(COUNTS_KEY)
        self.counts = MatchCounts() if saved is None else msgspec.msgpack.decode(saved, type=MatchCounts)
        self._log = log
        self._state = state
        self._settings = settings
        self._reach_s = reach_s
        self._clock = clock
        self._pace = pace or Pace(float("inf"))
        self._pace.match_begins()
        self._records_before = 0
        self._sendings = 0
        self._partitions: dict[int, _MatchPartition] = {}
        self._touched: set[int] = set()
        self._unseen = MatchCounts()  # counts of what another one has counted
        self._trim_s = clock.now_s() + TRIM_EVERY_S

    def handle(self, records: Sequence[Record], commit: Commit) -> int | None:
        """Match the records; emits actions and dead letters."""
        number = records[0].partition
        partition = self._partition(number)
        partition.touched_s = self._clock.now_s()
        for record in records:
            partition.offset, partition.outputs, partition.letters = record.offset, 0, 0
            self._note_point(partition)
            try:
                self._take(decode(record.value), record, partition, commit)
            except RecordError as error:
                self._refuse(record.offset, record.key, record.value, str(error), partition, commit)
            self._decide_due(partition, commit)
        self._pace.matched(partition.progress.clock_s)
        return None

    def flush(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for number in sorted(self._touched):
            partition = self._partitions[number]
            partition.shown.flush(commit, partition.progress.clock_s)
            partition.waiting.flush(commit)
            commit.put(_key(number), msgspec.msgpack.encode(partition.progress))
        self._touched.clear()
        commit.put(COUNTS_KEY, msgspec.msgpack.encode(self.counts))

    def between(self, runner: Runner) -> None:
        """Send ticks to quiet partitions in which actions wait, and drop what nobody needs any more."""
        if runner.progress.records == self._records_before:
            self._pace.match_rests(self._sendings)
        self._records_before = runner.progress.records
        self._sendings = self._pace.sendings()  # before the next read begins
        now_s = self._clock.now_s()
        every_s = min(max(self._reach_s / 16.0, TICK_S_MIN), TICK_S_MAX)
        ticks = []
        for number, partition in self._partitions.items():
            if len(partition.waiting) and now_s - partition.touched_s >= every_s:
                partition.touched_s = now_s
                ticks.append(Outgoing(b"tick", encode(Passing(self._clock.unix_s())), number))
        if ticks and self._pace.all_read():  # else what they wait for may be in a backlog
            self._log.append(MATCHES, ticks)
        if now_s >= self._trim_s and not runner.uncommitted:
            self._trim_s = now_s + TRIM_EVERY_S
            for number in sorted(runner.partitions):
                self._log.trim(MATCHES, number, self.begins_at(number, runner.position(number)).offset)

    def acquired(self, partition: int) -> None:
        """A partition is read from now on."""
        self._partition(partition)

    def begins_at(self, partition: int, position: int) -> Begin:
        """From where another matcher must read so as to have this one's state at `position`."""
        progress = self._partition(partition).progress
        if not progress.points:
            return Begin(position)
        old_s = progress.clock_s - REACHES * self._reach_s
        old = [point for point in progress.points if point.clock_s <= old_s]
        return old[-1] if old else progress.points[0]

    def begin_at(self, partition: int, begin: Begin, sends_from: int) -> None:
        """Begin a partition at an offset, without a state; see `Passed`."""
        self.erase(partition)
        commit = self._state.begin()
        commit.put(
            _key(partition),
            msgspec.msgpack.encode(_Progress(begin.clock_s, begin.ingest_s, [begin], sends_from)),
        )
        commit.set_offset(MATCHES, partition, begin.offset)
        self._state.commit(commit)

    def keeps(self, partition: int) -> bool:
        """Whether the state has anything of a partition."""
        return self._state.offset(MATCHES, partition) is not None or any(self._entries(partition))

    def erase(self, partition: int) -> None:
        """Remove a partition from the state, and soon from its files.

        A crash in between leaves a partition of which no offset is in the state.
        """
        self.drop(partition)
        commit = self._state.begin()
        commit.forget_offset(MATCHES, partition)
        commit.delete(_key(partition))
        self._state.commit(commit)
        keys = list(self._entries(partition))
        for first in range(0, len(keys), CLEAR_KEYS):
            commit = self._state.begin()
            commit.purge = True
            for key in keys[first : first + CLEAR_KEYS]:
                commit.delete(key)
            self._state.commit(commit)

    def _entries(self, partition: int) -> Iterator[bytes]:
        number = partition.to_bytes(4, "big")
        # which records were taken, too: those that are read again would be left out
        prefixes = SHOWN + number, WAITING + number, producers_prefix(MATCHES, partition)
        return (key for prefix in prefixes for key, _ in self._state.scan(prefix))

    def drop(self, partition: int) -> None:
        """Forget a partition in memory; the state keeps it."""
        self._partitions.pop(partition, None)
        self._touched.discard(partition)

    @property
    def waiting(self) -> int:
        """Actions that wait now."""
        return sum(len(partition.waiting) for partition in list(self._partitions.values()))

    def _partition(self, number: int) -> _MatchPartition:
        partition = self._partitions.get(number)
        if partition is None:
            partition = _MatchPartition(self._state, number, self._reach_s, self._settings.recent_max)
            self._partitions[number] = partition
        self._touched.add(number)
        return partition

    def _take(
        self,
        found: Showing | Seeking | Passing | Forget,
        record: Record,
        partition: _MatchPartition,
        commit: Commit,
    ) -> None:
        progress, counts = partition.progress, self._counts_of(partition)
        ingest_s = record.ingest_ms / 1e3
        if isinstance(found, Forget):  # it moves no clock
            entity = Entity(found.entity)
            partition.shown.forget(entity)
            counts.forgotten += partition.waiting.forget(entity)
            commit.purge = True
            return
        if isinstance(found, Passing):
            if 0.0 < progress.ingest_s < ingest_s:
                progress.clock_s = min(
                    progress.clock_s + ingest_s - progress.ingest_s, ingest_s + CLOCK_AHEAD_S
                )
            progress.ingest_s = max(progress.ingest_s, ingest_s)
            return
        latest_s = ingest_s + CLOCK_AHEAD_S if ingest_s else found.time
        if ingest_s and found.time > ingest_s + self._settings.max_ahead_s:
            raise RecordError(
                f"time is {found.time:.3f}, {found.time - ingest_s:,.0f} s ahead of when the log took the "
                f"record; ingest.max_ahead_s = {self._settings.max_ahead_s:g}"
            )
        progress.ingest_s = max(progress.ingest_s, ingest_s)
        before_s = progress.clock_s
        progress.clock_s = max(progress.clock_s, min(found.time, latest_s))
        if isinstance(found, Showing):
            counts.showings += 1
            if partition.shown.add(record.key, found, progress.clock_s):
                # none of those that were known fits an action that waits, but for those that settle
                for waiter in partition.waiting.of_key(record.key):
                    if before_s >= waiter.settles_s or not waiter.seeking.settle_s:
                        met = partition.shown.fits(found, waiter.seeking)
                        if met is not None:
                            self._meet(waiter, met, partition, commit)
            return
        counts.seeking += 1
        waiter = Waiter(record.offset, record.key, found)
        partition.waiting.add(waiter)
        if not found.settle_s:
            self._try(waiter, partition, commit)
        if len(partition.waiting) > self._settings.waiting_max:
            counts.early += 1
            self._give_up(partition.waiting.oldest(), partition, commit)

    def _decide_due(self, partition: _MatchPartition, commit: Commit) -> None:
        """Decide what the clock has made due."""
        clock_s = partition.progress.clock_s
        while (waiter := partition.waiting.pop_due(clock_s)) is not None:
            if not self._try(waiter, partition, commit) and clock_s >= waiter.ends_s:
                self._give_up(waiter, partition, commit)

    def _try(self, waiter: Waiter, partition: _MatchPartition, commit: Commit) -> bool:
        """Emit an action if its impression is known; returns whether it is."""
        found = partition.shown.find(waiter.key, waiter.seeking, partition.progress.clock_s)
        if found is not None:
            self._meet(waiter, found, partition, commit)
        return found is not None

    def _meet(
        self, waiter: Waiter, found: tuple[str, int], partition: _MatchPartition, commit: Commit
    ) -> None:
        """Emit the action with its request and candidate."""
        seeking = waiter.seeking
        partition.waiting.remove(waiter)
        self._counts_of(partition).matched += 1
        request_id, candidate = found
        action = Action(request_id, seeking.time, candidate, seeking.label, seeking.name, value=seeking.value)
        seq = output_seq(partition.offset, partition.outputs)
        partition.outputs += 1
        if partition.offset >= partition.progress.sends_from:
            producer = f"match.{seeking.source}-{partition.number}"
            commit.emit(EVENTS, Outgoing(request_id.encode(), encode_event(action), None, producer, seq))

    def _give_up(self, waiter: Waiter, partition: _MatchPartition, commit: Commit) -> None:
        seeking = waiter.seeking
        partition.waiting.remove(waiter)
        self._counts_of(partition).unmatched += 1
        names, values = msgspec.msgpack.decode(waiter.key)
        whose = ", ".join(f"{n} = {v!r}" for n, v in zip(names or ["request_id"], values, strict=True))
        which = ", ".join(f"{name} = {value!r}" for name, value in seeking.match.items())
        why = (
            f"source {seeking.source}, partition {seeking.partition}, offset {seeking.offset}: no impression "
            f"of {whose} has a candidate with {which}; it looked back {seeking.within_s:g} s and waited "
            f"{seeking.wait_s:g} s"
        )
        self._refuse(waiter.offset, waiter.key, encode(seeking), why, partition, commit)

    def _refuse(
        self, offset: int, key: bytes, value: bytes, why: str, partition: _MatchPartition, commit: Commit
    ) -> None:
        self._counts_of(partition).dead_letters += 1
        letter = DeadLetter(why, "ingest", MATCHES, partition.number, offset, value, key)
        seq = output_seq(partition.offset, partition.letters)
        partition.letters += 1
        if partition.offset >= partition.progress.sends_from:
            name = f"match-{partition.number}-dead"
            outgoing = Outgoing(
                f"{MATCHES}/{partition.number}".encode(), encode_event(letter), None, name, seq
            )
            commit.emit(DEAD_LETTERS, outgoing)

    def _counts_of(self, partition: _MatchPartition) -> MatchCounts:
        return self.counts if partition.offset >= partition.progress.sends_from else self._unseen

    def _note_point(self, partition: _MatchPartition) -> None:
        progress = partition.progress
        points = progress.points
        if not points:
            points.append(Begin(partition.offset, progress.clock_s, progress.ingest_s))
        elif progress.clock_s - points[-1].clock_s >= REACHES * self._reach_s / POINTS:
            points.append(Begin(partition.offset, progress.clock_s, progress.ingest_s))
            old_s = progress.clock_s - REACHES * self._reach_s
            while len(points) > 1 and points[1].clock_s <= old_s:
                del points[0]


def _key(partition: int) -> bytes:
    return PROGRESS + partition.to_bytes(4, "big")
