"""Follows a learner: loads the newest snapshot, then applies updates in order."""

import logging
from collections.abc import Iterable

from learner.errors import OtherModelError, UpdateDamagedError, UpdateGapError
from learner.model.model import Model
from learner.updates.chain import Chain, UpdatePosition
from learner.updates.format import Update, apply_update, decode_update
from learner.updates.snapshots import READ_BYTES_MAX, SnapshotReader, first_update_after, parts_of
from stream.log.base import UPDATES, Log

_log = logging.getLogger("freshet.follower")

OTHER_MODEL = (
    "topic updates holds a model of other [features], [targets] or [learner] settings than the configured "
    "ones, or of another version of the code that learner.deep names: "
    "configure the same as its learner, or, to replace that model by the configured one, start the learner "
    "once with `freshet learn --anew` (or `freshet up --anew`)"
)


def check_own(update: Update, model: Model) -> None:
    """Check that a learner of one process can repeat what an update was made of.

    Raises:
        OtherModelError: it is of another model, or of a learner in shards.
    """
    if update.shards:
        raise OtherModelError(
            f"topic updates holds updates of a learner in {update.shards} shards, and this learner is one "
            f"process: set learner.shards.count = {update.shards}, or begin anew with `freshet learn --anew`"
        )
    if update.model not in ("", model.identity):
        raise OtherModelError(OTHER_MODEL)


class Follower:
    """Keeps a model at the newest update of its learner.

    Repeats are recognised by their number and skipped. Updates of a deposed leader are skipped too, and so
    are updates and snapshots of another model; `other` then holds a message until an update of this model
    comes. After a gap or a damaged record the model keeps answering unchanged, and recovers from the next
    snapshot, or from the first update of a learner that begins anew.

    Args:
        model: only `poll` changes it. A snapshot replaces it, so read the attribute `model` each time.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.watermark: dict[int, int] = {}
        self.event_time = 0.0
        self.ingest_ms = 0
        self.examples = 0
        self.held = False  # the learner passes examples over since it went back
        self.applied = 0
        self.gaps = 0  # how often it had to wait for a snapshot
        self.other = ""  # a message if the newest update is of another model; "": it is of this one
        self._waiting = False  # for a snapshot
        self._doubtful = False  # the last record read is damaged, and it is not yet known what it was
        self._chain = Chain(UpdatePosition())
        self.read_ms = 0  # ingest time of the last record read from topic `updates`, Unix ms
        self._offset = 0
        self._snapshots = SnapshotReader()

    @property
    def repeated(self) -> int:
        """How many updates were skipped as repeats."""
        return self._chain.repeated

    @property
    def fenced(self) -> int:
        """How many records were skipped because they came from a deposed leader."""
        return self._chain.fenced

    @property
    def seq(self) -> int:
        """The number of the newest update applied."""
        return self.model.seq

    @property
    def behind(self) -> bool:
        """Whether updates are missing, so that it waits for a snapshot."""
        return self._waiting or self._doubtful

    @property
    def offset(self) -> int:
        """The offset of the next record that it reads from topic `updates`."""
        return self._offset

    def start(self, log: Log) -> bool:
        """Load the newest complete snapshot, if there is one, and find the update after it."""
        self._offset = log.ends(UPDATES)[0][0]
        return self._load_snapshot(log)

    def poll(self, log: Log, wait_s: float = 0.0) -> list[Update]:
        """Apply new updates; returns the last part of each update applied.

        Raises:
            LogError: the log fails.
            UpdateError: an update is of another version of Freshet.
        """
        if self.behind:
            self._load_snapshot(log)
        applied: list[Update] = []
        records = log.read(UPDATES, 0, self._offset, 1000, READ_BYTES_MAX, wait_s)
        if records and records[0].offset > self._offset:
            start = log.ends(UPDATES)[0][0]
            if start > self._offset:
                self._wait(f"the log has dropped updates before offset {start}, which were not read")
                if self._skip_dropped(start, log):
                    return self.poll(log)
        for record in records:
            self._offset = record.offset + 1
            self.read_ms = record.ingest_ms
            try:
                update = decode_update(record.value)
            except UpdateDamagedError as damage:
                self._doubtful = True
                _log.warning("record %d of topic updates: %s", record.offset, damage)
                continue
            self._doubtful = False  # the numbers show whether an update is missing
            if self._is_other(update):
                self._pass_over(update)
                continue
            try:
                parts = self._chain.take(update)
            except UpdateGapError as gap:
                self._wait(str(gap))
                break
            if self._begins_whole(update) and self._load_snapshot(log):
                return [*applied, *self.poll(log)]  # from behind the snapshot
            if parts is not None:
                if not self._try(parts, parts[-1]):
                    continue
                self.relieve()
                self._waiting = False
                self.applied += 1
                applied.append(parts[-1])
        return applied

    def _skip_dropped(self, start: int, log: Log) -> bool:
        """Go on at the first update that the log still has; returns whether a newer snapshot was loaded.

        The record that began a term may be among those that it has dropped, and an update of the leader
        before that one would count. Whoever dropped it has made a snapshot.
        """
        self._offset = start
        return self._load_snapshot(log)

    def _begins_whole(self, update: Update) -> bool:
        """Whether a term of another epoch begins here: one that begins with history, with vectors or with a
        snapshot of before has sent its whole model already, and its first update may be long in coming."""
        return update.parts == 0 and update.epoch != self.model.epoch

    def _is_other(self, update: Update) -> bool:
        return update.model not in ("", self.model.identity)

    def _pass_over(self, update: Update) -> None:
        """Skip an update of another model, but note its number and term."""
        try:
            counts = self._chain.take(update) is not None
        except UpdateGapError:
            self._chain.jump(update.epoch, update.seq, update.term)
            counts = True
        if counts:
            self._note_other()

    def _note_other(self) -> None:
        if not self.other:
            _log.warning("%s", OTHER_MODEL)
        self.other = OTHER_MODEL

    def _try(self, parts: Iterable[Update], last: Update, whole: bool = False) -> bool:
        """Apply a complete update, which may begin a new epoch. Returns whether it is of this model.

        Args:
            parts: of the update, in order.
            last: what the last of them says of all.
            whole: it is a snapshot, and nothing else is to stay: missed updates may have deleted rows.
        """
        begins = last.epoch != self.model.epoch
        try:
            if begins or whole:
                self._begin(parts, last)
            else:
                self._move(list(parts))
        except OtherModelError:
            if last.model or not begins:
                raise
            self._note_other()  # from an older Freshet, which does not name its model; nothing has changed
            return False
        self.other = ""
        return True

    def _begin(self, parts: Iterable[Update], last: Update) -> None:
        """Begin a new model with an update or a snapshot, part by part."""
        model = self.model.empty()
        try:
            for part in parts:
                apply_update(model, part)
                model.resting.relieve()
        except BaseException:
            model.resting.close()
            raise
        self._replace(model, last)

    def _move(self, parts: list[Update]) -> None:
        """Apply the next update."""
        for part in parts:
            apply_update(self.model, part)
        self._note(parts[-1])

    def relieve(self) -> None:
        """Send rows to rest if too many are in memory."""
        self.model.resting.relieve()

    def _replace(self, model: Model, last: Update) -> None:
        """Replace the model by one that is at the given update."""
        self.model = model
        self._note(last)

    def _note(self, last: Update) -> None:
        self.watermark = dict(last.watermark)
        self.event_time = last.event_time
        self.ingest_ms = last.ingest_ms
        self.examples = last.examples
        self.held = last.held

    def _wait(self, why: str) -> None:
        if self._waiting:
            return
        self.gaps += 1
        self._waiting = True
        _log.warning("%s; waiting for a snapshot, and answering with the present weights", why)

    def _load_snapshot(self, log: Log) -> bool:
        """Load the newest complete snapshot if it is ahead of the model, and continue after it."""
        newest = None
        for snapshot in self._snapshots.read(log):
            if self._is_other(snapshot.head):
                self._note_other()
            else:
                newest = snapshot
        if newest is None:
            return False
        last = newest.head
        # The term comes first: a later leader may have made the model's last updates again.
        if newest.number <= (self._chain.made_in, self.model.epoch, self.model.seq):
            return False
        try:
            if not self._try(parts_of(newest, log), last, whole=True):
                return False
        except (UpdateDamagedError, UpdateGapError) as error:
            _log.warning("%s; waiting for the next snapshot", error)
            return False
        self._chain.jump(last.epoch, last.seq, last.term)
        self._waiting = self._doubtful = False
        self._offset, start = first_update_after(log, last), log.ends(UPDATES)[0][0]
        if start > self._offset:
            self._skip_dropped(start, log)
        return True
