"""Examples of which two models have predicted, one better than the other as asked for."""

from collections.abc import Iterator

import numpy as np

from stream.records.types import Example, Served, ServedTarget


def duelled(
    n: int,
    other_sees: float = 0.0,
    other_earns: float = 0.0,
    share: float = 0.5,
    seed: int = 0,
    first_name: str = "first",
    other_name: str = "other",
    **fields,
) -> Iterator[Example]:
    """The first model knows nothing of the candidates; the other sees a part, and earns more clicks."""
    rng = np.random.default_rng(0)
    for i in range(n):
        user = int(rng.integers(0, 400))
        by = other_name if user < 400 * share else first_name
        signal = rng.random(2) - 0.5
        rate = 0.25 + 0.3 * signal + (other_earns if by == other_name else 0.0)
        labels = (rng.random(2) < rate).astype(float).tolist()
        first, other = [0.25, 0.25], (0.25 + other_sees * signal).tolist()
        models = {first_name: ServedTarget(first, first), other_name: ServedTarget(other, other)}
        chosen = models[by]
        served = Served(chosen.base, chosen.corrected, "1-1", {}, by, models)
        yield Example(
            f"r{i}", 1e9 + i, 1e9 + i, [{"item": 1}, {"item": 2}], labels, {"user": user}, served, **fields
        )
