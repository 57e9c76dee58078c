"""The learner: it predicts, scores and learns examples, and publishes the rows that changed.

It is a `Handler`: its decisions depend on its state and the records alone. One commit holds every change
together with the offsets and the update to be sent. So after a crash the learner resumes from its state and
sends unsent updates again.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ground import FreshetError
from ground.clock import SYSTEM_CLOCK, Clock
from learner.deep.autograd import import_beside
from learner.entities.filling import fill
from learner.features.labelled import Labelled
from learner.features.spec import FeatureSpec
from learner.keepers import TableKeeper, keepers_of, resting, restore
from learner.meta import ARRAY, BAD_SHARE, PENDING, POSITION, LearnerMeta
from learner.meta import KEY as _META
from learner.metrics import Metrics
from learner.model import grown
from learner.model.digest import model_hash, with_entities
from learner.model.forgetting import forget, keys_by_column
from learner.model.identity import fingerprint
from learner.model.model import Model
from learner.role.boundary import KEY as _BOUNDARY
from learner.role.boundary import Boundary
from learner.role.dead_letters import DeadLetterWriter, fitting
from learner.role.saved_metrics import TargetMetrics
from learner.role.table_limits import TableLimits
from learner.role.taking.intake import Intake
from learner.settings import LearnerSettings
from learner.train.trainer import Learnt, Trainer
from learner.train.waiting import PendingRows
from learner.updates.chain import UpdatePosition
from learner.updates.publisher import Publisher
from learner.updates.unsaid import Unsaid
from stream.errors import StateError
from stream.log.base import Log, Record
from stream.records.refusals import Refusals
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Example, Forget
from stream.run.contract import Handler
from stream.state.role_state import Commit, RoleState

EXPIRE_SLOTS = 2_000
"""How many slots of each table a flush checks for expired rows."""


class Learner(Handler):
    """Learns a model from examples, in order.

    Args:
        features: the schema.
        settings, targets: how to learn, and what.
        state: where to resume from and commit to; None for a replay that keeps nothing.
        beside: train the deep part in a thread of its own, see `Trainer`.
        clock: gives the epoch of a new model.

    Raises:
        StateError, SnapshotError: the state is damaged or does not fit.
    """

    def __init__(
        self,
        features: Mapping[str, FeatureSpec],
        settings: LearnerSettings,
        state: RoleState | None = None,
        targets: Targets = UNDECLARED,
        *,
        beside: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.settings = settings
        saved = None if state is None else state.get(_META)
        self.meta = (
            LearnerMeta(epoch=int(clock.unix_s() * 1e3), makes_room=True)
            if saved is None
            else msgspec.msgpack.decode(saved, type=LearnerMeta)
        )
        self.model = Model(features, settings, targets, learning=True, makes_room=self.meta.makes_room)
        self.trainer = Trainer(self.model, beside=beside)
        self.publisher = Publisher(self.model, settings)
        self.saved_metrics = TargetMetrics(targets, settings.window)
        self.leads = True  # False: it repeats the updates of the leader and publishes nothing
        self.term = 0
        self.position = UpdatePosition()  # in topic `updates`, as of the state
        self.intake = Intake(self.model.entities, targets)
        self._limits = TableLimits(self.model.table_names, self.model.tables)
        self.boundary: Boundary | None = None  # None: it learned no history from files
        self.unsaid = Unsaid(state, self.model.table_names)
        self.snapshots: list[TableKeeper] = [] if state is None else self._keepers(state)
        if state is None:
            self.model.resting.rest_apart()
        self._dead_letters = DeadLetterWriter(settings)
        if state is not None and saved is not None:
            self._load(state)
        self.model.epoch, self.model.seq = self.meta.epoch, self.meta.seq

    @staticmethod
    def fingerprint(
        features: Mapping[str, FeatureSpec], settings: LearnerSettings, targets: Targets = UNDECLARED
    ) -> dict[str, str]:
        """What a saved learner's state depends on: name -> canonical text."""
        return fingerprint(features, settings, targets)

    def warm(self) -> None:
        """Start importing torch in a thread if the network needs it: the import takes seconds."""
        import_beside(self.settings.deep)

    def metric_values(self) -> dict[str, float | int | None]:
        """A few numbers for a log line or a dashboard."""
        recent = self.metrics.recent()
        return {
            "examples": self.meta.examples,
            "updates": self.meta.seq,
            "rows": sum(self.model.table_rows().values()),
            "entities": len(self.model.entities),
            **self.model.resting.counts(),
            "auc": recent["auc"],
            "logloss": recent["logloss"],
            "dead_letters": self._dead_letters.count,
            "quarantined": self.trainer.quarantined,
            "forgets": self.meta.forgets,
            "of_history": self.meta.of_history,
            "refused": self.meta.refused,
            "order": self.meta.order,
            "held": int(self.meta.held),
            "passed_over": self.meta.passed_over,
            "full": self._limits.full,
            "evicted": self._limits.evicted,
        }

    def table_counts(self) -> dict[str, list[int]]:
        """Per table: rows now; and since it was made the ids admitted, refused, expired and evicted."""
        return self._limits.counts()

    @property
    def metrics(self) -> Metrics:
        """The progressive metrics of the first target."""
        return self.saved_metrics.first

    @property
    def refusals(self) -> Refusals:
        """The forgotten ids that are refused for a time."""
        return self.intake.refusals

    def learn(self, examples: Sequence[Example]) -> list[Learnt]:
        """Predict, score and learn; returns the groups that this completed.

        Raises:
            FeatureError: an example does not fit the schema; nothing of the call was learned.
        """
        if not examples:
            return []
        examples = fill(self.model.entities, examples, see=True)
        return self.learn_labelled(Labelled.of(self.model.encoder, examples, self.model.targets))

    def learn_labelled(self, labelled: Labelled) -> list[Learnt]:
        """`learn` for encoded examples."""
        done = self.trainer.learn_labelled(labelled)
        self.saved_metrics.add(done)
        self.meta.examples += len(labelled.y)
        self.meta.event_time = max(self.meta.event_time, float(labelled.batch.times.max(initial=0.0)))
        self.meta.requests += labelled.requests
        return done

    def settle(self) -> list[Learnt]:
        """Wait for the thread that trains the deep part; returns the groups that it completed."""
        done = self.trainer.settle()
        self.saved_metrics.add(done)
        return done

    def finish(self) -> list[Learnt]:
        """Learn the last, incomplete group, at the end of a replay."""
        done = self.trainer.finish()
        self.saved_metrics.add(done)
        return done

    def lead(self, term: int, position: UpdatePosition) -> None:
        """Publish from now on, in the term whose first record is just before `position`."""
        self.leads = True
        self.term = term
        self.position = position
        self.meta.record_seq = 0

    def publish_to(self, log: Log) -> None:
        """Cut updates and snapshots so that the log's topics take them.

        Raises:
            LogError: a topic's limit is too small for an update of this model.
        """
        self.publisher.limit_to(log)

    def go_on_in_log(self, boundary: Boundary, position: UpdatePosition) -> None:
        """Learn history first and continue with the log afterwards. Call it before anything is learned.

        Args:
            boundary: decides which examples of the log were learned from history.
            position: in topic `updates`, behind any update of another model.
        """
        self.boundary = boundary
        self.leads = False
        self.term = position.made_in
        self.position = position

    def publish_whole(self, commit: Commit) -> None:
        """Add a snapshot of the whole unpublished state to the commit, after `flush(rest=False)`."""
        meta = self.meta
        self.position = msgspec.structs.replace(self.position, epoch=meta.epoch, seq=meta.seq)
        self.publisher.begin_snapshot(meta, self.position, commit, {})
        commit.put(POSITION, msgspec.msgpack.encode(self.position))
        commit.put(_META, msgspec.msgpack.encode(meta))
        if self.boundary is not None:
            commit.put(_BOUNDARY, self.boundary.encode())
        self._rest(commit)

    def begin_epoch(self, epoch: int) -> None:
        """Adopt the epoch of the leader, whose updates are followed from the first."""
        self.meta.epoch = self.model.epoch = epoch

    def close(self) -> None:
        """Stop the training thread, if there is one. The learner cannot be used afterwards."""
        self.publisher.give_up()
        self.trainer.close()
        self.model.resting.close()

    def forget(self, request: Forget) -> list[Learnt]:
        """Forget ids with everything learned from them alone; refuse them for as long as the request says.

        Returns:
            The groups that this completed: waiting rows hold ids, so the deep part learns them first.
        """
        done = self.finish()
        users = keys_by_column(self.model, request.entity).get(self.model.user_column)
        if users is not None:
            self.saved_metrics.forget(users)
        for t in forget(self.model, request.entity, int(self.trainer.clock)):
            if self.snapshots:
                self.snapshots[t].renew()
        self.intake.forget(request)
        self.publisher.give_up()  # its rows, and the files that it holds on to, may have the ids
        self.meta.forgets += 1
        self.meta.purging = True
        return done

    def handle(self, records: Sequence[Record], commit: Commit) -> None:
        """Learn records of topic `examples`; unusable records become dead letters.

        Raises:
            DeadLetterFloodError: too many records are unusable.
        """
        good: dict[int, Example] = {}  # by offset
        bad: dict[int, str] = {}  # offset -> why
        for record in records:
            try:
                found = self.intake.read(record)
            except FreshetError as error:
                bad[record.offset] = str(error)
                continue
            if found is None:
                continue
            if isinstance(found, Forget):
                self._learn_good(good, bad)
                good = {}
                self.forget(found)
            elif self.boundary is not None and self.boundary.learnt(found):
                self.meta.of_history += 1
            elif self.meta.held:
                self.meta.passed_over += len(found.labels)
            elif (example := self.intake.admit(found)) is not None:
                self.meta.refused += len(found.labels) - len(example.labels)
                good[record.offset] = example
            else:
                self.meta.refused += len(found.labels)
        self._learn_good(good, bad)
        if self.leads:  # else the leader has written the dead letters, and counted them
            self._dead_letters.write(records, bad, commit)
        last = records[-1]
        self.meta.watermark[last.partition] = last.offset + 1
        self.meta.ingest_ms = max(self.meta.ingest_ms, last.ingest_ms)

    def full(self) -> bool:
        """Whether enough rows are touched, or too many in memory, to commit and publish now."""
        touched = sum(table.touched for table in self.model.tables)
        return touched >= self.settings.publish_rows_max or self.model.resting.crowded

    def flush(self, commit: Commit, *, rest: bool = True) -> None:
        """Write the touched rows, and the update that publishes them, into the commit.

        Args:
            rest: then send rows to rest, which can be read again when the commit is written.
        """
        self.settle()
        meta = self.meta
        self.snapshots = self.snapshots or self._keepers(None)
        self.model.seq = meta.seq = meta.seq + 1
        meta.tick, meta.clock = self.trainer.tick, self.trainer.clock
        meta.quarantined = self.trainer.quarantined
        meta.term = self.term
        meta.refusals_clock = self.refusals.clock
        changes = []
        for name, snapshot in zip(self.model.table_names, self.snapshots, strict=True):
            snapshot.table.expire(int(self.trainer.clock), EXPIRE_SLOTS)
            changed = self.unsaid.save(name, snapshot, commit, self.leads)
            changes.append((name, changed.served(snapshot.table)))
        self.unsaid.flushed()
        for name, array in (self._arrays() | self.model.unpublished).items():
            commit.put(ARRAY + name.encode(), array.tobytes())
        entities = self.intake.save(commit)
        if rest:
            self._rest(commit)
        if self.leads:
            self.publisher.update(changes, meta, self.position, commit, entities)
            rows = resting(self.model.table_names, self.snapshots)
            self.publisher.snapshot_if_due(meta, self.position, commit, rows)
        commit.put(POSITION, msgspec.msgpack.encode(self.position))
        if meta.purging and not any(snapshot.renewing for snapshot in self.snapshots):
            meta.purging = False
            commit.purge = True
        self._limits.look()
        commit.put(PENDING, self.trainer.pending.encode())
        commit.put(BAD_SHARE, self._dead_letters.encode())
        self.saved_metrics.save(commit)
        commit.put(_META, msgspec.msgpack.encode(meta))

    def rest_apart(self) -> None:
        """Let rows rest in a folder of their own from now on: their state is closed after this call."""
        self.snapshots = []
        self.model.resting.rest_apart()

    def digest(self) -> str:
        """A hash of everything that later results depend on: rows, arrays, waiting rows and counters.

        With `beside`, call `settle` first.
        """
        assert self.trainer.settled
        hasher = model_hash(self.model, self._arrays(), int(self.trainer.clock))
        hasher.update(self.trainer.pending.encode())
        if self.model.fast.dense.came.any():
            hasher.update(self.model.fast.dense.came.tobytes())
        hasher.update(msgspec.msgpack.encode((self.meta.examples, self.meta.requests, self.trainer.tick)))
        return with_entities(hasher.hexdigest(), self.model.entities.digest())

    def _learn_good(self, examples: Mapping[int, Example], bad: dict[int, str]) -> None:
        """Learn the examples, by offset, that fit the schema; put the reasons of the others into `bad`."""
        labelled = fitting(self.model.encoder, self.model.targets, examples, bad)
        if labelled is not None:
            self.learn_labelled(labelled)

    def _rest(self, commit: Commit) -> None:
        for snapshot in self.snapshots:
            snapshot.rest(commit)

    def _keepers(self, state: RoleState | None) -> list[TableKeeper]:
        return keepers_of(self.model.table_names, self.model.tables, state)

    def _arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        return {**self.model.arrays(), "moments": self.trainer.moments, "steps": self.trainer.steps}

    def _load(self, state: RoleState) -> None:
        self.term = self.meta.term
        position = state.get(POSITION)
        if position is not None:
            self.position = msgspec.msgpack.decode(position, type=UpdatePosition)
        for name, array in (self._arrays() | self.model.unpublished).items():
            data = state.get(ARRAY + name.encode())
            if data is not None:
                grown.fill(array, data, rows=2 if name == "moments" else 1)
        for name, snapshot in zip(self.model.table_names, self.snapshots, strict=True):
            if not restore(snapshot, name, state):
                raise StateError(
                    f"state {state.path}: it holds no table {name!r}; if an older "
                    "Freshet made it use that one, or configure another state folder to begin anew"
                )
        self.intake.load(state, self.meta.refusals_clock)
        boundary = state.get(_BOUNDARY)
        if boundary is not None:
            self.boundary = Boundary.decode(boundary)
        pending = state.get(PENDING)
        if pending is not None:
            try:
                self.trainer.pending = PendingRows.decode(pending, self.trainer.pending)
            except ValueError as error:
                raise StateError(
                    f"state {state.path}: its {error}; if an older Freshet made it use that one, or "
                    "configure another state folder to begin anew"
                ) from None
        self._dead_letters = DeadLetterWriter(self.settings, state.get(BAD_SHARE) or b"")
        if self.meta.purging:
            for snapshot in self.snapshots:
                snapshot.renew()
        self.saved_metrics = TargetMetrics(self.model.targets, self.settings.window, state)
        self.trainer.tick, self.trainer.clock = self.meta.tick, self.meta.clock
        self.trainer.quarantined = self.meta.quarantined
        self.trainer.restored()
