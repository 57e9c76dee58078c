"""ReLoop2's error memory as published: an LSH sketch of K arrays of 2^L buckets (Zhu et al. 2023).

A vector falls into one bucket of each array (SimHash: the signs of L random projections). A bucket
holds three sums: count, Σy, Σp. Reading a vector sums its K buckets, so a stored example of angle θ
counts about K (1 - θ/π)^L times: summed and divided that is a softmax over log similarity with
temperature 1/L, which is how the sketch reads by "similarity softmax" without keeping examples.

    ȳ = Σ Σy / Σ count,  p̄ = Σ Σp / Σ count
    error = γ (ȳ - p) + (1 - γ) (ȳ - p̄),  p' = clamp(p + λ error, 0, 1)

The paper's key is a hidden layer of the base; here rows are hashed to dense vectors
(`error_memory.baselines.hashed`), so that the sketch works with any model, like the other memories. It is
emptied when the base is updated, as published.
"""

from threading import Lock

import numpy as np
import numpy.typing as npt
from numba import njit

from error_memory.baselines.hashed import DIM, hash_rows
from error_memory.protocol import (
    Explained,
    Floats,
    Keys,
    as_observed,
    as_probabilities,
    as_rows,
    explain_whole,
    shown,
)
from error_memory.saved import pack, unpack
from error_memory.settings import MemorySettings

WATERMARK, FIRST, EXAMPLES = range(3)


@njit(cache=True, nogil=True, error_model="numpy")
def _address(projected, arrays, bits, out):
    """The bucket (n, K) of each vector in each array, from its projections (n, K * L)."""
    for i in range(len(projected)):
        for k in range(arrays):
            bucket = 0
            for j in range(bits):
                bucket = (bucket << 1) | (1 if projected[i, k * bits + j] > 0.0 else 0)
            out[i, k] = bucket


@njit(cache=True, nogil=True, error_model="numpy")
def _read(sums, buckets, p, first, last, gamma, lam):
    """Correct p[first:last] in place."""
    for i in range(first, last):
        count = 0.0
        y = 0.0
        base = 0.0
        for k in range(buckets.shape[1]):
            count += sums[k, buckets[i, k], 0]
            y += sums[k, buckets[i, k], 1]
            base += sums[k, buckets[i, k], 2]
        if count > 0.0:
            mean = y / count
            error = gamma * (mean - p[i]) + (1.0 - gamma) * (mean - base / count)
            p[i] = min(max(p[i] + lam * error, 0.0), 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _observe(sums, buckets, p, y, plain, requests, position, state, gamma, lam):
    """Correct and then learn request by request; p (n,) in place. Rows that are not `plain` (n,) are not
    learned."""
    for r in range(len(position)):
        a = requests[r]
        b = requests[r + 1]
        base = p[a:b].copy()
        _read(sums, buckets, p, a, b, gamma, lam)
        learnt = plain[a:b].sum()
        if position[r] <= state[WATERMARK] or learnt == 0:
            continue
        if state[EXAMPLES] == 0:
            state[FIRST] = position[r]
        state[FIRST] = min(state[FIRST], position[r])
        state[EXAMPLES] += learnt
        for i in range(a, b):
            if not plain[i]:
                continue
            for k in range(buckets.shape[1]):
                sums[k, buckets[i, k], 0] += 1.0
                sums[k, buckets[i, k], 1] += y[i]
                sums[k, buckets[i, k], 2] += base[i - a]


class SketchMemory:
    """An `ErrorMemory` that keeps K x 2^L buckets of three float32 sums, and has no gate.

    A bucket's count stops at 2^24 examples, the last integer that float32 can count up to.
    """

    gate = 1.0

    def __init__(self, settings: MemorySettings, columns: int) -> None:
        self.settings = settings
        self.columns = columns
        self._lock = Lock()
        self._sums = np.zeros((settings.arrays, 1 << settings.bits, 3), dtype=np.float32)
        self._state = np.array([np.iinfo(np.int64).min, 0, 0], dtype=np.int64)
        rng = np.random.default_rng(settings.seed)
        self._planes = rng.standard_normal((DIM, settings.arrays * settings.bits), dtype=np.float32)

    def __repr__(self) -> str:
        return shown(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the buckets and of the projections."""
        return self._sums.nbytes + self._planes.nbytes

    @property
    def evidence(self) -> int:
        """Examples since the base was last updated."""
        return int(self._state[EXAMPLES])

    def correct(self, keys: Keys, p: npt.ArrayLike) -> Floats:
        """See `ErrorMemory.correct`."""
        rows = as_rows(keys, self.columns)
        out = as_probabilities(p, rows.n)
        if self.evidence:
            buckets = self._buckets(hash_rows(rows))
            with self._lock:
                _read(self._sums, buckets, out, 0, rows.n, self.settings.gamma, self.settings.lam)
        return out

    def explain(self, keys: Keys, p: npt.ArrayLike) -> Explained:
        """See `ErrorMemory.explain`; it has no parts."""
        return explain_whole(self, keys, p)

    def observe(
        self,
        keys: Keys,
        p: npt.ArrayLike,
        y: npt.ArrayLike,
        position: int | npt.ArrayLike,
        requests: npt.ArrayLike | None = None,
        times: float | npt.ArrayLike | None = None,
        weight: npt.ArrayLike | None = None,
        before: npt.ArrayLike | None = None,
    ) -> Floats:
        """See `ErrorMemory.observe`."""
        seen = as_observed(keys, p, y, position, requests, times, self.columns, weight, before)
        buckets = self._buckets(hash_rows(seen.rows))
        gamma, lam = self.settings.gamma, self.settings.lam
        with self._lock:
            _observe(
                self._sums, buckets, seen.p, seen.y, seen.plain, seen.requests, seen.position, self._state,
                gamma, lam,
            )  # fmt: skip
        return seen.p

    def forget(self, columns: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """Empty the sketch: sums cannot be separated."""
        with self._lock:
            self._sums[:] = 0.0
            self._state[EXAMPLES] = 0

    def candidates(self, column: int) -> npt.NDArray[np.uint64]:
        """None: a sketch keeps no keys."""
        return np.zeros(0, dtype=np.uint64)

    def advance(self, position: int) -> None:
        """Empty the sketch if the base has learned any of its examples: sums cannot be separated."""
        with self._lock:
            self._state[WATERMARK] = max(self._state[WATERMARK], position)
            if self._state[EXAMPLES] and self._state[FIRST] <= position:
                self._sums[:] = 0.0
                self._state[EXAMPLES] = 0

    def set_priors(self, tau: npt.ArrayLike, keep: npt.ArrayLike | None = None) -> None:
        """A sketch has no priors."""

    def save(self) -> bytes:
        """See `ErrorMemory.save`."""
        with self._lock:
            return pack(self.settings, self.columns, {"sums": self._sums, "state": self._state})

    def load(self, saved: bytes) -> None:
        """See `ErrorMemory.load`."""
        arrays = unpack(saved, self.settings, self.columns)
        with self._lock:
            self._sums, self._state = arrays["sums"], arrays["state"]

    def _buckets(self, h: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        # Row by row: BLAS sums a matrix in another order than a vector, and a batch must give the same bits.
        projected = np.empty((len(h), self._planes.shape[1]), dtype=np.float32)
        for i in range(len(h)):
            np.dot(h[i], self._planes, out=projected[i])
        buckets = np.empty((len(h), self.settings.arrays), dtype=np.int64)
        _address(projected, self.settings.arrays, self.settings.bits, buckets)
        return buckets
