"""Predictions and labels of a replay, in order, and the metrics over them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.files import Json
from learner.metrics import Summary, summarize
from learner.ranking import TOP

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.uint64]


class Candidates(NamedTuple):
    """n candidates, each (n,)."""

    base: Floats
    corrected: Floats
    y: Floats
    user: Ids
    time: Floats  # event time, Unix seconds
    request: Ids  # the same number for the candidates of one request

    def kept(self, keep: npt.NDArray[np.bool_]) -> "Candidates":
        """The candidates where `keep` (n,) is true."""
        base, corrected, y, user, time, request = self
        return Candidates(base[keep], corrected[keep], y[keep], user[keep], time[keep], request[keep])


class ScoredCandidates:
    """Collects candidates with their predictions; 48 bytes each."""

    def __init__(self) -> None:
        self._parts: list[Candidates] = []

    def add(self, candidates: Candidates) -> None:
        """Append candidates."""
        self._parts.append(candidates)

    def arrays(self) -> Candidates:
        """All candidates, concatenated."""
        return Candidates(*(np.concatenate(part) for part in zip(*self._parts, strict=True)))

    def summaries(self, window: int, top: int = TOP) -> Json:
        """Metrics of base and corrected: overall, over the last half, and over windows of candidates.

        Args:
            window: candidates.
            top: places that NDCG and recall count.
        """
        found = self.arrays()
        n = len(found.y)

        def both(part: slice) -> dict[str, Summary]:
            y, user, request = found.y[part], found.user[part], found.request[part]
            return {
                "base": summarize(found.base[part], y, user, request, top),
                "corrected": summarize(found.corrected[part], y, user, request, top),
            }

        overall, last_half = both(slice(0, n)), both(slice(n // 2, n))
        windows = [
            {
                "from_time": float(found.time[first]),
                "to_time": float(found.time[min(first + window, n) - 1]),
                **both(slice(first, first + window)),
            }
            for first in range(0, n, window)
        ]
        summaries: Json = {name: {"overall": overall[name], "last_half": last_half[name]} for name in overall}
        summaries["windows"] = windows
        return summaries
