"""Several joiners share the partitions; a partition moves when a joiner comes or goes.

The assignment follows from the live members (`stream.group.membership`). A joiner that takes over a partition
resumes from its own state if it joined the partition recently. Otherwise it starts with an empty state and
reads back as far as a record can have influence (`REACH_WINDOWS`), which gives exactly the state of the
previous joiner. It does not send the outputs of records that the previous joiner has finished.

Each joiner's beats carry notes that say where to start, a few numbers per partition; state is never moved. No
joiner waits until another releases a partition: two joiners of one partition send the same records with the
same sequence numbers, and readers take each once.
"""

import logging
import threading
from collections.abc import Callable

from ground.clock import SYSTEM_CLOCK, Clock
from stream.group.leavings import Leavings
from stream.group.membership import Member
from stream.group.signs import Note
from stream.join.joiner import Joiner
from stream.join.partition import ResumePoint
from stream.join.sharding.sent import SentExamples, look, placed
from stream.log.base import EVENTS, EXAMPLES, Log, Outgoing
from stream.records.types import Tick, encode
from stream.run.runner import Runner, patiently
from stream.state.role_state import RoleState

_log = logging.getLogger("freshet.shares")

TICK_WINDOWS = 0.25  # how long a partition is quiet before its first tick, and between ticks
TICK_S_MIN, TICK_S_MAX = 0.5, 15.0

OFFSETS_EVERY_S = 10.0  # how often the offsets that lag tools read are committed, even if nothing comes


class Shares:
    """Keeps a joiner's runner at its member's share of the partitions.

    Args:
        runner: of the joiner, on topic `events`, made with no partitions.
    """

    def __init__(
        self,
        log: Log,
        state: RoleState,
        joiner: Joiner,
        runner: Runner,
        member: Member,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._log = log
        self._state = state
        self._joiner = joiner
        self._runner = runner
        self._member = member
        self._clock = clock
        self._partitions = log.partitions(EVENTS)
        self._places = range(log.partitions(EXAMPLES)) if joiner.shard_by else range(0)
        window_s = joiner.settings.window_s
        self._tick_every_s = min(max(window_s * TICK_WINDOWS, TICK_S_MIN), TICK_S_MAX)
        self._noted_s = self._offsets_s = float("-inf")
        self._held_up: list[str] = []  # members that place examples otherwise, and were there first
        self._moved: dict[int, tuple[int, float]] = {}  # partition -> (position, since when, by our clock)
        self._leavings = Leavings(joiner, clock)

    def run(self, stop: threading.Event, report: Callable[[], None] = lambda: None) -> None:
        """Join what is this member's until `stop` is set; then commit and send.

        Args:
            report: called after each turn, some times a second.

        Raises:
            FreshetError: the role cannot go on.
        """

        def work() -> None:
            self.turn(stop)
            report()

        patiently(work, stop, self._clock)
        if self._held_up:
            return  # others may have sent already what is unsent here
        self._runner.end()
        self.note()

    def turn(self, stop: threading.Event) -> None:
        """One step, which may wait a moment for something to read."""
        self.settle()
        self._leavings.erase_due(self._partitions, self._runner.partitions)
        if self._runner.partitions:
            self._runner.turn(stop)
            self.tick()
        else:
            self._state.purge()  # else the runner does
            self._clock.wait(stop, self._member.settings.beat_s / 10.0)

    def settle(self) -> None:
        """Release partitions of others, take over our own, and note regularly where others could start."""
        self._member.turn()
        self._say_what_holds_up()
        mine = self._member.share(self._partitions)
        for partition in sorted(self._runner.partitions - mine):
            self._runner.release(partition)
            self._joiner.drop(partition)
            self._leavings.leave(partition)
            _log.info("released partition %d", partition)
        if new := sorted(mine - self._runner.partitions):
            found = look(self._log, new, self._joiner.shard_by)
            for partition in new:
                self.acquire(partition, found[partition])
        if self._clock.now_s() - self._noted_s >= self._member.settings.beat_s:
            self._runner.commit()
            self._commit_offsets()
            self.note()

    def _say_what_holds_up(self) -> None:
        others = self._member.held_up_by()
        if others and not self._held_up:
            _log.warning(
                "waits, because joiners that place examples otherwise than %s are there: %s; stop them with "
                "SIGTERM, and start all joiners with one config",
                placed(self._joiner.shard_by),
                ", ".join(others),
            )
        elif self._held_up and not others:
            _log.info("joiners that place examples otherwise are gone; works now")
        self._held_up = others

    def _commit_offsets(self) -> None:
        """Correct, in time, what another joiner of our partitions committed before it noticed their move."""
        now_s = self._clock.now_s()
        if now_s - self._offsets_s >= OFFSETS_EVERY_S:
            self._offsets_s = now_s
            self._runner.commit_offsets()

    def tick(self) -> None:
        """Send a tick to each partition that has gone quiet while requests wait.

        Our own clock decides only when to send. The effect of a tick follows from the ingest times of the
        tick and of the record before it, so it does no harm if two joiners of one partition both send one.
        """
        now_s = self._clock.now_s()
        quiet = [partition for partition in self._runner.partitions if self._quiet(partition, now_s)]
        if quiet:
            tick = encode(Tick(self._clock.unix_s()))
            self._log.append(EVENTS, [Outgoing(b"tick", tick, partition) for partition in sorted(quiet)])

    def _quiet(self, partition: int, now_s: float) -> bool:
        """Whether a partition lacks time, and nothing has come for a while."""
        position = self._runner.position(partition)
        before = self._moved.get(partition)
        if before is None or before[0] != position:
            self._moved[partition] = position, now_s
            return False
        if now_s - before[1] < self._tick_every_s or not self._joiner.lacks_time(partition):
            return False
        self._moved[partition] = position, now_s
        return True

    def note(self) -> None:
        """Publish where others may take over our partitions. Everything taken is committed and sent."""
        self._noted_s = self._clock.now_s()
        if self._state.unsent():
            return
        notes = []
        for partition in sorted(self._runner.partitions):
            point = self._joiner.resume_point(partition)
            if point is not None:
                position = self._runner.position(partition)
                notes.append(Note(partition, position, point.offset, point.clock, point.ingest_s))
        self._member.publish(notes)

    def acquire(self, partition: int, found: SentExamples | None = None) -> None:
        """Start to read a partition: from our own state, or from the previous joiner's note.

        Args:
            found: what of its outputs is in topic `examples`; None: it is looked up.

        Raises:
            LogError: examples that were placed otherwise would be sent again.
        """
        first, end = self._log.ends(EVENTS)[partition]
        found = found or look(self._log, [partition], self._joiner.shard_by)[partition]
        sent = found.newest
        note = self._member.note(partition)
        if note is not None and not note.offset <= note.position <= end:
            _log.warning("partition %d: a note that lies beyond the end of the log is ignored", partition)
            note = None
        noted = 0 if note is None else note.position
        held = self._state.offset(EVENTS, partition)
        begins = None  # else from our own state
        how = "goes on from its own state"
        if self._joiner.shard_by or found.how:
            sent = max(sent, noted)
        if note is not None and (held is None or held < note.offset):
            sent = max(sent, noted)
            # what retention has taken from the front is missed only if it was still to be joined
            begin = note.offset if first <= note.offset or first > sent else first
            begins = ResumePoint(note.clock, begin, note.ingest_s if begin == note.offset else 0.0)
            how = f"reads back from offset {begin}"
        elif held is None:
            begins = ResumePoint(0.0, first)
            how = "begins at the front of the log"
        start = noted if held is None or begins is not None else max(noted, held)
        found.check_moved(partition, start, self._joiner.shard_by)
        if begins is not None:
            self._joiner.begin_at(partition, begins)
        sent_to = {place: max(noted, found.to.get(place, 0)) for place in self._places}
        self._joiner.send_from(partition, sent, sent_to)
        self._runner.acquire(partition)
        _log.info("acquired partition %d: %s, sends from offset %d on", partition, how, sent)
