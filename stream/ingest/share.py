"""One process's share of a source's partitions, or of those of topic `matches`; how they pass on.

No state is moved. A process that takes a partition over begins where the one before has said, in the notes of
its beats, that everything is sent; two that read one partition at once send the same records under the same
numbers, and readers take each once.
"""

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ground.clock import SYSTEM_CLOCK, Clock
from stream.errors import LogAwayError
from stream.group.leavings import Keeper, Leavings
from stream.group.membership import Member
from stream.group.signs import Note
from stream.log.base import Log
from stream.run.contract import Handler
from stream.run.runner import Runner, patiently
from stream.state.role_state import RoleState

_log = logging.getLogger("freshet.ingest")

OFFSETS_EVERY_S = 1.0  # how often the offsets that lag tools read are committed
AT_ONCE_MAX = 1_000  # records of a turn that are committed without waiting for more
HELD_S = 0.02  # how long a source that is ahead of another waits before it looks again

PURGE_EVERY_S = 3_600.0  # how long what was sent may stay in the files of a state


class Begin(NamedTuple):
    """Where in a partition a handler may begin with an empty state."""

    offset: int
    clock_s: float = 0.0  # the state's event time there
    ingest_s: float = 0.0  # ingest time of the record before, Unix seconds


class Passed(Handler, Keeper, Protocol):
    """A handler whose partitions pass from one process to another."""

    def begins_at(self, partition: int, position: int) -> Begin:
        """From where another one must read so as to go on at `position`."""

    def begin_at(self, partition: int, begin: Begin, sends_from: int) -> None:
        """Begin a partition anew; what comes of records before `sends_from` is sent already."""

    def acquired(self, partition: int) -> None:
        """A partition is read from now on."""

    def turns(self) -> None:
        """Which partitions are read is known, and they are about to be."""
        return

    def quiet(self) -> list[int]:
        """Partitions of which it should be known whether they are read to their end."""
        return []

    def at_end(self, partition: int) -> None:
        """A partition is read to its end."""
        return

    def drop(self, partition: int) -> None:
        """A partition is read no longer; the state keeps it."""

    def between(self, runner: Runner) -> None:
        """Do what is due between two turns of the runner.

        Raises:
            LogAwayError: the handler left records that it cannot take now.
        """

    def held(self) -> bool:
        """Whether the last turn left records that are to be taken a moment later."""
        return False

    def set_away(self, away: bool) -> None:
        """Whether the log, or what else is needed to read, does not answer."""
        return


class ShareWork:
    """Keeps a runner at its member's share of a topic's partitions.

    Args:
        log: of the runner.
        handler: of the runner.
        runner: on `topic`, made with no partitions, and opened.
        newest: begin at the end of a partition that nobody has read yet.
    """

    def __init__(
        self,
        log: Log,
        state: RoleState,
        handler: Passed,
        runner: Runner,
        member: Member,
        topic: str,
        newest: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._log = log
        self._state = state
        self._handler = handler
        self._runner = runner
        self._member = member
        self._topic = topic
        self._newest = newest
        self._clock = clock
        self._noted_s = self._offsets_s = float("-inf")
        self._purged_s = float("-inf")
        self._purged_commits = -1  # commits of the runner before the last purge
        self._leavings = Leavings(handler, clock)

    def run(self, stop: threading.Event, report: Callable[[], None] = lambda: None) -> None:
        """Read what is this member's until `stop` is set; then commit and send.

        Raises:
            FreshetError: the role cannot go on.
        """

        def work() -> None:
            try:
                self.turn(stop)
            except LogAwayError:
                self._handler.set_away(True)
                raise
            self._handler.set_away(False)
            report()

        patiently(work, stop, self._clock)
        self._runner.end()
        self._note()

    def turn(self, stop: threading.Event) -> None:
        """One step, which may wait a moment for something to read."""
        self._settle()
        self._leavings.erase_due(self._log.partitions(self._topic), self._runner.partitions)
        self._purge_sent()
        if self._member.names:  # else the share is not known yet
            self._handler.turns()
        if not self._runner.partitions:
            self._state.purge()
            self._clock.wait(stop, self._member.settings.beat_s / 10.0)
            return
        before = self._runner.progress.records
        self._runner.turn(stop)
        if self._runner.uncommitted and self._runner.progress.records - before < AT_ONCE_MAX:
            self._runner.commit()  # the next read may wait for long: some logs look for an end first
        self._handler.between(self._runner)
        for partition in self._handler.quiet():
            if not self._log.read(self._topic, partition, self._runner.position(partition), 1):
                self._handler.at_end(partition)
        if self._handler.held():
            self._clock.wait(stop, HELD_S)

    def _settle(self) -> None:
        """Release partitions of others, take over our own, and note now and then where others could start."""
        self._member.turn()
        mine = self._member.share(self._log.partitions(self._topic))
        for partition in sorted(self._runner.partitions - mine):
            self._runner.release(partition)
            self._handler.drop(partition)
            self._leavings.leave(partition)
            _log.info("%s: released partition %d", self._topic, partition)
        for partition in sorted(mine - self._runner.partitions):
            self._acquire(partition)
        now_s = self._clock.now_s()
        if now_s - self._noted_s >= self._member.settings.beat_s:
            self._runner.commit()
            self._note()
        if now_s - self._offsets_s >= OFFSETS_EVERY_S and not self._runner.uncommitted:
            self._offsets_s = now_s
            self._runner.commits_offsets = True
            self._runner.commit_offsets()
            self._runner.commits_offsets = False  # at each commit it would cost more than the commit

    def _purge_sent(self) -> None:
        """Remove what was sent from the files too: nobody tells a source which ids are to be forgotten."""
        now_s, commits = self._clock.now_s(), self._runner.progress.commits
        if now_s - self._purged_s >= PURGE_EVERY_S and commits != self._purged_commits:
            self._purged_s, self._purged_commits = now_s, commits
            commit = self._state.begin()
            commit.purge = True
            self._state.commit(commit)

    def _note(self) -> None:
        """Publish where others may take over. Everything taken is committed."""
        self._noted_s = self._clock.now_s()
        if self._state.unsent():
            return
        notes = []
        for partition in sorted(self._runner.partitions):
            position = self._runner.position(partition)
            begin = self._handler.begins_at(partition, position)
            notes.append(Note(partition, position, *begin))
        self._member.publish(notes)

    def _acquire(self, partition: int) -> None:
        """Start to read a partition: from our own state, or where another process has come to."""
        first, end = self._log.ends(self._topic)[partition]
        held = self._state.offset(self._topic, partition)
        note = self._member.note(partition)
        if note is not None and not note.offset <= note.position <= end:
            _log.warning(
                "%s, partition %d: a note beyond the end of the topic is ignored", self._topic, partition
            )
            note = None
        if note is not None and (held is None or held < note.position):
            begin = Begin(note.offset, note.clock, note.ingest_s)
            if note.offset < first <= note.position:
                begin = Begin(first)  # what is gone from the front was sent
            self._handler.begin_at(partition, begin, note.position)
            how = f"goes on at offset {note.position}, where another process was"
        elif held is None:
            begin = Begin(end if self._newest else first)
            self._handler.begin_at(partition, begin, begin.offset)
            how = f"begins at offset {begin.offset}"
        else:
            how = f"goes on at offset {held}"
        self._runner.acquire(partition)
        self._handler.acquired(partition)
        if self._runner.position(partition) >= end:
            self._handler.at_end(partition)
        _log.info("%s: acquired partition %d: %s", self._topic, partition, how)
