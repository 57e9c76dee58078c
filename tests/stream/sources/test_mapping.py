"""Records of others as events: paths, envelopes, types, and what is said of what does not fit."""

import base64
import contextlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.config import parse_config
from freshet.errors import ConfigError
from ground.id_types import IdType
from stream.errors import RecordError
from stream.records.entities.record import EntityEvent
from stream.records.types import Action, Impression
from stream.sources.mapping import CandidateLine, Mapper, Skipped, Wanted
from stream.sources.paths import Carried, compile_path
from stream.sources.settings import SourceSettings

T_MS = 1_700_000_000_000
IMPRESSION = {
    "topic": "shop.impressions", "kind": "impression", "request_id": "session.request",
    "time": {"field": "shown_at", "unit": "ms"}, "candidates": "items",
    "context": {"user": "session.user", "device": "client.device?"},
    "features": {"item": "sku", "price": "price.amount"},
}  # fmt: skip
CLICK = {
    "topic": "shop.clicks", "kind": "action", "time": {"field": "at", "unit": "ms"}, "name": "type",
    "match": {"item": "sku"}, "by": {"user": "user_id"}, "request_id": "request?",
}  # fmt: skip
SHOWN = {
    "shown_at": T_MS, "session": {"request": "r1", "user": 7}, "client": {"device": "ios"},
    "items": [{"sku": "a", "price": {"amount": 1.5}}, {"sku": "b", "price": {"amount": 2}}], "unknown": [{}],
}  # fmt: skip
CLICKED = {"at": T_MS, "user_id": 7, "sku": "b", "type": "buy"}


def source(table: dict[str, object], **more: object) -> SourceSettings:
    return msgspec.convert({**table, **more}, SourceSettings)


def mapped(table: dict[str, object], message: object, **more: object) -> object:
    return Mapper("s", source(table, **more)).map(message, "s-0-0")


def changed(record: dict[str, object], path: str, value: object) -> dict[str, object]:
    """A record with another value at a path; Ellipsis removes the field."""
    copy = json.loads(json.dumps(record))
    *before, last = path.split(".")
    at = copy
    for step in before:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return copy


def test_impression_is_made_of_its_fields() -> None:
    assert mapped(IMPRESSION, SHOWN) == Impression(
        "r1",
        T_MS / 1e3,
        [{"item": "a", "price": 1.5}, {"item": "b", "price": 2}],
        {"user": 7, "device": "ios"},
    )


def test_action_finds_its_candidate_by_request_or_by_entity() -> None:
    assert mapped(CLICK, CLICKED) == Wanted("", [7], {"item": "b"}, T_MS / 1e3, 1.0, "buy")
    assert mapped(CLICK, {**CLICKED, "request": 9}) == Wanted("9", [], {"item": "b"}, T_MS / 1e3, 1.0, "buy")
    bought = mapped(CLICK, {**CLICKED, "price": Decimal("9.5")}, value="price")
    assert isinstance(bought, Wanted) and bought.value == 9.5
    with pytest.raises(RecordError, match="price is the number -1; expected a number of at least 0"):
        mapped(CLICK, {**CLICKED, "price": -1}, value="price")
    direct = {**CLICK, "match": {}, "by": {}, "candidate": "position", "request_id": "request"}
    found = mapped(direct, {**CLICKED, "request": "r", "position": 3})
    assert found == Action("r", T_MS / 1e3, 3, 1.0, "buy")


def test_labelled_requests_and_lines() -> None:
    rating = {
        "topic": "t", "kind": "labelled", "time": {"field": "at", "unit": "s"}, "label": "liked",
        "features": {"item": "movie"}, "context": {"user": "user"},
    }  # fmt: skip
    record = {"at": 1.7e9, "liked": True, "movie": 5, "user": 1}
    assert mapped(rating, record) == Impression("s-0-0", 1.7e9, [{"item": 5}], {"user": 1}, labels=[1.0])
    line = mapped(rating, {**record, "visit": "v"}, request_id="visit")
    assert line == CandidateLine("v", 1.7e9, {"user": 1}, {"item": 5}, 1.0)


def test_null_is_no_value_and_a_missing_field_may_be_said_to_be_optional() -> None:
    found = mapped(IMPRESSION, changed(SHOWN, "client.device", None))
    assert isinstance(found, Impression) and found.context == {"user": 7}
    found = mapped(IMPRESSION, changed(SHOWN, "client.device", ...))
    assert isinstance(found, Impression) and found.context == {"user": 7}


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("session", ..., "session.request: there is no 'session' in the record, which has shown_at, client"),
        ("session.request", ..., "session.request: there is no 'request' in session, which has user"),
        ("session.request", None, "session.request is null; expected text or an integer"),
        ("session.request", 1.5, "session.request is the number 1.5; expected text or an integer"),
        ("session.request", ["r"], "session.request is a list of 1; expected text"),
        ("session.request", "", "expected the id of a request, 1 to 128 long"),
        ("session.request", "x" * 200, "expected the id of a request, 1 to 128 long"),
        ("session", "text", "session.request: session is text 'text', expected an object with 'request'"),
        ("session", [{"request": 1}], "session is a list of 1, expected an object with 'request'; an index"),
        ("shown_at", "soon", "shown_at is text 'soon'; with unit = \"ms\" expected a number"),
        ("shown_at", True, "shown_at is true; with unit = \"ms\" expected a number"),
        ("shown_at", T_MS // 1000, 'is it unit = "s"?'),
        ("shown_at", T_MS * 1000, 'is it unit = "us"?'),
        ("shown_at", 10**400, "expected a time from 1973 to 2100"),
        ("items", {"sku": 1}, "items is an object with sku; expected a list of candidates"),
        ("items", [], "items is a list of 0; expected 1 to 2000 candidates"),
        ("items", [{"sku": 1}] * 2001, "expected 1 to 2000 candidates"),
        ("items.1.sku", ..., "items.1: sku: there is no 'sku' in the record, which has price"),
        ("items.1", "text", "items.1: sku: the record is text 'text', expected an object with 'sku'"),
        ("items.0.price.amount", {"cents": 1}, "items.0: price.amount is an object"),
        ("items.0.sku", "x" * 2000, "items.0: sku has 2000 characters"),
        ("items.0.sku", -(1 << 70), "items.0: sku is -1180591620717411303424"),
    ],
)  # fmt: skip
def test_field_that_does_not_fit_is_named_with_what_is_there(path: str, value: object, says: str) -> None:
    with pytest.raises(RecordError) as error:
        mapped(IMPRESSION, changed(SHOWN, path, value))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("value", "feature"),
    [
        (1 << 63, "9223372036854775808"),
        ((1 << 64) - 1, "18446744073709551615"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Decimal("2.50"), 2.5),
        (datetime(2026, 1, 2).date(), "2026-01-02"),
        (True, 1),
        (["a", None, 3], ["a", 3]),
    ],
)
def test_values_that_have_one_plain_form_are_converted(value: object, feature: object) -> None:
    record = {**SHOWN, "items": [{"sku": value, "price": {"amount": 1.0}}]}
    found = mapped(IMPRESSION, record)
    assert isinstance(found, Impression) and found.candidates == [{"item": feature, "price": 1.0}]


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("s", 1_700_000_000.5), ("ms", 1_700_000_000_500), ("us", 1_700_000_000_500_000),
        ("ns", 1_700_000_000_500_000_000), ("iso", "2023-11-14T22:13:20.5Z"),
        ("iso", "2023-11-14T23:13:20.500+01:00"), ("ms", datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)),
    ],
)  # fmt: skip
def test_times_in_every_unit(unit: str, value: object) -> None:
    found = mapped(CLICK, {**CLICKED, "at": value}, time={"field": "at", "unit": unit})
    assert isinstance(found, Wanted) and found.time == 1_700_000_000.5


def test_time_without_a_zone_is_refused_unless_the_config_names_it() -> None:
    record = {**CLICKED, "at": "2023-11-14T22:13:20"}
    with pytest.raises(RecordError, match="without a zone"):
        mapped(CLICK, record, time={"field": "at", "unit": "iso"})
    for zone, apart_s in (("UTC", 0.0), ("Europe/Berlin", -3600.0)):
        for at in ("2023-11-14T22:13:20", datetime(2023, 11, 14, 22, 13, 20)):
            found = mapped(CLICK, {**record, "at": at}, time={"field": "at", "unit": "iso", "zone": zone})
            assert isinstance(found, Wanted) and found.time == 1_700_000_000.0 + apart_s


class Declared(msgspec.Struct):
    """A feature, as a config declares it."""

    kind: str = "id"
    id_type: IdType | None = None
    describes: str = ""
    held: str = ""
    coordinates: tuple[str, str] | None = None


@pytest.mark.parametrize(
    ("feature", "given", "found"),
    [
        (Declared(id_type="int"), "17", 17), (Declared(id_type="int"), 17, 17),
        (Declared(id_type="int"), "017", "017"), (Declared(id_type="text"), 17, "17"),
        (Declared(id_type="text"), 1 << 63, "9223372036854775808"), (Declared(), "17", "17"),
        (Declared("ids", "text"), [1, "2"], ["1", "2"]), (Declared("ids", "int"), ["1", 2], [1, 2]),
        (Declared("number"), "9.50", 9.5), (Declared("number"), "1e3", 1000.0),
        (Declared("number"), "9,50", "9,50"), (Declared("number"), 3, 3),
    ],
)  # fmt: skip
def test_values_are_of_the_type_that_their_feature_declares(
    feature: Declared, given: object, found: object
) -> None:
    mapper = Mapper("s", source(IMPRESSION), {"item": feature})
    event = mapper.map({**SHOWN, "items": [{"sku": given, "price": {"amount": 1}}]}, "s-0-0")
    assert isinstance(event, Impression)
    value = event.candidates[0]["item"]
    assert value == found and type(value) is type(found)
    wanted = Mapper("s", source(CLICK), {"item": feature}).map({**CLICKED, "sku": given}, "s-0-0")
    assert isinstance(wanted, Wanted) and wanted.match == {"item": found}


def test_numbers_as_text_are_taken_where_a_number_is_needed() -> None:
    bought = mapped(CLICK, {**CLICKED, "at": str(T_MS), "price": "9.50"}, value="price")
    assert isinstance(bought, Wanted) and (bought.time, bought.value) == (T_MS / 1e3, 9.5)
    for text in ("9,50", "", "1e999", "0x10", "٣"):
        with pytest.raises(RecordError, match="expected a number"):
            mapped(CLICK, {**CLICKED, "price": text}, value="price")


def test_debezium() -> None:
    change = {"before": None, "after": CLICKED, "op": "c", "ts_ms": T_MS + 5, "source": {"lsn": 1}}
    for message in (change, {"schema": {}, "payload": change}, {**change, "op": "r"}, {**change, "op": "u"}):
        assert isinstance(mapped(CLICK, message, envelope="debezium"), Wanted)
    # a path may begin at the whole message
    found = mapped(CLICK, change, envelope="debezium", time={"field": "@ts_ms", "unit": "ms"})
    assert isinstance(found, Wanted) and found.time == (T_MS + 5) / 1e3
    for message in (
        {**change, "op": "d", "after": None},
        {**change, "op": "t"},
        {"schema": {}, "payload": None},
    ):
        assert mapped(CLICK, message, envelope="debezium") == Skipped(deleted=True)
    for message, says in (
        (CLICKED, "expected an event of Debezium"), ({**change, "after": None}, "after is null"),
        ({**change, "op": "x"}, "op is text 'x'"), ([], "a list of 0"), (None, "null"),
    ):  # fmt: skip
        with pytest.raises(RecordError, match=says):
            mapped(CLICK, message, envelope="debezium")


def test_a_path_begins_at_the_record_or_the_message_or_around_it() -> None:
    record = {"a": 1, "b": {"c": {"d": 2}}, "": 0}
    message = {"a": 10, "b": {"c": {"d": 20}}}
    for path, ours, theirs in (("a", 1, 10), ("b.c", {"d": 2}, {"d": 20}), ("b.c.d", 2, 20)):
        assert compile_path(path)(record, message) == ours
        assert compile_path(f"@{path}")(record, message) == theirs
        assert compile_path(f"@@key.{path}")(record, Carried(message, {"key": {"x": 0, **record}})) == ours


def test_cloudevents() -> None:
    head = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "click"}
    packed = base64.b64encode(json.dumps(CLICKED).encode()).decode()
    for message in (
        {**head, "data": CLICKED}, {**head, "data_base64": packed},
        {"attribute": head, "data": CLICKED}, CLICKED,
    ):  # fmt: skip
        assert isinstance(mapped(CLICK, message, envelope="cloudevents"), Wanted)
    assert mapped(CLICK, head, envelope="cloudevents") == Skipped(deleted=True)
    for message, says in (
        ({**head, "data_base64": "%"}, "expected base64"), ({**head, "data_base64": 5}, "expected base64"),
        ({**head, "data_base64": "eA=="}, "not JSON"), ("x", "expected a CloudEvent"),
    ):  # fmt: skip
        with pytest.raises(RecordError, match=says):
            mapped(CLICK, message, envelope="cloudevents")


def test_only_what_is_wanted_is_taken() -> None:
    only = {"type": ["buy", "order"], "sku": ["b"]}
    assert isinstance(mapped(CLICK, CLICKED, only=only), Wanted)
    assert mapped(CLICK, {**CLICKED, "type": "view"}, only=only) == Skipped(deleted=False)
    assert mapped(CLICK, {**CLICKED, "sku": 1}, only={"sku": [True]}) == Skipped(deleted=False)
    with pytest.raises(RecordError, match="type is a list of 0"):
        mapped(CLICK, {**CLICKED, "type": []}, only=only)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "click"}, "'click' is none of impression, action, labelled"),
        ({"topik": "x"}, "topik is unknown; did you mean sources.shown.topic?"),
        ({"topic": ""}, "topic is empty"),
        ({"time": "shown_at"}, "expected a table"),
        ({"time": {"field": "at", "unit": "iso", "zone": "Mars/Base"}}, "zone is 'Mars/Base'; expected"),
        ({"time": {"field": "at", "unit": "m"}}, "'m' is none of s, ms, us, ns, iso"),
        ({"format": "avro"}, "needs registry, a URL, or schema"),
        ({"format": "protobuf", "schema": "x.desc"}, "message must name"),
        ({"schema": "x.avsc"}, "schema is of no use with format = \"json\""),
        ({"registry": "registry:8081"}, "expected a URL"),
        ({"match": {"item": "sku"}}, "match is for actions"),
        ({"label": "clicked"}, "did you mean kind = \"labelled\""),
        ({"features": {"item": "a..b"}}, "features.item = 'a..b': expected names parted by dots"),
        ({"request_id": ""}, "needs request_id"),
        ({"candidates": "items", "lines_wait_s": 100}, "lines_wait_s is 100"),
        ({"kind": "action", "candidates": ""}, "context is for impressions"),
        ({"name": {"konstant": "x"}}, "konstant"),
    ],
)  # fmt: skip
def test_config_that_cannot_be_meant_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config({"sources": {"shown": {**IMPRESSION, **change}}}, "f.toml")
    assert says in str(error.value) and "f.toml" in str(error.value)


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ({"clicks": CLICK}, "no source of kind impression is there"),
        ({"shown": IMPRESSION, "clicks": {**CLICK, "match": {"x": "sku"}}}, "has 'x' in features"),
        ({"shown": IMPRESSION, "clicks": {**CLICK, "by": {"account": "a"}}}, "has 'account' in context"),
        ({"shown": IMPRESSION, "again": IMPRESSION}, "both read topic 'shop.impressions'"),
        ({"shown": IMPRESSION, "clicks": {**CLICK, "match": {}}}, "names its candidate: either"),
        ({"shown": IMPRESSION, "clicks": {**CLICK, "by": {}, "request_id": ""}}, "needs request_id, or by"),
        ({"shown": IMPRESSION, "clicks": {**CLICK, "by": {"user": "u"}, "match": {}, "candidate": 0}},
         "by needs match"),
        ({"a.b": IMPRESSION}, "a name has 1 to 60 letters"),
        ({"matches": IMPRESSION}, "is not matches"),
    ],
)  # fmt: skip
def test_sources_that_do_not_fit_together_are_refused(sources: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config({"sources": sources}, "f.toml")


def test_sources_must_stay_closer_together_than_the_window() -> None:
    with pytest.raises(ConfigError, match=r"ahead_of_others_s = 10 is more than half of join.window_s = 15"):
        parse_config({"sources": {"shown": IMPRESSION}, "join": {"window_s": 15.0}}, "f.toml")


def test_one_topic_may_have_two_sources_that_take_different_records() -> None:
    both = {
        "shown": {**IMPRESSION, "topic": "all", "only": {"kind": ["shown"]}},
        "clicks": {**CLICK, "topic": "all", "only": {"kind": ["click"]}},
    }
    assert set(parse_config({"sources": both}, "f.toml").sources) == {"shown", "clicks"}


KEYS = st.text(st.characters(exclude_characters="'", exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(
    st.lists(KEYS, min_size=1, max_size=4),
    st.one_of(st.integers(), st.text(), st.none(), st.lists(st.integers())),
    st.booleans(),
)
@settings(max_examples=many(100), deadline=None)
def test_path_gets_what_is_there_and_never_fails_otherwise(
    steps: list[str], value: object, whole: bool
) -> None:
    record: object = value
    for step in reversed(steps):
        record = {step: record, "other": 1} if step != "other" else {step: record}
    path = ("@" if whole else "") + ".".join(f"'{step}'" for step in steps)
    get = compile_path(path)
    assert get(None if whole else record, record if whole else None) == value
    for cut in range(len(steps)):
        broken = compile_path("@" + ".".join(f"'{step}'" for step in [*steps[:cut], "no such", "x"]))
        with pytest.raises(RecordError, match="no such"):
            broken(None, record)


FIELDS = st.sampled_from(["shown_at", "session", "request", "user", "items", "sku"])
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(FIELDS, inner, max_size=4),
    ),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.slow
@given(JSON_VALUES)
@settings(max_examples=many(200), deadline=None)
def test_any_message_is_an_event_or_a_record_error(message: object) -> None:
    for table, envelope in ((IMPRESSION, "none"), (CLICK, "debezium"), (CLICK, "cloudevents")):
        with contextlib.suppress(RecordError):
            mapped(table, message, envelope=envelope)


ITEMS = {
    "topic": "t", "kind": "entity", "feature": "item", "id": "sku", "time": {"field": "at", "unit": "ms"},
    "features": {"category": "category.name", "price": "price", "tags": "tags?"},
}  # fmt: skip


def test_row_of_a_table_is_an_entity_event_and_null_takes_away() -> None:
    row = {
        "sku": "a7",
        "at": 1_700_000_000_500,
        "category": {"name": "shoes"},
        "price": None,
        "tags": ["x", 3],
    }
    said = {"category": "shoes", "price": None, "tags": ["x", 3]}
    assert mapped(ITEMS, row) == EntityEvent("item", "a7", 1_700_000_000.5, said)
    with pytest.raises(RecordError, match="sku is null; expected an id"):
        mapped(ITEMS, {**row, "sku": None})
    with pytest.raises(RecordError, match="price"):
        mapped(ITEMS, {**row, "price": {"amount": 3}})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"id": ""}, "an entity needs feature"),
        ({"features": {}}, "an entity needs feature"),
        ({"context": {"user": "u"}}, "context is for requests"),
        ({"label": "x"}, "label is for requests"),
        ({"kind": "labelled", "label": "x"}, 'feature and id are for kind = "entity"'),
    ],
)
def test_source_of_entities_needs_its_fields_and_no_others(more: dict[str, object], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        source(ITEMS, **more)
