"""The memory that holds no evidence: corrected equals base."""

import numpy as np
import numpy.typing as npt

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


class NoMemory:
    """An `ErrorMemory` switched off. It still checks its arguments, so switching it on later is safe."""

    nbytes = 0
    gate = 0.0
    evidence = 0

    def __init__(self, settings: MemorySettings, columns: int) -> None:
        self.settings = settings
        self.columns = columns

    def __repr__(self) -> str:
        return shown(self)

    def correct(self, keys: Keys, p: npt.ArrayLike) -> Floats:
        """`p` unchanged."""
        return as_probabilities(p, as_rows(keys, self.columns).n)

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
        """`p` unchanged; nothing is learned."""
        return as_observed(keys, p, y, position, requests, times, self.columns, weight, before).p

    def forget(self, columns: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """There is nothing to forget."""

    def candidates(self, column: int) -> npt.NDArray[np.uint64]:
        """None."""
        return np.zeros(0, dtype=np.uint64)

    def advance(self, position: int) -> None:
        """There is nothing to drop."""

    def set_priors(self, tau: npt.ArrayLike, keep: npt.ArrayLike | None = None) -> None:
        """There are no priors."""

    def save(self) -> bytes:
        """The settings, and no arrays."""
        return pack(self.settings, self.columns, {})

    def load(self, saved: bytes) -> None:
        """Check that the bytes were saved under these settings."""
        unpack(saved, self.settings, self.columns)
