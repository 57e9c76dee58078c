"""Which shard owns a key: keys fall into 1,024 buckets by hash, and each bucket has one owner.

The hash is fixed at birth and is none that a table's index uses. All features share it. So the row of a user
is owned by the shard that learns the requests of this user, where requests are given out by user.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.kernels.mixing import mix
from learner.errors import ShardError
from learner.features.encoding import sort_by_table
from learner.settings import SHARDS_MAX

BUCKETS: Final = 1024

_SALT = np.uint64(0x6A09E667F3BCC909)
_SHIFT = np.uint64(54)  # the upper 10 bits

Keys = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


@njit(cache=True, nogil=True)
def _owners(keys: Keys, owner_of: npt.NDArray[np.int32], out: npt.NDArray[np.int32]) -> None:
    for i in range(len(keys)):
        out[i] = owner_of[mix(keys[i] ^ _SALT) >> _SHIFT]


class Owners:
    """The owner of each bucket, among N shards, each of which owns an equal part of neighbouring buckets.

    Raises:
        ShardError: N is not 1 to SHARDS_MAX.
    """

    def __init__(self, shards: int) -> None:
        if not 1 <= shards <= SHARDS_MAX:
            raise ShardError(f"there can be 1 to {SHARDS_MAX} shards, not {shards}")
        self.shards = shards
        self.of_bucket = (np.arange(BUCKETS) * shards // BUCKETS).astype(np.int32)
        self._ranks = np.arange(shards, dtype=np.int32)

    def of(self, keys: Keys) -> npt.NDArray[np.int32]:
        """The owner of each key, (n,)."""
        out = np.empty(len(keys), dtype=np.int32)
        _owners(keys, self.of_bucket, out)
        return out

    def sources(self, before: "Owners") -> list[list[int]]:
        """For each shard, which of the shards before owned buckets that it owns now."""
        return [np.unique(before.of_bucket[self.of_bucket == shard]).tolist() for shard in range(self.shards)]

    def sort(self, keys: Keys) -> tuple[Ints, Ints]:
        """A stable order of keys (n,) by owner, (n,), and where the keys of each begin, (shards + 1,)."""
        order, bounds = sort_by_table(self.of(keys), self._ranks, self.shards)
        return order, bounds
