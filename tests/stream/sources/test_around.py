"""What is around a record's value: key, headers, time; CloudEvents in all modes; several events a record."""

import json
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from avro_data import datum, framed
from small_registry import SmallRegistry, small_registry

from stream.errors import RecordError
from stream.log.base import Record
from stream.records.types import Action, Impression
from stream.sources.mapping import SKIPPED, Mapper, Several, Wanted
from stream.sources.opening import open_around, open_format
from stream.sources.settings import RegistrySettings, SourceSettings

T_MS = 1_700_000_000_000
CLICK = {
    "topic": "clicks", "kind": "action", "time": {"field": "@@timestamp", "unit": "ms"},
    "match": {"item": "sku"}, "by": {"user": "@@key"},
}  # fmt: skip
SHOWN = {
    "topic": "shown", "kind": "impression", "time": {"field": "@@timestamp", "unit": "ms"},
    "request_id": "@@headers.'x.request'", "candidates": "items", "features": {"item": "."},
    "context": {"user": "@@key.user_id", "device": "@@headers.device?"},
}  # fmt: skip
SKU = {"sku": 7}
KEY_SCHEMA = {"type": "record", "name": "Key", "fields": [{"name": "user_id", "type": "string"}]}


@pytest.fixture
def served() -> Iterator[SmallRegistry]:
    with small_registry() as registry:
        yield registry


Headers = Sequence[tuple[str, bytes | None]]


def record(value: object, key: bytes = b"ann", headers: Headers = (), ms: int = T_MS) -> Record:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Record("t", 0, 5, key, data, ingest_ms=ms, headers=tuple(headers))


def encoded(form: str, number: int, schema: object, value: object) -> bytes:
    if form == "avro":
        return framed(number, datum(schema, value))
    return json.dumps(value).encode() if form == "json" else msgspec.msgpack.encode(value)


def mapped(table: dict[str, object], found: Record, **more: object) -> object:
    source = msgspec.convert({**table, **more}, SourceSettings)
    form, around = open_format(source, RegistrySettings()), open_around(source, RegistrySettings())
    message = form.decode(found.value)
    assert around is not None
    try:
        return Mapper("s", source).map(around.add(message, found), "s-0-5")
    finally:
        form.close()
        around.close()


@pytest.mark.parametrize("form", ["json", "msgpack", "avro"])
def test_user_in_the_key_and_request_in_a_header(served: SmallRegistry, form: str) -> None:
    items = {"items": ["a", "b"]}
    key: dict[str, object] = {"user_id": "ann"}
    schema = {"type": "record", "name": "Shown", "fields": [
        {"name": "items", "type": {"type": "array", "items": "string"}},
    ]}  # fmt: skip
    served.put(1, schema)
    served.put(2, KEY_SCHEMA)
    served.put(3, '"string"')
    value = encoded(form, 1, schema, items)
    more = {"registry": served.url} if form == "avro" else {}
    headers: Headers = [("x.request", b"r0"), ("x.request", b"r1"), ("trace", b"\xff"), ("device", None)]
    found = record(value, encoded(form, 2, KEY_SCHEMA, key), headers)
    shown = mapped(SHOWN, found, format=form, **more)
    assert shown == Impression("r1", T_MS / 1e3, [{"item": "a"}, {"item": "b"}], {"user": "ann"})
    # text as a key beside values in any format, and the key in the value's format
    for given in (b"ann", encoded(form, 3, "string", "ann")):
        shown = mapped(SHOWN, record(value, given, headers), format=form, context={"user": "@@key"}, **more)
        assert isinstance(shown, Impression) and shown.context == {"user": "ann"}


@pytest.mark.parametrize(
    ("key", "user"),
    [(b"17", "17"), (b'"17"', "17"), (b'"', '"'), (b"1e5", "1e5"), (b"true", "true"), ("ü".encode(), "ü")],
)
def test_key_alone_is_text_and_never_a_guess(key: bytes, user: str) -> None:
    wanted = mapped(CLICK, record({"sku": 7}, key))
    assert isinstance(wanted, Wanted) and wanted.entity == [user] and wanted.time == T_MS / 1e3


def test_key_of_debezium_is_its_payload() -> None:
    for key in ({"user_id": 7}, {"schema": {"type": "struct"}, "payload": {"user_id": 7}}):
        change = {"op": "c", "after": {"sku": 1}}
        found = record(change, json.dumps(key).encode())
        wanted = mapped(CLICK, found, envelope="debezium", by={"user": "@@key.user_id"})
        assert isinstance(wanted, Wanted) and wanted.entity == [7]


@pytest.mark.parametrize(
    ("more", "found", "says"),
    [
        ({}, record(SKU, key=b""), "@@key: there is no 'key' in what is around the message"),
        ({}, record(SKU, ms=0), "@@timestamp: there is no 'timestamp' in what is around"),
        ({}, record(SKU, key=(7).to_bytes(8, "big")), "@@key: the key is not JSON"),
        ({}, record(SKU, key=b'{"id": 7}'), "@@key"),
        ({"by": {"user": "@@key?"}}, record(SKU, key=b""), "@@key? is null; expected whose impression"),
        ({"by": {"user": "@@key.id"}}, record(SKU, key=b'{"x": 7}'), "no 'id' in @@key, which has x"),
        ({"by": {"user": "@@key.id"}}, record(SKU, key=b"ann"), "@@key: the key is not JSON"),
        ({"by": {"user": "@@key.id"}}, record(SKU, key=b"17"), "@@key is the number 17, expected an object"),
        ({"by": {"user": "@@headers.u"}}, record(SKU), "there is no 'u' in @@headers, which has nothing"),
        ({"by": {"user": "@@headers.u"}}, record(SKU, headers=[("v", b"")]), "in @@headers, which has v"),
        ({"by": {"user": "@@headers.u"}}, record(SKU, headers=[("u", None)]), "@@headers.u is null"),
        ({"by": {"user": "@@headers.u"}}, record(SKU, headers=[("u", b"\xff\0")]), "@@headers.u"),
        ({"match": {"item": "@@headers.i?"}}, record(SKU), "@@headers.i? is null; expected"),
        ({"time": {"field": "@@headers.t", "unit": "ms"}}, record(SKU, headers=[("t", b"soon")]), "'soon'"),
        ({"request_id": "@key", "by": {}}, record(SKU), "in the message, which has sku; @@key is the"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(more: dict[str, object], found: Record, says: str) -> None:
    with pytest.raises(RecordError) as error:
        mapped(CLICK, found, **more)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"by": {"user": "@@keys"}}, "expected @@key, @@key.FIELD, @@headers.NAME or @@timestamp"),
        ({"by": {"user": "@@headers"}}, "expected @@key"), ({"by": {"user": "@@"}}, "names parted by dots"),
        ({"by": {"user": "@@timestamp.x"}}, "expected @@key"),
        ({"time": {"field": "@@timestamp", "unit": "s"}}, '@@timestamp is in ms; unit is "s"'),
        ({"format": "avro", "schema": "x.avsc", "by": {"user": "@@key.id"}}, "fields of keys in avro need"),
        ({"each": "@lines"}, "expected a path within the record, without @"),
        ({"each": "lines"}, "all its events would be the same; expected a path in it, such as lines.sku"),
        ({"kind": "impression", "each": "lines"}, "say candidates"),
    ],
)  # fmt: skip
def test_path_that_cannot_be_meant_is_refused(more: dict[str, object], says: str) -> None:
    base = SHOWN if more.get("kind") == "impression" else CLICK
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert({**base, **more}, SourceSettings)
    assert says in str(error.value)


ATTRIBUTES = {
    "specversion": "1.0", "id": "e1", "source": "/shop", "type": "shop.click", "subject": "ann",
    "time": "2023-11-14T22:13:20Z", "traceparent": "00-1",
}  # fmt: skip
EVENT = {
    **CLICK, "envelope": "cloudevents", "time": {"field": "@time", "unit": "iso"}, "name": "@type",
    "by": {"user": "@subject"}, "only": {"@type": ["shop.click"]},
}  # fmt: skip
BINARY = [(f"ce_{name}", value.encode()) for name, value in ATTRIBUTES.items()]
BATCH = [("content-type", b"application/cloudevents-batch+json; charset=utf-8")]


@pytest.mark.parametrize(
    "found",
    [
        record({**ATTRIBUTES, "data": {"sku": 7}}, headers=[("Content-Type", b"application/cloudevents")]),
        record({**ATTRIBUTES, "data": {"sku": 7}}),
        record({"sku": 7}, headers=[("content-type", b"application/json"), *BINARY]),
        record({"sku": 7, "specversion": 3, "data": 1}, headers=BINARY),
        record([{**ATTRIBUTES, "data": {"sku": 7}}], headers=BATCH),
        record([{**ATTRIBUTES, "data": {"sku": 7}}]),
    ],
)
def test_attributes_of_cloudevents_are_mapped_in_every_mode(found: Record) -> None:
    event = mapped(EVENT, found)
    if isinstance(event, Several):
        (event,) = event.events
    assert event == Wanted("", ["ann"], {"item": 7}, T_MS / 1e3, 1.0, "shop.click")


def test_batch_of_cloudevents_is_one_event_each_or_refused() -> None:
    events = [{**ATTRIBUTES, "subject": f"u{i}", "data": {"sku": i}} for i in range(3)]
    found = mapped(EVENT, record([*events, {**events[0], "type": "other"}], headers=BATCH))
    assert isinstance(found, Several) and found.events[3] == SKIPPED
    assert [e.entity for e in found.events[:3] if isinstance(e, Wanted)] == [["u0"], ["u1"], ["u2"]]
    bad: tuple[tuple[object, Headers, str], ...] = (
        ([*events, {**events[0], "data": {}}], BATCH, "event 3 of the batch: sku: there is no 'sku'"),
        ([*events, {"sku": 1}], (), "event 3 of the batch is an object with sku; expected a CloudEvent"),
        ({"sku": 1}, BATCH, "content-type says application/cloudevents-batch+json: expected a list"),
        ([events[0]] * 2001, BATCH, "the batch is a list of 2001; expected at most 2000"),
        ({"sku": 1}, (), "@type: there is no 'type'"),
    )
    for value, headers, says in bad:
        with pytest.raises(RecordError) as error:
            mapped(EVENT, record(value, headers=headers))
        assert says in str(error.value)
    lines = {**SHOWN, "envelope": "cloudevents", "candidates": "", "features": {"item": "sku"}}
    lines |= {"request_id": "@id", "context": {"user": "@subject"}}
    with pytest.raises(RecordError, match="the record is a batch of 3 events, and each would be a candidate"):
        mapped(lines, record(events, headers=BATCH))


@pytest.mark.parametrize(
    ("each", "path", "value", "items"),
    [
        ("lines", "lines.sku", {"lines": [{"sku": 1}, {"sku": 2}]}, [1, 2]),
        ("order.lines", "order.lines.sku", {"order": {"lines": [{"sku": 1}]}}, [1]),
        ("carts.0.lines", "carts.0.lines.sku", {"carts": [{"lines": [{"sku": 1}]}, {}]}, [1]),
        ("skus", "skus", {"skus": ["a", "b", "a"]}, ["a", "b", "a"]),
        ("lines?", "lines.sku", {}, []), ("lines?", "lines.sku", {"lines": None}, []),
        ("lines", "lines.sku", {"lines": []}, []),
        ("lines", "lines.sku", {"lines": {"sku": 1}}, "lines is an object with sku; expected a list"),
        ("lines", "lines.sku", {"lines": None}, "lines is null; expected a list"),
        ("lines", "lines.sku", {}, "lines: there is no 'lines' in the record"),
        ("lines", "lines.sku", {"lines": [{"sku": 1}, {}]}, "lines.1: lines.sku: there is no 'sku' in lines"),
        ("lines", "lines.sku", {"lines": [{"sku": 1}, 5]}, "lines.1: lines.sku: lines is the number 5"),
        ("lines", "lines.sku", {"lines": [{"sku": 1}] * 2001}, "lines is a list of 2001; expected at most"),
    ],
)  # fmt: skip
def test_each_element_of_a_list_is_an_action(each: str, path: str, value: object, items: object) -> None:
    table = {**CLICK, "each": each, "match": {"item": path}}
    if isinstance(items, str):
        with pytest.raises(RecordError) as error:
            mapped(table, record(value))
        assert items in str(error.value)
        return
    found = mapped(table, record(value))
    assert isinstance(found, Several)
    assert [event.match["item"] for event in found.events if isinstance(event, Wanted)] == items


def test_lines_have_values_and_kinds_of_their_own() -> None:
    lines = [{"sku": 1, "price": "9.50", "of": "item"}, {"sku": None, "price": 3, "of": "shipping"}]
    table = {**CLICK, "each": "lines", "match": {"item": "lines.sku"}, "value": "lines.price"}
    found = mapped(table, record({"lines": lines}), only={"lines.of": ["item"]})
    assert isinstance(found, Several) and found.events[1] == SKIPPED
    assert [(e.match, e.value) for e in found.events if isinstance(e, Wanted)] == [({"item": 1}, 9.5)]


def test_headers_give_numbers_where_numbers_are_needed() -> None:
    names = {"request_id": "r", "candidate": "2", "label": "false", "value": "9.50", "at": str(T_MS)}
    table = {key: f"@@headers.{key}" for key in ("request_id", "candidate", "label", "value")}
    table |= {"topic": "t", "kind": "action", "time": {"field": "@@headers.at", "unit": "ms"}}
    for label, taken in (("false", 0.0), ("true", 1.0), ("1", 1.0), ("0", 0.0)):
        headers = [(name, value.encode()) for name, value in {**names, "label": label}.items()]
        action = mapped(table, record({}, headers=headers))
        assert action == Action("r", T_MS / 1e3, 2, taken, value=9.5)
    for key, value in (("candidate", "-1"), ("candidate", "1.5"), ("label", "yes"), ("label", "2")):
        headers = [(name, text.encode()) for name, text in {**names, key: value}.items()]
        with pytest.raises(RecordError, match=f"@@headers.{key} is text '{value}'|the number {value}"):
            mapped(table, record({}, headers=headers))


@pytest.mark.parametrize("user", [None, ...])
def test_action_of_nobody_is_a_dead_letter_or_left_out(user: object) -> None:
    value = {"sku": 7} if user is ... else {"sku": 7, "user": user}
    by = {"user": "user?", "device": "@@headers.device?"}
    with pytest.raises(RecordError, match="is null; expected whose impression the action belongs to"):
        mapped(CLICK, record(value), by=by)
    assert mapped(CLICK, record(value), by=by, anonymous="ignore") == SKIPPED
    found = mapped(CLICK, record({**value, "r": 5}), by=by, request_id="r?")  # its request says it
    assert isinstance(found, Wanted) and found.request_id == "5"
