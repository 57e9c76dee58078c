"""Following a learner: from the newest snapshot on, update by update, in order."""

import logging

from learner.model import Model
from learner.snapshots import READ_BYTES_MAX, SnapshotReader, first_update_after
from learner.updates import Update, apply_update, decode_update
from stream.log import UPDATES, Log, Record

_log = logging.getLogger("freshet.follower")


class Follower:
    """Keeps a model at the newest update of its learner.

    Repeats are recognised by their number and left out. After a gap the model stays as it is, goes
    on answering, and heals from the next snapshot.

    Args:
        model: it is moved by `poll` only.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.watermark: dict[int, int] = {}
        self.event_time = 0.0
        self.ingest_ms = 0
        self.examples = 0
        self.applied = 0
        self.repeated = 0
        self.gaps = 0
        self.behind = False
        self._parts: list[Update] = []
        self.read_ms = 0  # ingest time of the last record read from topic `updates`, Unix ms
        self._offset = 0
        self._snapshots = SnapshotReader()

    @property
    def seq(self) -> int:
        """The number of the newest update applied."""
        return self.model.seq

    @property
    def offset(self) -> int:
        """The offset of the next record that it reads from topic `updates`."""
        return self._offset

    def start(self, log: Log) -> bool:
        """Load the newest complete snapshot, if there is one, and find the update behind it."""
        found = self._load_snapshot(log)
        self._offset = self._find_update(log)
        return found

    def poll(self, log: Log, wait_s: float = 0.0) -> list[Update]:
        """Apply what has come since; returns the last part of each update applied.

        Raises:
            LogError: the log fails.
            UpdateError: an update is damaged or of a model with other settings.
        """
        if self.behind and self._load_snapshot(log):
            self.behind = False
            self._offset = self._find_update(log)
        applied = []
        for record in log.read(UPDATES, 0, self._offset, 1000, READ_BYTES_MAX, wait_s):
            self._offset = record.offset + 1
            self.read_ms = record.ingest_ms
            update = self._take(record)
            if update is not None:
                applied.append(update)
            if self.behind:
                break
        return applied

    def _take(self, record: Record) -> Update | None:
        update = decode_update(record.value)
        model = self.model
        if update.epoch < model.epoch or (update.epoch == model.epoch and update.seq <= model.seq):
            self.repeated += 1
            return None
        expected = model.seq + 1 if update.epoch == model.epoch else 1
        if update.seq != expected:
            self._note_gap(update, expected)
            return None
        if update.part != len(self._parts):
            if update.part == 0 or update.part < len(self._parts):
                # The learner died between parts and sent the update again, from its first part.
                self._parts = self._parts[: update.part]
            else:
                self._note_gap(update, expected)
                return None
        self._parts.append(update)
        if len(self._parts) < update.parts:
            return None
        self._apply(self._parts, fresh=update.epoch != model.epoch)
        self._parts = []
        self.applied += 1
        return update

    def _apply(self, parts: list[Update], fresh: bool) -> None:
        if fresh:
            self.model.reset()
        for part in parts:
            apply_update(self.model, part)
        last = parts[-1]
        self.watermark = dict(last.watermark)
        self.event_time = last.event_time
        self.ingest_ms = last.ingest_ms
        self.examples = last.examples

    def _note_gap(self, update: Update, expected: int) -> None:
        self.gaps += 1
        self.behind = True
        self._parts = []
        _log.warning(
            "update %d came where %d was expected; waiting for a snapshot, answering with what is here",
            update.seq,
            expected,
        )

    def _load_snapshot(self, log: Log) -> bool:
        """Take the newest complete snapshot if it is ahead of the model."""
        newest = None
        for snapshot in self._snapshots.read(log):
            newest = snapshot
        if newest is None or newest.number <= (self.model.epoch, self.model.seq):
            return False
        self._parts = []
        self._apply(newest.parts, fresh=True)
        return True

    def _find_update(self, log: Log) -> int:
        return first_update_after(log, self.model.epoch, self.model.seq)
