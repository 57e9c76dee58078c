"""A shard's working copy: the rows that its requests of one turn need, wherever their owners are."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from embeddings import Table, TableSpec
from embeddings.types import Keys, Slots
from learner.features.encoder import Batch
from learner.features.known.filling import filler_of
from learner.lessons import Lessons
from learner.model.model import Model
from learner.resting import RestingTables

WORKING_ROWS_MAX = 1 << 20
"""Rows of one table that stay in a working copy from turn to turn; above, it begins anew. They are written
again before they are read again, so they only spare the index work."""

TURN_ROWS_MAX = 1 << 24
"""Rows of one table that a shard's requests of one turn may need. It costs address space, not memory."""


class WorkingTable(Table):
    """Rows on loan: ids without a loaded row have none, since the owner alone admits, expires and evicts."""

    def __init__(self, spec: TableSpec) -> None:
        super().__init__(spec, track_delta=False)

    def upsert(self, keys: npt.ArrayLike, times: npt.ArrayLike) -> Slots:
        """The slot of each loaded row, (n,); makes none."""
        return self.find(keys)


def working_spec(spec: TableSpec) -> TableSpec:
    """The spec of the rows as they travel: without columns for eviction, which the owner keeps."""
    return msgspec.structs.replace(
        spec, admit_after=1, admit_share=1.0, evict="none", ttl_s=0, rows_max=TURN_ROWS_MAX
    )


class WorkingModel(Model):
    """A model that a trainer learns with, whose tables hold rows on loan."""

    def reset(self) -> None:
        """Return to the untrained state, without rows."""
        super().reset()
        self.readers = None  # of the tables before
        self.tables = [WorkingTable(working_spec(spec)) for spec in self.specs.values()]
        self.resting = RestingTables(self.tables, self.table_of)  # none: the owners' rows rest
        self.filler = filler_of(self.encoder, self.targets, self.tables, self.tick_s)

    def learn_kept(self, batch: Batch, lessons: Lessons, clock: npt.NDArray[np.float64]) -> Batch:
        """As of `Model`, once: a turn does it before it asks for all other rows."""
        if batch.filled:
            return batch._replace(times=clock)
        return super().learn_kept(batch, lessons, clock)._replace(filled=True)

    def lend(self, t: int, keys: Keys, rows: npt.NDArray[np.float32], without: Keys) -> None:
        """Take the rows (k, width) of table t that the next turn needs, and the keys that have none."""
        table = self.tables[t]
        if len(table) + len(keys) > max(WORKING_ROWS_MAX, len(keys)):
            table = self.tables[t] = WorkingTable(table.spec)
        if len(without):
            table.delete(without)
        if len(keys):
            table.load(keys, rows)
