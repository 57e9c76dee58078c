"""What an example costs a memory whose capacity is used up is about what it costs a small one."""

import time

import numpy as np
import pytest
from costs import DEARER_MAX, dearer

from error_memory import MemorySettings, make_memory

ROWS = 500


def capacity_cost(capacity: int) -> float:
    """Of an example of new keys, for which others go, and of a correction."""
    memory = make_memory(MemorySettings(capacity=capacity), columns=2)
    rng = np.random.default_rng(1)
    half = np.full(ROWS, 0.5)
    took_s, steps = 0.0, 20
    fill = -(-2 * capacity // ROWS)
    for i in range(fill + steps):
        keys = rng.integers(1, 1 << 63, (ROWS, 2)).astype(np.uint64)
        began = time.thread_time()
        memory.observe(keys, half, (half > 0.4).astype(float), i)
        memory.correct(keys, half)
        took_s += (time.thread_time() - began) * (i >= fill)
    assert memory.counters["evicted"] >= capacity // 2
    return took_s / (steps * ROWS)


@pytest.mark.slow
def test_example_at_the_capacity_costs_about_what_one_far_below_it_does() -> None:
    assert dearer(capacity_cost, MemorySettings().capacity) < DEARER_MAX
