"""Going back: the leader obeys orders in topic `models`, and its servers and standbys follow.

The leader goes back by replacing its state with a snapshot, as a new *epoch*: it publishes the whole model,
and then updates of that epoch. Every server changes at the first of these updates, which is one place in the
log, and no answer is from between two models. Standbys find another epoch and begin from the newest snapshot.
What came between the snapshot and the order is skipped, or learned again, as the order says.
"""

import logging
from pathlib import Path

import msgspec

from ground import FreshetError
from ground.clock import Clock
from learner.meta import KEY, LearnerMeta
from learner.role.learner import Learner
from learner.role.setup import Learning
from learner.role.shared_snapshots import SharedSnapshots
from learner.updates.chain import UpdatePosition
from stream.log.base import EXAMPLES, UPDATES, Log
from stream.log.reading import read_range
from stream.orders.orders import MODELS, OrderReader, Resume, Rollback
from stream.records.types import Forget
from stream.run.runner import Runner
from stream.state.disk import Disk
from stream.state.role_state import Commit, RoleState

LOOK_EVERY_S = 0.5

_log = logging.getLogger("freshet.learner")


class GoBackError(Exception):
    """An order says that this learner goes back; its session ends, and `obey` replaces its state."""

    def __init__(
        self, log: Log, offset: int, order: Rollback, snapshot: Path, position: UpdatePosition
    ) -> None:
        super().__init__(f"order {offset}: goes back to snapshot {snapshot.name}")
        self._log = log
        self._offset = offset
        self._order = order
        self._snapshot = snapshot
        self._position = position  # in topic `updates`, behind all updates of the epoch that ends

    def obey(
        self, learning: Learning, folder: Path, fingerprint: dict[str, str], clock: Clock, disk: Disk
    ) -> None:
        """Replace the closed state in a folder; the one that it had is kept as `db.before-rollback`.

        If the snapshot cannot be used, the state stays, and the order counts as obeyed.
        """
        making = folder / "going-back"
        try:
            disk.remove(making)
            disk.make(making)
            disk.copy(self._snapshot, making / "db")
            with RoleState(making, "learner", fingerprint, clock=clock, disk=disk) as state:
                self._change(learning, state, clock)
        except (OSError, FreshetError) as error:
            _log.error("order %d cannot be obeyed: %s; the model stays as it is", self._offset, error)
            with RoleState(folder, "learner", fingerprint, clock=clock, disk=disk) as state:
                self._note(state)
            return
        aside = folder / "db.before-rollback"
        disk.remove(aside)
        disk.move(folder / "db", aside)
        disk.move(making / "db", folder / "db")
        disk.remove(making)
        why = f": {self._order.why}" if self._order.why else ""
        _log.warning("went back to snapshot %s by order %d%s", self._snapshot.name, self._offset, why)

    def _change(self, learning: Learning, state: RoleState, clock: Clock) -> None:
        """Make a copied state the beginning of a new epoch, whose whole model waits to be sent."""
        learner = Learner(learning.features, learning.settings, state, learning.targets, clock=clock)
        try:
            meta, commit = learner.meta, state.begin()
            meta.epoch = learner.model.epoch = max(int(clock.unix_s() * 1e3), self._position.epoch + 1)
            meta.order, meta.held, meta.announce = self._offset, self._order.hold, True
            learner.leads = False
            learner.term, learner.position = self._position.term, self._position
            for partition, offset in self._order.skip_to.items():
                here = state.offset(EXAMPLES, partition) or 0
                self._skip(learner, partition, here, offset)
                commit.set_offset(EXAMPLES, partition, max(here, offset))
                meta.watermark[partition] = max(here, offset)
            learner.publish_to(self._log)
            learner.flush(commit, rest=False)
            learner.publish_whole(commit)
            state.commit(commit)
        finally:
            learner.close()

    def _skip(self, learner: Learner, partition: int, at: int, end: int) -> None:
        """Pass examples over, but take what is told of entities among them, and what is to be forgotten."""
        for record in read_range(self._log, EXAMPLES, partition, at, end):
            try:
                found = learner.intake.read(record)
            except FreshetError:
                continue
            if isinstance(found, Forget):
                learner.forget(found)
            elif found is not None:
                learner.meta.passed_over += len(found.labels)

    def _note(self, state: RoleState) -> None:
        saved = state.get(KEY)
        assert saved is not None, "a leader has a state"
        meta = msgspec.msgpack.decode(saved, type=LearnerMeta)
        meta.order, meta.held, meta.announce = self._offset, meta.held or self._order.hold, True
        commit = state.begin()
        commit.put(KEY, msgspec.msgpack.encode(meta))
        state.commit(commit)


class Obedience:
    """Reads the orders to one model, while its learner leads.

    Args:
        model: its name; None: it takes no orders, and the log has no topic for them.
        learner, runner: the leader.
        snapshots: to go back to.
    """

    def __init__(
        self,
        log: Log,
        model: str | None,
        learner: Learner,
        runner: Runner,
        snapshots: SharedSnapshots,
    ) -> None:
        self._log = log
        self._model = model
        self._learner = learner
        self._runner = runner
        self._snapshots = snapshots
        self._orders = OrderReader(log)
        self._looked_s = float("-inf")

    def begin(self) -> None:
        """Lead: say at once that the learner went back; a new state obeys no order from before it."""
        meta = self._learner.meta
        if self._model is None:
            return
        if meta.seq == 0 and meta.order < 0:
            meta.order = self._log.ends(MODELS)[0][1] - 1
        if meta.announce:
            meta.announce = False
            self._runner.emit(_nothing)

    def turn(self, now_s: float) -> None:
        """Obey what was ordered since, looking now and then.

        Raises:
            GoBackError: the learner is to go back.
            LogError: the log fails.
        """
        if self._model is None or now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        for placed in self._orders.read():
            order = placed.order
            if placed.offset <= self._learner.meta.order or getattr(order, "model", "") != self._model:
                continue
            if isinstance(order, Rollback):
                self._go_back(placed.offset, order)
            elif isinstance(order, Resume):
                _log.info("order %d: learns again", placed.offset)
                self._hold(placed.offset, False)

    def _hold(self, offset: int, held: bool) -> None:
        self._runner.commit()  # what was taken before the order was taken as before
        self._learner.meta.order, self._learner.meta.held = offset, held
        self._runner.emit(_nothing)

    def _go_back(self, offset: int, order: Rollback) -> None:
        meta = self._learner.meta
        if order.hold and meta.held:  # guards of several servers see the same trouble
            self._hold(offset, True)
            return
        snapshot = self._choose(order)
        ends = self._log.ends(EXAMPLES)
        if snapshot is None or any(p >= len(ends) or end > ends[p][1] for p, end in order.skip_to.items()):
            wanted = order.snapshot or f"from before {order.before_ms} (Unix ms)"
            why = f"there is no snapshot {wanted} in {self._snapshots.folder}"
            if snapshot is not None:  # a state that is there would not be this log's
                why = f"it skips to offsets that topic {EXAMPLES!r} does not have: {order.skip_to}"
            _log.error("order %d cannot be obeyed: %s; the model stays as it is", offset, why)
            self._hold(offset, meta.held or order.hold)
            return
        end = self._log.ends(UPDATES)[0][1]
        position = UpdatePosition(end, self._learner.term, meta.epoch, meta.seq, self._learner.term)
        raise GoBackError(self._log, offset, order, snapshot, position)

    def _choose(self, order: Rollback) -> Path | None:
        if order.snapshot:
            return next((path for path in self._snapshots.there() if path.name == order.snapshot), None)
        listed = self._snapshots.listed()
        return next((one.path for one in listed if one.ingest_ms <= order.before_ms), None)


def _nothing(commit: Commit) -> None:
    """Adds nothing to a commit: an update is sent that says what is so."""
