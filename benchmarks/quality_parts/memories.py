"""ReLoop2's sketch on Freshet's bases, in one pass for every λ: reading a bucket does not depend on it.

With γ = 1 the error is (ȳ - p), ȳ the mean label of a row's buckets. Of a base that has learnt some of the
examples, their labels are taken out of the sums again: kinder than the published rule, which empties the
sketch whenever the base is updated. "all" keeps everything, whatever the base has learnt.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from error_memory import MemorySettings
from error_memory.baselines.hashed import hash_rows
from error_memory.baselines.sketch import SketchMemory
from ground.rows import Rows
from quality_parts.streams import Arrays

LAMBDAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


@njit(cache=True, nogil=True)
def _means(buckets, y, requests, learnt, visible, size, out):
    """ȳ (n,) of each row by the examples of requests learnt[r] to visible[r], NaN without any."""
    K = buckets.shape[1]
    count = np.zeros((K, size))
    clicks = np.zeros((K, size))
    head = 0
    tail = 0
    for r in range(len(visible)):
        while head < visible[r]:
            for i in range(requests[head], requests[head + 1]):
                for k in range(K):
                    count[k, buckets[i, k]] += 1.0
                    clicks[k, buckets[i, k]] += y[i]
            head += 1
        while tail < learnt[r]:
            for i in range(requests[tail], requests[tail + 1]):
                for k in range(K):
                    count[k, buckets[i, k]] -= 1.0
                    clicks[k, buckets[i, k]] -= y[i]
            tail += 1
        for i in range(requests[r], requests[r + 1]):
            n = 0.0
            c = 0.0
            for k in range(K):
                n += count[k, buckets[i, k]]
                c += clicks[k, buckets[i, k]]
            out[i] = c / n if n > 0.0 else np.nan


def hashed(rows: Rows) -> npt.NDArray[np.float32]:
    """The vectors (n, 64) by which both the sketch and the neighbours tell what is alike."""
    return hash_rows(rows)


def sketch_means(
    h: npt.NDArray[np.float32], arrays: Arrays, learnt: dict[str, npt.NDArray[np.int64]]
) -> dict[str, npt.NDArray[np.float32]]:
    """ȳ (n,) of each staleness by name, and of "all"."""
    settings = MemorySettings(kind="sketch")
    buckets = SketchMemory(settings, 1)._buckets(h).astype(np.uint16)
    found = {}
    for name, by_request in {**learnt, "all": np.zeros_like(arrays.visible)}.items():
        out = np.empty(len(arrays.y), dtype=np.float32)
        _means(
            buckets, arrays.y, arrays.requests, np.minimum(by_request, arrays.visible), arrays.visible,
            1 << settings.bits, out,
        )  # fmt: skip
        found[name] = out
    return found


def added(p: npt.NDArray[np.float64], mean: npt.NDArray[np.float32], lam: float) -> npt.NDArray[np.float64]:
    """p + λ (ȳ - p); p where nothing is known."""
    return np.where(np.isnan(mean), p, p + lam * (mean - p))
