"""Keys from ids, for programs with a model of their own."""

import numpy as np
import pytest

from error_memory import MemoryInputError, keys_of


def test_same_ids_give_same_keys_whatever_holds_them() -> None:
    held = [["ann", "bob"], ("ann", "bob"), np.array(["ann", "bob"]), (name for name in ("ann", "bob"))]
    tables = [keys_of(column, [1, 2]) for column in held]
    assert all((table == tables[0]).all() for table in tables)
    numbers = [[1, 2], np.array([1, 2]), np.array([1, 2], dtype=np.uint8), [np.int32(1), np.uint64(2)]]
    assert all((keys_of(column) == [[1], [2]]).all() for column in numbers)


def test_text_and_number_are_different_ids() -> None:
    assert keys_of(["3"])[0, 0] != keys_of([3])[0, 0]


def test_no_rows_and_no_columns_are_empty_tables() -> None:
    assert keys_of([], []).shape == (0, 2)
    assert keys_of().shape == (0, 0)


@pytest.mark.parametrize("value", [1.5, None, float("nan"), b"ann", True, np.float32(2.0), 1 << 63])
def test_value_that_is_no_id_is_named_by_column_and_row(value: object) -> None:
    with pytest.raises(MemoryInputError, match="column 1, row 2"):
        keys_of(["a", "b", "c"], [1, 2, value])


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(MemoryInputError, match="lengths are 2, 1"):
        keys_of(["a", "b"], [1])
