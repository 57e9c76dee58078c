"""Records that were sent twice are told by their producers' numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.log.base import Record
from stream.state.repeats import Repeats


def sent(offset: int, producer: str, seq: int) -> Record:
    return Record("t", 0, offset, b"", b"", producer, seq)


def test_first_record_of_a_partition_sent_twice_counts_once() -> None:
    repeats = Repeats(10)
    assert len(repeats.leave_out([sent(0, "p", 0)])) == 1
    assert repeats.leave_out([sent(1, "p", 0)]) == []


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(-1, 6)), max_size=40),
    st.lists(st.integers(1, 7), max_size=10),
)
def test_a_number_counts_once_however_records_are_cut(
    numbers: list[tuple[str, int]], cuts: list[int]
) -> None:
    records = [sent(offset, producer, seq) for offset, (producer, seq) in enumerate(numbers)]
    newest: dict[str, int] = {}
    expected = []
    for record in records:
        if record.producer and record.seq >= 0:
            if record.seq <= newest.get(record.producer, -1):
                continue
            newest[record.producer] = record.seq
        expected.append(record)
    repeats = Repeats(10)
    found: list[Record] = []
    at = 0
    for cut in [*cuts, len(records)]:
        found += repeats.leave_out(records[at : at + cut])
        at += cut
    found += repeats.leave_out(records[at:])
    assert found == expected


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9)), max_size=40),
    st.integers(0, 40),
    st.integers(1, 4),
)
def test_rolled_back_repeats_are_as_they_were_evicted_ones_and_their_order_included(
    numbers: list[tuple[str, int]], cut: int, producers_max: int
) -> None:
    records = [sent(offset, producer, seq) for offset, (producer, seq) in enumerate(numbers)]
    repeats, plain = Repeats(producers_max, {"b": 3, "f": 1}), Repeats(producers_max, {"b": 3, "f": 1})
    repeats.leave_out(records[:cut])
    plain.leave_out(records[:cut])
    repeats.begin()
    repeats.leave_out(records[cut:])
    repeats.roll_back()
    again = [sent(100 + record.offset, record.producer, record.seq) for record in records]
    for one in again:
        assert repeats.leave_out([one]) == plain.leave_out([one])


def test_the_stalest_producer_is_forgotten_and_no_other() -> None:
    repeats = Repeats(2)
    repeats.leave_out([sent(0, "a", 5), sent(1, "b", 5), sent(2, "a", 6), sent(3, "c", 5)])
    assert repeats.leave_out([sent(4, "a", 6), sent(5, "c", 5)]) == []
    assert len(repeats.leave_out([sent(6, "b", 5)])) == 1
