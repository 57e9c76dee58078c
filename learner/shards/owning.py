"""The rows that a shard owns: lent to all shards at the beginning of a turn, and added up after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from embeddings import Table, TableSpec
from embeddings.kernels.batches import number
from embeddings.rest.table import RestingTable
from embeddings.spec import BATCH_MAX, EVICT_ROWS_MIN
from embeddings.types import Keys
from embeddings.views.loans import lend, take_back
from learner.errors import ShardError
from learner.shards.adding import Ints, Learned, RowParts, add_rows
from learner.shards.asking import AskedKeys

_SALT = np.uint64(0x9E3779B97F4A7C15)


class _Turn(NamedTuple):
    """What an owner remembers of one table from lending until adding. d distinct keys are asked for."""

    slots: Ints  # (d,), -1 without a row
    old: npt.NDArray[np.float32]  # (d, width), as the rows travel
    lent: list[Ints]  # to each shard: the numbers of the rows, among the d
    sightings: list[npt.NDArray[np.uint32]]  # at each shard, (k, targets) of these rows


class OwnedTable:
    """The part of one table that a shard owns.

    Args:
        spec: of the whole table; this part has room for its share of the rows.
        parts: what the columns mean, as they travel.
        shards: how many there are.
        memory_rows: of the whole table in memory, the others rest on disk; None: all.
    """

    def __init__(self, spec: TableSpec, parts: RowParts, shards: int, memory_rows: int | None = None) -> None:
        spec = owned_spec(spec, shards)
        self.table = Table(spec) if memory_rows is None else RestingTable(spec, max(memory_rows // shards, 1))
        self.parts = parts
        self._each_counts = spec.evict != "none" or spec.admit_after > 1 or spec.admit_share < 1.0
        self._turn: _Turn | None = None

    def lend(self, asked: Sequence[AskedKeys]) -> list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]]:
        """Note the sightings of a turn, of each shard in the order of ranks, and give out the rows.

        An id that is admitted within the turn has its row for the whole of it.

        Returns:
            For each shard which of its keys have a row, (m,), and these rows, (k, width).
        """
        keys, times = (np.concatenate(arrays) for arrays in (list(zip(*asked, strict=True))[:2]))
        sightings = np.concatenate([wanted.total for wanted in asked])
        self._sight(keys, times, sightings if self._each_counts else np.minimum(sightings, 1))
        distinct, inverse = number(keys, _SALT)
        first = np.empty(len(distinct), dtype=np.uint32)
        first[inverse[::-1]] = times[::-1]
        slots = self.table.find(distinct, first)
        there = slots >= 0
        old = lend(self.table, slots)
        turn = _Turn(slots, old, [], [])
        answers = []
        at = 0
        for wanted in asked:
            mine = inverse[at : at + len(wanted.keys)]
            at += len(wanted.keys)
            has = there[mine]
            turn.lent.append(mine[has])
            turn.sightings.append(wanted.sightings[has])
            answers.append((has, old[mine[has]]))
        self._turn = turn
        return answers

    def lent_to(self, shard: int) -> int:
        """How many rows a shard has had for this turn."""
        assert self._turn is not None
        return len(self._turn.lent[shard])

    def add(self, rows: Sequence[npt.NDArray[np.float32]]) -> None:
        """Add what each shard has made of the rows that it was lent, (k, width), in the order of ranks."""
        assert self._turn is not None
        turn, self._turn = self._turn, None
        learned = [Learned(*one) for one in zip(turn.lent, rows, turn.sightings, strict=True)]
        take_back(self.table, turn.slots, *add_rows(self.parts, turn.old, learned))

    def _sight(self, keys: Keys, times: npt.NDArray[np.uint32], sightings: Ints) -> None:
        if (sightings > BATCH_MAX).any():
            raise ShardError(f"an id was seen more than {BATCH_MAX:,} times in one turn: make turns shorter")
        if self.table.spec.rows_leave:  # by time, as a single learner meets them
            order = np.argsort(times, kind="stable")
            keys, times, sightings = keys[order], times[order], sightings[order]
        ends = np.cumsum(sightings)
        first = 0
        while first < len(keys):
            before = int(ends[first - 1]) if first else 0
            last = max(int(np.searchsorted(ends, before + BATCH_MAX, side="right")), first + 1)
            part = slice(first, last)
            self.table.upsert(np.repeat(keys[part], sightings[part]), np.repeat(times[part], sightings[part]))
            first = last


def owned_spec(spec: TableSpec, shards: int) -> TableSpec:
    """The spec of the part of a table that one of so many shards owns."""
    least = EVICT_ROWS_MIN if spec.evict != "none" else 1
    return msgspec.structs.replace(spec, rows_max=max(spec.rows_max // shards, least))
