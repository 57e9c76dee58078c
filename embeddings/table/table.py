"""The embedding table: from 64-bit keys to rows of float32, in whole batches, on one thread.

Two ids never share a row. Time is event time, in Unix seconds. A row that was last seen more than `ttl_s`
before a sighting does not exist for this sighting, even if no sweep has removed it yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from embeddings.core import index
from embeddings.core.eviction import EVICTED_GENERATIONS, PARTS, limit_is_far, turns_within
from embeddings.core.positions import Ages, State
from embeddings.core.store import Store, bytes_in_use, make_store
from embeddings.errors import TableError, TableInputError
from embeddings.kernels import batches, contents, expiry, lookup, reading
from embeddings.kernels.optimizers import STEPS, constants_of
from embeddings.spec import BATCH_MAX, Rules, TableSpec
from embeddings.table.arena import Arena
from embeddings.table.checks import as_keys
from embeddings.table.cursor import Cursor
from embeddings.table.filter import AdmissionFilter
from embeddings.table.sighting import sight
from embeddings.types import Block, Delta, Floats, Keys, Lines, Slots, TableStats
from ground.distinct import distinct

PAGE_ROWS = 1 << 16
"""Rows of a page in `Table.pages`."""


class Table(Arena):
    """A collisionless, expirable embedding table. One thread at a time may call it; other threads may `read`.

    Calls release the GIL.

    Slots are valid until the next `upsert`, `block`, `load`, `delete` or `expire`. Until the next `upsert`,
    the slots that an `upsert` returned are safe to read and write even if their key was removed meanwhile;
    such writes are lost.
    """

    def __init__(self, spec: TableSpec, *, track_delta: bool = True, memory_rows: int | None = None) -> None:
        """Make an empty table.

        Args:
            spec: the settings.
            track_delta: keep the keys of deleted rows for `drain_delta`. Turn this off if nothing drains
                the table: the list would grow with every row that expires.
            memory_rows: see `embeddings.rest.table.RestingTable`; None: all rows are in memory.
        """
        super().__init__(spec, make_store(spec, memory_rows))
        self._track_delta = track_delta
        self.filter = AdmissionFilter(spec, self._store)
        self._bare = self._rules._replace(ttl_s=0, classes=0)  # every row in the index exists
        self._constants = constants_of(spec)
        self._deleted: list[Keys] = []
        self._cursors: WeakSet[Cursor] = WeakSet()
        self._own_cursor: Cursor | None = None
        self._taken = False  # whether any consumer has taken changes

    @property
    def arrays(self) -> Store:
        """The arrays of the table, for kernels of this package."""
        return self._store

    def __repr__(self) -> str:
        return f"<Table {self.spec.name!r}: {len(self):,} rows of {self.spec.dim} dimensions>"

    def __len__(self) -> int:
        """Rows in use, including expired rows that are not swept yet."""
        return int(self._store.state[State.LIVE])

    @property
    def nbytes(self) -> int:
        """Bytes in use by rows, index, lists and filter (not the reserved address space)."""
        return bytes_in_use(self._store)

    @property
    def rules(self) -> Rules:
        """The settings that kernels need."""
        return self._rules

    @property
    def stats(self) -> TableStats:
        """Counters for metrics."""
        state = self._store.state
        return TableStats(
            rows=len(self),
            rows_max=self.spec.rows_max,
            bytes=self.nbytes,
            inserted=int(state[State.INSERTED]),
            refused=int(state[State.REFUSED]),
            full=int(state[State.FULL]),
            expired=int(state[State.EXPIRED]),
            deleted=int(state[State.DELETED]),
            evicted=int(self._store.ages[Ages.EVICTED]),
        )

    # Keys to slots.

    def upsert(self, keys: npt.ArrayLike, times: npt.ArrayLike) -> Slots:
        """The slot of each sighting. Makes rows for new ids.

        The result is that of processing sightings one by one, in order, so it does not matter how a stream
        is cut into batches. A new row has the time of the sighting as last seen and a count of 0. With a TTL,
        a sighting also updates last seen. `touch` updates the count, and last seen without a TTL.

        Args:
            keys: (n,) uint64; repeats are allowed.
            times: (n,) or one: Unix seconds of the sightings.

        Returns:
            (n,) int64; -1 if the id is not admitted yet, or the table is full.
        """
        slots, inverse, _ = self._upsert(keys, times, 0)
        return slots.take(inverse)

    def find(self, keys: npt.ArrayLike, now: npt.ArrayLike = 0) -> Slots:
        """The slot of each key, (n,) int64, -1 without a row at `now` ((n,) or one value). Never inserts."""
        key_array = self._keys(keys)
        return self._find(self._rules, key_array, self._times(now, len(key_array)))

    def block(self, keys: npt.ArrayLike, times: npt.ArrayLike) -> Block:
        """`upsert`, and read the vector of each distinct id once: the fast way to train on a batch."""
        return Block(*self._upsert(keys, times, self.spec.dim))

    def read(self, keys: npt.ArrayLike, now: int = 0) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The vectors of keys, (n, dim), zeros without a row, and which keys have a row at `now`, (n,).

        Any number of threads may call this while one other thread calls other methods: each row is read
        as it was before or after a write, never in between (except for direct writes to `rows`).

        Raises:
            TableError: a row stayed open for writing; the writing thread seems to have stopped.
        """
        unique, inverse = self._distinct(self._keys(keys))
        vectors, there = reading.read_whole(self.spec, self._store, self._rules, unique, now)
        out = np.empty((len(inverse), self.spec.dim), dtype=np.float32)
        batches.spread(vectors, inverse, out)
        return out, np.take(there, inverse)

    def evicts_within(self, sightings: int) -> bool:
        """Whether the next `sightings` sightings may evict rows. False is certain, True is not."""
        if self.spec.evict == "none":
            return False
        return not limit_is_far(self._store.ages, self.spec.rows_max, sightings, sightings)

    def may_evict(
        self, sightings: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Whether the next `sightings` sightings, which make at most `rows` rows, may evict: (k,) each."""
        if self.spec.evict == "none":
            return np.zeros(len(sightings), dtype=np.bool_)
        ages, rows_max = self._store.ages, self.spec.rows_max
        length = max(rows_max // PARTS, 1)
        near = (sightings > ages[Ages.LEFT]) & (ages[Ages.HELD] + rows > rows_max - length)
        return near & (ages[Ages.MADE] + rows >= EVICTED_GENERATIONS * length)

    def turns_within(self, sightings: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How often eviction checks for a nearly full table within the next `sightings`: (k,) to (k,)."""
        if self.spec.evict == "none":
            return np.zeros_like(sightings)
        return turns_within(self._store.ages, self.spec.rows_max, sightings)

    def spread(self, block: Block) -> Floats:
        """The vectors of a block, one for each id of the batch, (n, dim)."""
        out = np.empty((len(block.inverse), block.vectors.shape[1]), dtype=np.float32)
        batches.spread(block.vectors, block.inverse, out)
        return out

    # Learning.

    def apply_gradients(self, slots: Slots, gradients: npt.ArrayLike) -> None:
        """One optimizer step: gradients (n, dim) of a repeated slot are summed, then applied once."""
        slots = self._slots(slots)
        unique, inverse = self._distinct(slots.view(np.uint64))
        self._step(unique.view(np.int64), inverse, gradients)

    def apply_block(self, block: Block, gradients: npt.ArrayLike) -> None:
        """Like `apply_gradients`, with gradients (n, dim) for the ids of the block's batch."""
        self._step(block.slots, block.inverse, gradients)

    def apply_distinct(self, slots: Slots, gradients: npt.ArrayLike) -> None:
        """Like `apply_gradients`, for slots (m,) of which none but -1 is there twice: no sums are needed."""
        slots = self._slots(slots)
        self._take_step(slots, self._values(gradients, len(slots), self.spec.dim, "gradients"))

    # Deletion and expiry.

    def delete(self, keys: npt.ArrayLike, *, counted: bool = True, now: int = 0) -> int:
        """Delete keys; returns how many were there.

        Args:
            keys: (n,) uint64.
            counted: also remove them from eviction's counts. False if the counts are copied from another
                table that has already done so.
            now: Unix seconds, if later than the last sighting: what has expired then has left the counts.
        """
        key_array = self._keys(keys)
        removed = np.empty(len(key_array), dtype=np.uint64)
        count = lookup.delete(self._store, self._rules, key_array, removed, counted, np.int64(now))
        return self._note_removed(removed, count)

    def forget(self, keys: npt.ArrayLike, now: int = 0) -> int:
        """Delete ids completely: their rows and their admission counters; returns how many had a row.

        The next delta lists all of them as deleted, with or without a row, so copies that apply it and later
        snapshots do not contain them. An earlier base of a snapshot contains them until the next base
        replaces it. `now`: as of `delete`.
        """
        key_array = self._keys(keys)
        count = self.delete(key_array, now=now)
        self.filter.forget(key_array)
        self._note_removed(key_array, len(key_array))
        return count

    def expire(self, now: int, budget: int = 4096) -> int:
        """Free rows that have expired by `now` among the next `budget` slots; returns how many.

        Call it from time to time; the work is bounded. It frees memory and does not change the results of
        `upsert` and `find`, as long as `now` is not later than the sightings to come.
        """
        if self.spec.ttl_s == 0:
            return 0
        removed = np.empty(min(budget, int(self._store.state[State.HIGH])), dtype=np.uint64)
        count = expiry.sweep(self._store, self._rules, np.int64(now), np.int64(len(removed)), removed)
        return self._note_removed(removed, count)

    # Deltas, checkpoints, contents.

    @property
    def touched(self) -> int:
        """Number of rows written since the last drain."""
        return int(self._store.state[State.TOUCHED])

    def open_cursor(self, *, whole: bool = False) -> Cursor:
        """Make a list of changes for one consumer: those from now on, and those that no consumer has taken.

        Args:
            whole: start with everything that the table holds as changed.
        """
        cursor = Cursor()
        self._cursors.add(cursor)
        if whole and self._taken:
            lines = np.arange(self.filter.lines, dtype=np.uint32)
            cursor.note(self.items()[0], np.empty(0, dtype=np.uint64), lines)
        return cursor

    def take_changes(self, cursor: Cursor | None = None) -> tuple[Keys, Keys, Lines]:
        """The changes since a consumer last took them: keys written, keys deleted, lines of the filter.

        A key that was deleted and inserted again is in both lists. Other consumers still get the changes
        that one consumer takes.

        Args:
            cursor: the consumer's cursor; None: the table's own, for a table with a single consumer.
        """
        if cursor is None:
            cursor = self._own_cursor = self._own_cursor or self.open_cursor()
        touched = np.empty(int(self._store.state[State.TOUCHED]), dtype=np.uint64)
        touched = touched[: contents.drain(self._store, touched)]
        deleted = distinct(np.concatenate(self._deleted)) if self._deleted else np.empty(0, dtype=np.uint64)
        self._deleted = []
        lines = self.filter.take_changed()
        self._taken = True
        for each in self._cursors:
            each.note(touched, deleted, lines)
        mine, deleted, lines = cursor.take()
        if len(mine) != len(touched):  # keys that waited in the cursor may have been deleted since
            mine = mine[self._find(self._bare, mine, np.zeros(len(mine), dtype=np.uint32)) >= 0]
        return mine, deleted, lines

    def drain_delta(self) -> Delta:
        """The keys written and the keys deleted since the last call."""
        touched, deleted, _ = self.take_changes()
        return Delta(touched=touched, deleted=deleted)

    def export(self, keys: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Whole rows (n, width) with metadata, zeros without a row, and which keys have a row, (n,) bool."""
        key_array = self._keys(keys)
        slots = self._find(self._bare, key_array, np.zeros(len(key_array), dtype=np.uint32))
        return self._gather(slots, 0, self.width), slots >= 0

    def export_serving(self, keys: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Like `export`, but only `serving_slices`: rows for a table made from `spec.serving()`."""
        rows, found = self.export(keys)
        return self.served(rows), found

    def load(self, keys: npt.ArrayLike, rows: Floats) -> None:
        """Write rows (n, width), bit for bit, without admission; existing rows are overwritten.

        Raises:
            TableError: the table is full.
        """
        key_array = self._keys(keys)
        array = self._values(rows, len(key_array), self.width, "rows (of the same dim, optimizer and extra)")
        self._load(key_array, array)

    def make_room(self, rows: int) -> None:
        """Size the index of an empty table for this many rows, before they are loaded."""
        index.make_room(self._store.buckets, self._store.state, rows)

    def _load(self, key_array: Keys, array: Floats) -> None:
        slots = np.empty(len(key_array), dtype=np.int64)
        lookup.put(self._store, self._rules, key_array, array.view(np.uint32), slots)
        lost = int(np.count_nonzero(slots < 0))
        if lost:
            raise TableError(
                f"table {self.spec.name!r}: {lost} rows too many for rows_max {self.spec.rows_max}: raise it"
            )

    def items(self, now: int | None = None) -> tuple[Keys, Slots]:
        """Keys and slots of all rows that exist at `now` (default: all not swept yet), in slot order."""
        slots = np.empty(len(self), dtype=np.int64)
        rules = self._bare if now is None else self._rules
        count = contents.live(self._store, rules, np.int64(now or 0), slots)
        slots = slots[:count]
        return self._store.slot_key[slots], slots

    def pages(self, now: int | None = None) -> Iterator[tuple[Keys, Floats]]:
        """Keys (n,) and whole rows (n, spec.width) of all rows that exist at `now`, some at a time.

        Do not change the table meanwhile.
        """
        slots = np.empty(int(self._store.state[State.LIVE]), dtype=np.int64)
        rules = self._bare if now is None else self._rules
        slots = slots[: contents.live(self._store, rules, np.int64(now or 0), slots)]
        for first in range(0, len(slots), PAGE_ROWS):
            part = slots[first : first + PAGE_ROWS]
            yield self._store.slot_key[part], self._gather(part, 0, self.spec.width)

    def has(self, keys: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which keys (n,) have a row, even if it has expired and was not removed yet."""
        return self.find(keys) >= 0

    @property
    def slots_used(self) -> int:
        """Slots ever used: `page` returns nothing beyond. A row keeps its slot until it is removed."""
        return int(self._store.state[State.HIGH])

    def page(self, first: int, count: int) -> tuple[Keys, Floats]:
        """Keys (n,) and whole rows (n, width) in use among slots first to first + count, even if expired."""
        count = max(min(count, self.slots_used - first), 0)
        keys = np.empty(count, dtype=np.uint64)
        rows = np.empty((count, self.width), dtype=np.uint32)
        found = contents.page(self._store, np.int64(first), keys, rows)
        return keys[:found], rows[:found].view(np.float32)

    def digest(self, now: int) -> int:
        """A 64-bit hash of every (key, row) that exists at `now`, independent of the order of insertion."""
        return int(contents.digest(self._store, self._rules, np.int64(now)))

    # Internals.

    def _upsert(self, keys: npt.ArrayLike, times: npt.ArrayLike, columns: int) -> Block:
        """Find or make the rows of a batch; the block holds their first `columns` columns."""
        key_array = self._keys(keys)
        if len(key_array) > BATCH_MAX and self.spec.rows_leave:
            raise TableInputError(
                f"table {self.spec.name!r}: a batch of {len(key_array)} sightings: with a ttl_s or evict at "
                f"most {BATCH_MAX} can be taken at once; cut it"
            )
        time_array = self._times(times, len(key_array))
        block, removed = sight(self.spec, self._store, self._rules, key_array, time_array, columns)
        self._note_removed(removed, len(removed))
        return block

    def _find(self, rules: Rules, keys: Keys, times: npt.NDArray[np.uint32]) -> Slots:
        held, slots = self._store, np.empty(len(keys), dtype=np.int64)
        lookup.find(held.buckets, held.slot_key, held.bits, held.ages, held.state, rules, keys, times, slots)
        return slots

    def _note_removed(self, removed: Keys, count: int) -> int:
        if count and self._track_delta:
            self._deleted.append(removed[:count].copy())
        return count

    def _distinct(self, keys: Keys) -> tuple[Keys, npt.NDArray[np.int64]]:
        return batches.number(keys, np.uint64(self._store.state[State.SALT]))

    def _step(self, slots: Slots, inverse: npt.NDArray[np.int64], gradients: npt.ArrayLike) -> None:
        values = self._values(gradients, len(inverse), self.spec.dim, "gradients")
        sums = np.zeros((len(slots), self.spec.dim), dtype=np.float32)
        batches.total(inverse, values, sums)
        self._take_step(slots, sums)

    def _take_step(self, slots: Slots, sums: Floats) -> None:
        step = STEPS.get(self.spec.optimizer)
        if step is None:
            raise TableError(f"table {self.spec.name!r} has optimizer 'none': it can only serve")
        if self.spec.dim:
            step(self._store, slots, sums, self.spec.dim, self._constants)

    def _keys(self, keys: npt.ArrayLike) -> Keys:
        return as_keys(self.spec.name, keys)
