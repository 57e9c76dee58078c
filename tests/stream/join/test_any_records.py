"""Whatever comes in a record's key, value, headers and times, the joiner takes it or buries it."""

from pathlib import Path

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import DEAD_LETTERS, SEQ_MAX, Outgoing, Record
from stream.records.decoding import Decoder
from stream.records.types import Action, DeadLetter, Example, Exposure, Forget, Impression, Tick, encode
from stream.state.role_state import RoleState

SETTINGS = JoinSettings(dead_letter_share_max=1.0)

ids = st.text(max_size=8)
times = st.floats(0.0, 4e9) | st.floats()
events = st.one_of(
    st.builds(
        Impression,
        ids,
        times,
        st.lists(st.just({"item": 1}), max_size=3),
        shown=st.none() | st.lists(st.integers(-1, 3), max_size=3),
    ),
    st.builds(
        Exposure,
        ids,
        times,
        st.none() | st.lists(st.integers(-1, 3), max_size=3),
        st.none() | st.integers(-1, 4),
    ),
    st.builds(Action, ids, times, st.integers(-1, 5), st.sampled_from([0.0, 1.0, 2.0])),
    st.builds(Tick, times),
    st.builds(Forget, ids, times, st.dictionaries(ids, st.lists(st.integers(0, 3), max_size=2), max_size=2)),
)
values = st.one_of(
    st.binary(max_size=40),
    events.map(encode),
    st.lists(events, max_size=4).map(msgspec.msgpack.encode),
    st.tuples(events.map(encode), st.integers(0, 200), st.integers(0, 255)).map(
        lambda t: t[0][: t[1]] + bytes([t[2]]) + t[0][t[1] + 1 :]
    ),
)
records = st.lists(
    st.tuples(
        st.binary(max_size=20),
        values,
        st.text(st.characters(codec="utf-8"), max_size=10),
        st.integers(-1, SEQ_MAX),
        st.sampled_from([0, 1_000, 1_700_000_000_000, 4_000_000_000_000]) | st.integers(0, 1 << 50),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@given(records)
@settings(max_examples=many(60), deadline=None)
def test_any_records_are_joined_or_buried(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[bytes, bytes, str, int, int]]
) -> None:
    folder: Path = tmp_path_factory.mktemp("any")
    with RoleState(folder, "joiner", {}, sync=False) as state:
        joiner = Joiner(state, SETTINGS)
        commit = state.begin()
        joiner.handle([Record("events", 0, i, *fields) for i, fields in enumerate(given)], commit)
        joiner.flush(commit)
        state.commit(commit)
        found = list(state.unsent())
        letters = 0
        for block in found:
            for record in block.records:
                assert isinstance(record, Outgoing)
                assert record.producer and record.seq >= 0
                if block.topic == DEAD_LETTERS:
                    letter = Decoder(DeadLetter).decode(record.value)
                    assert letter.key == given[letter.offset][0] or " without impression" in letter.reason
                    letters += 1
                else:
                    Decoder(Example, Forget).decode(record.value)
        assert letters == joiner.counts.dead_letters
