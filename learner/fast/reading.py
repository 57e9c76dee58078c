"""Reading all rows that a prediction needs: entries in the order of the tables, then one pass over them."""

import numpy as np
from numba import njit

from embeddings.kernels.pooling import entry_rows
from embeddings.views.fetching import fetch
from learner.features.encoding import sort_by_table
from learner.features.entries import entry_times


@njit(cache=True, nogil=True)
def repeats(requests, start, column, key):
    """For each entry that is as the one in its place in its request's row before, that entry; else -1. (E,)

    What candidates share, the request's own features and their pairs, is so found without a search. In the
    order of the tables an entry that is repeated comes before the one that repeats it.
    """
    like = np.full(len(key), -1, dtype=np.int64)
    for q in range(len(requests) - 1):
        for r in range(requests[q] + 1, requests[q + 1]):
            m = start[r] - start[r - 1]
            if start[r + 1] - start[r] != m:
                continue
            for e in range(start[r], start[r + 1]):
                if key[e] == key[e - m] and column[e] == column[e - m]:
                    like[e] = e - m
    return like


# nogil=False on purpose: this takes 0.1 ms for 50 candidates. If it released the GIL, the thread that follows
# the log would take the GIL, and the answer would wait for a switch interval to get it back.
@njit(cache=True, nogil=False)
def read(readers, requests, times, start, column, key, x, table_of, width, first_column, x0):
    """The weights of E entries, and their pooled embeddings.

    Args:
        readers: of the T tables.
        requests, times, start, column, key, x: the arrays of a `Batch`.
        table_of: (columns,) int32, the table of each column; T for those without one.
        width: of the fast weights of one row.
        first_column, x0: see `fetch`.

    Returns:
        (place (E,), weights (D, width), counts (D,)): of each entry the number of its row among the D read,
        -1 without one.
    """
    entries = len(key)
    order, bounds = sort_by_table(column, table_of, len(readers) + 1)
    place = np.empty(entries, dtype=np.int64)
    weights = np.zeros((max(entries, 1), width), dtype=np.float32)
    counts = np.empty(max(entries, 1), dtype=np.uint32)
    like = repeats(requests, start, column, key)
    found = fetch(
        readers, order, bounds, like, key, entry_times(requests, start, times), entry_rows(start), x,
        first_column, place, weights, counts, x0,
    )  # fmt: skip
    return place, weights[:found], counts[:found]
