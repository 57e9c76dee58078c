"""The compiled part of rates: what happened in a window of event time, in a row of a table.

    row = PARTS times | part's number + 1 | newest, in ms | count | sum | count at the newest | sum there |

A window is PARTS parts of equal length, and covers between PARTS - 1 and PARTS of them: as time passes, the
oldest part leaves at once. What happened at the newest time of a part is held apart, so that a request's own
labels, and those of its moment, can be left out. 6 words of 32 bits for each part, 192 bytes.
"""

import numpy as np
from numba import njit

PARTS = 8
WORDS = 6
"""Of one part: two uint32, four float32."""
ROW_WORDS = PARTS * WORDS

RATE, COUNT, SUM = 0, 1, 2
MEASURES = {"rate": RATE, "count": COUNT, "sum": SUM}


@njit(cache=True, nogil=True)
def _place(now, part_s):
    """(the number of the part that a time falls into, milliseconds since it began)."""
    number = np.int64(now // part_s)
    return number, np.int64((now - number * part_s) * 1000.0)


@njit(cache=True, nogil=True)
def look_back(bits, numbers, now, part_s):
    """(count, sum) of a row in the window before `now`; `bits`, `numbers`: (ROW_WORDS,) of the same bytes."""
    part, since = _place(now, part_s)
    count = 0.0
    total = 0.0
    for p in range(PARTS):
        at = p * WORDS
        number = np.int64(bits[at]) - 1
        if number < 0 or number > part or number <= part - PARTS:
            continue
        newest = np.int64(bits[at + 1])
        if number == part and newest > since:
            continue  # some of it came later; nothing says how much
        count += numbers[at + 2]
        total += numbers[at + 3]
        if number < part or newest < since:
            count += numbers[at + 4]
            total += numbers[at + 5]
    return count, total


@njit(cache=True, nogil=True)
def add(bits, numbers, now, part_s, count, total):
    """Add to a row what happened at `now`; what is older than its window is dropped."""
    part, since = _place(now, part_s)
    at = np.int64(part % PARTS) * WORDS
    number = np.int64(bits[at]) - 1
    if number > part:
        return
    if number < part:
        bits[at] = np.uint32(part + 1)
        bits[at + 1] = np.uint32(since)
        numbers[at + 2 : at + WORDS] = 0.0
    if since > np.int64(bits[at + 1]):
        bits[at + 1] = np.uint32(since)
        numbers[at + 2] += numbers[at + 4]
        numbers[at + 3] += numbers[at + 5]
        numbers[at + 4] = 0.0
        numbers[at + 5] = 0.0
    to = at + 4 if since == np.int64(bits[at + 1]) else at + 2
    numbers[to] += np.float32(count)
    numbers[to + 1] += np.float32(total)


@njit(cache=True, nogil=True)
def walk_rates(
    requests, times, start, column, key, x, keeper, row_of, bits, numbers, part_s, measure, smooth,
    given_column, counted, happened,
):  # fmt: skip
    """Fill in the rates of requests, and then learn from each of them, request by request.

    Args:
        requests, times, start, column, key, x: the arrays of a `Batch` of R requests and n rows.
        keeper: (n,) int64, the number of each row's keeper, -1 without one.
        row_of: (K,) int64, where each keeper's row is; -1: it has none.
        bits, numbers: (D + 1, ROW_WORDS) uint32 and float32 of the same bytes, moved in place. The last row
            is of all keepers together.
        part_s: the length of a part.
        measure: RATE, COUNT or SUM.
        smooth: of a rate: how many candidates the mean of all is worth.
        given_column: the column of what came with the request and goes before the row's: by key 0 the value,
            by key 1 the mean.
        counted, happened: (n,) float32, what to add to count and sum; NaN: nothing. Empty: learn nothing.

    Returns:
        (value (n,), mean (n,)) float32: of each row what is measured, NaN without a keeper, and the mean
        of all keepers, if a rate is measured.
    """
    n = len(start) - 1
    out = np.full(n, np.nan, dtype=np.float32)
    out_mean = np.full(n, np.nan, dtype=np.float32)
    every = len(bits) - 1
    for q in range(len(requests) - 1):
        now = times[q]
        mean = 0.0  # of nothing, which reads as no difference from it
        if measure == RATE:
            count, total = look_back(bits[every], numbers[every], now, part_s)
            if count > 0.0:
                mean = total / count
        held = np.int64(-1)  # the keeper whose row was read last
        value = np.float32(np.nan)
        for r in range(requests[q], requests[q + 1]):
            given = False
            out_mean[r] = mean
            for e in range(start[r], start[r + 1]):
                if column[e] == given_column:
                    if key[e] == 0:
                        out[r] = x[e]
                        given = True
                    else:
                        out_mean[r] = x[e]
            if given or keeper[r] < 0:
                continue
            if keeper[r] == held:
                out[r] = value
                continue
            held = keeper[r]
            count = 0.0
            total = 0.0
            row = row_of[keeper[r]]
            if row >= 0:
                count, total = look_back(bits[row], numbers[row], now, part_s)
            if measure == COUNT:
                out[r] = count
            elif measure == SUM:
                out[r] = total
            else:
                weight = count + smooth
                out[r] = (total + smooth * mean) / weight if weight > 0.0 else mean
            value = out[r]
        if len(counted) == 0:
            continue
        for r in range(requests[q], requests[q + 1]):
            if keeper[r] < 0 or np.isnan(counted[r]):
                continue
            row = row_of[keeper[r]]
            if row >= 0:
                add(bits[row], numbers[row], now, part_s, counted[r], happened[r])
            add(bits[every], numbers[every], now, part_s, counted[r], happened[r])
    return out, out_mean


LINE = np.uint64(1 << 40)
"""The key of the entry whose x is the reading itself."""
STEPS = 2.0
"""Buckets to one unit of a reading."""
READING_MAX = 8.0
ENTRY_X = np.float32(0.7)
"""x of a bucket, beside the line."""


@njit(cache=True, nogil=True)
def readings(value, mean, is_rate, is_event):
    """Numbers as the model reads them, (n,) float64: those of rates against the mean of all, in logits or on
    the scale of asinh; others on half of that scale. NaN where there is no number."""
    out = np.full(len(value), np.nan)
    for r in range(len(value)):
        v = np.float64(value[r])
        if np.isnan(v):
            continue
        m = v if np.isnan(mean[r]) else np.float64(mean[r])
        if not is_rate:
            out[r] = 0.5 * np.arcsinh(v)
        elif is_event:
            out[r] = _logit(v) - _logit(m)
        else:
            out[r] = np.arcsinh(v) - np.arcsinh(m)
        out[r] = min(max(out[r], -READING_MAX), READING_MAX)
    return out


@njit(cache=True, nogil=True)
def _logit(p):
    p = min(max(p, 1e-4), 1.0 - 1e-4)
    return np.log(p / (1.0 - p))


@njit(cache=True, nogil=True)
def reading_entries(reading, number):
    """The entries of readings (n,): (start (n + 1,), column, key, x), two a row, in column `number`: a line
    through them, and their coarse buckets for what is no line."""
    n = len(reading)
    start = np.zeros(n + 1, dtype=np.int64)
    column = np.full(2 * n, number, dtype=np.int32)
    key = np.empty(2 * n, dtype=np.uint64)
    x = np.empty(2 * n, dtype=np.float32)
    at = 0
    for r in range(n):
        if not np.isnan(reading[r]):
            key[at] = LINE
            x[at] = reading[r]
            key[at + 1] = np.uint64(np.int64(np.floor(STEPS * reading[r] + 0.5)))
            x[at + 1] = ENTRY_X
            at += 2
        start[r + 1] = at
    return start, column[:at], key[:at], x[:at]
