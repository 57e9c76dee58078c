"""The columns of a feature that Freshet keeps, and the rows that they are laid into."""

from typing import NamedTuple

import msgspec
import numpy as np
from numba import njit

from ground.kernels.mixing import join_keys
from learner.features.known import rings, windows
from learner.features.spec import FeatureSpec

SEEN, STATE = "seen", "state"
_UNSET = dict.fromkeys(("by", "on", "window_s", "measure", "smooth"), msgspec.UNSET)
_IN_MEMORY = {"memory_rows": msgspec.UNSET, "type": msgspec.UNSET}


class KnownColumn(NamedTuple):
    """A column of a history or a rate."""

    part: str  # behind the feature's name; "": none
    spec: FeatureSpec  # of its table
    deep: bool  # whether the deep part sees it
    words: int  # of a row of the table that holds the state; 0: it does not


def known_columns(spec: FeatureSpec) -> list[KnownColumn]:
    """The columns of a history: the sequence that attention reads, "was it among them", and its rings. Those
    of a rate: the number, and its windows."""
    state = msgspec.structs.replace(
        spec, kind="id", counts=False, of="", admit_after=1, admit_share=1.0, **_IN_MEMORY, **_UNSET
    )
    if spec.kind == "rate":
        number = msgspec.structs.replace(spec, kind="number", of="", **_UNSET)
        return [KnownColumn("", number, True, 0), KnownColumn(STATE, state, False, windows.ROW_WORDS)]
    ids = msgspec.structs.replace(spec, kind="sequence", of=spec.held, **_UNSET)
    return [
        KnownColumn("", ids, True, 0),
        KnownColumn(SEEN, state, False, 0),
        KnownColumn(STATE, state, False, rings.words_of(spec.length)),
    ]


@njit(cache=True, nogil=True)
def keepers(requests, start, column, key, first, second, salt):
    """The keeper of each row: the id, or the two joined ids, whose history or rate it reads.

    Args:
        requests, start, column, key: the arrays of a `Batch` of n rows.
        first, second: the columns of the ids; `second` -1: there is one.
        salt: of two joined ids.

    Returns:
        (keeper (n,) int64, -1 without one; keys (K,) uint64; request (K,) int64): rows of a request with the
        same id, one after another, have one keeper.
    """
    n = len(start) - 1
    keeper = np.full(n, -1, dtype=np.int64)
    keys = np.empty(n, dtype=np.uint64)
    request = np.empty(n, dtype=np.int64)
    k = 0
    for q in range(len(requests) - 1):
        begun = k
        for r in range(requests[q], requests[q + 1]):
            a = -1
            b = -1
            for e in range(start[r], start[r + 1]):
                if column[e] == first and a < 0:
                    a = e
                elif column[e] == second and b < 0:
                    b = e
            if a < 0 or (second >= 0 and b < 0):
                continue
            mine = key[a] if second < 0 else join_keys(salt, key[a], key[b])
            if k == begun or keys[k - 1] != mine:
                keys[k] = mine
                request[k] = q
                k += 1
            keeper[r] = k - 1
    return keeper, keys[:k], request[:k]


@njit(cache=True, nogil=True)
def append(start, column, key, x, more_start, more_column, more_key, more_x, dropped):
    """Append entries to rows, and leave out those of the column `dropped`: the arrays of a `Rows` of n rows,
    and of the entries by row."""
    n = len(start) - 1
    total = start[n] + more_start[n]
    out_start = np.zeros(n + 1, dtype=np.int64)
    out_column = np.empty(total, dtype=np.int32)
    out_key = np.empty(total, dtype=np.uint64)
    out_x = np.empty(total, dtype=np.float32)
    at = 0
    for r in range(n):
        for e in range(start[r], start[r + 1]):
            if column[e] != dropped:
                out_column[at] = column[e]
                out_key[at] = key[e]
                out_x[at] = x[e]
                at += 1
        for e in range(more_start[r], more_start[r + 1]):
            out_column[at] = more_column[e]
            out_key[at] = more_key[e]
            out_x[at] = more_x[e]
            at += 1
        out_start[r + 1] = at
    return out_start, out_column[:at], out_key[:at], out_x[:at]
