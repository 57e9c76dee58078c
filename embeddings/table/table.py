"""The embedding table: from 64-bit keys to rows of float32, in whole batches, on one thread.

Two ids never share a row. Time is event time, in Unix seconds; a row that was last seen more than
`ttl_s` before a sighting does not exist for it, whether or not a sweep has come by.
"""

from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from embeddings.core import index
from embeddings.core.eviction import limit_is_far, turns_within
from embeddings.core.positions import Ages, State
from embeddings.core.store import Store, bytes_in_use, make_store
from embeddings.errors import TableError, TableInputError
from embeddings.kernels import batches, contents, expiry, lookup, reading
from embeddings.kernels.optimizers import STEPS, constants_of
from embeddings.spec import BATCH_MAX, Rules, TableSpec
from embeddings.table.arena import Arena
from embeddings.table.checks import as_keys
from embeddings.table.cursor import Cursor
from embeddings.table.filter import Filter
from embeddings.table.sighting import sight
from embeddings.types import Block, Delta, Floats, Keys, Lines, Slots, TableStats


class Table(Arena):
    """A collisionless, expirable embedding table. One caller at a time, and `read` from any thread beside it.

    Calls release the GIL.

    Slots name rows until the next `upsert`, `block`, `load`, `delete` or `expire`. Slots that an
    `upsert` handed out stay harmless to read and to write even when their key is gone by then, until
    the next one: what is written to them is forgotten.
    """

    def __init__(self, spec: TableSpec, *, track_delta: bool = True) -> None:
        """An empty table.

        Args:
            spec: its settings.
            track_delta: keep the keys of deleted rows for `drain_delta`; off for a table that nobody
                drains, whose list would otherwise grow with every row that ever expired.
        """
        super().__init__(spec, make_store(spec))
        self._track_delta = track_delta
        self.filter = Filter(spec, self._store)
        self._bare = self._rules._replace(ttl_s=0, classes=0)  # every row in the index exists
        self._constants = constants_of(spec)
        self._deleted: list[Keys] = []
        self._cursors: WeakSet[Cursor] = WeakSet()
        self._own_cursor: Cursor | None = None
        self._taken = False  # whether any changes were ever taken

    @property
    def arrays(self) -> Store:
        """The arrays behind the table, for kernels of this package."""
        return self._store

    def __len__(self) -> int:
        """Rows in use, those expired but not yet swept included."""
        return int(self._store.state[State.LIVE])

    @property
    def nbytes(self) -> int:
        """Bytes in use by rows, index, lists and filter (not the address space reserved)."""
        return bytes_in_use(self._store)

    @property
    def rules(self) -> Rules:
        """What kernels must know of its spec."""
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
        """The slot of each sighting, making rows for new ids.

        Sightings are taken one by one in order, so results do not depend on how a stream is cut into
        batches. A new row starts with the sighting's time as last seen and a count of 0. Where the
        table has a TTL, a sighting also renews last seen; `touch` does the rest.

        Args:
            keys: (n,) uint64, repeats welcome.
            times: (n,) or one: Unix seconds of the sightings.

        Returns:
            (n,) int64; -1 where the id is not admitted yet, or the table is full.
        """
        slots, inverse, _ = self._upsert(keys, times, 0)
        return np.take(slots, inverse)

    def find(self, keys: npt.ArrayLike, now: npt.ArrayLike = 0) -> Slots:
        """The slot of each key, (n,) int64, -1 where it has no row at `now` ((n,) or one). Never inserts."""
        key_array = self._keys(keys)
        return self._find(self._rules, key_array, self._times(now, len(key_array)))

    def block(self, keys: npt.ArrayLike, times: npt.ArrayLike) -> Block:
        """`upsert` and fetch the vectors of the distinct ids once: the fast way to learn from a batch."""
        return Block(*self._upsert(keys, times, self.spec.dim))

    def read(self, keys: npt.ArrayLike, now: int = 0) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The vectors of keys, (n, dim), and which have a row at `now`, (n,); zeros for the others.

        Any number of threads may call this while one other thread calls anything else: every row is
        whole, as it was before or after a write (but for writes to `rows`), and belongs to its key.

        Raises:
            TableError: a row was open for writing all along; the writing thread seems to be stopped.
        """
        unique, inverse = self._distinct(self._keys(keys))
        vectors, there = reading.read_whole(self.spec, self._store, self._rules, unique, now)
        out = np.empty((len(inverse), self.spec.dim), dtype=np.float32)
        batches.spread(vectors, inverse, out)
        return out, np.take(there, inverse)

    def evicts_within(self, sightings: int) -> bool:
        """Whether the next so many sightings may evict rows; False is certain, True is not."""
        if self.spec.evict == "none":
            return False
        return not limit_is_far(self._store.ages, self.spec.rows_max, sightings, sightings)

    def turns_within(self, sightings: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """At how many of the next so many sightings (k,) eviction looks whether rows must go, (k,)."""
        if self.spec.evict == "none":
            return np.zeros_like(sightings)
        return turns_within(self._store.ages, self.spec.rows_max, sightings)

    def spread(self, block: Block) -> Floats:
        """A block's vectors for every id of the batch, (n, dim)."""
        out = np.empty((len(block.inverse), block.vectors.shape[1]), dtype=np.float32)
        batches.spread(block.vectors, block.inverse, out)
        return out

    # Learning.

    def apply_gradients(self, slots: Slots, gradients: npt.ArrayLike) -> None:
        """One optimizer step: gradients (n, dim) of a slot's repeats are summed first, then applied once."""
        slots = self._slots(slots)
        unique, inverse = self._distinct(slots.view(np.uint64))
        self._step(unique.view(np.int64), inverse, gradients)

    def apply_block(self, block: Block, gradients: npt.ArrayLike) -> None:
        """As `apply_gradients`, for gradients (n, dim) of the ids of a block's batch."""
        self._step(block.slots, block.inverse, gradients)

    # Leaving.

    def delete(self, keys: npt.ArrayLike, *, counted: bool = True) -> int:
        """Take keys out; returns how many were there.

        Args:
            keys: (n,) uint64.
            counted: False where another table, whose filter lines come along, has counted them out.
        """
        key_array = self._keys(keys)
        removed = np.empty(len(key_array), dtype=np.uint64)
        count = lookup.delete(self._store, self._rules, key_array, removed, counted)
        return self._note_removed(removed, count)

    def forget(self, keys: npt.ArrayLike) -> int:
        """Take ids out as if they had never been here: rows, and what the filter has counted.

        The next delta names all of them as deleted, rows or not, so that every copy that follows and
        every snapshot to come is without them; a base of a snapshot that was written before is so
        once the next one takes its place.

        Returns:
            How many had a row.
        """
        key_array = self._keys(keys)
        count = self.delete(key_array)
        self.filter.forget(key_array)
        self._note_removed(key_array, len(key_array))
        return count

    def expire(self, now: int, budget: int = 4096) -> int:
        """Free what has expired by `now` among the next `budget` slots; returns how many.

        Bounded work, for now and then. It reclaims room; what `upsert` and `find` say is the same
        without it, as long as `now` is not ahead of the sightings to come.
        """
        if self.spec.ttl_s == 0:
            return 0
        removed = np.empty(min(budget, int(self._store.state[State.HIGH])), dtype=np.uint64)
        count = expiry.sweep(self._store, self._rules, np.int64(now), np.int64(len(removed)), removed)
        return self._note_removed(removed, count)

    # Deltas, checkpoints, state.

    @property
    def touched(self) -> int:
        """Rows written since the last drain, each once."""
        return int(self._store.state[State.TOUCHED])

    def open_cursor(self, *, whole: bool = False) -> Cursor:
        """A consumer's own list of changes: from now on, with those that nobody has taken yet.

        Args:
            whole: from the beginning: all that the table holds counts as changed.
        """
        cursor = Cursor()
        self._cursors.add(cursor)
        if whole and self._taken:
            lines = np.arange(self.filter.lines, dtype=np.uint32)
            cursor.note(self.items()[0], np.empty(0, dtype=np.uint64), lines)
        return cursor

    def take_changes(self, cursor: Cursor | None = None) -> tuple[Keys, Keys, Lines]:
        """What changed since a consumer took changes last: keys written, keys deleted, lines of the filter.

        A key that was deleted and then made again is in both lists. Changes that one consumer takes still
        wait for each of the others.

        Args:
            cursor: whose; None: the table's own, of callers that are the only ones.
        """
        if cursor is None:
            cursor = self._own_cursor = self._own_cursor or self.open_cursor()
        touched = np.empty(int(self._store.state[State.TOUCHED]), dtype=np.uint64)
        touched = touched[: contents.drain(self._store, touched)]
        deleted = np.unique(np.concatenate(self._deleted)) if self._deleted else np.empty(0, dtype=np.uint64)
        self._deleted = []
        lines = self.filter.take_changed()
        self._taken = True
        for each in self._cursors:
            each.note(touched, deleted, lines)
        mine, deleted, lines = cursor.take()
        if len(mine) != len(touched):  # some waited, and may be gone by now
            mine = mine[self._find(self._bare, mine, np.zeros(len(mine), dtype=np.uint32)) >= 0]
        return mine, deleted, lines

    def drain_delta(self) -> Delta:
        """The keys written and the keys deleted since the last call of this."""
        touched, deleted, _ = self.take_changes()
        return Delta(touched=touched, deleted=deleted)

    def export(self, keys: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Whole rows (n, width) with metadata, and which keys were there ((n,) bool; others are zeros)."""
        key_array = self._keys(keys)
        slots = self._find(self._bare, key_array, np.zeros(len(key_array), dtype=np.uint32))
        return self._gather(slots, 0, self.width), slots >= 0

    def export_serving(self, keys: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """As `export`, but `serving_slices` only: rows for a table made from `spec.serving()`."""
        rows, found = self.export(keys)
        return np.concatenate([rows[:, part] for part in self.serving_slices], axis=1), found

    def load(self, keys: npt.ArrayLike, rows: Floats) -> None:
        """Put rows (n, width) back, bit for bit, past admission; a key that is there is overwritten.

        Raises:
            TableError: the table is full.
        """
        key_array = self._keys(keys)
        array = self._values(rows, len(key_array), self.width, "rows (of the same dim, optimizer and extra)")
        self._load(key_array, array)

    def make_room(self, rows: int) -> None:
        """Say how many rows are about to be loaded into an empty table: its index need not grow to them."""
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

    @property
    def slots_used(self) -> int:
        """Slots that have ever held a row: `page` has nothing beyond. A row keeps its slot while it lives."""
        return int(self._store.state[State.HIGH])

    def page(self, first: int, count: int) -> tuple[Keys, Floats]:
        """Keys (n,) and whole rows (n, width) in use among slots first to first + count, expired or not."""
        count = max(min(count, self.slots_used - first), 0)
        keys = np.empty(count, dtype=np.uint64)
        rows = np.empty((count, self.width), dtype=np.uint32)
        found = contents.page(self._store, np.int64(first), keys, rows)
        return keys[:found], rows[:found].view(np.float32)

    def digest(self, now: int) -> int:
        """A 64-bit hash of every (key, row) that exists at `now`, whatever the order they came in."""
        return int(contents.digest(self._store, self._rules, np.int64(now)))

    # Inside.

    def _upsert(self, keys: npt.ArrayLike, times: npt.ArrayLike, columns: int) -> Block:
        """A batch's slots by number, and the first columns of their rows."""
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
        slots = np.empty(len(keys), dtype=np.int64)
        lookup.find(self._store, rules, keys, times, slots)
        return slots

    def _note_removed(self, removed: Keys, count: int) -> int:
        if count and self._track_delta:
            self._deleted.append(removed[:count].copy())
        return count

    def _distinct(self, keys: Keys) -> tuple[Keys, npt.NDArray[np.int64]]:
        return batches.number(keys, np.uint64(self._store.state[State.SALT]))

    def _step(self, slots: Slots, inverse: npt.NDArray[np.int64], gradients: npt.ArrayLike) -> None:
        step = STEPS.get(self.spec.optimizer)
        if step is None:
            raise TableError(f"table {self.spec.name!r} has optimizer 'none': it serves and cannot learn")
        values = self._values(gradients, len(inverse), self.spec.dim, "gradients")
        if self.spec.dim == 0:
            return
        sums = np.zeros((len(slots), self.spec.dim), dtype=np.float32)
        batches.total(inverse, values, sums)
        step(self._store, slots, sums, self.spec.dim, self._constants)

    def _keys(self, keys: npt.ArrayLike) -> Keys:
        return as_keys(self.spec.name, keys)
