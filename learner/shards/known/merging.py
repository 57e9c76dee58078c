"""Adding up what several shards made of one row of a history or a rate, each from the same old one.

    rate       each part of the window: of the newest that any shard has, old + Σ changes
    history    the ids that each shard has added are pushed into the old ring, in the order of ranks; those
               that a correction has taken out of it at one shard are taken out

What one shard alone has changed is taken as it is. As in one learner, what comes after a newer part of a
window has begun is dropped.
"""

import numpy as np
from numba import njit

from learner.features.known.rings import WORDS as ENTRY
from learner.features.known.rings import push, take_out
from learner.features.known.windows import PARTS, ROW_WORDS
from learner.features.known.windows import WORDS as PART

WINDOWS = -1
"""In place of a ring's length: the row is a rate's."""

_HIGH = np.uint64(32)


@njit(cache=True, nogil=True)
def merge_windows(old, news):
    """The windows of a rate after a turn: old (ROW_WORDS,), of each shard (s, ROW_WORDS), all float32."""
    out = old.copy()
    out_bits, old_bits, bits = out.view(np.uint32), old.view(np.uint32), news.view(np.uint32)
    for p in range(PARTS):
        at = p * PART
        number = old_bits[at]
        for r in range(len(news)):
            number = max(number, bits[r, at])
        if number == 0:
            continue
        kept = old_bits[at] == number
        newest = old_bits[at + 1] if kept else np.uint32(0)
        for r in range(len(news)):
            if bits[r, at] == number:
                newest = max(newest, bits[r, at + 1])
        out_bits[at], out_bits[at + 1] = number, newest
        for j in range(2):  # counts, sums
            whole, now = 0.0, 0.0  # of the part, and of it at its newest time
            if kept:
                whole = np.float64(old[at + 2 + j]) + np.float64(old[at + 4 + j])
                now = np.float64(old[at + 4 + j]) if old_bits[at + 1] == newest else 0.0
            all_before, now_before = whole, now
            for r in range(len(news)):
                if bits[r, at] != number:
                    continue
                mine = np.float64(news[r, at + 4 + j])
                whole += np.float64(news[r, at + 2 + j]) + mine - all_before
                if bits[r, at + 1] == newest:
                    now += mine - now_before
            out[at + 2 + j] = np.float32(whole - now)
            out[at + 4 + j] = np.float32(now)
    return out


@njit(cache=True, nogil=True)
def _key_at(row, i):
    at = 1 + ENTRY * i
    return np.uint64(row[at]) | (np.uint64(row[at + 1]) << _HIGH), np.int64(row[at + 2])


@njit(cache=True, nogil=True)
def _take_one(there, ring, key, second):
    """Whether one of a ring's entries that are not marked in `there` is this one; marks the first."""
    for i in range(len(there)):
        if not there[i] and _key_at(ring, i) == (key, second):
            there[i] = True
            return True
    return False


@njit(cache=True, nogil=True)
def merge_rings(old, news, length):
    """The ring of a history after a turn: old (W,), of each shard (s, W), all uint32."""
    out = old.copy()
    n = np.int64(old[0])
    one = np.empty(1, dtype=np.uint64)
    for r in range(len(news)):  # first what was taken out
        new = news[r]
        m = np.int64(new[0])
        there = np.zeros(m, dtype=np.bool_)
        met = False
        for i in range(n):
            key, second = _key_at(old, i)
            found = _take_one(there, new, key, second)
            met = met or found
            if not found and (met or m < length):  # else it was the oldest of a full ring
                one[0] = key
                take_out(out, one, second)
    for r in range(len(news)):
        new = news[r]
        m = np.int64(new[0])
        there = np.zeros(n, dtype=np.bool_)
        for j in range(m):
            key, second = _key_at(new, j)
            if not _take_one(there, old, key, second):
                push(out, length, key, second)
    return out


@njit(cache=True, nogil=True)
def merge_rows(old, place, rows, length):
    """The rows after a turn, and which of them have changed, (d,).

    Args:
        old: (d, width) float32: the words of a history or a rate, last seen, count.
        place: (K,), which of them each of the rows (K, width) is, in the order of ranks.
        length: of a ring; WINDOWS: they are rates.
    """
    d, width = old.shape
    words = width - 2
    new, changed = old.copy(), np.zeros(d, dtype=np.bool_)
    new_bits, old_bits, bits = new.view(np.uint32), old.view(np.uint32), rows.view(np.uint32)
    counts = np.zeros(d + 1, dtype=np.int64)
    for k in range(len(place)):
        for j in range(width):
            if bits[k, j] != old_bits[place[k], j]:
                counts[place[k] + 1] += 1
                break
    starts = np.cumsum(counts)
    makers, at = np.empty(starts[d], dtype=np.int64), starts.copy()
    for k in range(len(place)):
        for j in range(width):
            if bits[k, j] != old_bits[place[k], j]:
                makers[at[place[k]]] = k
                at[place[k]] += 1
                break
    for i in range(d):
        mine = makers[starts[i] : starts[i + 1]]
        if len(mine) == 0:
            continue
        changed[i] = True
        if len(mine) == 1:
            for j in range(width):
                new_bits[i, j] = bits[mine[0], j]
            continue
        if length == WINDOWS:
            several = np.empty((len(mine), ROW_WORDS), dtype=np.float32)
            for r in range(len(mine)):
                several[r] = rows[mine[r], :ROW_WORDS]
            new[i, :ROW_WORDS] = merge_windows(old[i, :ROW_WORDS].copy(), several)
        else:
            rings = np.empty((len(mine), words), dtype=np.uint32)
            for r in range(len(mine)):
                rings[r] = bits[mine[r], :words]
            new_bits[i, :words] = merge_rings(old_bits[i, :words].copy(), rings, length)
        latest, count = old_bits[i, words], np.int64(old_bits[i, words + 1])
        for r in range(len(mine)):
            latest = max(latest, bits[mine[r], words])
            count += np.int64(bits[mine[r], words + 1]) - np.int64(old_bits[i, words + 1])
        new_bits[i, words], new_bits[i, words + 1] = latest, np.uint32(min(count, np.int64(0xFFFFFFFF)))
    return new, changed
