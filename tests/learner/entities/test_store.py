"""What is known of entities: as of any time, in any order of events, bounded, and filled into requests."""

import json
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet import Model
from ground import FreshetError
from learner.entities.filling import filled
from learner.entities.saved import sent, take
from learner.entities.store import EntityStore
from learner.entities.timelines import Latest
from learner.errors import FeatureError
from learner.features.encoder import Encoder, Request
from learner.features.spec import FeatureSpec
from learner.settings import ENTITIES_BYTES_MIN, LearnerSettings
from stream.errors import RecordError
from stream.limits import ENTITY_BYTES_MAX, LONG_TEXT_MAX, RECORD_BYTES_MAX
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.fast_decoding import EventDecoder
from stream.records.id_types import declared_of
from stream.records.refusals import Refusals
from stream.records.types import Features, Forget, Impression, Value

FEATURES = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "category": FeatureSpec(of="item"),
    "tags": FeatureSpec(kind="ids", of="item"),
    "price": FeatureSpec(kind="number", of="item"),
    "title": FeatureSpec(kind="text", of="item"),
    "place": FeatureSpec(kind="geo", of="item", latitude="lat", longitude="lon"),
    "brand": FeatureSpec(of="item", type="int"),
    "country": FeatureSpec(of="brand"),
    "age_group": FeatureSpec(of="user"),
}
DECLARED = declared_of(FEATURES)

values: dict[str, st.SearchStrategy[Value | None]] = {
    "category": st.sampled_from([None, "shoes", 7]),
    "price": st.sampled_from([None, 1.5, 2.5]),
    "tags": st.sampled_from([None, ["a"], ["a", 3]]),
}
events = st.builds(
    lambda at, told: EntityEvent("item", 1, float(at), told),
    st.integers(0, 6),
    st.fixed_dictionaries({}, optional=values).filter(bool),
)


def new_store(**limits: int) -> EntityStore:
    return EntityStore(FEATURES, LearnerSettings(**limits))  # type: ignore[arg-type]


def known_at(told: Sequence[EntityEvent], time: float) -> Features:
    """By the definition: for each attribute the newest event at or before the time, the later one of two."""
    found: dict[str, Value | None] = {}
    for event in sorted(told, key=lambda event: event.time):
        if event.time <= time:
            found |= event.set  # type: ignore[arg-type]
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.slow
@given(st.lists(events, max_size=12))
@settings(deadline=None)
def test_store_knows_what_was_true_at_each_time(told: list[EntityEvent]) -> None:
    store, half = new_store(entity_versions=64), new_store(entity_versions=64)
    for i, event in enumerate(told):
        store.tell(event)
        if i < len(told) // 2:
            half.tell(event)
    copy = new_store()  # a replica: what a commit, an update and a snapshot carry
    take(copy, sent(half.entries()))
    half.changes()
    for event in told[len(told) // 2 :]:
        half.tell(event)
    take(copy, sent(half.changes()))
    for time in (-0.5, 0.0, 0.5, 1.0, 2.5, 3.0, 5.0, 6.0, 99.0):
        assert store.read("item", 1, time) == known_at(told, time) == copy.read("item", 1, time)
    assert store.digest() == half.digest() == copy.digest()


def test_versions_are_bounded_and_repeated_ones_go_first() -> None:
    store = new_store(entity_versions=3)
    for at in range(10):
        store.tell(EntityEvent("item", 1, float(at), {"category": "old", "price": float(at)}))
    store.tell(EntityEvent("item", 1, 10.0, {"category": "new"}))
    assert store.read("item", 1, 3.0)["category"] == "old"  # said ten times, and still known from the first
    assert store.read("item", 1, 6.5) == {"category": "old"}  # prices from before the last three are gone
    assert [store.read("item", 1, at)["price"] for at in (7.0, 8.0, 99.0)] == [7.0, 8.0, 9.0]


def test_full_store_evicts_what_was_unseen_longest_and_says_how_many_bytes_an_entity_takes() -> None:
    store = new_store(entities_bytes_max=ENTITIES_BYTES_MIN)
    ten = {"category": "shoes", "price": 59.9, "tags": ["a", "b", "c"], "lat": 52.5, "lon": 13.4, "brand": 77}
    store.tell(EntityEvent("item", 0, 0.0, ten))
    each = store.nbytes
    assert 200 < each < 400
    count = 3 * ENTITIES_BYTES_MIN // each
    for i in range(1, count):
        store.tell(EntityEvent("item", i, 3600.0 * i, ten))
        if i % 100 == 0:
            filled(store, Request(3600.0 * i, {}, [{"item": 0}]), see=True)  # asked for again and again
        assert store.nbytes <= ENTITIES_BYTES_MIN
    assert store.evicted == count - len(store) > count // 2
    assert store.read("item", 0, 1e9) and store.read("item", count - 1, 1e9)
    assert not store.read("item", 1, 1e9)


def test_values_are_read_once_though_the_entity_is_seen_in_later_hours() -> None:
    """So that what is worked out of a value, such as of a vector, is found by the value's identity."""
    store = new_store()
    store.tell(EntityEvent("item", 1, 0.0, {"tags": ["a", "b"]}))
    first = store.read("item", 1, 1.0)["tags"]
    filled(store, Request(7200.0, {}, [{"item": 1}]), see=True)
    assert store.read("item", 1, 7201.0)["tags"] is first
    store.tell(EntityEvent("item", 1, 7300.0, {"tags": ["c"]}))
    assert store.read("item", 1, 7300.0)["tags"] == ["c"]
    assert store.read("item", 1, 7201.0)["tags"] == ["a", "b"]


def test_one_entity_is_bounded() -> None:
    store = new_store(entities_bytes_max=1 << 30)
    for at in range(20):
        store.tell(EntityEvent("item", 1, float(at), {"title": chr(97 + at) * LONG_TEXT_MAX, "price": 1.0}))
    assert store.nbytes <= ENTITY_BYTES_MAX + 1000
    assert store.read("item", 1, 99.0) == {"title": "t" * LONG_TEXT_MAX, "price": 1.0}


def test_requests_are_filled_as_of_their_time_and_say_more_themselves() -> None:
    store = new_store()
    store.tell(EntityEvent("item", 1, 10.0, {"category": "shoes", "price": 5.0, "brand": "7"}))
    store.tell(EntityEvent("item", 1, 20.0, {"category": "boots", "price": None}))
    store.tell(EntityEvent("brand", 7, 0.0, {"country": "it"}))
    store.tell(EntityEvent("user", "ann", 0.0, {"age_group": 3}))
    sent_by_caller = [{"item": 1}, {"item": 1, "category": "sandals"}, {"item": 2}, {"other": 1}]

    def fill(time: float, context: Features) -> Request:
        return filled(store, Request(time, context, sent_by_caller))  # type: ignore[arg-type]

    asked = fill(15.0, {"user": "ann"})
    assert asked.context == {"user": "ann", "age_group": 3}
    assert asked.candidates == [
        {"item": 1, "category": "shoes", "price": 5.0, "brand": "7", "country": "it"},
        {"item": 1, "category": "sandals", "price": 5.0, "brand": "7", "country": "it"},
        {"item": 2},
        {"other": 1},
    ]
    assert fill(25.0, {}).candidates[0] == {"item": 1, "category": "boots", "brand": "7", "country": "it"}
    assert fill(5.0, {}).candidates == sent_by_caller
    everywhere = fill(15.0, {"category": "hats"})  # said of all candidates
    assert "category" not in everywhere.candidates[0] and everywhere.candidates[0]["price"] == 5.0
    assert filled(store, everywhere) is everywhere  # a request that was filled stays as it was
    assert filled(store, Request(15.0, {"item": 1}, [{}])).context["category"] == "shoes"


def test_filled_request_is_encoded_as_one_that_says_it_all() -> None:
    encoder, store = Encoder(FEATURES), new_store()
    said: Features = {"category": "shoes", "tags": ["a", 3], "price": 5.0, "title": "Ein Schuh", "brand": 7}
    store.tell(EntityEvent("item", 1, 0.0, {**said, "lat": 52.5, "lon": 13.4}))
    asked = Request(1e9, {"user": "ann"}, [{"item": 1, **said, "lat": 52.5, "lon": 13.4}])
    left, right = (
        encoder.encode([filled(store, Request(1e9, {"user": "ann"}, [{"item": 1}]))]),
        encoder.encode([asked]),
    )
    assert [a.tobytes() for a in left.rows] == [a.tobytes() for a in right.rows]
    assert (left.numbers == right.numbers).all()


def test_forgotten_entity_is_gone_and_so_are_values_that_name_it() -> None:
    store = new_store()
    store.tell(EntityEvent("item", 1, 0.0, {"category": "shoes", "tags": ["ann", "b"]}))
    store.tell(EntityEvent("user", "ann", 0.0, {"age_group": 3}))
    store.tell(EntityEvent("user", "bob", 0.0, {"age_group": 4}))
    store.changes()
    store.forget({"user": ["ann"], "tags": ["ann"], "category": ["shoes"]})
    assert store.read("user", "ann", 9.0) == {} and store.read("user", "bob", 9.0) == {"age_group": 4}
    assert store.read("item", 1, 9.0) == {"tags": ["b"]}
    assert b"ann" not in b"".join(kept for *_, kept in store.entries())
    assert [(name, kept == b"") for name, _, kept in store.changes()] == [("item", False), ("user", True)]
    refusals = Refusals()
    refusals.add(Forget("f", 0.0, {"user": ["ann"], "tags": ["ann"]}, refuse_s=100.0))
    event = EntityEvent("item", 1, 0.0, {"tags": ["ann", "b"], "price": 1.0})
    assert refusals.admit_entity(event) == EntityEvent("item", 1, 0.0, {"tags": ["b"], "price": 1.0})
    assert refusals.admit_entity(EntityEvent("user", "ann", 0.0, {"age_group": 3})) is None


ENTITY = {"type": "entity", "feature": "item", "id": 7, "time": 1e9, "set": {"category": "shoes"}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"feature": "itm"}, "feature 'itm' is not declared; features with attributes: brand, item, user"),
        ({"feature": "category"}, "no feature is declared with of = 'category'"),
        ({"set": {}}, "set names nothing; expected attributes: brand, category"),
        ({"set": {"colour": "red"}}, "set names colour, of which no feature takes any"),
        ({"set": {"age_group": 3}}, "set names age_group, of which no feature takes any"),
        ({"set": {"category": {"name": "shoes"}}}, "does not fit its type"),
        ({"set": {"category": "a" * 1025}}, "set.category has 1025 characters, more than 1024"),
        ({"set": {"tags": [0.5]}}, "set.tags is a list that holds 0.5 of type float"),
        ({"set": {"title": "a" * (LONG_TEXT_MAX + 1)}}, "set.title has 131073 characters"),
        ({"set": {"title": "a" * (10 << 20)}}, "more than the 1,048,576 allowed"),
        ({"id": 1 << 63}, "2^63 - 1"),
        ({"id": "a" * 1025}, "id has 1025 characters"),
        ({"id": True}, "does not fit its type"),
        ({"time": 1.7e12}, "divide by 1000"),
        ({"time": 5e9}, "1970 to 2100"),
        ({"time": -1.0}, "1970 to 2100"),
        ({"time": None}, "does not fit its type"),
        ({"v": 2}, "schema version 2"),
    ],
)  # fmt: skip
def test_bad_event_is_refused_with_a_reason(changes: dict[str, object], why: str) -> None:
    data = json.dumps(ENTITY | changes).encode()
    for decode in (EventDecoder(DECLARED).decode, Decoder(Impression, EntityEvent, declared=DECLARED).decode):
        with pytest.raises(RecordError) as refused:
            decode(data)
        assert why in str(refused.value)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (EntityEvent("item", 7, 0.0, {"category": 59.9}), "feature category (kind id) has the value '59.9'"),
        (EntityEvent("item", 7, 0.0, {"category": ["shoes"]}), "expected an integer or a string"),
        (EntityEvent("item", 7, 0.0, {"price": "59.9"}), "feature price (kind number)"),
        (EntityEvent("item", 7, 0.0, {"tags": "red"}), "expected a list of integers or strings"),
        (EntityEvent("item", 7, 0.0, {"title": 3.5}), "feature title (kind text)"),
        (EntityEvent("item", 7, 0.0, {"lat": "north"}), "expected a number"),
        (EntityEvent("item", 7, 0.0, {"brand": "acme"}), 'type = "int"'),
        (EntityEvent("brand", "acme", 0.0, {"country": "it"}), 'type = "int"'),
        (EntityEvent("category", "shoes", 0.0, {"country": "it"}), "no feature is declared with of"),
    ],
)
def test_attribute_that_changes_its_kind_is_refused_and_the_old_value_stays(
    event: EntityEvent, why: str
) -> None:
    store = new_store()
    store.tell(EntityEvent("item", 7, 0.0, {"category": "shoes", "price": 5.0}))
    before = store.digest()
    with pytest.raises(FeatureError) as refused:
        store.tell(event)
    assert why in str(refused.value)
    assert store.digest() == before


@pytest.mark.parametrize(
    ("features", "why"),
    [
        ({"a": FeatureSpec(of="b"), "b": FeatureSpec(of="a")}, "`of` runs in a circle, a of b of a"),
        ({"a": FeatureSpec(of="a")}, "a of a"),
        (
            {"a": FeatureSpec(of="b"), "b": FeatureSpec(of="c"), "c": FeatureSpec(of="a")},
            "a of b of c of a",
        ),
        ({"a": FeatureSpec(of="item")}, "which is not declared"),
        ({"a": FeatureSpec(of="tags"), "tags": FeatureSpec(kind="ids")}, "of kind ids; only ids"),
    ],
)
def test_features_whose_of_leads_nowhere_are_refused(features: dict[str, FeatureSpec], why: str) -> None:
    with pytest.raises(FeatureError) as refused:
        Encoder(features)
    assert why in str(refused.value)


def test_cached_values_are_of_what_is_kept_now() -> None:
    store = new_store()
    store.tell(EntityEvent("item", 1, 0.0, {"price": 1.0}))
    assert store.read("item", 1, 9.0) == {"price": 1.0}
    take(store, [("item", (1).to_bytes(8, "big"), new_kept())])
    assert store.read("item", 1, 9.0) == {"price": 2.0}
    assert "kept" in Latest._fields


def test_what_is_true_from_2096_on_hides_nothing_until_then() -> None:
    store = new_store()
    store.tell(EntityEvent("item", 1, 4_000_000_000.0, {"price": 9.0}))
    store.tell(EntityEvent("item", 1, 0.0, {"price": 1.0}))  # from 1970 on: it was always true
    assert [store.read("item", 1, at)["price"] for at in (0.0, 1.8e9, 4.1e9)] == [1.0, 1.0, 9.0]


@pytest.mark.parametrize(
    "said", [{"id": "a\ud83d"}, {"set": {"title": "\ud83d"}}, {"set": {"tags": ["\ud83d"]}}]
)
def test_half_characters_are_refused_by_name(said: dict[str, object]) -> None:
    model = Model(FEATURES, learner={"deep": "none"})
    event = ENTITY | said
    with pytest.raises(RecordError, match="half of a character"):
        model.tell("item", event["id"], event["set"])  # type: ignore[arg-type]
    with pytest.raises(FreshetError, match="half of a character"):
        model.predict([{"item": event["id"], "time": 1.0, **event["set"]}])  # type: ignore[dict-item]


def new_kept() -> bytes:
    other = new_store()
    other.tell(EntityEvent("item", 1, 0.0, {"price": 2.0}))
    ((_, _, kept),) = other.entries()
    return kept


def test_event_of_ten_megabytes_is_refused_before_it_is_read() -> None:
    data = msgspec.json.encode(ENTITY | {"set": {"title": "a" * (10 * RECORD_BYTES_MAX)}})
    with pytest.raises(RecordError, match="more than the 1,048,576 allowed"):
        EventDecoder(DECLARED).decode(data)
