"""A hash of a learning model: of its rows, admission filters, dense arrays, and what is known of entities."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import xxhash

from learner.model.model import Model


def model_hash(model: Model, arrays: Mapping[str, npt.NDArray[np.generic]], now: int) -> xxhash.xxh3_128:
    """A hasher that has taken all of it but the entities.

    Args:
        arrays: the dense weights and the state of their optimizer.
        now: event time in ticks of a second; expired rows do not count.
    """
    hasher = xxhash.xxh3_128()
    for table in model.tables:
        hasher.update(table.digest(now).to_bytes(8, "little"))
        hasher.update(table.filter.words().data)
    for name, array in sorted(arrays.items()):
        hasher.update(name.encode())
        hasher.update(array.tobytes())
    return hasher


def with_entities(digest: str, entities: bytes) -> str:
    """A state's hash together with `EntityStore.digest`; without entities it is the state's."""
    return xxhash.xxh3_128_hexdigest(digest.encode() + entities) if entities else digest
