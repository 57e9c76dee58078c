"""Looking up ids of which some are no sighting: those of candidates without a weight, and of corrections."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from embeddings import Table

Ints = npt.NDArray[np.int64]
SlotsOf = Callable[[Table, npt.NDArray[np.uint64], npt.NDArray[np.uint32], Ints], Ints]
"""The slots of a table's entries, by their keys, times and numbers."""


def upsert_some(
    table: Table,
    keys: npt.NDArray[np.uint64],
    times: npt.NDArray[np.uint32],
    quiet: npt.NDArray[np.bool_],
    request: Ints,
) -> Ints:
    """The slot of each of k entries, (k,), -1 without one; those that are not `quiet` are sightings.

    A quiet entry sees the rows that earlier requests and its own have made, however the stream is cut.

    Args:
        keys, times: (k,), of the entries.
        quiet: (k,).
        request: (k,), the number of each entry's request, ascending.
    """
    slots = np.empty(len(keys), dtype=np.int64)
    loud = ~quiet
    known = table.find(keys[quiet], times[quiet])
    slots[loud] = table.upsert(keys[loud], times[loud])
    found = table.find(keys[quiet], times[quiet])
    made = np.flatnonzero((found >= 0) & (found != known))
    sighted, first = np.unique(slots[loud], return_index=True)
    maker = request[loud][first[np.searchsorted(sighted, found[made])]]
    found[made[maker > request[quiet][made]]] = -1
    slots[quiet] = found
    return slots
