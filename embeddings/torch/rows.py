"""The rows of one table behind modules: looked up in `forward`, stepped once at the end of `backward`."""

import os
from typing import NamedTuple, NoReturn
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch

from embeddings.core.positions import Ages, State
from embeddings.errors import TableError, TableInputError
from embeddings.spec import BATCH_MAX
from embeddings.table.checks import as_uint32
from embeddings.table.table import Table
from embeddings.torch.ids import times_of
from embeddings.torch.saving import table_bytes, table_from
from embeddings.types import Block, Floats, Keys, Slots

EXPIRE_SLOTS = 4096
"""Slots that one forward pass checks for expired rows."""

DRAIN_AFTER = 1 << 16
"""Removed rows after which the list of changes is emptied: nobody may be there to take it."""


class FoundRows(NamedTuple):
    """The rows of a batch of k ids, m of them distinct, as `forward` found them."""

    slots: Slots  # (m,), -1 without a row
    inverse: npt.NDArray[np.int64]  # (k,), the number of each id
    vectors: Floats  # (m, dim)
    keys: Keys  # (k,), the ids
    distinct: bool  # no slot is there twice
    inserted: int  # rows that the table had ever inserted after this batch
    removed: int  # and removed before it


class TableRows:
    """One table, its event-time clock, and the gradients that wait for the end of a backward pass.

    All modules over a table share one of these. Use `TableRows.over`.
    """

    def __init__(self, table: Table) -> None:
        if table.spec.dim == 0:
            raise TableError(f"table {table.spec.name!r} has dim 0: there is no vector to look up")
        self.table = table
        self.clock = 0.0
        """The newest event time given, in Unix seconds."""
        self.held = False
        """Whether gradients wait for `step` instead of being applied at the end of each backward pass."""
        self.skipped = 0
        """Steps left out because a gradient was not finite."""
        self._waiting: list[tuple[FoundRows, Floats]] = []
        self._pass = -1  # the backward pass that the waiting gradients come from
        self._drained = 0
        self._pid = os.getpid()

    @classmethod
    def over(cls, table: Table) -> "TableRows":
        """The rows of a table."""
        found = _IN_USE.get(id(table))
        if found is None:
            found = _IN_USE[id(table)] = cls(table)
        return found

    def times(self, times: object, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Event times of ids of a shape: one for all, or one for each of the first n; moves the clock.

        Raises:
            TableInputError: another shape; or none were ever given and rows expire.
        """
        name = self.table.spec.name
        if times is None:
            if self.table.spec.ttl_s and self.clock == 0.0:
                raise TableInputError(
                    f"table {name!r} has a ttl_s, so its first batch needs event times: "
                    "module(ids, times), in Unix seconds"
                )
            return np.asarray(self.clock)
        array = times_of(f"table {name!r}", times)
        if array.ndim and array.shape not in (shape, shape[:1]):
            raise TableInputError(
                f"table {name!r}: times must be one number or have the shape {shape} or {shape[:1]}, not "
                f"{array.shape}"
            )
        if array.ndim and array.shape != shape:
            array = np.broadcast_to(array.reshape(-1, *[1] * (len(shape) - 1)), shape)
        if array.size and np.isfinite(array).all():
            self.clock = max(self.clock, float(array.max()))
        return array.reshape(-1) if array.ndim else array

    def look_up(self, keys: Keys, times: npt.NDArray[np.float64], *, learn: bool) -> FoundRows:
        """The rows of ids (k,) at times (k,) or one; `learn`: make rows for new ids, and count sightings.

        Raises:
            TableInputError: a time is out of range.
            TableError: called in another process than the one that made the table.
        """
        self._check_process()
        table = self.table
        if torch._C._current_graph_task_id() < 0 and not self.held:
            self._waiting.clear()  # of a backward pass that failed
        removed = self._removed()
        if not learn:
            slots, inverse = np.zeros(0, dtype=np.int64), np.arange(len(keys), dtype=np.int64)
            if times.ndim:
                vectors = table.vectors(table.find(keys, times))
            else:  # also beside a thread that learns
                vectors, _ = table.read(keys, int(as_uint32(table.spec.name, times, 1, "times")[0]))
            return FoundRows(slots, inverse, vectors, keys, False, 0, removed)
        if table.spec.ttl_s and times.size:
            table.expire(max(int(times.min()), 0), EXPIRE_SLOTS)
        blocks = []
        for first in range(0, max(len(keys), 1), BATCH_MAX):
            cut = slice(first, first + BATCH_MAX)
            blocks.append(table.block(keys[cut], times[cut] if times.ndim else times))
        block = blocks[0] if len(blocks) == 1 else _joined(blocks)
        return FoundRows(*block, keys, len(blocks) == 1, int(table.arrays.state[State.INSERTED]), removed)

    def take(self, seen: FoundRows, sums: Floats) -> None:
        """Take the gradient (m, dim) of each distinct id of a batch, within a backward pass."""
        self._check_process()
        here = torch._C._current_graph_task_id()
        if here != self._pass and not self.held:
            self._waiting.clear()
        if not self._waiting or here != self._pass:
            torch.autograd.Variable._execution_engine.queue_callback(self._at_the_end)
        self._pass = here
        self._waiting.append((seen, sums))

    def step(self) -> None:
        """One optimizer step by all gradients that wait; gradients of an id are summed first."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        table = self.table
        if not all(np.isfinite(np.dot(sums.reshape(-1), sums.reshape(-1))) for _, sums in waiting):
            self.skipped += 1
            return
        parts = [(self._still(seen), sums) for seen, sums in waiting]
        if len(parts) == 1 and waiting[0][0].distinct:
            table.apply_distinct(*parts[0])
        else:
            slots = np.concatenate([slots for slots, _ in parts])
            table.apply_gradients(slots, np.concatenate([sums for _, sums in parts]))
        if self._removed() - self._drained > DRAIN_AFTER:
            self._drained = self._removed()
            table.drain_delta()  # other consumers, such as a SnapshotFolder, still get these changes

    def drop(self) -> None:
        """Forget the gradients that wait."""
        self._waiting.clear()

    def state(self) -> torch.Tensor:
        """The table as bytes."""
        return table_bytes(self.table)

    def read_state(self, data: object) -> Table:
        """A new table from `state`, which `replace` puts here.

        Raises:
            SnapshotError: the bytes are damaged or do not fit.
        """
        return table_from(self.table.spec, data)

    def replace(self, table: Table) -> None:
        """Use another table from now on, in all modules over this one."""
        self.drop()
        del _IN_USE[id(self.table)]
        self.table, self.clock = table, 0.0
        self._drained = self._removed()
        _IN_USE[id(table)] = self

    def __deepcopy__(self, memo: dict[int, object]) -> "TableRows":
        made = TableRows.over(self.read_state(self.state()))
        made.clock, made.held = self.clock, self.held
        memo[id(self)] = made
        return made

    def __reduce__(self) -> NoReturn:
        name = self.table.spec.name
        raise TableError(
            f"table {name!r} cannot be pickled: it belongs to one process. In DataLoader workers prepare ids "
            "only (embeddings.torch.string_ids in collate_fn) and call the module in the main process; to "
            "store it, torch.save(module.state_dict(), path)"
        )

    def _at_the_end(self) -> None:
        if not self.held:
            self.step()

    def _still(self, seen: FoundRows) -> Slots:
        """The slots of a batch, -1 where the row was removed since: another id may have its slot now."""
        state = self.table.arrays.state
        if seen.inserted == int(state[State.INSERTED]) or seen.removed == self._removed():
            return seen.slots
        owners = np.zeros(len(seen.slots), dtype=np.uint64)
        owners[seen.inverse] = seen.keys
        now = np.uint32(min(self.clock, float(np.iinfo(np.uint32).max)))
        return np.where(self.table.find(owners, now) == seen.slots, seen.slots, -1)

    def _removed(self) -> int:
        """Rows ever removed."""
        store = self.table.arrays
        gone = store.state[State.EXPIRED] + store.state[State.DELETED] + store.ages[Ages.EVICTED]
        return int(gone)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise TableError(
                f"table {self.table.spec.name!r} is called in another process than it was made in (a "
                "DataLoader worker?): rows learned here would be lost. Prepare ids in workers, and call the "
                "module in the main process"
            )


_IN_USE: WeakValueDictionary[int, TableRows] = WeakValueDictionary()
"""By the identity of their table, which lives as long as its rows."""


def _joined(blocks: list[Block]) -> Block:
    """Blocks as one; a slot may be in it more than once."""
    starts = np.cumsum([0, *(len(block.slots) for block in blocks)])
    return Block(
        np.concatenate([block.slots for block in blocks]),
        np.concatenate([block.inverse + at for block, at in zip(blocks, starts, strict=False)]),
        np.concatenate([block.vectors for block in blocks]),
    )
