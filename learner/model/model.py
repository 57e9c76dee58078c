"""The model: tables, fast part and deep part together, and prediction with them.

A learner holds one and trains it; a replica holds one and applies updates to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embeddings.kernels.pooling import entry_rows, pool
from ground.rows import Rows
from learner.deep.attending import attend_to_all, sequences_of
from learner.deep.attention import attend
from learner.deep.choice import network_of
from learner.deep.dcn_predict import Prediction, prediction_of
from learner.deep.networks import Array, Network
from learner.entities.store import EntityStore
from learner.fast.part import FastInputs, FastOutputs, FastPart
from learner.fast.predict import Inputs, fill_dense, predict
from learner.features import entries as pooling
from learner.features.encoder import Batch, Encoder, FeatureSpec, Requestlike
from learner.features.encoding import compact, sort_by_table
from learner.features.known.filling import NO_BIAS, filler_of
from learner.lessons import Lessons
from learner.model.identity import identity, learning_identity
from learner.model.layout import input_layout
from learner.model.scales import Scales
from learner.model.sightings import SlotsOf, upsert_some
from learner.model.tables import PAIRS, make_tables, readers_if_plain, table_specs, tick_s
from learner.model.trust import Trust
from learner.resting import RestingTables
from learner.results import Gathered as Gathered
from learner.results import Predicted as Predicted
from learner.results import Scores as Scores
from learner.settings import LearnerSettings
from stream.records.targets import UNDECLARED, Targets


class Model:
    """A model that predicts.

    Args:
        features: the schema.
        settings: the learner's settings; what a replica and its learner must agree on.
        learning: with optimizer state in the rows; False for a replica.
        targets: what it predicts. The arguments `target` of its methods are numbers in their order.
        rows: how a replica holds its rows: float32, float16 or int8 (`embeddings/views/packed.py`).
        makes_room: a full table evicts the least recently used rows unless the config says otherwise; False
            for an old state, whose rows have no field for the age that eviction needs.
        rest_in: the folder in which rows of a model that only predicts rest; None: that for temporary files.
    """

    def __init__(
        self,
        features: Mapping[str, FeatureSpec],
        settings: LearnerSettings,
        targets: Targets = UNDECLARED,
        *,
        learning: bool = False,
        rows: str = "float32",
        makes_room: bool = True,
        rest_in: Path | None = None,
    ) -> None:
        self.features = dict(features)
        self.settings = settings
        self.targets = targets
        self.scales = Scales(targets)
        self.encoder = Encoder(features, settings.pairs_max)
        self.tick_s = tick_s(self.encoder, settings)
        self._learning = learning
        self._rows = rows
        self._makes_room = makes_room
        self._rest_in = rest_in
        self.identity = identity(features, settings, targets)
        self.learning_identity = learning_identity(settings, makes_room)
        self._group_by = settings.group_by or next(
            (name for name, spec in self.features.items() if spec.kind == "id"), ""
        )
        self.exact = frozenset(self.encoder.names[c] for c in self.encoder.states)  # never packed
        self.table_names = [*self.encoder.names, *([PAIRS] if self.encoder.pairs else [])]
        fields = len(self.encoder.names)
        # Count columns, which follow the pairs, have no table: they point past the last table.
        self.table_of = np.full(self.memory_columns, len(self.table_names), dtype=np.int32)
        self.table_of[:fields] = np.arange(fields)
        self.table_of[fields : self.encoder.columns] = fields
        self.dims = self.encoder.dims
        self.embedding_width = sum(self.dims)
        self.seq = 0
        self.epoch = 0
        self.reset()

    def empty(self) -> Model:
        """A new, untrained model of the same configuration."""
        return Model(
            self.features, self.settings, self.targets, learning=self._learning, rows=self._rows,
            makes_room=self._makes_room, rest_in=self._rest_in,
        )  # fmt: skip

    def reset(self) -> None:
        """Return to the untrained state."""
        self.trust = Trust(self.scales.is_value, self.settings.trust_margin)
        self.entities = EntityStore(self.features, self.settings)
        self.fast = FastPart(self.encoder, self.settings, [target.kind for target in self.targets.values()])
        specs = table_specs(self.encoder, self.settings, self._makes_room, len(self.targets))
        if not self._learning:
            specs = [spec.serving() for spec in specs]
        self.specs = dict(zip(self.table_names, specs, strict=True))
        self.tables = make_tables(specs, self.encoder, self.settings, None if self._learning else self._rows)
        self.filler = filler_of(self.encoder, self.targets, self.tables, self.tick_s)
        self.resting = RestingTables(self.tables, self.table_of)
        if not self._learning:
            self.resting.rest_apart(self._rest_in)
        self.readers = readers_if_plain(self.tables)
        firsts, speeds = self.fast.columns.first_tau, self.fast.columns.column_speeds
        self.place_columns = np.array(
            [firsts[c] + s for c in self.encoder.places for s in range(speeds[c])], dtype=np.int64
        )
        self._marks = [np.full(1024, -1, dtype=np.int32) for _ in self.tables]
        layout = input_layout(self.encoder, self.fast)
        self.deep_width = layout.width
        deep = self.settings.deep != "none"
        starts = np.cumsum([0, *self.dims])[:-1] if deep else np.full(len(self.dims), -1)
        self._sequences = sequences_of(self.encoder, self.tables)
        pooled = [dim > 0 and c not in self.encoder.sequences for c, dim in enumerate(self.dims)]
        first_column = np.full(len(self.tables), -1, dtype=np.int64)
        first_column[: len(self.dims)] = np.where(pooled, starts, -1)
        self._inputs = Inputs(
            self.table_of,
            first_column,
            self.fast.weights_width,
            self.fast.any_value,
            self.deep_width if deep else 0,
            self.embedding_width if deep else 0,
            self.fast.speeds,
            self.fast.counted,
        )
        self.network: Network | None = network_of(self.settings, layout, self.targets.names)
        self.deep_weights = np.zeros(0, dtype=np.float32)
        self._deep_views: dict[str, Array] = {}
        if self.network is not None:
            self.deep_weights = self.network.initial_weights(self.settings.seed)
            self._deep_views = self.network.split(self.deep_weights)
        self.weights_moved()

    @property
    def memory_columns(self) -> int:
        """How many columns the rows given to an error memory have: features, pairs, counts, and features and
        pairs once more at their second speed."""
        return 2 * self.encoder.columns + sum(spec.counted for spec in self.encoder.specs)

    @property
    def version(self) -> str:
        """The version of the weights: the learner's epoch and the number of its last update."""
        return f"{self.epoch}-{self.seq}"

    def memory_priors(self, target: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of each memory column, (memory_columns,): its prior variance, as learned by the fast part for a
        target, and the share of evidence that its weights keep at each sighting."""
        return self.fast.memory_priors(target)

    def memory_columns_of(self, column: int) -> list[int]:
        """The memory columns that hold the keys of one of the encoder's columns."""
        return [column, self.encoder.columns + self.fast.counted + column]

    @property
    def user_column(self) -> int:
        """The column of the feature whose values are the users of per-user metrics; -1: there is none."""
        return self.encoder.column_of(self._group_by)

    def users(self, batch: Batch) -> npt.NDArray[np.uint64]:
        """Each request's user for per-user metrics, (R,): the key of the feature `group_by`."""
        return self.encoder.users(batch, self._group_by)

    def table_rows(self) -> dict[str, int]:
        """How many rows each table has."""
        return {name: len(table) for name, table in zip(self.table_names, self.tables, strict=True)}

    def score(self, batch: Batch, target: int = 0) -> Scores:
        """Predict requests without learning; changes nothing.

        Args:
            batch: from `encoder.encode`.
        """
        return self.scores_of(self.predict(batch, target))

    def predict(self, batch: Batch, target: int = 0) -> Predicted:
        """The prediction with its intermediate results, from which `scores_of` makes scores."""
        batch = self._without_places(self.filled(batch))
        self.resting.bring(batch.rows)
        if self.readers is not None:
            fast = self.fast
            z, x0, inputs, outputs = predict(
                self.readers, batch, target, self._inputs, fast.columns, fast.dense, fast.priors,
                fast.scale_columns,
            )  # fmt: skip
            if self.network is not None and self.encoder.sequences:
                attend_to_all(self._sequences, batch, self.age_bias, x0)
        else:
            x0 = np.zeros((batch.rows.n, self.deep_width), dtype=np.float32)
            gathered = self.gather(batch, insert=False)
            inputs = gathered.inputs
            outputs = self.fast.run(inputs, target=target)
            self._pool(gathered, batch.rows, outputs.embedding_scale, x0)
            x0[:, self.embedding_width :] = self.dense_inputs(batch, outputs)
            z = self.scales.logits(outputs, np.full(len(outputs.logit), target))
        if self.network is not None:
            self._prediction(target)(x0, z)
        z = self.trust.blend(z, target)
        p = self.scales.expected(z, outputs, target, self.fast.dense.values)
        return Predicted(batch.rows, inputs, outputs, z, p)

    def filled(self, batch: Batch) -> Batch:
        """A batch with the histories and rates as of its requests."""
        return batch if self.filler is None else self.filler.fill(batch)

    def learn_kept(self, batch: Batch, lessons: Lessons, clock: npt.NDArray[np.float64]) -> Batch:
        """`filled`, with each request's labels learned for those behind it, and the times `clock` (R,)."""
        batch = batch if self.filler is None else self.filler.learn(batch, lessons, clock)
        return batch._replace(times=clock)

    def age_bias(self, column: int) -> Array:
        """What attention adds to a score by the code of an id's age, and squared gradients, (2, CODES)."""
        return NO_BIAS if self.filler is None else self.filler.age_bias(column)

    def _without_places(self, batch: Batch) -> Batch:
        """The batch as if each candidate had been shown first: that place has no entry."""
        places = self.encoder.places
        if not places or not np.isin(batch.rows.column, places).any():
            return batch
        return batch._replace(rows=Rows(*pooling.without(*batch.rows, np.array(places, dtype=np.int32))))

    def scores_of(self, predicted: Predicted) -> Scores:
        """The scores of a prediction, with the rows for an error memory."""
        fields = predicted.rows.column < len(self.encoder.names)
        rows, left = self.memory_rows(predicted.rows, predicted.outputs)
        return Scores(
            z=predicted.z,
            p=predicted.p,
            s2=predicted.outputs.variance,
            rows=self.memory_keys(rows, left),
            unknown=int(np.count_nonzero(predicted.inputs.place[fields] < 0)),
        )

    def score_requests(self, requests: Sequence[Requestlike]) -> Scores:
        """Encode and predict; raises a FeatureError if a value does not fit its feature's kind."""
        return self.score(self.encoder.encode(requests))

    def gather(self, batch: Batch, *, insert: bool) -> Gathered:
        """Find a batch's rows in the tables, and copy the fast weights of the distinct ones together.

        Args:
            batch: the requests.
            insert: create rows for new ids, to learn; without it they stay unknown.
        """
        return self._gather(
            batch, lambda table, keys, now, _: (table.upsert if insert else table.find)(keys, now)
        )

    def gather_some(self, batch: Batch, quiet: npt.NDArray[np.bool_]) -> Gathered:
        """`gather` to learn, where the candidates `quiet` (n,) are no sighting of their ids.

        Only the first request of the batch may evict rows, and if it does, it must be the only one.
        """
        still = np.repeat(quiet, np.diff(batch.rows.start))
        request = np.repeat(np.arange(len(batch.times)), np.diff(batch.rows.start[batch.requests]))
        gathered = self._gather(
            batch, lambda table, keys, now, mine: upsert_some(table, keys, now, still[mine], request[mine])
        )
        gathered.times[still] = 0  # so that no row becomes younger by them
        return gathered

    def _gather(self, batch: Batch, slots_of: SlotsOf) -> Gathered:
        """`slots_of` gives the slots of a table's entries: of their keys, times and numbers."""
        rows = batch.rows
        order, bounds = sort_by_table(rows.column, self.table_of, len(self.table_names) + 1)
        index = np.empty(len(rows.key), dtype=np.int64)
        times = pooling.entry_times(batch.requests, rows.start, batch.times)
        width = self.fast.weights_width
        found: list[npt.NDArray[np.int64]] = []
        weights: list[npt.NDArray[np.float32]] = []
        counts: list[npt.NDArray[np.uint32]] = []
        base = 0
        for t, table in enumerate(self.tables):
            mine = order[bounds[t] : bounds[t + 1]]
            keys = rows.key[mine]
            now = times[mine]
            slots = slots_of(table, keys, now, mine)
            distinct = np.empty(len(slots), dtype=np.int64)
            n = compact(slots, self.marks(t, slots), mine, base, index, distinct)
            distinct = distinct[:n]
            block = np.zeros((n, width), dtype=np.float32)
            extras = table.extras(distinct)[:, :width]  # what Freshet keeps itself has no rows here
            block[:, : extras.shape[1]] = extras
            found.append(distinct)
            weights.append(block)
            counts.append(table.counts(distinct))
            base += n
        held = np.concatenate(counts)
        inputs = FastInputs(
            requests=batch.requests,
            start=rows.start,
            column=rows.column,
            x=rows.x,
            place=index,
            weights=np.concatenate(weights),
            counts=held.copy(),
        )
        return Gathered(order, bounds, index, times, found, held, inputs)

    def put_back(self, gathered: Gathered) -> None:
        """Write the weights that the fast part has changed back into the tables: the inverse of `gather`."""
        base = 0
        newest = pooling.newest(gathered.place, gathered.times, len(gathered.inputs.counts))
        for table, slots in zip(self.tables, gathered.slots, strict=True):
            part = slice(base, base + len(slots))
            base += len(slots)
            if len(slots) == 0:
                continue
            table.set_extras(slots, gathered.inputs.weights[part, : table.spec.extra])
            table.touch(slots, newest[part], gathered.inputs.counts[part] - gathered.counts[part])

    def marks(self, t: int, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Scratch for `compact`, long enough for these slots of table t."""
        highest = int(slots.max(initial=-1))
        if highest >= len(self._marks[t]):
            self._marks[t] = np.full(2 * highest, -1, dtype=np.int32)
        return self._marks[t]

    def dense_inputs(self, batch: Batch, outputs: FastOutputs) -> npt.NDArray[np.float32]:
        """The deep part's inputs beside the embeddings, (n, deep_width - embedding_width)."""
        n = len(outputs.logit)
        dense = np.empty((n, self.deep_width - self.embedding_width), dtype=np.float32)
        fill_dense(dense, 0, outputs.means, outputs.buckets, batch.numbers, outputs.logit)
        return dense

    def memory_rows(self, rows: Rows, outputs: FastOutputs) -> tuple[Rows, npt.NDArray[np.float32]]:
        """The rows with an error memory's further columns, and each entry's `left`, see `memory_keys`."""
        *longer, left = pooling.append_remembered(
            *rows, outputs.left, outputs.buckets, outputs.counts_left, self.fast.speeds_of(0)
        )
        return Rows(*longer), left

    def memory_keys(self, rows: Rows, left: npt.NDArray[np.float32]) -> Rows:
        """The rows for an error memory, without sequences: each entry's x times `left` (E,).

        `left` is sqrt(P / τ), the posterior over the prior deviation of the base's slowest weight. So the
        memory's weights begin with the variance P: the memory corrects uncertain weights strongly and certain
        ones little, as if the base had continued to learn. Faster weights never become certain and begin with
        their full prior variance.
        """
        weighed = rows._replace(x=rows.x * left)
        if not self.encoder.sequences:
            return weighed
        return Rows(*pooling.without(*weighed, np.array(list(self.encoder.sequences), dtype=np.int32)))

    def _pool(self, gathered: Gathered, rows: Rows, embedding_scale: Array, x0: Array) -> None:
        """Write the pooled embeddings, scaled by `embedding_scale`, into the deep part's inputs."""
        if self.network is None:
            return
        entry_row = entry_rows(rows.start)
        base = 0
        column = 0
        for t, dim in enumerate(self.dims):
            mine = gathered.order[gathered.bounds[t] : gathered.bounds[t + 1]]
            vectors = self.tables[t].vectors(gathered.slots[t])
            place = gathered.place[mine] - base
            if t in self.encoder.sequences:
                second = self.encoder.specs[t].row_dim - dim
                ages = self.age_bias(t)[0]
                attend(entry_row[mine], place, vectors, dim, second, column, rows.x[mine], ages, x0)
            else:
                columns = np.full(len(mine), column, dtype=np.int32)
                scaled = rows.x[mine] * embedding_scale[entry_row[mine], t]
                pool(entry_row[mine], place, scaled, vectors, dim, columns, x0)
            base += len(vectors)
            column += dim

    def weights_moved(self) -> None:
        """Call this after writing into `arrays` of a model that only predicts."""
        self._deep: dict[int, Prediction] = {}

    def _prediction(self, target: int) -> Prediction:
        if target not in self._deep or self._learning:
            assert self.network is not None
            self._deep[target] = prediction_of(self.network, self._deep_views, target)
        return self._deep[target]

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The dense weights for prediction, by name; the arrays themselves, not copies."""
        kept = {} if self.filler is None else self.filler.arrays()
        return {**self.fast.arrays(), "deep": self.deep_weights, **self.trust.published, **kept}

    @property
    def unpublished(self) -> dict[str, npt.NDArray[np.generic]]:
        """What only learning needs, by name; the arrays themselves."""
        return {**self.trust.arrays, "came": self.fast.dense.came}
