"""Packed rows: what comes out is what went in, within what the packing promises; the rest is exact."""

import msgspec
import numpy as np
import pytest

from embeddings import Table, TableSpec
from embeddings.errors import TableError
from embeddings.save.delta import DeltaReader, DeltaWriter
from embeddings.views.packed import PackedTable, serving_table

SPEC = TableSpec(name="item", dim=6, init="normal", init_scale=0.3, extra=5, ttl_s=100, rows_max=5000)
KEYS = np.arange(400, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def learnt() -> Table:
    """A table with vectors of one size and columns of many."""
    table = Table(SPEC)
    slots = table.upsert(KEYS, 1000)
    rng = np.random.default_rng(0)
    decades = 10.0 ** rng.uniform(-3, 6, (len(KEYS), 1))
    table.set_extras(slots, (decades * rng.uniform(0.01, 1.0, (len(KEYS), 5))).astype(np.float32))
    table.touch(slots, 1000 + np.arange(len(KEYS)) % 50, np.arange(len(KEYS)) * 1_000_003 % 2**31)
    return table


@pytest.mark.parametrize(
    ("rows", "vector_error", "width"), [("float16", 2.0**-11, 3 + 4 + 2), ("int8", 0.5 / 127, 3 + 4 + 2)]
)
def test_packed_rows_are_about_what_was_loaded_and_metadata_is_exact(
    rows: str, vector_error: float, width: int
) -> None:
    table = learnt()
    served = serving_table(SPEC, rows)
    assert DeltaReader(served).apply(DeltaWriter(table, serving=True).take())
    slots, mine = table.find(KEYS), served.find(KEYS)
    vectors = table.vectors(slots)
    off = np.abs(served.vectors(mine) - vectors).max(axis=1)
    assert (off <= vector_error * np.abs(vectors).max(axis=1) * 1.001).all()
    assert off.max() > 0
    extras = table.extras(slots)
    assert (np.abs(served.extras(mine) - extras) <= 2.0**-11 * np.abs(extras) * 1.001).all()
    assert np.array_equal(served.counts(mine), table.counts(slots))
    assert np.array_equal(served.last_seen(mine), table.last_seen(slots))
    assert served.spec.width == width < SPEC.serving().width
    # Unpacked and packed once more it is the same, so a server may be filled from another one.
    again = serving_table(SPEC, rows)
    again.load(KEYS, served.export(KEYS)[0])
    assert again.digest(0) == served.digest(0)


@pytest.mark.parametrize("rows", ["float32", "float16", "int8"])
def test_unknown_expired_and_empty_rows_read_as_zeros(rows: str) -> None:
    served = serving_table(SPEC, rows)
    blank = np.zeros((2, SPEC.serving().width), dtype=np.float32)
    blank.view(np.uint32)[:, -2] = 500
    served.load(np.array([0, 2**64 - 1], dtype=np.uint64), blank)
    slots = served.find(np.array([0, 2**64 - 1, 7], dtype=np.uint64), [600, 601, 600])
    assert (slots >= 0).tolist() == [True, False, False], "expiry is exact"
    assert not served.vectors(slots).any()
    assert not served.extras(slots).any()
    assert served.vectors(slots).shape == (3, 6)
    assert served.delete(np.array([0], dtype=np.uint64)) == 1


@pytest.mark.parametrize("rows", ["float16", "int8"])
def test_table_of_columns_alone_and_of_a_vector_alone(rows: str) -> None:
    for dim, extra in ((0, 2), (4, 0)):
        spec = msgspec.structs.replace(SPEC, dim=dim, extra=extra, optimizer="none")
        served = serving_table(spec, rows)
        values = np.full((1, spec.width), 2.0, dtype=np.float32)
        served.load(np.array([5], dtype=np.uint64), values)
        slots = served.find(np.array([5], dtype=np.uint64))
        assert np.allclose(served.vectors(slots), 2.0, rtol=0.005)
        assert np.array_equal(served.extras(slots), np.full((1, extra), 2.0))
        assert served.vectors(slots).shape == (1, dim)


def test_packed_table_does_not_learn() -> None:
    served = serving_table(SPEC, "int8")
    assert isinstance(served, PackedTable)
    for call in (
        lambda: served.set_vectors(np.zeros(0, dtype=np.int64), np.zeros((0, 6))),
        lambda: served.set_extras(np.zeros(0, dtype=np.int64), np.zeros((0, 5))),
        lambda: served.apply_gradients(np.zeros(0, dtype=np.int64), np.zeros((0, 0))),
        lambda: served.page(0, 1),
    ):
        with pytest.raises(TableError, match="serve"):
            call()
