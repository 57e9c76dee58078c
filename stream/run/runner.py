"""The loop of every role that reads the log: read, drop duplicates, handle, commit, send.

State, offsets and outputs go into one commit; outputs are sent after it. The order in which partitions were
taken, which a rerun would not repeat, is stored in each commit: the journal. `Runner.follow` reads along one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from ground.clock import SYSTEM_CLOCK, Clock
from ground.retry import Backoff, Pauses
from stream.errors import LogAwayError, LogError, RecordsGoneError
from stream.log.base import Log, Record
from stream.log.lag import Position
from stream.run.contract import RUNNER_DEFAULTS, Handler, Progress, RunnerSettings, Subscription
from stream.state.journal import Journal, JournalStretch
from stream.state.outbox import OutboxBlock
from stream.state.repeats import SavedRepeats
from stream.state.role_state import Commit, RoleState

_log = logging.getLogger("freshet.runner")

LAG_EVERY_S = 1.0
TAKE_RECORDS_MAX = 250  # handed over at once: stopping a slow role takes no longer than these
FOLLOW_WAIT_S = 5.0  # for a record that is there, from a log that has to fetch it
AWAY_PAUSES = Pauses(first_s=0.25, longest_s=5.0)  # until a log that is away is tried again


def patiently(turn: Callable[[], None], stop: threading.Event, clock: Clock = SYSTEM_CLOCK) -> None:
    """Call `turn` again and again until `stop` is set; while the log is away, wait and try again."""
    backoff = Backoff(AWAY_PAUSES, clock)
    while not stop.is_set():
        try:
            turn()
        except LogAwayError as error:
            if not backoff.failed:
                _log.warning("%s; trying again until it answers", error)
            backoff.wait(stop)
        else:
            if backoff.failed:
                _log.warning("the log is back")
                backoff.reset()


class Runner:
    """Runs one handler on one topic. Of one thread; `stop` of `run` may be set from another."""

    def __init__(
        self,
        log: Log,
        state: RoleState,
        handler: Handler,
        subscription: Subscription,
        settings: RunnerSettings = RUNNER_DEFAULTS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Go on from a state; `open` comes before all else, and is the first to talk to the log.

        Args:
            clock: says when a commit is due.
        """
        self.progress = Progress()
        self._log = log
        self._state = state
        self._handler = handler
        self._subscription = subscription
        self._topic = subscription.topic
        self._group = subscription.group
        self._settings = settings
        self.commits_offsets = subscription.commits_offsets  # may be changed at any time
        self._clock = clock
        self.last_sent: dict[str, int] = {}  # topic -> offset of the last record that was sent there
        self._next: dict[int, int] = {}  # of the partitions that it reads
        self._repeats: dict[int, SavedRepeats] = {}
        self._journal = Journal(state, settings.journal_max)
        self._commit = state.begin()
        self._taken: list[JournalStretch] = []
        self._cut: int | None = None  # the partition of a record that is taken in part, and not committed yet
        self._uncommitted = 0
        self._first_uncommitted_s = 0.0
        self._lag_at_s = float("-inf")
        self._taken_ms: dict[int, int] = {}  # partition -> ingest time of the last record taken
        self._uncommitted_bytes = 0

    def open(self) -> Self:
        """Send what an earlier run left unsent, and seek to the state's offsets.

        Raises:
            LogError: the log fails, or has dropped records that this role has yet to read.
        """
        self._send()
        partitions = self._subscription.partitions
        for partition in range(self._log.partitions(self._topic)) if partitions is None else partitions:
            self.acquire(partition)
        return self

    @property
    def partitions(self) -> set[int]:
        """The partitions that it reads."""
        return set(self._next)

    def acquire(self, partition: int) -> None:
        """Start to read a partition at the state's offset.

        Raises:
            LogError: the log has dropped records that this role has yet to read.
        """
        first, end = self._log.ends(self._topic)[partition]
        self._next[partition] = self._seek(partition, first, end)
        self._repeats[partition] = SavedRepeats(
            self._state, self._topic, partition, self._settings.producers_max
        )
        if self.commits_offsets and self._state.offset(self._topic, partition) is not None:
            # the offsets in the log may be older than the last commit of an earlier run
            self._log.commit(self._group, self._topic, {partition: self._next[partition]})

    @property
    def uncommitted(self) -> int:
        """Records taken since the last commit."""
        return self._uncommitted

    def position(self, partition: int) -> int:
        """The next offset of a partition to be taken."""
        return self._next[partition]

    def release(self, partition: int) -> None:
        """Commit, send all that is unsent, and stop reading a partition; while the log is away, keep it."""
        self.commit()
        del self._next[partition]
        del self._repeats[partition]

    def positions(self) -> dict[int, Position]:
        """The position in each partition that it reads. May be called from any thread."""
        return {p: Position(offset, self._taken_ms.get(p, 0)) for p, offset in list(self._next.items())}

    def run(self, stop: threading.Event, report: Callable[[], None] = lambda: None) -> None:
        """Read, handle and commit until `stop` is set; then commit what was taken, send it, and return.

        Args:
            report: called after each turn, some times a second.

        Raises:
            FreshetError: the role cannot go on. What was not committed is read again next time.
        """

        def turn() -> None:
            self.turn(stop)
            report()

        patiently(turn, stop, self._clock)
        self.end()

    def end(self) -> None:
        """Commit what was taken, and send it."""
        try:
            self.commit()
        except LogAwayError as error:
            # it is committed, and sent at the next start: no reason to delay the stop
            _log.warning("%s; what is unsent will be sent at the next start", error)

    def turn(self, stop: threading.Event) -> None:
        """One step, which may wait a moment for something to read.

        Raises:
            LogAwayError: the log is away; the next turn goes on where this one was.
        """
        self._send()  # what was committed when the log went away
        wait_s = self._settings.wait_s
        if self._uncommitted:
            wait_s = min(wait_s, max(self._due_s() - self._clock.now_s(), 0.0))
        self.step(wait_s, stop)

    def step(self, wait_s: float = 0.0, stop: threading.Event | None = None) -> int:
        """Take what each partition has, once, in turn; commit where due. Returns how many were taken.

        Where none has anything, waits up to `wait_s` seconds for a record. Takes no more once `stop` is set.
        """
        took = 0
        found = self._log.read_any(
            self._topic, self._next, self._settings.read_max, self._settings.read_bytes_max, wait_s
        )
        for partition in sorted(found):
            records = found[partition]
            for first in range(0, len(records), TAKE_RECORDS_MAX):
                if stop is not None and stop.is_set():
                    return took  # the rest is read again
                piece = records[first : first + TAKE_RECORDS_MAX]
                took += len(piece)
                if not self._take(partition, piece):
                    self.commit()
                    break  # the rest is read again
                if self._handler.full() or self._uncommitted_bytes >= self._settings.commit_bytes_max:
                    self.commit()
            self._commit_if_due()
        if not found:
            self._commit_if_due()
            self._state.purge()  # if it could not begin earlier
            self.progress.lag_records = 0
        return took

    def _commit_if_due(self) -> None:
        if self._uncommitted and (
            self._uncommitted >= self._settings.commit_records_max or self._clock.now_s() >= self._due_s()
        ):
            self.commit()

    def follow(
        self, journal: Iterable[Sequence[JournalStretch]], stop: threading.Event | None = None
    ) -> None:
        """Take exactly the records of a journal, in its order, with its commits.

        Raises:
            LogError: the log no longer holds some of it, or the state is not where the journal begins.
        """
        for taken in journal:
            for stretch in taken:
                if self._next[stretch.partition] != stretch.start:
                    raise LogError(
                        f"topic {self._topic!r}, partition {stretch.partition}: the journal goes on at "
                        f"offset {stretch.start}, the state at {self._next[stretch.partition]}; follow a "
                        "journal from its beginning with an empty state, while the log still holds all of it"
                    )
                while self._next[stretch.partition] < stretch.end:
                    self._take_stretch(stretch)
            self.commit()
            if stop is not None and stop.is_set():
                return

    def take_stretches(
        self, taken: Sequence[JournalStretch], check: Callable[[], None] = lambda: None
    ) -> None:
        """Take the rest of some stretches of a journal, in their order, in one commit.

        After a LogAwayError call it again with the same, before anything else is taken.

        Args:
            check: called before the commit; what it raises keeps the commit from being made.

        Raises:
            LogError: the state is not where they begin, or the log no longer holds some of it.
        """
        for stretch in taken:
            while (position := self._next[stretch.partition]) < stretch.end:
                if position < stretch.start:
                    raise LogError(
                        f"topic {self._topic!r}, partition {stretch.partition}: records up to offset "
                        f"{stretch.start} were to be taken before; the state is at {position}"
                    )
                self._take_stretch(stretch)
        check()
        self.commit()

    def commit(self) -> None:
        """Commit what was taken, if anything, and send what was emitted, now or when the log went away."""
        if self._taken or self._cut is not None:
            began_s = self._clock.now_s()
            self._commit.taken = [(t.partition, t.start, t.end) for t in self._taken]
            self._handler.flush(self._commit)
            cut = () if self._cut is None else (self._cut,)
            for partition in {*cut, *(stretch.partition for stretch in self._taken)}:
                self._commit.set_offset(self._topic, partition, self._next[partition])
                self._repeats[partition].save(self._commit)
            self._journal.note(self._taken, self._commit)
            self._state.commit(self._commit)
            self._handler.committed()
            self._commit = self._state.begin()
            self._taken, self._cut = [], None
            self._uncommitted = self._uncommitted_bytes = 0
            self.progress.commits += 1
            self.progress.commit_s += self._clock.now_s() - began_s
            self._send()
            self.commit_offsets()
            self._state.purge()
            self._measure_lag()
        else:
            self._send()

    def emit(self, work: Callable[[Commit], None]) -> None:
        """Commit what was taken, then what `work` adds beside any record, and send both."""
        self.commit()
        work(self._commit)
        self._handler.flush(self._commit)
        self._state.commit(self._commit)
        self._handler.committed()
        self._commit = self._state.begin()
        self._send()

    def commit_offsets(self) -> None:
        """Commit the positions to the log, for lag tools. Call it while nothing is uncommitted.

        A member that has lost a partition, and has not noticed yet, may commit an older offset after its
        successor. So the successor calls this now and then even if nothing comes.
        """
        if self.commits_offsets and self._next:
            self._log.commit(self._group, self._topic, self._next)

    def _due_s(self) -> float:
        return self._first_uncommitted_s + self._settings.commit_every_s

    def _seek(self, partition: int, first: int, end: int) -> int:
        """The offset to resume from in a partition that holds offsets [first, end)."""
        offset = self._state.offset(self._topic, partition)
        if offset is None:
            return first
        if offset > end:
            raise LogError(
                f"topic {self._topic!r}, partition {partition}: the state has consumed up to offset "
                f"{offset}, the log ends at {end}: this is not the log that state {self._state.path} "
                "was made from; configure the right log, or another state folder"
            )
        if offset < first:
            self._gap(partition, offset, first)
            return first
        return offset

    def _gap(self, partition: int, expected: int, found: int) -> None:
        if self._settings.on_gap == "stop":
            raise RecordsGoneError(
                f"topic {self._topic!r}, partition {partition}: the log has dropped offsets {expected} to "
                f"{found - 1}, which were not consumed yet; keep records longer (retain_s, retain_bytes), "
                'or set on_gap = "skip" to continue without them'
            )
        self.progress.skipped += found - expected

    def _take_stretch(self, stretch: JournalStretch) -> None:
        partition, start = stretch.partition, self._next[stretch.partition]
        most = min(self._settings.read_max, stretch.end - start)
        records = self._log.read(
            self._topic, partition, start, most, self._settings.read_bytes_max, FOLLOW_WAIT_S
        )
        first, end = self._log.ends(self._topic)[partition]
        if not records and first <= start < end:
            # a slow log is no shorter one: only what it says of its ends counts
            raise LogAwayError(f"{self._log} does not bring offset {start} of topic {self._topic!r}")
        records = [record for record in records if record.offset < stretch.end]
        if not records or first > start:
            raise RecordsGoneError(
                f"topic {self._topic!r}, partition {partition}: the log does not hold offset {start}, "
                "which the journal names"
            )
        self._take(partition, records)

    def _take(self, partition: int, records: list[Record]) -> bool:
        """Hand over records; returns whether all of them were taken. If not, commit."""
        start = self._next[partition]
        if records[0].offset > start:
            first = self._log.ends(self._topic)[partition][0]
            if first > start:  # else it is a gap: some logs skip offsets
                self._gap(partition, start, first)
        if not self._uncommitted:
            self._first_uncommitted_s = self._clock.now_s()
        repeats = self._repeats[partition]
        if self._handler.may_cut():
            repeats.begin()
        fresh = repeats.leave_out(records)
        taken = self._handler.handle(fresh, self._commit) if fresh else None
        end = records[-1].offset + 1
        if taken is not None:
            end = fresh[taken].offset
            records = [record for record in records if record.offset < end]
            repeats.roll_back()
            fresh = repeats.leave_out(records)
            self._cut = partition
        self._uncommitted += len(records)
        self._uncommitted_bytes += sum([len(record.value) for record in records])
        if self._taken and self._taken[-1].partition == partition and self._taken[-1].end == start:
            self._taken[-1] = JournalStretch(partition, self._taken[-1].start, end)
        elif end > start:
            self._taken.append(JournalStretch(partition, start, end))
        self._next[partition] = end
        if records:
            self._taken_ms[partition] = records[-1].ingest_ms
        self.progress.duplicates += len(records) - len(fresh)
        if fresh:
            self.progress.records += len(fresh)
            self.progress.newest_ingest_ms = max(self.progress.newest_ingest_ms, fresh[-1].ingest_ms)
        return taken is None

    def _send(self) -> None:
        """Append the outbox to the log, block after block."""
        for block in self._state.unsent():
            self.send_block(block)

    def send_block(self, block: OutboxBlock) -> None:
        """Append one block of the outbox to the log, and note that it is there."""
        appended = self._log.append(block.topic, block.records)
        self.last_sent[block.topic] = appended[-1][1]
        self._state.mark_sent(block.number)
        self.progress.sent += len(block.records)

    def _measure_lag(self) -> None:
        now_s = self._clock.now_s()
        if now_s - self._lag_at_s >= LAG_EVERY_S:
            self._lag_at_s = now_s
            ends = self._log.ends(self._topic)
            self.progress.lag_records = sum(ends[p][1] - offset for p, offset in self._next.items())
