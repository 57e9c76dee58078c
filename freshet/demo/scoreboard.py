"""Metrics of several predictors over the same requests, each predicted before training on it."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learner.metrics import Metrics, Summary, summarize

Floats = npt.NDArray[np.float64]
CANDIDATES_MAX = 200_000  # limit of the sliding window


class _Scored(NamedTuple):
    at_s: float
    y: Floats  # (n,)
    p: tuple[Floats, ...]  # one (n,) per arm
    group: np.uint64


class Scoreboard:
    """Scores several arms side by side: cumulative, and exact over a sliding window of seconds.

    Args:
        arms: names, in the order in which predictions are given.
        window_s: length of the sliding window.

    Memory is bounded: by the window, and by `CANDIDATES_MAX` within it.
    """

    def __init__(self, arms: Sequence[str], window_s: float) -> None:
        self.arms = tuple(arms)
        self.window_s = window_s
        self.requests = 0
        self._all = {arm: Metrics() for arm in self.arms}
        self._recent: deque[_Scored] = deque()
        self._candidates = 0

    def add(self, at_s: float, y: Floats, predictions: Mapping[str, Floats], group: int) -> None:
        """Add one request's labels y (n,) and each arm's predictions (n,), made before y was known.

        Args:
            at_s: time at which y became known, seconds, never decreasing.
            y: labels, 0 or 1.
            predictions: one array per arm.
            group: the person, for per-user AUC.
        """
        who = np.uint64(group & 0xFFFF_FFFF_FFFF_FFFF)
        scored = _Scored(at_s, y, tuple(predictions[arm] for arm in self.arms), who)
        groups = np.full(len(y), who)
        for arm, p in zip(self.arms, scored.p, strict=True):
            self._all[arm].add(p, y, groups)
        self.requests += 1
        self._recent.append(scored)
        self._candidates += len(y)
        self._forget(at_s)

    def overall(self) -> dict[str, Summary]:
        """Each arm's metrics over all requests."""
        return {arm: metrics.summary() for arm, metrics in self._all.items()}

    def recent(self, now_s: float) -> dict[str, Summary]:
        """Each arm's metrics over the last `window_s` seconds."""
        self._forget(now_s)
        if not self._recent:
            empty = np.zeros(0)
            return {arm: summarize(empty, empty, np.zeros(0, np.uint64)) for arm in self.arms}
        y = np.concatenate([scored.y for scored in self._recent])
        group = np.repeat(
            np.array([scored.group for scored in self._recent]), [len(scored.y) for scored in self._recent]
        )
        return {
            arm: summarize(np.concatenate([scored.p[i] for scored in self._recent]), y, group)
            for i, arm in enumerate(self.arms)
        }

    def _forget(self, now_s: float) -> None:
        while self._recent and (
            self._recent[0].at_s < now_s - self.window_s or self._candidates > CANDIDATES_MAX
        ):
            self._candidates -= len(self._recent.popleft().y)
