"""Vectors of entities are encoded once: with the same bits, in any company, and so many at most."""

import numpy as np
import pytest

from learner.errors import FeatureError
from learner.features import content
from learner.features.columns import read_columns, reader_of
from learner.features.spec import FeatureSpec
from learner.features.values import Values

KEPT = FeatureSpec(kind="vector", length=24, of="item")
Found = list[tuple[list[int], list[int], list[bytes]]]


def plain(found: list[Values]) -> Found:
    return [(v.start.tolist(), v.key.tolist(), [x.tobytes() for x in v.x]) for v in found]


def test_kept_vectors_have_the_bits_of_computed_ones() -> None:
    rng = np.random.default_rng(0)
    vectors: list[list[float]] = [rng.normal(size=24).tolist() for _ in range(40)]
    vectors[3] = [0.0] * 24
    vectors[4] = list(range(24))  # whole numbers
    vectors[5] = [1e300 * x for x in vectors[5]]
    read = reader_of("look", KEPT)
    for _ in range(30):
        picked = [None if i == 39 else vectors[i] for i in rng.integers(40, size=rng.integers(0, 12))]
        assert plain(read(picked)) == plain(read_columns("look", KEPT, picked))


def test_list_that_has_changed_or_is_no_vector_is_not_taken_for_what_it_was() -> None:
    read = reader_of("look", KEPT)
    mine = [1.0, *[0.5] * 23]
    read([mine])
    mine[0] = -1.0
    assert plain(read([mine])) == plain(read_columns("look", KEPT, [mine]))
    mine.pop()
    for wrong in (mine, [float("nan")] * 24, "abc", [True] * 24):
        for _ in range(2):  # what was refused is not kept
            with pytest.raises(FeatureError, match="feature look"):
                read([[1.0] * 24, wrong])


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "VECTORS_KEPT", 8)
    rng = np.random.default_rng(1)
    vectors: list[list[float]] = [rng.normal(size=24).tolist() for _ in range(30)]
    read = reader_of("look", KEPT)
    for first in range(0, 28, 3):
        picked = vectors[first : first + 5] + vectors[:2]
        assert plain(read(picked)) == plain(read_columns("look", KEPT, picked))
