"""The compiled part of histories: a ring of the newest ids in a row of a table.

    row = | count | id, low 32 bits | id, high | time in whole seconds | id, low | ...     (uint32)

Entries are in order of time, those of one second in the order in which they were learned. A full ring drops
its oldest. 1 + 3 `length` words: 604 bytes at a length of 50.
"""

import numpy as np
from numba import njit

WORDS = 3
"""Of one entry."""

CODES = 34
"""How many codes of age there are: ⌊log₂ Δt⌋ of whole seconds, and `NO_TIME`."""
SHARED = -1.0
"""The code of a candidate's id that comes without ids behind it: they are those of the row before."""
GIVEN = -2.0
"""The code of the entry with which a history begins that came with the request."""
NO_TIME = CODES - 1
"""The code of an id of which nobody said when."""

_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)


def words_of(length: int) -> int:
    """The width of a row for a history of so many ids."""
    return 1 + WORDS * length


@njit(cache=True, nogil=True)
def code_of(age_s):
    """⌊log₂⌋ of an age in whole seconds, 0 for less than two: the code that attention has a bias for."""
    code = 0
    while age_s > 1 and code < NO_TIME - 1:
        age_s >>= 1
        code += 1
    return code


@njit(cache=True, nogil=True)
def read_ring(row, second, key, time):
    """The ids of a ring that came before `second`, oldest first; returns how many.

    Args:
        row: (W,) uint32.
        key, time: (length,) uint64 and int64, out.
    """
    m = 0
    for i in range(np.int64(row[0])):
        at = 1 + WORDS * i
        when = np.int64(row[at + 2])
        if when >= second:
            break
        key[m] = np.uint64(row[at]) | (np.uint64(row[at + 1]) << _HIGH)
        time[m] = when
        m += 1
    return m


@njit(cache=True, nogil=True)
def push(row, length, key, second):
    """Put an id into a ring, behind those of its second and before; one that is older than a full ring is
    dropped. Returns whether the ring has changed."""
    n = np.int64(row[0])
    to = n
    while to > 0 and np.int64(row[1 + WORDS * (to - 1) + 2]) > second:
        to -= 1
    if n == length:
        if to == 0:
            return False
        to -= 1
        for w in range(1, 1 + WORDS * to):
            row[w] = row[w + WORDS]
    else:
        for w in range(WORDS * n, WORDS * to, -1):
            row[w + WORDS] = row[w]
        row[0] = np.uint32(n + 1)
    at = 1 + WORDS * to
    row[at] = np.uint32(key & _LOW)
    row[at + 1] = np.uint32(key >> _HIGH)
    row[at + 2] = np.uint32(second)
    return True


@njit(cache=True, nogil=True)
def take_out(row, keys, second):
    """Take ids out of a ring; returns how many.

    Args:
        row: (W,) uint32.
        keys: (k,) uint64, ascending.
        second: only the newest entry of that second; -1: all.
    """
    n = np.int64(row[0])
    kept = n
    for i in range(n - 1, -1, -1):
        at = 1 + WORDS * i
        key = np.uint64(row[at]) | (np.uint64(row[at + 1]) << _HIGH)
        j = np.searchsorted(keys, key)
        if j == len(keys) or keys[j] != key or (second >= 0 and np.int64(row[at + 2]) != second):
            continue
        for w in range(at, 1 + WORDS * (kept - 1)):
            row[w] = row[w + WORDS]
        row[1 + WORDS * (kept - 1) : 1 + WORDS * kept] = 0
        kept -= 1
        if second >= 0:
            break
    row[0] = np.uint32(kept)
    return n - kept


@njit(cache=True, nogil=True)
def forget_in_rings(rings, keys):
    """Take ids (k,), ascending, out of all rings (D, W); returns which have changed, (D,)."""
    changed = np.zeros(len(rings), dtype=np.bool_)
    for d in range(len(rings)):
        changed[d] = take_out(rings[d], keys, -1) > 0
    return changed


@njit(cache=True, nogil=True)
def walk_histories(
    requests, seconds, start, column, key, x, keeper, ring_of, rings, length, of_column, given_column,
    sequence_column, seen_column, happened,
):  # fmt: skip
    """Fill in the histories of requests, and then learn from each of them, request by request.

    Args:
        requests, start, column, key, x: the arrays of a `Batch` of R requests and n rows.
        seconds: (R,) int64, their times.
        keeper: (n,) int64, the number of each row's keeper, -1 without one.
        ring_of: (K,) int64, where each keeper's ring is; -1: it has none.
        rings: (D, W) uint32, moved in place.
        length: of a ring.
        of_column: the column of the ids that the rings hold.
        given_column: that of ids that came with the request; they go before the ring's.
        sequence_column, seen_column: of the entries to make.
        happened: (n,) int8, 1: push the row's id, -1: take it back, 0: neither. Empty: learn nothing.

    Returns:
        (start (n + 1,), column, key, x) of the entries. Of the sequence: the candidate's id, then the ids
        with their codes of age as x, unless they are those of the row before. Of `seen`: 0 if the
        candidate's id is not among them, else 1 + its newest code.
    """
    n = len(start) - 1
    out_start = np.zeros(n + 1, dtype=np.int64)
    most = 256
    out_column = np.empty(most, dtype=np.int32)
    out_key = np.empty(most, dtype=np.uint64)
    out_x = np.empty(most, dtype=np.float32)
    ids = np.empty(length, dtype=np.uint64)
    times = np.empty(length, dtype=np.int64)
    codes = np.empty(length, dtype=np.int64)
    one = np.empty(1, dtype=np.uint64)
    shared = np.int64(0)  # of the row before: how many ids it attends to, which end at `shared_end`
    shared_end = np.int64(0)
    at = 0
    for q in range(len(requests) - 1):
        second = seconds[q]
        shared = np.int64(0)
        m = 0
        held = np.int64(-2)  # the keeper whose ring was read last
        for r in range(requests[q], requests[q + 1]):
            given = 0
            came = False
            target = -1
            for e in range(start[r], start[r + 1]):
                if column[e] == of_column and target < 0:
                    target = e
                elif column[e] == given_column:
                    came = True
                    if x[e] != GIVEN and given < length:
                        ids[given] = key[e]
                        codes[given] = np.int64(x[e])
                        given += 1
            if came:
                m = given
                held = np.int64(-2)
            elif keeper[r] != held:
                held = keeper[r]
                ring = ring_of[held] if held >= 0 else np.int64(-1)
                m = read_ring(rings[ring], second, ids, times) if ring >= 0 else 0
                for i in range(m):
                    codes[i] = code_of(second - times[i])
            if m > 0 and target >= 0:
                if at + m + 2 > most:
                    most = 2 * most + m + 2
                    out_column = _longer(out_column, at, most)
                    out_key = _longer(out_key, at, most)
                    out_x = _longer(out_x, at, most)
                seen = np.uint64(0)
                like = shared == m
                for i in range(m):
                    like = like and out_key[shared_end - m + i] == ids[i]
                    like = like and np.int64(out_x[shared_end - m + i]) == codes[i]
                    if ids[i] == key[target]:
                        seen = np.uint64(1 + codes[i])
                out_column[at] = sequence_column
                out_key[at] = key[target]
                out_x[at] = SHARED if like else 0.0
                at += 1
                if not like:
                    for i in range(m):
                        out_column[at] = sequence_column
                        out_key[at] = ids[i]
                        out_x[at] = codes[i]
                        at += 1
                    shared, shared_end = np.int64(m), np.int64(at)
                out_column[at] = seen_column
                out_key[at] = seen
                out_x[at] = 1.0
                at += 1
            out_start[r + 1] = at
        if len(happened) == 0:
            continue
        for r in range(requests[q], requests[q + 1]):
            ring = ring_of[keeper[r]] if keeper[r] >= 0 else np.int64(-1)
            if happened[r] == 0 or ring < 0:
                continue
            for e in range(start[r], start[r + 1]):
                if column[e] == of_column:
                    if happened[r] > 0:
                        push(rings[ring], length, key[e], second)
                    else:
                        one[0] = key[e]
                        take_out(rings[ring], one, second)
                    break
    return out_start, out_column[:at], out_key[:at], out_x[:at]


@njit(cache=True, nogil=True)
def _longer(array, used, length):
    longer = np.empty(length, dtype=array.dtype)
    longer[:used] = array[:used]
    return longer
