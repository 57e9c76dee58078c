"""A table with `memory_rows` rows in memory; the others rest on disk and come back when they are seen.

Every call that takes keys first brings the rows of these keys back, all in one read. A row comes back as it
left, bit for bit, and is counted meanwhile. So results are those of a table that holds all rows in memory;
only the moment at which an evicted or expired row is listed as deleted may be another one.

Rows leave memory only in `leave`: the slots that a call returned stay valid until then. Between two
such calls a table holds `memory_rows` rows and those that came meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from embeddings.core.memory import reserve
from embeddings.core.positions import State
from embeddings.errors import TableError
from embeddings.kernels import contents, expiry, resting
from embeddings.rest.entries import RowEntries, RowSource, as_store, existing, put_entries
from embeddings.rest.limits import KeptLimits
from embeddings.rest.recency import Recency
from embeddings.save.entries import Sink
from embeddings.spec import Rules, TableSpec
from embeddings.table.checks import KERNEL
from embeddings.table.table import PAGE_ROWS, Table
from embeddings.types import Block, Floats, Keys, Slots
from ground.distinct import distinct

SLOT_BYTES = 8
"""Of a slot, for its last use and its last delta."""

ABSENT_PARTS = 4
"""Reads whose keys without a row are remembered: a chunk's keys are asked for several times."""

_CHANGED = 1  # in `latest`: the row is newer than its entry, and in no delta


class RestingTable(Table):
    """A table larger than memory. One thread at a time may call it, `read` included.

    Args:
        spec: the settings; `rows_max` counts rows in memory and at rest.
        memory_rows: how many rows stay in memory when others are sent to rest.
        track_delta: as for `Table`.

    Raises:
        TableError: memory_rows is not from 1 to rows_max.
    """

    def __init__(self, spec: TableSpec, memory_rows: int | None = None, *, track_delta: bool = True) -> None:
        if memory_rows is None or not 1 <= memory_rows <= spec.rows_max:
            raise TableError(
                f"table {spec.name!r}: memory_rows must be from 1 to rows_max = {spec.rows_max}, not "
                f"{memory_rows}"
            )
        super().__init__(spec, track_delta=track_delta, memory_rows=memory_rows)
        self.memory_rows = memory_rows
        self.limits = KeptLimits(spec, self._store, self._rules)
        slots = len(self._store.slot_key)
        # of the row at each slot: the delta with its last change; 0: its entry on disk is the same
        self.latest: npt.NDArray[np.uint32] = reserve((slots,), np.uint32)
        self.recency = Recency(self._store)
        self._entries: RowEntries | None = None
        self._gone: set[int] = set()  # keys removed since rows were last sent to rest
        self._gone_put = True  # whether the sink has the deletion of their entries
        self._absent: list[Keys] = []  # keys that have no row on disk, each part ascending
        self._swept: int | None = None  # the key at which the round over the rows at rest is
        self.reads = 0  # rows that came back
        self.looks = 0  # keys that were looked up on disk

    def __repr__(self) -> str:
        return (
            f"<RestingTable {self.spec.name!r}: {self.in_memory:,} rows in memory, {self.at_rest:,} at rest>"
        )

    def __len__(self) -> int:
        """Rows in memory and at rest, including those that are gone and not removed yet."""
        return self.in_memory + self.at_rest

    @property
    def nbytes(self) -> int:
        """Bytes in use in memory."""
        return super().nbytes + int(self._store.state[State.HIGH]) * SLOT_BYTES

    @property
    def in_memory(self) -> int:
        """Rows in memory."""
        return int(self._store.state[State.LIVE])

    @property
    def at_rest(self) -> int:
        """Rows on disk only."""
        return int(self._store.state[State.RESTING])

    @property
    def crowded(self) -> bool:
        """Whether rows should be sent to rest now, before more come."""
        return self.in_memory > self.memory_rows + (self.memory_rows >> 4)

    def rest_in(self, source: RowSource, prefix: bytes, where: str) -> RowEntries:
        """Let rows rest in a store from now on; returns the access to their entries."""
        self._entries = RowEntries(source, prefix, self.spec.width, f"{where}: table {self.spec.name!r}")
        return self._entries

    # --- rows come back ---

    def bring(self, keys: npt.ArrayLike) -> None:
        """Bring the rows of keys (n,) back into memory, in one read.

        Raises:
            TableError: there is no room for them: too many rows came since rows were last sent to rest.
        """
        key_array = self._keys(keys)
        if not len(key_array):
            return
        slots = np.empty(len(key_array), dtype=np.int64)
        self._find_in_memory(key_array, slots)
        self.recency.use(slots)
        if self.at_rest <= 0 or self._entries is None:
            return
        missing = distinct(key_array[slots < 0])
        for absent in self._absent:
            at = np.minimum(np.searchsorted(absent, missing), len(absent) - 1)
            missing = missing[absent[at] != missing]
        if len(missing):
            self._look_up(missing)

    def _look_up(self, missing: Keys) -> None:
        assert self._entries is not None
        self.looks += len(missing)
        absent = missing
        if self._gone:
            missing = np.array([key for key in missing.tolist() if key not in self._gone], dtype=np.uint64)
        keys, rows = self._entries.read(missing)
        if len(keys):
            lost = self.limits.passed(rows)
            if lost.any():
                self._remove_resting(keys[lost])
                keys, rows = keys[~lost], rows[~lost]
            self._come_back(keys, rows)
            absent = absent[~np.isin(absent, keys, assume_unique=True)]
        if len(absent):
            self._absent = [*self._absent[1 - ABSENT_PARTS :], absent]

    def _come_back(self, keys: Keys, rows: Floats) -> None:
        slots = np.empty(len(keys), dtype=np.int64)
        bits = np.require(rows, requirements=KERNEL).view(np.uint32)
        resting.come_back(self._store, np.require(keys, requirements=KERNEL), bits, slots)
        if len(slots) and slots.min() < 0:
            raise self._no_room()
        self.reads += len(keys)
        self.latest[slots] = 0
        self.recency.use(slots)

    def _no_room(self) -> TableError:
        return TableError(
            f"table {self.spec.name!r}: more than {len(self._store.slot_key):,} rows were used since rows "
            f"were last sent to rest: commit more often, or raise memory_rows = {self.memory_rows:,}"
        )

    def has(self, keys: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which keys (n,) have a row that was not removed yet; brings nothing back."""
        key_array = self._keys(keys)
        slots = np.empty(len(key_array), dtype=np.int64)
        self._find_in_memory(key_array, slots)
        found = slots >= 0
        missing = np.flatnonzero(~found)
        if self._entries is not None and self.at_rest > 0 and len(missing):
            held, _ = self._entries.read(distinct(key_array[missing]))
            found[missing] = np.isin(key_array[missing], held) & ~self._are_gone(key_array[missing])
        return found

    # --- what a table does, after the rows came back ---

    def _upsert(self, keys: npt.ArrayLike, times: npt.ArrayLike, columns: int) -> Block:
        key_array = self._keys(keys)
        self.bring(key_array)
        if self.in_memory + len(key_array) > len(self._store.slot_key):
            raise self._no_room()
        block = super()._upsert(key_array, times, columns)
        self.limits.note()
        return block

    def _find(self, rules: Rules, keys: Keys, times: npt.NDArray[np.uint32]) -> Slots:
        self.bring(keys)
        return super()._find(rules, keys, times)

    def read(self, keys: npt.ArrayLike, now: int = 0) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """As of `Table`, but only for the thread that calls the other methods."""
        self.bring(keys)
        return super().read(keys, now)

    def delete(self, keys: npt.ArrayLike, *, counted: bool = True, now: int = 0) -> int:
        """Delete keys; see `Table.delete`."""
        self.bring(keys)
        return super().delete(keys, counted=counted, now=now)

    def _load(self, key_array: Keys, array: Floats) -> None:
        self.bring(key_array)
        super()._load(key_array, array)

    def _note_removed(self, removed: Keys, count: int) -> int:
        self._gone.update(removed[:count].tolist())
        self._gone_put &= count == 0
        return super()._note_removed(removed, count)

    def _find_in_memory(self, keys: Keys, slots: Slots) -> None:
        slots[:] = super()._find(self._bare, keys, np.zeros(len(keys), dtype=np.uint32))

    def make_room(self, rows: int) -> None:
        """Size the index of an empty table for the rows that will be in memory."""
        super().make_room(min(rows, self.memory_rows))

    # --- all rows ---

    def items(self, now: int | None = None) -> tuple[Keys, Slots]:
        """Not of this table: rows at rest have no slot. `pages` has all rows."""
        raise TableError(f"table {self.spec.name!r}: rows at rest have no slot; use pages()")

    def pages(self, now: int | None = None) -> Iterator[tuple[Keys, Floats]]:
        """Keys and whole rows of all rows that exist at `now`, a page at a time; change nothing meanwhile."""
        yield from super().pages(now)
        rules = self._bare if now is None else self._rules
        for keys, rows in self.resting_pages():
            kept = existing(self._store, rules, keys, rows, now or 0)
            yield keys[kept], rows[kept]

    def pages_in_memory(self) -> Iterator[tuple[Keys, Floats]]:
        """Keys and whole rows of all rows in memory, a page at a time."""
        return super().pages()

    def newer_than_entries(self) -> tuple[Keys, npt.NDArray[np.uint32]]:
        """Keys of the rows in memory that are newer than their entry, (n,), and the delta of each, (n,)."""
        high = int(self._store.state[State.HIGH])
        slots = np.flatnonzero((self._store.in_use[:high] != 0) & (self.latest[:high] != 0))
        return self._store.slot_key[slots], self.latest[slots]

    def digest(self, now: int) -> int:
        """A 64-bit hash of every (key, row) that exists at `now`; see `Table.digest`."""
        total = super().digest(now)
        for keys, rows in self.resting_pages():
            total += int(contents.digest(as_store(self._store, keys, rows), self._rules, np.int64(now)))
        return total & ((1 << 64) - 1)

    def resting_pages(self, *, passed: bool = False) -> Iterator[tuple[Keys, Floats]]:
        """Keys and rows of the rows at rest, a page at a time; `passed`: also those that a limit passed."""
        after: int | None = None
        last = self._entries is None or self.at_rest <= 0
        while not last:
            assert self._entries is not None
            keys, rows, last = self._entries.page(after, PAGE_ROWS)
            if len(keys):
                after = int(keys[-1])
            mine = self._rest_now(keys)
            if not passed:
                mine &= ~self.limits.passed(rows)
            yield keys[mine], rows[mine]

    # --- rows leave ---

    def sweep(self, budget: int) -> None:
        """Remove evicted rows from memory, and rows that are gone among the next `budget` entries on disk.

        Their entries are deleted by `put_gone`. Before rows are sent to rest no evicted row may be in memory:
        the limit that passed it may be dropped before the row is read again.
        """
        if self.spec.evict != "none":
            removed = np.empty(self.in_memory, dtype=np.uint64)
            left = self._store.state[State.HAND_END] - self._store.state[State.HAND]
            count = expiry.sweep_evicted(self._store, self._rules, np.int64(left), removed, 0)
            self._note_removed(removed, count)
        if self._entries is None or self.at_rest <= 0 or not self.spec.rows_leave:
            return
        if self._swept is None:
            self.limits.begin_round()
        keys, rows, last = self._entries.page(self._swept, budget)
        lost = self._rest_now(keys) & (self.limits.passed(rows) | self.limits.over(rows))
        self._remove_resting(keys[lost])
        self._swept = None if last else int(keys[-1])
        if last:
            self.limits.end_round()

    def put_gone(self, sink: Sink) -> None:
        """Delete the entries of the keys that were removed, before rows are put; they count as gone until
        `leave`."""
        if self._gone and self._entries is not None:
            self._entries.delete(sink, np.fromiter(self._gone, dtype=np.uint64, count=len(self._gone)))
        self._gone_put = True

    def put_changed(self, sink: Sink, keys: Keys, number: int) -> None:
        """Write the entries of those of the keys whose row in memory last changed in delta `number`."""
        slots = np.empty(len(keys), dtype=np.int64)
        self._find_in_memory(keys, slots)
        slots = slots[slots >= 0]
        slots = slots[self.latest[slots] == number]
        self._put(sink, slots)
        self.latest[slots] = 0

    def put_oldest(self, sink: Sink, rows: int | None = None) -> Slots:
        """Write the least recently used rows, until `memory_rows` are left; returns their slots for `leave`.

        Call `sweep` before, then `take_changes`, and note what it gives with `note_changed`.

        Args:
            rows: at most so many; None: no limit.
        """
        if not self._gone_put:
            self.put_gone(sink)
        excess = self.in_memory - self.memory_rows if self._entries is not None else 0
        slots = self.recency.oldest(excess if rows is None else min(excess, rows))
        self._put(sink, slots[self.latest[slots] > 0])
        return slots

    def leave(self, slots: Slots) -> None:
        """The rows of `put_oldest` leave memory. What was written must be visible before the next call."""
        resting.leave_memory(self._store, slots)
        self._gone.clear()
        self._absent = []

    def stay(self, slots: Slots) -> None:
        """The rows of `put_oldest` stay in memory: they could not be written."""
        self.recency.use(slots)
        self._gone_put = not self._gone

    def note_changed(self, keys: Keys, number: int = _CHANGED) -> None:
        """Note that the rows of keys, all taken by `take_changes`, are newer than their entries on disk.

        Args:
            number: of the delta that holds them.
        """
        slots = np.empty(len(keys), dtype=np.int64)
        self._find_in_memory(keys, slots)
        slots = slots[slots >= 0]
        self.latest[slots] = number
        self.recency.use(slots)

    # --- saving and restoring what is in memory ---

    def restore_counts(self, rows: int, limits: list[tuple[int, int, int]]) -> None:
        """After the rows in memory were restored: how many rows there are in all, and the limits kept."""
        self._store.state[State.RESTING] = rows - self.in_memory
        self.limits.kept = limits
        self._gone.clear()

    @property
    def clock(self) -> bytes:
        """The counts of rows by last seen, of a table with a TTL and no eviction; else empty."""
        if not self._counts_alive:
            return b""
        return self._store.alive.tobytes() + self._store.ages.tobytes()

    def restore_clock(self, data: bytes) -> None:
        """Restore `clock`, after the rows.

        Raises:
            TableError: it comes from a table with other settings.
        """
        alive, ages = self._store.alive, self._store.ages
        if not self._counts_alive:
            return
        if len(data) != alive.nbytes + ages.nbytes:
            raise TableError(
                f"table {self.spec.name!r}: its counts have {len(data)} bytes; ttl_s has changed"
            )
        np.copyto(alive, np.frombuffer(data[: alive.nbytes], dtype=np.int64))
        np.copyto(ages, np.frombuffer(data[alive.nbytes :], dtype=np.int64))

    @property
    def _counts_alive(self) -> bool:
        return self.spec.ttl_s > 0 and self.spec.evict == "none"

    def _rest_now(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which keys with an entry are at rest: neither in memory nor removed."""
        slots = np.empty(len(keys), dtype=np.int64)
        self._find_in_memory(keys, slots)
        return (slots < 0) & ~self._are_gone(keys)

    def _are_gone(self, keys: Keys) -> npt.NDArray[np.bool_]:
        if not self._gone:
            return np.zeros(len(keys), dtype=np.bool_)
        return np.array([key in self._gone for key in keys.tolist()], dtype=np.bool_)

    def _put(self, sink: Sink, slots: Slots) -> None:
        if self._entries is not None and len(slots):
            put_entries(
                sink, self._entries.prefix, self.keys_at(slots), self._gather(slots, 0, self.spec.width)
            )

    def _remove_resting(self, keys: Keys) -> None:
        self._store.state[State.RESTING] -= len(keys)
        self._note_removed(keys, len(keys))
