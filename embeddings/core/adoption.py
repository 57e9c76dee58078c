"""Turn eviction on for rows that were saved without it: each row gets a stamp from its last seen.

Such a row is restored with stamp 0, which no sighting assigns. The first time, the range of last seen is
divided into PARTS generations of equal length, older than all others. The range is saved with eviction's
clock: if a restart reads the same page again, each row gets the same stamp.
"""

import numpy as np
import numpy.typing as npt

from embeddings.core.eviction import PARTS
from embeddings.core.positions import Ages, State
from embeddings.core.store import Store
from embeddings.errors import TableInputError
from embeddings.spec import TableSpec
from embeddings.types import Floats

STAMPED_AT_ONCE = 1 << 16


def widen(spec: TableSpec, rows: Floats) -> Floats:
    """Rows (n, W) without eviction's columns as rows with a stamp of 0; `lengthen` does the rest.

    Raises:
        TableInputError: the rows have another width.
    """
    columns = spec.extra_column - spec.age_column
    if not spec.width - spec.extra <= rows.shape[1] + columns <= spec.width:
        raise TableInputError(f"table {spec.name!r}: rows have {rows.shape[1]} columns, not {spec.width}")
    none = np.zeros((len(rows), columns), dtype=np.float32)
    return np.concatenate([rows[:, : spec.age_column], none, rows[:, spec.age_column :]], axis=1)


def lengthen(spec: TableSpec, rows: Floats) -> Floats:
    """Rows (n, W) with fewer of the caller's columns as rows (n, spec.width), whose further ones are 0.

    Raises:
        TableInputError: the rows lack more than the caller's columns.
    """
    missing = spec.width - rows.shape[1]
    if missing > spec.extra:
        raise TableInputError(f"table {spec.name!r}: rows have {rows.shape[1]} columns, not {spec.width}")
    at = spec.seen_column - missing
    none = np.zeros((len(rows), missing), dtype=np.float32)
    return np.concatenate([rows[:, :at], none, rows[:, at:]], axis=1)


def adopt(spec: TableSpec, store: Store) -> None:
    """Set stamp, and unknown uses, of each row with stamp 0; the first time, also count these rows."""
    high = int(store.state[State.HIGH])
    slots = np.flatnonzero((store.in_use[:high] != 0) & (store.bits[:high, spec.age_column] == 0))
    if not len(slots):
        return
    seen = store.bits[slots, spec.seen_column].astype(np.int64)
    first = store.ages[Ages.SEEN_TO] == 0
    if first:
        begin_adoption(store, int(seen.min()), int(seen.max()))
    for at in range(0, len(slots), STAMPED_AT_ONCE):
        part = slots[at : at + STAMPED_AT_ONCE]
        own = store.bits[part, spec.age_column : spec.seen_column + 2]
        stamp(spec, store, own, counted=first)
        store.bits[part, spec.age_column : spec.extra_column] = own[:, : spec.extra_column - spec.age_column]


def begin_adoption(store: Store, seen_first: int, seen_last: int) -> None:
    """Divide the range of last seen, Unix seconds, into generations that are older than all others."""
    ages = store.ages
    ages[Ages.SEEN_FROM], ages[Ages.SEEN_TO] = seen_first, seen_last + 1
    ages[Ages.GENERATION], ages[Ages.FLOOR] = PARTS + 1, 1
    ages[Ages.NEWEST] = seen_last


def stamp(spec: TableSpec, store: Store, columns: npt.NDArray[np.uint32], *, counted: bool) -> None:
    """Set stamp, and unknown uses, in columns of rows.

    Args:
        columns: (n, columns) uint32, of rows from the stamp to the count.
        counted: also count these rows.
    """
    ages = store.ages
    seen_at = spec.seen_column - spec.age_column
    seen = columns[:, seen_at].astype(np.int64)
    part = (seen - ages[Ages.SEEN_FROM]) * PARTS // (ages[Ages.SEEN_TO] - ages[Ages.SEEN_FROM])
    stamps = 1 + np.clip(part, 0, PARTS - 1)
    columns[:, 0] = stamps
    uses = np.zeros(len(columns), dtype=np.int64)
    if spec.evict == "least_frequent":
        uses = columns[:, 1].astype(np.int64)  # 0 unless they are known
        uses = np.where(uses > 0, uses, np.maximum(columns[:, seen_at + 1], 1))
        columns[:, 1] = uses
    if counted:
        np.maximum.at(store.age_times, stamps, seen)
        np.add.at(store.held, (np.minimum(uses, store.held.shape[0] - 1), stamps), 1)
        ages[Ages.HELD] += len(columns)
