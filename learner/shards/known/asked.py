"""Which histories and rates a shard needs for its requests of a turn: those of their keepers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embeddings.kernels.batches import number
from embeddings.types import Keys
from learner.features.labelled import Labelled
from learner.model.model import Model

Found = tuple[Keys, npt.NDArray[np.uint32], npt.NDArray[np.uint32]]
"""Distinct keys (m,), the second of the first use of each (m,), and its sightings (m, targets)."""

_SALT = np.uint64(0x9E3779B97F4A7C15)  # numbers are by first appearance: no result depends on it


def keepers_asked(model: Model, labelled: Labelled, times: npt.NDArray[np.float64]) -> dict[int, Found]:
    """The keepers of some requests, by table. Only one that learns is seen.

    Args:
        times: (R,), event times, ascending.
    """
    assert model.filler is not None
    seconds = times.astype(np.uint32)
    found = {}
    for t, target, keys, request, learns in model.filler.keepers(labelled.batch, labelled.lessons):
        distinct, inverse = number(keys, _SALT)
        first = np.empty(len(distinct), dtype=np.uint32)
        first[inverse[::-1]] = seconds[request[::-1]]  # of several values numpy keeps the last
        sightings = np.zeros((len(distinct), len(model.targets)), dtype=np.uint32)
        sightings[:, target] = np.bincount(inverse[learns], minlength=len(distinct))
        found[t] = distinct, first, sightings
    return found


def partner_columns(model: Model) -> Sequence[int]:
    """The columns whose ids are joined with others, in pairs or as keepers, ascending."""
    encoder = model.encoder
    sides = {side for pair in encoder.pairs for side in pair}
    for spec in encoder.known.values():
        if len(spec.keeper) > 1:
            sides.update(encoder.column_of(name) for name in spec.keeper)
    return sorted(sides)
