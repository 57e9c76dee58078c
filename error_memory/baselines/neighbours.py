"""A memory of the newest examples: exact nearest neighbours by cosine, with a softmax over similarity.

What ReLoop2's sketch approximates, with the same correction (`error_memory.baselines.sketch`), and with every
example's position stored, so that exactly the examples that the base has learned are dropped.
"""

from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

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

_FREE = np.iinfo(np.int64).min
LEAST_SIMILAR = 0.3
"""Vectors that share nothing have cosines of 0 ± 1/8 in 64 dimensions: below this limit examples do not
count as neighbours."""


class NeighbourMemory:
    """An `ErrorMemory` of the last `newest` examples. Reading a row costs O(newest); it has no gate."""

    gate = 1.0

    def __init__(self, settings: MemorySettings, columns: int) -> None:
        self.settings = settings
        self.columns = columns
        self._lock = Lock()
        self._h = np.zeros((settings.newest, DIM), dtype=np.float32)
        self._y = np.zeros(settings.newest)
        self._p = np.zeros(settings.newest)
        self._position = np.full(settings.newest, _FREE, dtype=np.int64)
        self._state = np.array([0, _FREE], dtype=np.int64)  # next place in the ring, watermark

    def __repr__(self) -> str:
        return shown(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the ring."""
        return self._h.nbytes + self._y.nbytes + self._p.nbytes + self._position.nbytes

    @property
    def evidence(self) -> int:
        """Examples held."""
        return int((self._position != _FREE).sum())

    def correct(self, keys: Keys, p: npt.ArrayLike) -> Floats:
        """See `ErrorMemory.correct`."""
        rows = as_rows(keys, self.columns)
        out = as_probabilities(p, rows.n)
        h = hash_rows(rows)
        with self._lock:
            self._read(h, out)
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
        h = hash_rows(seen.rows)
        with self._lock:
            for r, at in enumerate(seen.position):
                rows = slice(int(seen.requests[r]), int(seen.requests[r + 1]))
                base = seen.p[rows].copy()
                self._read(h[rows], seen.p[rows])
                if at > self._state[1]:
                    plain = seen.plain[rows]
                    self._write(h[rows][plain], seen.y[rows][plain], base[plain], int(at))
        return seen.p

    def forget(self, columns: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """Drop all examples: a vector does not hold its keys."""
        with self._lock:
            self._h[:] = 0.0
            self._y[:] = self._p[:] = 0.0
            self._position[:] = _FREE

    def candidates(self, column: int) -> npt.NDArray[np.uint64]:
        """None: the examples are vectors."""
        return np.zeros(0, dtype=np.uint64)

    def advance(self, position: int) -> None:
        """Drop the examples that the base has learned."""
        with self._lock:
            self._state[1] = max(self._state[1], position)
            learnt = self._position <= position
            self._h[learnt] = 0.0
            self._position[learnt] = _FREE

    def set_priors(self, tau: npt.ArrayLike, keep: npt.ArrayLike | None = None) -> None:
        """Neighbours have no priors."""

    def save(self) -> bytes:
        """See `ErrorMemory.save`."""
        with self._lock:
            arrays: dict[str, npt.NDArray[Any]] = {
                "h": self._h,
                "y": self._y,
                "p": self._p,
                "position": self._position,
                "state": self._state,
            }
            return pack(self.settings, self.columns, arrays)

    def load(self, saved: bytes) -> None:
        """See `ErrorMemory.load`."""
        arrays = unpack(saved, self.settings, self.columns)
        with self._lock:
            self._h, self._y, self._p = arrays["h"], arrays["y"], arrays["p"]
            self._position, self._state = arrays["position"], arrays["state"]

    def _read(self, h: npt.NDArray[np.float32], p: Floats) -> None:
        """Correct p (n,) in place for vectors h (n, DIM)."""
        settings = self.settings
        for i in range(len(h)):
            similar = self._h @ h[i]  # (newest,); a free slot is all zeros and never similar
            near = np.flatnonzero(similar >= LEAST_SIMILAR)
            if not len(near):
                continue
            if len(near) > settings.nearest:
                # A stable sort, so that ties are the same on every machine.
                near = near[np.argsort(-similar[near], kind="stable")[: settings.nearest]]
            weight = np.exp((similar[near].astype(np.float64) - 1.0) / settings.temperature)
            weight /= weight.sum()
            mean, base = weight @ self._y[near], weight @ self._p[near]
            error = settings.gamma * (mean - p[i]) + (1.0 - settings.gamma) * (mean - base)
            p[i] = min(max(p[i] + settings.lam * error, 0.0), 1.0)

    def _write(self, h: npt.NDArray[np.float32], y: Floats, p: Floats, position: int) -> None:
        """Write n examples over the oldest ones in the ring; if n exceeds the ring, the last ones stay."""
        newest = self.settings.newest
        h, y, p = h[-newest:], y[-newest:], p[-newest:]
        places = (int(self._state[0]) + np.arange(len(h))) % newest
        self._h[places], self._y[places], self._p[places] = h, y, p
        self._position[places] = position
        self._state[0] = (int(self._state[0]) + len(h)) % newest
