"""The deep part's groups: a chunk of requests, trained a few rows at a time.

The embedding rows that a chunk needs are copied together first (`WorkingSet`), and written back at the end.
Nothing here touches the model's tables in between, so the fast part may continue with the next requests in
another thread.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embeddings.kernels.pooling import pool, unpool
from embeddings.views.working import RowLayout, WorkingSet
from learner.deep.attention import attend, unattend
from learner.deep.networks import Array
from learner.deep.trainer import DeepTrainer
from learner.features.encoding import compact
from learner.features.known.filling import NO_BIAS
from learner.model.model import Model
from learner.train.waiting import PendingRows

Ints = npt.NDArray[np.int64]

AGE_RATE = 0.05
"""The step size of attention's biases."""


class _Entries(NamedTuple):
    """The chunk's k entries of one or more features whose rows share a working set, by row."""

    rows: WorkingSet
    row: Ints  # (k,), ascending
    place: Ints  # (k,), in the working set; -1 where the id had no row when it was predicted
    x: npt.NDArray[np.float32]  # (k,), scaled for the deep part (`FastOutputs.embedding_scale`)
    column: npt.NDArray[np.int32]  # (k,), of the inputs, where the entry's embedding begins
    cuts: list[int]  # entries of group g are cuts[g]:cuts[g + 1]
    dim: int  # how many input columns the entries fill
    second: int  # of a sequence: where in a row the second vector begins; of others: -1
    ages: Array  # (2, CODES), see `Model.age_bias`


class GroupLearner:
    """Trains on one chunk: create it, `run` it in any thread, `close` it in the thread that uses the tables.

    Args:
        model: its tables hold the embedding rows.
        chunk: whole requests, as they stood at prediction time.
        cuts: rows cuts[g] to cuts[g + 1] of the chunk are group g.
        z: (n,) logits that the residual is added to.
        reference: (n,) reference logits, see `DeepTrainer.step`; None: plain log loss.
    """

    def __init__(
        self,
        model: Model,
        chunk: PendingRows,
        cuts: Ints,
        z: npt.NDArray[np.float64],
        reference: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.chunk = chunk
        self.z = z
        self.quarantined = 0
        self.cuts = cuts.tolist()
        self._reference = reference
        self._embedding_width = model.embedding_width
        self._inputs = np.zeros((chunk.n, model.deep_width), dtype=np.float32)
        self._inputs[:, model.embedding_width :] = chunk.dense
        if len(model.place_columns):  # the deep part sees each candidate as if it had been shown first
            self._inputs[:, -1] -= placed_of(model, chunk)
            self._inputs[:, model.embedding_width + model.place_columns] = 0.0
        self._entries = [_find(model, chunk, fields, cuts) for fields in _shared(model)]

    def run(self, trainer: DeepTrainer) -> None:
        """One step per group; adds to `z`, in place, the residuals as they stood before each step."""
        for g, (first, last) in enumerate(itertools.pairwise(self.cuts)):
            inputs = self._inputs[first:last]
            for entries in self._entries:
                _embed(entries, g, first, inputs)
            before = None if self._reference is None else self._reference[first:last]
            z, lessons = self.z[first:last], self.chunk.lessons_of_network.part(first, last)
            step = trainer.step(inputs, self._embedding_width, z, lessons, before)
            if step is None:
                self.quarantined += 1
                continue
            self.z[first:last] = step.z
            for entries in self._entries:
                _learn(entries, g, first, step.by_inputs)

    def close(self) -> None:
        """Write the trained rows into the tables."""
        for entries in self._entries:
            entries.rows.write_back()


def placed_of(model: Model, chunk: PendingRows) -> npt.NDArray[np.float64]:
    """What the fast part said of each row's place, (n,), before its variance shrank the logit."""
    said: npt.NDArray[np.float64] = chunk.dense[:, model.place_columns].sum(axis=1, dtype=np.float64)
    return said


def _shared(model: Model) -> list[list[int]]:
    """Groups of features whose rows share a working set; a sequence has one of its own."""
    groups: dict[object, list[int]] = {}
    for t, dim in enumerate(model.dims):
        if not dim:
            continue  # the deep part does not see it
        alone = t if t in model.encoder.sequences else None
        groups.setdefault((RowLayout.of(model.tables[t].spec), alone), []).append(t)
    return list(groups.values())


def _find(model: Model, chunk: PendingRows, fields: Sequence[int], cuts: Ints) -> _Entries:
    """The entries of some features, found in their tables."""
    mine = np.flatnonzero(np.isin(chunk.column, fields))
    column, key, known = chunk.column[mine], chunk.key[mine], chunk.known[mine]
    place = np.full(len(mine), -1, dtype=np.int64)
    starts = np.zeros(model.encoder.columns, dtype=np.int32)
    starts[: len(model.dims)] = list(itertools.accumulate(model.dims, initial=0))[:-1]
    distinct: list[Ints] = []
    base = 0
    for t in fields:
        at = np.flatnonzero(column == t)
        slots = np.full(len(at), -1, dtype=np.int64)
        slots[known[at]] = model.tables[t].find(key[at[known[at]]])
        found = np.empty(len(slots), dtype=np.int64)
        n = compact(slots, model.marks(t, slots), at, base, place, found)
        distinct.append(found[:n])
        base += n
    row = np.searchsorted(chunk.start, mine, side="right") - 1
    t = fields[0]
    return _Entries(
        rows=WorkingSet([model.tables[field] for field in fields], distinct),
        row=row,
        place=place,
        x=chunk.x[mine] * chunk.embedding_scale[row, column],
        column=starts[column],
        cuts=np.searchsorted(row, cuts).tolist(),
        dim=model.dims[t],
        second=model.encoder.specs[t].row_dim - model.dims[t] if t in model.encoder.sequences else -1,
        ages=model.age_bias(t),
    )


def _embed(entries: _Entries, g: int, first: int, inputs: Array) -> None:
    """Write group g's embeddings into its inputs (rows from `first` of the chunk on)."""
    part = slice(entries.cuts[g], entries.cuts[g + 1])
    row, place, vectors = entries.row[part] - first, entries.place[part], entries.rows.rows
    if len(row) == 0:
        return
    if entries.second >= 0:
        column = int(entries.column[part.start])
        code, bias = entries.x[part], entries.ages[0]
        attend(row, place, vectors, entries.dim, entries.second, column, code, bias, inputs)
    else:
        pool(row, place, entries.x[part], vectors, entries.dim, entries.column[part], inputs)


def _learn(entries: _Entries, g: int, first: int, by_inputs: Array) -> None:
    """One step of group g's rows by the gradients of its inputs."""
    part = slice(entries.cuts[g], entries.cuts[g + 1])
    row, place, column = entries.row[part] - first, entries.place[part], entries.column[part]
    if len(row) == 0:
        return
    if entries.second >= 0:
        bias, squares = entries.ages
        by_code = np.zeros(len(bias))
        gradients = unattend(
            row, place, entries.rows.rows, entries.dim, entries.second, by_inputs, int(column[0]),
            entries.x[part], bias, by_code,
        )  # fmt: skip
        if entries.ages is not NO_BIAS:  # a step of Adagrad
            squares += by_code**2
            bias -= AGE_RATE * by_code / (np.sqrt(squares) + 1e-6)
    else:
        gradients = unpool(row, entries.x[part], by_inputs, column, entries.dim)
    entries.rows.step(place, gradients)
