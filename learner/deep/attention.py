"""Target attention: turns a sequence of ids into one vector, given the candidate's id.

With target t and past ids i, where each id has a key vector k and a value vector v,

    a = softmax_i(k_i·k_t / √d)        h = Σ_i a_i v_i ⊙ v_t

Shared, k and v are one vector (Deep Interest Network's idea: Zhou et al. 2018, arXiv 1706.06978, with
dot products for its MLP). Decoupled, a table row holds both side by side, because attention and
representation conflict in one vector (DARE: Feng et al. 2024, arXiv 2410.02604,
section 4; the product with v_t is its target-aware representation).

Entries of a row come target first. An id without a table row is skipped.
"""

from math import exp, sqrt

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _weigh(slot, i, j, vectors, dim, a):
    """Attention weights a[i + 1:j] of the entries behind target i; returns whether there is any."""
    t = slot[i]
    if t < 0:
        return False
    scale = 1.0 / sqrt(dim)
    highest = -np.inf
    for e in range(i + 1, j):
        if slot[e] >= 0:
            s = 0.0
            for d in range(dim):
                s += vectors[slot[e], d] * vectors[t, d]
            a[e] = s * scale
            highest = max(highest, a[e])
    total = 0.0
    for e in range(i + 1, j):
        a[e] = exp(a[e] - highest) if slot[e] >= 0 else 0.0
        total += a[e]
    for e in range(i + 1, j):
        a[e] /= total
    return total > 0.0


@njit(cache=True, nogil=True)
def _end(row, i):
    """Where the entries of entry i's row end."""
    j = i + 1
    while j < len(row) and row[j] == row[i]:
        j += 1
    return j


@njit(cache=True, nogil=True)
def attend(row, slot, vectors, dim, second, column, out):
    """Write each row's h into its row of `out`, from `column` on.

    Args:
        row: (k,) int64, each entry's row, ascending; a row's first entry is its target.
        slot: (k,) int64, each entry's vector; below 0: none.
        vectors: (m, second + dim or more) float32; for example a table's arena.
        dim: width of k, of v, and of h.
        second: where v begins: `dim` if decoupled, 0 if shared.
        column: where h begins.
        out: (n, width) float32; rows without entries to attend to are not written.
    """
    a = np.zeros(len(row))
    i = 0
    while i < len(row):
        j = _end(row, i)
        if _weigh(slot, i, j, vectors, dim, a):
            for d in range(dim):
                h = 0.0
                for e in range(i + 1, j):
                    if slot[e] >= 0:
                        h += a[e] * vectors[slot[e], second + d]
                out[row[i], column + d] = h * vectors[slot[i], second + d]
        i = j


@njit(cache=True, nogil=True)
def unattend(row, slot, vectors, dim, second, gradients, column):
    """The gradient by each entry's vector, (k, second + dim) float32: the counterpart of `attend`.

    With g = ∂loss/∂h and G = g ⊙ v_t: ∂v_i = a_i G; ∂v_t = g ⊙ Σ a_i v_i; the gradient of score i is
    s_i = a_i (G·v_i − Σ_j a_j G·v_j); ∂k_i = s_i k_t/√d; ∂k_t = Σ s_i k_i/√d.
    """
    out = np.zeros((len(row), second + dim), dtype=np.float32)
    a = np.zeros(len(row))
    by_a = np.zeros(len(row))
    scale = 1.0 / sqrt(dim)
    i = 0
    while i < len(row):
        j = _end(row, i)
        if _weigh(slot, i, j, vectors, dim, a):
            t = slot[i]
            mean = 0.0
            for e in range(i + 1, j):
                if slot[e] >= 0:
                    by_a[e] = 0.0
                    for d in range(dim):
                        g = gradients[row[i], column + d]
                        v = vectors[slot[e], second + d]
                        by_a[e] += g * vectors[t, second + d] * v
                        out[e, second + d] += a[e] * g * vectors[t, second + d]
                        out[i, second + d] += a[e] * g * v
                    mean += a[e] * by_a[e]
            for e in range(i + 1, j):
                if slot[e] >= 0:
                    s = a[e] * (by_a[e] - mean) * scale
                    for d in range(dim):
                        out[e, d] += s * vectors[t, d]
                        out[i, d] += s * vectors[slot[e], d]
        i = j
    return out
