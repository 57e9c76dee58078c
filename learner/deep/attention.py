"""Target attention: turns a sequence of ids into one vector, given the candidate's id.

With target t and past ids i, where each id has a key vector k and a value vector v,

    a = softmax_i(k_i·k_t / √d + b_i)        h = Σ_i a_i v_i ⊙ v_t

b_i is the learned bias of the code of id i's age, ⌊log₂ Δt⌋ (the idea of HSTU: Zhai et al. 2024,
arXiv 2402.17152, section 3.3); 0 for a sequence whose ids have no age.

Shared, k and v are one vector (Deep Interest Network's idea: Zhou et al. 2018, arXiv 1706.06978, with
dot products for its MLP). Decoupled, a table row holds both side by side, because attention and
representation conflict in one vector (DARE: Feng et al. 2024, arXiv 2410.02604,
section 4; the product with v_t is its target-aware representation).

Entries of a row come target first. An id without a table row is skipped. A row whose target has the code
SHARED has no further entries: it attends to those of the row before it. So the candidates of a request, which
share a history, do not repeat it.
"""

from math import exp, sqrt

import numpy as np
from numba import njit

SHARED = -1.0
"""The code of a target whose row attends to the ids of the row before."""


@njit(cache=True, nogil=True)
def _dots(slot, first, last, vectors, at, by, out):
    """The products of entries' vectors from column `at` on with `by` (dim,), into out[0:last - first].

    Each sum is in the order of the columns; four run at once, since each waits for its own additions.
    """
    dim = len(by)
    at = np.uint64(at)  # an index that cannot be negative: the loops are then simple
    e = first
    while e + 4 <= last:
        a, b, c, d = max(slot[e], 0), max(slot[e + 1], 0), max(slot[e + 2], 0), max(slot[e + 3], 0)
        p, q, r, s = 0.0, 0.0, 0.0, 0.0
        for i in range(dim):
            p += vectors[a, at + np.uint64(i)] * by[i]
            q += vectors[b, at + np.uint64(i)] * by[i]
            r += vectors[c, at + np.uint64(i)] * by[i]
            s += vectors[d, at + np.uint64(i)] * by[i]
        out[e - first], out[e - first + 1], out[e - first + 2], out[e - first + 3] = p, q, r, s
        e += 4
    while e < last:
        a = max(slot[e], 0)
        p = 0.0
        for i in range(dim):
            p += vectors[a, at + np.uint64(i)] * by[i]
        out[e - first] = p
        e += 1


@njit(cache=True, nogil=True)
def _weigh(slot, i, first, last, vectors, dim, code, bias, key, a):
    """Attention weights a[0:last - first] of entries first to last under target i, whose key vector is
    copied into `key`; returns whether there is any."""
    t = slot[i]
    if t < 0:
        return False
    scale = 1.0 / sqrt(dim)
    highest = -np.inf
    for d in range(dim):
        key[d] = vectors[t, d]
    _dots(slot, first, last, vectors, 0, key, a)
    for e in range(first, last):
        if slot[e] >= 0:
            a[e - first] = a[e - first] * scale + bias[np.int64(code[e])]
            highest = max(highest, a[e - first])
    total = 0.0
    for e in range(first, last):
        a[e - first] = exp(a[e - first] - highest) if slot[e] >= 0 else 0.0
        total += a[e - first]
    if total == 0.0:  # none of the ids has a vector
        return False
    for e in range(last - first):
        a[e] /= total
    return True


@njit(cache=True, nogil=True)
def _end(row, i):
    """Where the entries of entry i's row end."""
    j = i + 1
    while j < len(row) and row[j] == row[i]:
        j += 1
    return j


@njit(cache=True, nogil=True)
def attend(row, slot, vectors, dim, second, column, code, bias, out):
    """Write each row's h into its row of `out`, from `column` on.

    Args:
        row: (k,) int64, each entry's row, ascending; a row's first entry is its target.
        slot: (k,) int64, each entry's vector; below 0: none.
        vectors: (m, second + dim or more) float32; for example a table's arena.
        dim: width of k, of v, and of h.
        second: where v begins: `dim` if decoupled, 0 if shared.
        column: where h begins.
        code: (k,) float32, each entry's code.
        bias: (CODES,) float32, added to scores by code.
        out: (n, width) float32; rows without entries to attend to are not written.
    """
    a = np.zeros(len(row))
    h = np.empty(dim)
    key = np.empty(dim, dtype=np.float32)
    second_u, column_u = np.uint64(second), np.uint64(column)
    first, last = 0, 0
    i = 0
    while i < len(row):
        j = _end(row, i)
        if code[i] != SHARED:
            first, last = i + 1, j
        if _weigh(slot, i, first, last, vectors, dim, code, bias, key, a):
            h[:] = 0.0
            for e in range(first, last):
                s = slot[e]
                if s >= 0:
                    weight = a[e - first]
                    for d in range(dim):
                        h[d] += weight * vectors[s, second_u + np.uint64(d)]
            t = slot[i]
            for d in range(dim):
                out[row[i], column_u + np.uint64(d)] = h[d] * vectors[t, second_u + np.uint64(d)]
        i = j


@njit(cache=True, nogil=True)
def unattend(row, slot, vectors, dim, second, gradients, column, code, bias, by_code):
    """The gradient by each entry's vector, (k, second + dim) float32: the counterpart of `attend`. Adds the
    gradient of each bias, the sum of s_i, to `by_code` (CODES,).

    With g = ∂loss/∂h and G = g ⊙ v_t: ∂v_i = a_i G; ∂v_t = g ⊙ Σ a_i v_i; the gradient of score i is
    s_i = a_i (G·v_i − Σ_j a_j G·v_j); ∂k_i = s_i k_t/√d; ∂k_t = Σ s_i k_i/√d.
    """
    out = np.zeros((len(row), second + dim), dtype=np.float32)
    a = np.zeros(len(row))
    by_a = np.zeros(len(row))
    # of the target; apart from `out`, so that the loops over d can be vectorised
    g, key, value, both, by_key, by_value = np.empty((6, dim), dtype=np.float32)
    scale = 1.0 / sqrt(dim)
    second_u, column_u = np.uint64(second), np.uint64(column)
    first, last = 0, 0
    i = 0
    while i < len(row):
        j = _end(row, i)
        if code[i] != SHARED:
            first, last = i + 1, j
        if _weigh(slot, i, first, last, vectors, dim, code, bias, key, a):
            t = slot[i]
            for d in range(dim):
                g[d] = gradients[row[i], column_u + np.uint64(d)]
                value[d] = vectors[t, second_u + np.uint64(d)]
                both[d] = g[d] * value[d]
                by_key[d] = out[i, d]
                by_value[d] = out[i, second_u + np.uint64(d)]
            mean = 0.0
            _dots(slot, first, last, vectors, second, both, by_a)
            for e in range(first, last):
                s = slot[e]
                if s >= 0:
                    weight = a[e - first]
                    for d in range(dim):
                        out[e, second_u + np.uint64(d)] += weight * g[d] * value[d]
                    for d in range(dim):
                        by_value[d] += weight * g[d] * vectors[s, second_u + np.uint64(d)]
                    mean += weight * by_a[e - first]
            if second == 0:
                for d in range(dim):
                    by_key[d] = by_value[d]
            for e in range(first, last):
                s = slot[e]
                if s >= 0:
                    by_score = a[e - first] * (by_a[e - first] - mean)
                    by_code[np.int64(code[e])] += by_score
                    by_score *= scale
                    for d in range(dim):
                        out[e, d] += by_score * key[d]
                    for d in range(dim):
                        by_key[d] += by_score * vectors[s, d]
            for d in range(dim):
                out[i, second_u + np.uint64(d)] = by_value[d]
            for d in range(dim):
                out[i, d] = by_key[d]
        i = j
    return out
