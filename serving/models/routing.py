"""Which model answers whom: a stable hash of an entity, with shares.

Weighted rendezvous hashing: each model draws a number by a hash of its name and the entity, and the highest
-share / ln(u) answers. If a share rises, entities move to that model only, and no others move; so people keep
their model as far as the shares allow. Sources: Thaler & Ravishankar 1998, "Using name-based mappings to
increase hit rates"; with weights: Schindelhauer & Schomaker 2005, "Weighted distributed hash tables".
"""

import math
from collections.abc import Mapping

import xxhash

_UNIT = 1.0 / (1 << 53)


def model_for(shares: Mapping[str, float], entity: str) -> str:
    """The name of the model that answers an entity; models with share 0 answer nobody.

    >>> model_for({"main": 0.0, "challenger": 1.0}, "u1")
    'challenger'
    """
    weighed = [(name, share) for name, share in shares.items() if share > 0.0]
    if len(weighed) == 1:
        return weighed[0][0]
    return max(weighed, key=lambda one: (_weight(one[0], one[1], entity), one[0]))[0]


def _weight(name: str, share: float, entity: str) -> float:
    number = xxhash.xxh3_64_intdigest(f"{name}\0{entity}".encode()) >> 11
    return -share / math.log((number + 0.5) * _UNIT)
