"""One life of a learner of a group: from the opening of its state to its close, it stands by and leads.

How the learners of a group take turns in leading: `learner.role.succession`.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from ground.clock import SYSTEM_CLOCK, Clock
from ground.threads import HelperThread
from learner.entities.saved import Sent, holds
from learner.errors import UpdateDamagedError, UpdateGapError
from learner.role.anew import is_marked, unmark
from learner.role.learner import Learner
from learner.role.rollback import Obedience
from learner.role.setup import Callbacks, Folders, Learning
from learner.role.shared_snapshots import SharedSnapshots
from learner.updates.chain import Chain, UpdatePosition
from learner.updates.follower import check_own
from learner.updates.format import Update, decode_update, term_begins
from learner.updates.snapshots import READ_BYTES_MAX
from stream.errors import RecordsGoneError
from stream.group.membership import Member
from stream.log.base import EXAMPLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.journal import JournalStretch
from stream.state.role_state import RoleState

_log = logging.getLogger("freshet.learner")

LOOK_WAIT_S = 0.1
NOTE_EVERY_S, SAY_EVERY_S = 5.0, 30.0
SNAP_AGAIN_S = 5.0  # after a copy into the shared folder that failed


class AsideError(Exception):
    """The state does not belong to the group's history; a snapshot has to replace it.

    Args:
        right_until: the last update up to which the state is the group's, so that an older snapshot in which
            it began may be used again; -1: not known.
    """

    def __init__(self, why: str, right_until: int = -1) -> None:
        super().__init__(why)
        self.right_until = right_until


class FencedError(Exception):
    """Another learner leads in a higher term."""


class LearnerOfGroup:
    """Where a learner of a group learns, what, and with whom: the same in each of its sessions.

    Args:
        member: this learner's membership of the group.
        folders: where its data is.
        learning: what it learns, and how.
        callbacks: what it calls.
        clock: the clock by which it waits.
    """

    def __init__(
        self,
        log: Log,
        member: Member,
        folders: Folders,
        learning: Learning,
        callbacks: Callbacks,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.log = log
        self.member = member
        self.folder = folders.state
        self.disk = folders.disk
        self.learning = learning
        self.clock = clock
        kept = member.settings.snapshots_kept
        self.snapshots = SharedSnapshots(folders.snapshots, member.name, folders.disk, kept)
        self.at_work = callbacks.at_work
        self.model = learning.model
        self._on_ready: Callable[[], None] | None = callbacks.on_ready
        self.fingerprint = Learner.fingerprint(learning.features, learning.settings, learning.targets)
        self.incomplete = False  # the log lacks updates, or examples of them: none can begin at the first

    def ready(self) -> None:
        """Report once that the learner leads or could lead."""
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None


class Session:
    """A learner from the opening of its state to its close."""

    def __init__(self, group: LearnerOfGroup, state: RoleState, stop: threading.Event) -> None:
        self._group = group
        self._log = group.log
        self._member = group.member
        self._state = state
        self._stop = stop
        self._clock = group.clock
        features, settings, runner_settings, targets, _ = group.learning
        self.learner = Learner(features, settings, state, targets, beside=True, clock=group.clock)
        self.learner.publish_to(self._log)
        self.learner.leads = False
        group.snapshots.opened(self.learner.meta.seq)
        self.learner.warm()
        self.runner = Runner(
            self._log,
            state,
            self.learner,
            Subscription(EXAMPLES, "learn", commits_offsets=False),
            runner_settings,
            clock=group.clock,
        ).open()
        self._orders = Obedience(self._log, group.model, self.learner, self.runner, group.snapshots)
        self._chain = Chain(self.learner.position)
        self.offset = self.learner.position.offset
        # whether an update has counted since the log had dropped some that were to be read; None: it has not
        self._doubtful: bool | None = None
        self._current: Update | None = None  # being learned now
        self._said: list[Sent] = []  # of entities, by this update
        self._marked = is_marked(group.folder, group.disk)
        self._anew = self._marked and self.learner.meta.seq == 0  # whatever the log holds
        self.lost = False  # the log alone is not enough to rebuild the group's state
        self.term = -1  # that it has claimed; -1: none
        self.leading = False
        self._noted_s = self._said_s = self._snapped_s = self._snap_again_s = float("-inf")
        self.snapping: HelperThread | None = None  # it alone sets what follows, and `_snapped_s`
        self._completed = 0  # snapshots in the log before the last one in the folder
        self._purges = -1  # of the state before that one; whether one came before this life is not known

    def turn(self) -> None:
        """One step of leading or standing by."""
        self._member.turn()
        if self.leading:
            self._lead()
        elif self.term >= 0:
            self.take_over()
        else:
            self._stand_by()

    def end(self, finish: bool) -> None:
        """Stop leading. With `finish` changes are committed and sent first. Raises a snapshot's defect."""
        try:
            if self.leading and finish:
                self.runner.end()
            self._member.resign()
            if self.snapping is not None:
                self.snapping.join()
                self.snapping.check()
        finally:
            self.learner.close()

    # --- standing by ---

    def _stand_by(self) -> None:
        self._follow(self._log.ends(UPDATES)[0][1])
        able = not self.lost
        if self._anew:
            able = True
            if self._member.leader is not None and not self._member.vacant():
                self._say("another learner leads; this one begins anew after that one is stopped")
        elif self.lost:
            if self._group.snapshots.there():
                raise AsideError("the group has a snapshot to begin from")
            leader = self._member.leader
            # the leader itself, with an emptied folder: it may begin anew, as it may when it is alone
            able = leader is not None and leader.name == self._member.name
            self._say_waiting()
        self._member.able(able)
        if able:
            self._group.ready()
            if self._member.vacant():
                self.term = self._member.claim()
                return
        self._log.read(UPDATES, 0, self.offset, 1, 1, LOOK_WAIT_S)

    def _follow(self, until: int) -> None:
        """Learn the updates that leaders have published before an offset.

        Raises:
            AsideError: this learner has published other updates, or updates are missing.
        """
        meta = self.learner.meta
        self._learn_current()
        while self.offset < until and not self._stop.is_set():
            records = self._log.read(UPDATES, 0, self.offset, 100, READ_BYTES_MAX)
            if records and records[0].offset > self.offset and self._log.ends(UPDATES)[0][0] > self.offset:
                self._doubtful = False
            if not records:
                self.offset = until  # the rest are offsets without records
            for record in records:
                self.offset = record.offset + 1
                try:
                    update = decode_update(record.value)
                except UpdateDamagedError as damage:  # the next record shows whether an update is missing
                    _log.warning("record %d of topic updates: %s", record.offset, damage)
                    continue
                self._check_fenced(update)
                try:
                    parts = self._chain.take(update)
                except UpdateGapError:
                    self._jump(update)
                    continue
                if parts is not None:
                    if self._doubtful is not None:
                        self._doubtful = True
                    self._take(parts)
                if self.offset >= until:
                    break
        right = self._chain.seq
        if right < meta.seq and self._chain.made_in > meta.term:
            raise AsideError(f"update {meta.seq} came after another learner had begun to lead", right)
        if meta.seq and right < meta.seq and self._chain.term > meta.term:
            raise AsideError(f"update {meta.seq} was never published", right)

    def _check_fenced(self, update: Update) -> None:
        """Raises AsideError if the log has dropped the record that began this update's term, and an update of
        the leader before, of this learner perhaps, has counted since: that record would have fenced it."""
        if self._doubtful and self.learner.meta.seq and update.parts and update.term > self._chain.term:
            self._group.incomplete = True  # from the first update on, it would be met again
            raise AsideError(f"the log has dropped the record that began term {update.term}")

    def _take(self, parts: Sequence[Update]) -> None:
        """Learn a complete update that counts, or check that this learner has made it."""
        meta, update = self.learner.meta, parts[-1]
        if self.lost or self._anew:
            return
        check_own(update, self.learner.model)
        if meta.seq == 0:
            if not update.taken or update.learning not in ("", self.learner.model.learning_identity):
                self.lost = True
                return
            dropped = any(self.runner.position(partition) > start for partition, start, _ in update.taken)
            if dropped or self._group.incomplete:
                self.lost = True  # the log has dropped examples of the first update
                return
            self.learner.begin_epoch(update.epoch)
        if update.epoch != meta.epoch:
            self._group.incomplete = True  # from the first update on, it would be met again
            raise AsideError("another learner has begun from the beginning")
        if update.seq <= meta.seq:
            if update.term != meta.term:
                raise AsideError(f"update {update.seq} is another learner's", update.seq - 1)
            return
        self.learner.term = update.term
        self.learner.meta.held = update.held
        self.learner.unsaid.follow(parts)
        self.learner.position = self._chain.position(self.offset)
        self._current, self._said = update, [said for part in parts for said in part.entities]
        self._learn_current()

    def _learn_current(self) -> None:
        """Learn the examples of the current update, all in one commit, even if the log fails meanwhile."""
        if self._current is not None:
            stretches = [JournalStretch(*stretch) for stretch in self._current.taken]
            if stretches:
                try:
                    self.runner.take_stretches(stretches, self._check_learned)
                except RecordsGoneError as gone:
                    if self.learner.meta.seq > 0:
                        raise
                    self._group.incomplete = True
                    raise AsideError(f"the first update cannot be learned again: {gone}") from None
            else:  # it says only that the leader holds, or goes on
                self.runner.emit(lambda commit: None)
            assert self.learner.meta.seq == self._current.seq, "one commit, one update"
            self._current = None

    def _check_learned(self) -> None:
        """Raises AsideError where the log lacks, in the middle, records that the update was made of."""
        update, rows = self._current, self.learner.meta.examples
        assert update is not None
        if rows != update.examples:
            self._group.incomplete = True
            raise AsideError(f"update {update.seq} came after {update.examples:,} rows, not {rows:,} as here")
        if not holds(self.learner.model.entities, self._said):
            self._group.incomplete = True
            raise AsideError(f"update {update.seq} says other things of entities than are known here")

    def _jump(self, update: Update) -> None:
        """Handle a gap before this update: the log no longer holds the updates in it."""
        meta = self.learner.meta
        if meta.seq == 0:
            self.lost = True
        elif not (update.epoch == meta.epoch and update.seq <= meta.seq and update.term == meta.term):
            self._group.incomplete |= update.epoch == meta.epoch  # from the first on, it would be met again
            raise AsideError(f"the log no longer holds update {meta.seq + 1}")
        self._chain.jump(update.epoch, update.seq, update.term)

    def _say_waiting(self) -> None:
        self._say(
            "this learner has no state, and the log's updates are incomplete or were learned with other "
            f"settings; it waits for a snapshot in {self._group.snapshots.folder} (group.snapshots: a folder "
            "that all learners share). To begin anew from the log's examples: freshet learn --anew"
        )

    def _say(self, what: str) -> None:
        now = self._clock.now_s()
        if now - self._said_s >= SAY_EVERY_S:
            self._said_s = now
            _log.warning("%s", what)

    # --- leading ---

    def take_over(self) -> None:
        """Begin the claimed term: from here on no lower term counts."""
        if not self._member.leads(self.term):
            self.term = -1
            return
        begin = term_begins(self.learner.meta.epoch, self.term)
        # Snapshots first: so no snapshot counts whose update does not.
        for topic in (SNAPSHOTS, UPDATES):
            ((_, offset),) = self._log.append(topic, [Outgoing(b"term", begin, 0)])
        self._follow(offset + 1)
        if self._chain.term > self.term:
            self.term = -1
            return
        self.learner.lead(self.term, self._chain.position(offset + 1))
        self.runner.commits_offsets = True
        self.leading = True
        self._orders.begin()
        _log.info("leads, in term %d, from update %d on", self.term, self.learner.meta.seq)

    def _lead(self) -> None:
        if not self._member.leads(self.term):
            raise FencedError
        now = self._clock.now_s()
        self._orders.turn(now)
        self.runner.turn(self._stop)
        now = self._clock.now_s()
        if now - self._noted_s >= NOTE_EVERY_S:
            self._noted_s = now
            self._note_position()
        meta = self.learner.meta
        if self._marked and self.runner.last_sent.get(UPDATES) is not None:
            self._marked = self._anew = False
            unmark(self._group.folder, self._group.disk)
        # A snapshot in the log lets older updates be dropped, which an older snapshot in the folder needs.
        completed = self.learner.publisher.completed
        # A snapshot from before a purge holds the rows that were purged.
        purged = self._state.purges > self._purges
        due = now - self._snapped_s >= self._member.settings.snapshot_every_s
        if meta.seq and (completed > self._completed or purged or due) and now >= self._snap_again_s:
            self.snap()

    def _note_position(self) -> None:
        """Record up to which offset of `updates` all records count, unless another learner has claimed."""
        offset = self.runner.last_sent.get(UPDATES)
        if self.runner.uncommitted or self._state.unsent() or offset is None:
            self._noted_s = float("-inf")  # at the next turn
            return
        self._member.look()
        if self._member.leads(self.term):
            self.runner.commit_offsets()  # a leader that was paused may have committed older ones since
            meta = self.learner.meta
            self.learner.position = UpdatePosition(offset + 1, self.term, meta.epoch, meta.seq, self.term)

    def snap(self) -> None:
        """Copy the state into the shared folder, in a thread, unless it is at an earlier copy."""
        if self.snapping is not None:
            self.snapping.check()
            if self.snapping.alive:
                return
        self._member.look()  # one that was paused meanwhile would add what was forgotten since
        if not self._member.leads(self.term):
            return
        now, seq = self._clock.now_s(), self.learner.meta.seq
        completed, purges = self.learner.publisher.completed, self._state.purges
        alone = purges > self._purges  # snapshots from before a purge may hold forgotten ids

        def work(_: threading.Event) -> None:
            if self._group.snapshots.make(self._state, self.term, seq, alone=alone):
                self._snapped_s, self._completed, self._purges = now, completed, purges
            else:  # what was to be copied, or to be forgotten, is still due
                self._snap_again_s = now + SNAP_AGAIN_S

        self.snapping = HelperThread("snapshot", work, daemon=False, clock=self._clock)
        self.snapping.start()
