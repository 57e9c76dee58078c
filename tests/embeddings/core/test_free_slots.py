"""The ring of free slots: in order, and no longer than it must be."""

from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embeddings import Table, TableSpec
from embeddings.core.positions import STATE_SIZE, State
from embeddings.core.slots import rewind

SIZE = 8


@given(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE), st.booleans()), max_size=30))
def test_slots_are_taken_in_the_order_in_which_they_became_free(acts: list[tuple[int, int, bool]]) -> None:
    free, state = np.zeros(SIZE, dtype=np.uint32), np.zeros(STATE_SIZE, dtype=np.int64)
    expected: deque[int] = deque()
    number = 0
    for freed, taken, rewound in acts:
        for _ in range(min(freed, SIZE - len(expected))):
            free[state[State.FREE_TAIL] % SIZE] = number
            state[State.FREE_TAIL] += 1
            expected.append(number)
            number += 1
        for _ in range(min(taken, len(expected))):
            assert free[state[State.FREE_HEAD] % SIZE] == expected.popleft()
            state[State.FREE_HEAD] += 1
        if rewound:
            rewind(free, state)
        assert state[State.FREE_TAIL] - state[State.FREE_HEAD] == len(expected)


def test_a_table_whose_rows_come_and_go_does_not_write_the_whole_ring() -> None:
    table = Table(TableSpec(dim=1, ttl_s=10))
    for step in range(200):
        table.upsert(np.arange(100 * step, 100 * step + 100, dtype=np.uint64), 100 * step)
        table.expire(100 * step)
        table.drain_delta()
    assert table.arrays.state[State.INSERTED] == 20_000
    assert np.count_nonzero(table.arrays.free) < 1_000
