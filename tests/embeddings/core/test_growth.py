"""Growing: in bounded pieces, within bounded memory, whatever the ids; counted, not timed."""

import subprocess
import sys

import numpy as np
import pytest

from embeddings import Table, TableSpec
from embeddings.core.positions import State
from embeddings.core.store import LANES, LOAD_MAX

SPREAD = np.uint64(0x9E3779B97F4A7C15)


def buckets(table: Table) -> int:
    state = table.arrays.state
    return int(state[State.BASE] + state[State.SPLIT])


def make(rows: int, **settings) -> Table:
    return Table(TableSpec(**{"dim": 16, "rows_max": rows, "capacity_initial": 1, **settings}))


@pytest.mark.slow
def test_each_step_of_growth_splits_as_many_buckets_as_its_new_keys_need():
    table, new = make(300_000), 5000
    table.upsert(np.arange(20_000, dtype=np.uint64) * SPREAD, 0)
    for start in range(20_000, 300_000, new):
        before = buckets(table)
        table.upsert(np.arange(start, start + new, dtype=np.uint64) * SPREAD, 0)
        grown = buckets(table) - before
        assert grown <= new / (LANES * LOAD_MAX) + 1
    assert len(table) == 300_000
    assert buckets(table) <= 300_000 / (LANES * LOAD_MAX) + 1


def test_memory_is_little_more_than_keys_and_rows():
    table = make(200_000)
    table.upsert(np.arange(200_000, dtype=np.uint64) * SPREAD, 0)
    table.drain_delta()
    assert table.nbytes <= 1.15 * len(table) * (8 + 4 * table.width)


def test_rows_that_come_for_rows_that_expired_take_no_more_memory():
    table = make(120_000, ttl_s=10)
    keys = np.arange(160_000, dtype=np.uint64) * SPREAD
    table.upsert(keys[:50_000], 0)
    table.upsert(keys[50_000:100_000], 20)
    high, size = int(table.arrays.state[State.HIGH]), buckets(table)
    for start in range(100_000, 150_000, 5000):
        table.expire(25, 20_000)
        table.upsert(keys[start : start + 5000], 25)
    assert len(table) == 100_000
    assert table.arrays.state[State.HIGH] == high
    assert buckets(table) <= 1.01 * size


BACKWARDS = [pow(multiplier, -1, 1 << 64) for multiplier in (0xC4CEB9FE1A85EC53, 0xFF51AFD7ED558CCD)]


def unmix(h: int) -> int:
    """The key whose `ground.kernels.mixing.mix` is h."""
    for inverse in BACKWARDS:
        h ^= h >> 33
        h = h * inverse % (1 << 64)
    return h ^ (h >> 33)


@pytest.mark.parametrize(
    "keys",
    [
        np.arange(20_000, dtype=np.uint64),
        np.arange(20_000, dtype=np.uint64) << np.uint64(40),
        np.arange(20_000, dtype=np.uint64) * np.uint64(1 << 48) + np.uint64(7),
        np.array([unmix(i) for i in range(20_000)], dtype=np.uint64),
        np.array([unmix(i << 44) for i in range(20_000)], dtype=np.uint64),
    ],
    ids=["sequential", "multiples of 2^40", "equal low bits", "one bucket each", "equal low hash bits"],
)
def test_ids_made_to_collide_take_no_more_room_than_others(keys):
    table = make(30_000)
    for part in np.array_split(keys, 7):
        assert (table.upsert(part, 0) >= 0).all()
    assert len(np.unique(table.find(keys))) == len(np.unique(keys)) == len(table)
    assert buckets(table) <= len(table) / (LANES * LOAD_MAX) + 20
    vectors, found = table.read(keys)
    assert found.all()
    assert (vectors == 0).all()


@pytest.mark.long
def test_resident_memory_of_two_million_rows():
    code = """
import numpy as np
from embeddings import Table, TableSpec
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
rows = 2_000_000
keys = np.arange(1, 3 * rows // 2 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
table = Table(TableSpec(dim=16, rows_max=rows + rows // 50, ttl_s=1000))
table.upsert(keys[:50_000], 1)  # compiled by now
before = resident() - table.nbytes
for start in range(0, rows, 50_000):
    table.upsert(keys[start : start + 50_000], 1 if start < rows // 2 else 1000)
    table.drain_delta()
full = resident() - before
assert full <= 1.15 * rows * (8 + 4 * table.width), full
for start in range(rows, len(keys), 50_000):
    table.expire(1500, 100_000)
    table.upsert(keys[start : start + 50_000], 1500)
    table.drain_delta()
    assert resident() - before <= 1.05 * full
"""
    subprocess.run([sys.executable, "-c", code], check=True)
