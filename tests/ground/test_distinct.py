import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ground.distinct import distinct


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32, np.uint32])
@given(st.data())
def test_each_value_once_in_rising_order(kind: type[np.int64], data: st.DataObject) -> None:
    values = data.draw(arrays.arrays(kind, st.integers(0, 40), elements=arrays.from_dtype(np.dtype(kind))))
    before = values.copy()
    found = distinct(values)
    assert found.dtype == values.dtype and found.tolist() == sorted(set(values.tolist()))
    assert np.array_equal(values, before)
