"""Records: what is accepted, what is refused and why."""

import math
from typing import Any

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import RecordError
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.fast_decoding import EventDecoder, splice
from stream.records.types import (
    Action,
    DeadLetter,
    Event,
    Example,
    Exposure,
    Features,
    Forget,
    Impression,
    Served,
    Tick,
    encode,
    encode_json,
)

decode = Decoder(Impression, Action).decode
ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
times = st.floats(0.0, 4e9)
value = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    ids,
    st.lists(ids | st.integers(0, (1 << 63) - 1), max_size=3),
)
features = st.dictionaries(ids, value, max_size=4)
event = st.one_of(
    st.builds(
        Impression,
        request_id=ids,
        time=times,
        candidates=st.lists(features, min_size=1, max_size=3),
        context=features,
    ),
    st.builds(
        Action, request_id=ids, time=times, candidate=st.integers(0, 1999), label=st.sampled_from([0.0, 1.0])
    ),
)


@pytest.mark.slow
@given(event)
def test_event_comes_back_the_same_from_both_forms(record: Event) -> None:
    assert decode(encode(record)) == record
    assert decode(encode_json(record)) == record


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused_with_a_reason(data: bytes) -> None:
    try:
        decode(data)
    except RecordError as error:
        assert str(error)


@pytest.mark.slow
@given(event, st.data())
def test_damaged_record_decodes_or_is_refused(record: Event, data: st.DataObject) -> None:
    damaged = bytearray(encode(record))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(damaged))
    except RecordError as error:
        assert str(error)


def impression(context: Features | None = None, n: int = 2, **more: object) -> Impression:
    fields: dict[str, object] = {
        "request_id": "r",
        "time": 1e9,
        "candidates": [{}] * n,
        "context": context or {},
    }
    return Impression(**(fields | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (impression(n=0), "candidates has 0 entries"),
        (impression(n=2001), "candidates has 2001 entries"),
        (impression(labels=[1.0]), "labels has 1 entries for 2 candidates"),
        (impression(labels=[1.0, 0.5]), "labels is 0.5"),
        (impression(served=Served(base=[0.5], corrected=[0.5, 0.5])), "served.base has 1 entries"),
        (impression(served=Served(base=[0.5, 0.5], corrected=[0.5, math.nan])), "served.corrected has"),
        (impression(place=[0]), "place has 1 entries for 2 candidates"),
        (impression(place=[0, 0]), "place must hold 2 different numbers"),
        (impression(place=[0, 2000]), "place must hold 2 different numbers from 0 to 1999"),
        (impression(propensity=[0.5]), "propensity has 1 entries for 2 candidates"),
        (impression(propensity=[0.5, 0.0]), "propensity has a value that is not above 0"),
        (impression(propensity=[0.5, math.nan]), "propensity has a value that is not above 0"),
        (impression({"x": math.inf}), "context.x is inf"),
        (impression({"x": "a" * 1025}), "context.x has 1025 characters"),
        (impression({"x": ["a"] * 1025}), "context.x has 1025 values"),
        (impression({"x": ["a" * 1025]}), "context.x holds an id of more than 1024"),
        (impression({str(i): 1 for i in range(257)}), "context has 257 features"),
        (impression(request_id=""), "request_id must have 1 to 128"),
        (impression(request_id="r" * 129), "request_id must have 1 to 128"),
        (impression(time=-1.0), "1970 to 2100"),
        (impression(time=1.7e12), "milliseconds"),
        (impression(v=2), "schema version 2 is unknown"),
        (Action(request_id="r", time=1e9, candidate=-1), "candidate is -1"),
        (Action(request_id="r", time=1e9, candidate=2000), "candidate is 2000"),
        (Action(request_id="r", time=1e9, candidate=0, label=2.0), "label is 2.0"),
        (Action(request_id="r", time=1e9, candidate=0, label=math.nan), "label is nan"),
    ],
)
def test_value_out_of_range_is_refused_by_name(record: Event, reason: str) -> None:
    with pytest.raises(RecordError, match=reason.replace(".", r"\.")):
        decode(encode(record))


def test_integer_beyond_64_bits_is_refused() -> None:
    text = b'{"type":"impression","request_id":"r","time":1e9,"candidates":[{"x":18446744073709551616}]}'
    with pytest.raises(RecordError, match=r"64 bits|does not fit its type"):
        decode(text)


def test_number_as_text_is_not_coerced() -> None:
    with pytest.raises(RecordError, match="Expected `float`, got `str`"):
        decode(b'{"type":"action","request_id":"r","time":"1e9","candidate":0}')


def test_example_is_checked_like_the_rest() -> None:
    example = Example(request_id="r", time=1e9, decided=1e9, candidates=[{}], labels=[1.0], log_odds=math.inf)
    with pytest.raises(RecordError, match="log_odds is not a finite number"):
        Decoder(Example).decode(encode(example))


def test_dead_letter_keeps_any_bytes() -> None:
    letter = DeadLetter("why", "joiner", "events", 0, 7, bytes(range(256)))
    assert Decoder(DeadLetter).decode(encode(letter)) == letter


edge = st.sampled_from(
    [0, 1, -1, 1.0, 0.5, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), math.nan, math.inf, 1e308, "", "x",
     "x" * 1025, None, True, [], [1, "a"], [2**63], ["x" * 1025], {}, {"a": 1}, 1999, 2000, 1.7e12, -5.0]
)  # fmt: skip
loose = st.dictionaries(st.sampled_from(["a", "b"]), edge | value, max_size=2)
told = st.lists(st.sampled_from([0.0, 1.0, 0.5, 2.0, 0, 1, "x"]), max_size=3)
rough = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["impression", "action", "forget", "wish"]),
        "request_id": st.sampled_from(["r", "", "x" * 128, "x" * 129, 5]),
        "time": st.sampled_from([1.7e9, 1_700_000_000]) | edge,
    },
    optional={
        "candidates": st.lists(loose, max_size=3) | edge,
        "context": loose | edge,
        "candidate": edge | st.just(0),
        "label": edge,
        "labels": told,
        "place": told,
        "propensity": told,
        "served": st.fixed_dictionaries({"base": told, "corrected": told}),
        "v": st.sampled_from([1, 2, "1"]),
        "other": edge,
    },
)


@pytest.mark.slow
@settings(max_examples=many(120), deadline=None)
@given(rough | event, st.booleans())
def test_event_decoder_agrees_with_the_plain_one_on_what_to_take_and_why_not(record: Any, json: bool) -> None:
    data = msgspec.json.encode(record) if json else msgspec.msgpack.encode(record)
    found = []
    for one in (EventDecoder().decode, Decoder(Impression, Action, Forget).decode):
        try:
            found.append(encode(one(data)))
        except RecordError as error:
            found.append(str(error).encode())
    assert found[0] == found[1]


@pytest.mark.slow
@given(event)
def test_spliced_example_says_what_the_impression_said(record: Event) -> None:
    if isinstance(record, Impression):
        labels = [float(i % 2) for i in range(len(record.candidates))]
        made = splice(encode(record), labels, 5.0)
        expected = Example(
            record.request_id, record.time, 5.0, record.candidates, labels, record.context, record.served
        )
        assert Decoder(Example).decode(made) == expected


def test_record_without_a_type_is_refused_whatever_else_it_holds() -> None:
    data = b'{"request_id": "r", "time": 1e9, "candidates": [{}], "labels": null, "beta": true}'
    with pytest.raises(RecordError, match="type"):
        Decoder(Impression, Action).decode(data)


RECORDS = (
    Impression("r", 1.0, [{}]),
    Action("r", 1.0, 2),
    Exposure("r", 1.0),
    Tick(1.0),
    Example("r", 1.0, 2.0, [{}], [0.0]),
    Forget("f", 1.0, {"user": [1]}),
    EntityEvent("item", 1, 1.0, {"name": "n"}),
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_record_is_never_changed_and_says_on_the_wire_only_what_is_no_default(record: msgspec.Struct) -> None:
    with pytest.raises(AttributeError):
        setattr(record, record.__struct_fields__[0], None)
    said = msgspec.msgpack.decode(encode(record))  # type: ignore[arg-type]
    defaults = type(record).__struct_defaults__
    needed = record.__struct_fields__[: len(record.__struct_fields__) - len(defaults)]
    assert said.keys() == {"type", *needed}
    assert repr(record).count("=") <= len(said), "nor does it to people"
