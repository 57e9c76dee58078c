"""Avro, Protobuf and JSON of others, with and without a schema registry; registries that misbehave."""

import base64
import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import fastavro
import msgspec
import pytest
from avro_data import datum, framed
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from small_registry import SmallRegistry, small_registry

from stream.errors import LogAwayError, LogError, RecordError
from stream.log.base import Record
from stream.sources.formats import Format
from stream.sources.mapping import Mapper, Several, Wanted
from stream.sources.opening import open_around, open_format
from stream.sources.registry import Registry
from stream.sources.settings import RegistrySettings, SourceSettings, TimeField

ITEM = {"type": "record", "name": "shop.Item", "fields": [{"name": "sku", "type": "long"}]}
SHOWN = {
    "type": "record", "name": "shop.Shown",
    "fields": [
        {"name": "request", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "user", "type": ["null", "string", "long"]},
        {"name": "device", "type": {"type": "enum", "name": "Device", "symbols": ["IOS", "WEB"]}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "tags", "type": {"type": "map", "values": "int"}},
        {"name": "items", "type": {"type": "array", "items": "shop.Item"}},
    ],
}  # fmt: skip
RECORD = {
    "request": "00000000-0000-0000-0000-000000000007",
    "at": datetime.datetime(2026, 1, 2, 3, 4, 5, 600_000, datetime.UTC), "user": 12, "device": "WEB",
    "price": Decimal("9.50"), "tags": {"a": 1}, "items": [{"sku": 5}, {"sku": 6}],
}  # fmt: skip


@pytest.fixture
def served() -> Iterator[SmallRegistry]:
    with small_registry() as registry:
        yield registry


def opened(
    form: str, known: dict[int, bytes] | None = None, away_after_s: float = 0.3, **more: str
) -> Format:
    source = SourceSettings(
        topic="t", kind="impression", time=TimeField(field="at", unit="ms"), request_id="request",
        candidates="items", features={"item": "sku"}, context={"user": "user?"},
        format=form, **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return open_format(source, RegistrySettings(away_after_s=away_after_s), known)


def with_reference(served: SmallRegistry) -> None:
    served.put(7, SHOWN, references=[{"name": "shop.Item", "subject": "shop.items/x", "version": 3}])
    served.answers["/subjects/shop.items%2Fx/versions/3"] = {"schema": json.dumps(ITEM)}


def test_avro_of_every_type_with_a_reference(served: SmallRegistry) -> None:
    with_reference(served)
    form = opened("avro", registry=served.url)
    found = form.decode(framed(7, datum(SHOWN, RECORD, [ITEM])))
    assert isinstance(found, dict)
    assert {**found, "request": str(found["request"])} == RECORD
    form.decode(framed(7, datum(SHOWN, RECORD, [ITEM])))
    assert len(served.asked) == 2  # the schema and its reference, once each
    with pytest.raises(RecordError, match="expected 00"):
        form.decode(b"\1" + framed(7, datum(SHOWN, RECORD, [ITEM]))[1:])


def test_avro_schemas_evolve(served: SmallRegistry, tmp_path: Path) -> None:
    old = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
    new = {"type": "record", "name": "R", "fields": [
        {"name": "b", "type": "string", "default": "x"}, {"name": "a", "type": "long"},
    ]}  # fmt: skip
    served.put(1, old)
    served.put(2, new)
    form = opened("avro", registry=served.url)
    assert form.decode(framed(1, datum(old, {"a": 1}))) == {"a": 1}
    assert form.decode(framed(2, datum(new, {"a": 1, "b": "y"}))) == {"a": 1, "b": "y"}
    (tmp_path / "new.avsc").write_text(json.dumps(new))
    reader = opened("avro", registry=served.url, schema=str(tmp_path / "new.avsc"))
    assert reader.decode(framed(1, datum(old, {"a": 1}))) == {"a": 1, "b": "x"}


def test_avro_by_a_schema_file(tmp_path: Path) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
    (tmp_path / "r.avsc").write_text(json.dumps(schema))
    form = opened("avro", schema=str(tmp_path / "r.avsc"))
    data = datum(schema, {"a": 5})
    parsed = fastavro.parse_schema(schema)
    mark = bytes.fromhex(
        fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(parsed), "CRC-64-AVRO")
    )
    assert form.decode(data) == form.decode(b"\xc3\x01" + mark[::-1] + data) == {"a": 5}
    for bad, says in (
        (b"\xc3\x01" + bytes(8) + data, "another schema"),
        (data + b"x", "1 bytes more"),
        (b"", "fit"),
    ):
        with pytest.raises(RecordError, match=says):
            form.decode(bad)
    (tmp_path / "bad.avsc").write_text('{"type": "record"}')
    for file, says in (("bad.avsc", "no schema of Avro"), ("none.avsc", "cannot be read")):
        with pytest.raises(LogError, match=says):
            opened("avro", schema=str(tmp_path / file))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"{}", "expected 00 and the four bytes"), (b"\0\0", "expected 00"),
        (framed(99, b"x"), "no schema with id 99"),
        (framed(7, b""), "does not fit schema id 7"), (framed(7, b"\xff" * 40), "does not fit schema id 7"),
        (framed(8, b"x"), "type JSON; expected AVRO"), (framed(9, b"x"), "no schema of Avro"),
    ],
)  # fmt: skip
def test_record_that_is_no_avro_is_refused(served: SmallRegistry, value: bytes, says: str) -> None:
    with_reference(served)
    served.put(8, {}, "JSON")
    served.put(9, {"type": "record"})
    form = opened("avro", registry=served.url)
    for _ in range(2):
        with pytest.raises(RecordError, match=says):
            form.decode(value)


def test_unknown_id_is_asked_for_once_in_a_while(served: SmallRegistry) -> None:
    form = opened("avro", registry=served.url)
    for _ in range(5):
        with pytest.raises(RecordError):
            form.decode(framed(99, b"x"))
    assert len(served.asked) == 1


def test_registry_that_is_away_is_waited_for(served: SmallRegistry) -> None:
    with_reference(served)
    form = opened("avro", registry=served.url)
    value = framed(7, datum(SHOWN, RECORD, [ITEM]))
    for status in (500, 503, 429):
        served.status = status
        with pytest.raises(LogAwayError, match=f"answers {status}"):
            form.decode(value)
    served.status = 0
    served.free.clear()  # it hangs until this test says otherwise
    with pytest.raises(LogAwayError, match="does not answer"):
        form.decode(value)
    served.free.set()
    assert form.decode(value)
    gone = opened("avro", registry="http://127.0.0.1:9")
    with pytest.raises(LogAwayError):
        gone.decode(value)


def test_registry_that_refuses_or_is_none_ends_the_role(served: SmallRegistry) -> None:
    for status, says in ((401, "refuses the log-in"), (403, "refuses the log-in"), (302, "the URL is not")):
        served.status = status
        with pytest.raises(LogError, match=says) as error:
            opened("avro", registry=served.url).decode(framed(7, b""))
        assert not isinstance(error.value, LogAwayError)


def test_another_registry_than_before_is_recognised(served: SmallRegistry) -> None:
    with_reference(served)
    value = framed(7, datum(SHOWN, RECORD, [ITEM]))
    form = opened("avro", registry=served.url)
    form.decode(value)
    assert opened("avro", form.schemas(), registry=served.url).decode(value)
    served.put(7, ITEM)
    with pytest.raises(LogError, match="another schema with id 7 than before"):
        opened("avro", form.schemas(), registry=served.url).decode(value)


def test_registry_log_in(served: SmallRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.put(1, ITEM)
    (tmp_path / "token").write_text("abc\n")
    Registry(served.url, RegistrySettings(token_file=str(tmp_path / "token")), {}).get(1)
    (tmp_path / "password").write_text("secret\n")
    settings = RegistrySettings(user="ann", password_file=str(tmp_path / "password"))
    Registry(served.url, settings, {}).get(1)
    monkeypatch.setenv("FRESHET_REGISTRY_PASSWORD", "secret")
    Registry(served.url, RegistrySettings(user="ann"), {}).get(1)
    basic = "Basic " + base64.b64encode(b"ann:secret").decode()
    assert [auth for _, auth in served.asked] == ["Bearer abc", basic, basic]
    monkeypatch.delenv("FRESHET_REGISTRY_PASSWORD")
    with pytest.raises(LogError, match="there is no password"):
        Registry(served.url, RegistrySettings(user="ann"), {})


def test_cached_schemas_are_limited(served: SmallRegistry) -> None:
    for number in range(5):
        served.put(number, ITEM)
    registry = Registry(served.url, RegistrySettings(cached_max=2), {})
    for number in (0, 1, 2, 0):
        registry.get(number)
    assert len(served.asked) == 4


def proto_files() -> list[descriptor_pb2.FileDescriptorProto]:
    """item.proto, and shown.proto, which imports it."""
    label, kind = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FieldDescriptorProto
    item = descriptor_pb2.FileDescriptorProto(name="item.proto", package="shop", syntax="proto3")
    message = item.message_type.add(name="Item")
    message.field.add(name="sku", number=1, type=kind.TYPE_UINT64, label=label.LABEL_OPTIONAL)
    file = descriptor_pb2.FileDescriptorProto(name="shown.proto", package="shop", syntax="proto3")
    file.dependency.extend(["item.proto", "google/protobuf/timestamp.proto"])
    enum = file.enum_type.add(name="Device")
    for number, name in enumerate(("IOS", "WEB")):
        enum.value.add(name=name, number=number)
    file.message_type.add(name="Other")
    message = file.message_type.add(name="Shown")
    add = message.field.add
    add(name="request", number=1, type=kind.TYPE_STRING, label=label.LABEL_OPTIONAL)
    add(name="at", number=2, type=kind.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=1)
    message.oneof_decl.add(name="_user")
    add(name="user", number=3, type=kind.TYPE_INT64, label=1, proto3_optional=True, oneof_index=0)
    add(name="items", number=4, type=kind.TYPE_MESSAGE, type_name=".shop.Item", label=label.LABEL_REPEATED)
    add(name="device", number=5, type=kind.TYPE_ENUM, type_name=".shop.Device", label=1)
    message.nested_type.add(name="Inner").field.add(name="request", number=1, type=kind.TYPE_STRING, label=1)
    return [item, file]


def proto_message(**fields: object) -> bytes:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    for file in proto_files():
        pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Shown"))(
        **fields
    ).SerializeToString()


SEEN = {
    "request": "r",
    "at": datetime.datetime.fromtimestamp(1_700_000_000, datetime.UTC),
    "items": [{"sku": 5}, {"sku": 0}],
}


def test_protobuf_with_a_registry(served: SmallRegistry) -> None:
    item, file = proto_files()
    references = [{"name": "item.proto", "subject": "items", "version": 1}]
    text = base64.b64encode(file.SerializeToString()).decode()
    served.put(3, text, "PROTOBUF", references)
    served.answers["/subjects/items/versions/1?format=serialized"] = {
        "schema": base64.b64encode(item.SerializeToString()).decode(), "schemaType": "PROTOBUF",
    }  # fmt: skip
    form = opened("protobuf", registry=served.url)
    at = datetime.datetime.fromtimestamp(1_700_000_000, datetime.UTC)
    # the second message of the file: a length of 1, then 1, as zigzag varints
    found = form.decode(framed(3, b"\x02\x02" + proto_message(**SEEN)))
    assert found == {"request": "r", "at": at, "user": None, "items": [{"sku": 5}, {"sku": 0}]}
    assert form.decode(framed(3, b"\x04\x02\x00" + b"\x0a\x01i")) == {"request": "i"}  # Shown.Inner
    for value, says in (
        (framed(3, b"\x02\x0e"), "no usable message"),
        (framed(3, b"\x42"), "at 33 levels; expected 1 to 32"),
        (framed(3, b"\x40"), "ends within the indexes"),
        (framed(3, b"\x02\x02\xff\xff"), "does not fit"),
        (framed(3, b""), "ends within the indexes"),
        (b"\x0a", "expected 00"), (framed(4, b"\0"), "no schema"),
    ):  # fmt: skip
        with pytest.raises(RecordError, match=says):
            form.decode(value)


ITEM_TEXT = """
syntax = "proto3"; package shop;
message Item { uint64 sku = 1; map<string, int32> stock = 2; google.protobuf.StringValue colour = 3; }
import "google/protobuf/wrappers.proto";
"""
SHOWN_TEXT = """
syntax = "proto3"; package shop;
import "shop/item.proto";
import "google/protobuf/timestamp.proto";
message Other { string a = 1; }
message Shown {
  string request = 1; google.protobuf.Timestamp at = 2; repeated Item items = 4;
  oneof who { int64 user = 3; string cookie = 5; }
}
"""


def test_protobuf_whose_registry_gives_text_is_compiled(served: SmallRegistry) -> None:
    pytest.importorskip("grpc_tools", reason="pip install 'freshet[formats]'")
    references = [{"name": "shop/item.proto", "subject": "items", "version": 1}]
    served.put(3, SHOWN_TEXT, "PROTOBUF", references)
    served.answers["/subjects/items/versions/1?format=serialized"] = {"schema": ITEM_TEXT}
    form = opened("protobuf", registry=served.url)
    found = form.decode(framed(3, b"\x02\x02" + proto_message(**SEEN)))
    at = datetime.datetime.fromtimestamp(1_700_000_000, datetime.UTC)
    assert found == {"request": "r", "at": at, "user": None, "items": [{"sku": 5}, {"sku": 0}]}
    asked = len(served.asked)
    for number, text, says in (
        (5, "syntax = 'proto3'; message {", "schema id 5: it is no schema of Protobuf that protoc compiles"),
        (6, 'syntax = "proto3"; import "shop/none.proto"; message M {}', "shop/none.proto: File not found"),
    ):
        served.put(number, text, "PROTOBUF")
        for _ in range(2):
            with pytest.raises(RecordError, match=says):
                form.decode(framed(number, b"\0"))
    assert len(served.asked) == asked + 2
    served.put(7, SHOWN_TEXT, "PROTOBUF", [{"name": "../item.proto", "subject": "items", "version": 1}])
    with pytest.raises(RecordError, match="expected a path below"):
        form.decode(framed(7, b"\0"))


def test_protobuf_by_a_descriptor_file(tmp_path: Path) -> None:
    files = descriptor_pb2.FileDescriptorSet(file=[*proto_files()])
    path = tmp_path / "shop.desc"
    path.write_bytes(files.SerializeToString())
    form = opened("protobuf", schema=str(path), message="shop.Shown")
    bare = proto_message(**SEEN, user=(1 << 63) - 1)
    for value in (bare, framed(9, b"\0" + bare)):
        found = form.decode(value)
        assert isinstance(found, dict) and found["user"] == (1 << 63) - 1 and found["items"][0] == {"sku": 5}
    with pytest.raises(LogError, match=r"no message 'shop.Click'; it has shop.Item, shop.Other, shop.Shown"):
        opened("protobuf", schema=str(path), message="shop.Click")
    path.write_bytes(b"\xff\xff")
    with pytest.raises(LogError, match="no descriptor file"):
        opened("protobuf", schema=str(path), message="shop.Shown")


def test_lines_of_a_record_of_protobuf_are_actions_of_its_key(served: SmallRegistry, tmp_path: Path) -> None:
    compiled = descriptor_pb2.FileDescriptorSet(file=proto_files())
    (tmp_path / "shop.desc").write_bytes(compiled.SerializeToString())
    with_file = {"schema": str(tmp_path / "shop.desc"), "message": "shop.Shown"}
    item, file = proto_files()
    served.put(3, base64.b64encode(file.SerializeToString()).decode(), "PROTOBUF",
               [{"name": "item.proto", "subject": "items", "version": 1}])  # fmt: skip
    text = base64.b64encode(item.SerializeToString()).decode()
    served.answers["/subjects/items/versions/1?format=serialized"] = {"schema": text}
    head = b"\0\0\0\0\3\2\2"  # the second message of schema 3
    key = head + proto_message(request="ann")
    for more, user, value, given in (
        (with_file, "@@key", b"", b"ann"), ({"registry": served.url}, "@@key.request", head, key),
    ):  # fmt: skip
        table = {
            "topic": "t", "kind": "action", "time": {"field": "at", "unit": "ms"}, "each": "items",
            "match": {"item": "items.sku"}, "by": {"user": user}, "format": "protobuf",
        }  # fmt: skip
        source = msgspec.convert({**table, **more}, SourceSettings)
        around = open_around(source, RegistrySettings())
        assert around is not None
        record = Record("t", 0, 5, given, value + proto_message(**SEEN))
        message = around.add(open_format(source, RegistrySettings()).decode(record.value), record)
        found = Mapper("s", source).map(message, "s-0-5")
        assert isinstance(found, Several)
        wanted = [(e.entity, e.match) for e in found.events if isinstance(e, Wanted)]
        assert wanted == [(["ann"], {"item": 5}), (["ann"], {"item": 0})]


def test_json_and_messagepack() -> None:
    for value in (b'{"a":1}', framed(5, b'{"a":1}')):
        assert opened("json").decode(value) == {"a": 1}
    assert opened("msgpack").decode(msgspec.msgpack.encode({"a": 1})) == {"a": 1}
    for form, value in (("json", b"{"), ("json", b"\xff"), ("msgpack", b"\xc1"), ("json", b"[" * 5_000)):
        with pytest.raises(RecordError, match="the record is not"):
            opened(form).decode(value)
