"""What a shard needs for its requests of a turn: the distinct keys of each table, by owner."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embeddings.kernels.batches import number
from embeddings.types import Keys
from learner.features.encoding import sort_by_table
from learner.features.entries import entry_times
from learner.features.labelled import Labelled
from learner.model.model import Model
from learner.shards.known.asked import keepers_asked
from learner.shards.messages import Bytes, Unpacking, packed
from learner.shards.owners import Ints, Owners

_SALT = np.uint64(0x9E3779B97F4A7C15)  # numbers are by first appearance: no result depends on it


class AskedKeys(NamedTuple):
    """The keys of one table that one shard needs, each once."""

    keys: Keys  # (m,)
    times: npt.NDArray[np.uint32]  # (m,), event time of the first use, whole seconds
    sightings: npt.NDArray[np.uint32]  # (m, targets), in this turn

    @property
    def total(self) -> Ints:
        """The sightings of all targets, (m,)."""
        return np.asarray(self.sightings.sum(axis=1, dtype=np.int64))


class Needs(NamedTuple):
    """What a shard needs of one table, its keys sorted by owner."""

    wanted: AskedKeys
    bounds: Ints  # (shards + 1,), where the keys of each owner begin

    def of(self, owner: int) -> AskedKeys:
        """The part of one owner."""
        part = slice(self.bounds[owner], self.bounds[owner + 1])
        return AskedKeys._make(array[part] for array in self.wanted)


def needs_of(model: Model, owners: Owners, labelled: Labelled, times: npt.NDArray[np.float64]) -> list[Needs]:
    """What the requests need of each table.

    Args:
        times: (R,), event times, ascending.
    """
    rows, targets = labelled.batch.rows, len(model.targets)
    per_row = np.diff(rows.start)
    loud = ~np.repeat(labelled.lessons.quiet, per_row)
    target = np.repeat(labelled.lessons.target, per_row)
    when = entry_times(labelled.batch.requests, rows.start, times)
    order, bounds = sort_by_table(rows.column, model.table_of, len(model.table_names) + 1)
    found = []
    for t in range(len(model.tables)):
        mine = order[bounds[t] : bounds[t + 1]]
        distinct, inverse = number(rows.key[mine], _SALT)
        m = len(distinct)
        first = np.empty(m, dtype=np.uint32)
        first[inverse[::-1]] = when[mine[::-1]]  # of several values numpy keeps the last
        heard = loud[mine]
        each = np.bincount(inverse[heard] * targets + target[mine[heard]], minlength=m * targets)
        found.append(_sorted(owners, distinct, first, each.reshape(m, targets).astype(np.uint32)))
    return found


def needs_of_keepers(
    model: Model, owners: Owners, labelled: Labelled, times: npt.NDArray[np.float64]
) -> list[Needs]:
    """What the requests need of the tables of histories and rates, and of no other; see `needs_of`."""
    asked = keepers_asked(model, labelled, times)
    none = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint32)
    nothing = (*none, np.zeros((0, len(model.targets)), dtype=np.uint32))
    return [_sorted(owners, *asked.get(t, nothing)) for t in range(len(model.tables))]


def _sorted(
    owners: Owners, keys: Keys, times: npt.NDArray[np.uint32], sightings: npt.NDArray[np.uint32]
) -> Needs:
    order, bounds = owners.sort(keys)
    return Needs(AskedKeys(keys[order], times[order], sightings[order]), bounds)


def ask(needs: list[Needs], owner: int) -> Bytes:
    """The message in which one owner is asked."""
    parts = [need.of(owner) for need in needs]
    counts = np.array([len(part.keys) for part in parts], dtype=np.int64)
    return packed([counts, *(array for part in parts for array in part)])


def read_ask(message: Unpacking, tables: int, targets: int) -> list[AskedKeys]:
    """The inverse of `ask`, by table."""
    counts = message.take(np.int64, tables).tolist()
    return [
        AskedKeys(message.take(np.uint64, m), message.take(np.uint32, m), message.take(np.uint32, m, targets))
        for m in counts
    ]
