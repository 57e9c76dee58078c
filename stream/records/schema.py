"""The records for other languages: JSON Schema and AsyncAPI, made from the types in `stream.records.types`.

A schema says what types and limits say. What it cannot say, and `stream.records.decoding.check` does: lists
that
must be of one length (`candidates` and what is said of each), and that an integer beyond 64 bits is no
number. The other way round, `1.0` is an integer to JSON Schema and not to Freshet: write `1`.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from stream.limits import BATCH_EVENTS_MAX, LONG_TEXT_MAX, SCHEMA_VERSION, TEXT_MAX, VALUES_MAX, VECTOR_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES
from stream.records.entities.record import EntityEvent
from stream.records.types import (
    Action,
    DeadLetter,
    Example,
    Exposure,
    Forget,
    Id,
    Ids,
    Impression,
    Retry,
    Text,
    Tick,
    Value,
    encode_json,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KAFKA_BINDING = "0.5.0"

Json = dict[str, Any]

_Plain = Id | float | Text | Ids
"""A value of most features; the schema does not know which of them are vectors and texts."""

_IN_LISTS: list[Json] = [{"type": ["integer", "boolean", "null"]}, {"type": "string", "maxLength": TEXT_MAX}]
_BESIDE_VALUES: list[Json] = [
    {"description": "Absent if null; the id 0 or 1 if a boolean.", "type": ["boolean", "null"]},
    {
        "description": "Ids, some of them such.",
        "type": "array",
        "maxItems": VALUES_MAX,
        "items": {"anyOf": _IN_LISTS},
    },
    {"description": "Only where no feature of that name is declared.", "type": "object"},
    {
        "description": "The same, or the numbers of a feature of kind vector or geo.",
        "type": "array",
        "contains": {"not": {"type": ["integer", "string", "boolean", "null"]}},
    },
]
"""What an impression may say of a feature beside a `Value`: see `stream.records.fields`."""

_BESIDE_ENTITY_VALUES: list[Json] = [
    {
        "description": "Taken away if null; the id 0 or 1 if a boolean.",
        "type": ["boolean", "null"],
    },
    {
        "description": "The numbers of an attribute of kind vector or geo.",
        "type": "array",
        "maxItems": VECTOR_MAX,
        "items": {"type": "number"},
    },
    {"description": "An attribute of kind text.", "type": "string", "maxLength": LONG_TEXT_MAX},
]
"""What an entity event may say of an attribute beside a `Value`."""

_IMPRESSION = Impression(
    request_id="r1",
    time=1767225600.0,
    context={"user": "ann"},
    candidates=[{"item": 1, "price": 9.5}, {"item": 2, "tags": ["red", "large"]}],
)
_ACTION = Action(request_id="r1", time=1767225607.5, candidate=1)
_EXPOSURE = Exposure(request_id="r1", time=1767225601.0, shown=[1, 0], examined=1)
_ENTITY = EntityEvent(
    feature="item", id=1, time=1767225600.0, set={"category": "shoes", "price": 59.9, "season": None}
)
_BATCH = b"[" + encode_json(_IMPRESSION) + b"," + encode_json(_ACTION) + b"]"


def documents() -> dict[str, str]:
    """All documents: file name -> text, the same each time.

    >>> sorted(documents())
    ['asyncapi.json', 'dead_letter.schema.json', 'event.schema.json', 'example.schema.json']
    """
    made = {
        "event.schema.json": _schema(
            "event",
            "What producers send: an impression, an action, an exposure or an entity event.",
            Impression,
            Action,
            Exposure,
            EntityEvent,
        ),
        "example.schema.json": _schema(
            "example",
            "What the joiner emits: a decided request, an entity event, or where a reader is to forget ids.",
            Example,
            EntityEvent,
            Forget,
        ),
        "dead_letter.schema.json": _schema(
            "dead_letter", "What could not be used, or a note of what was sent again.", DeadLetter, Retry
        ),
        "asyncapi.json": _asyncapi(),
    }
    return {name: json.dumps(document, indent=2) + "\n" for name, document in made.items()}


def one_of_these(**kinds: str) -> list[Json]:
    """The `anyOf` of a schema that needs at least one of these optional fields: name -> its JSON type."""
    return [{"required": [name], "properties": {name: {"type": kind}}} for name, kind in kinds.items()]


def _schema(name: str, text: str, *kinds: type[msgspec.Struct]) -> Json:
    """One JSON Schema document that takes any of `kinds`."""
    refs, defs = _components(kinds, "#/$defs/{name}")
    chosen = refs[0] if len(refs) == 1 else {"oneOf": refs}
    return {
        "$schema": DIALECT,
        "$id": f"urn:freshet:{name}:{SCHEMA_VERSION}",
        "description": text,
        **chosen,
        "$defs": defs,
    }


def _components(kinds: tuple[type[msgspec.Struct], ...], template: str) -> tuple[list[Json], Json]:
    """(a reference for each kind, what they refer to by name)."""
    refs, found = msgspec.json.schema_components((*kinds, Value), ref_template=template)
    value = refs[-1]
    plain = msgspec.json.schema(_Plain)
    value_ref = {"$ref": template.format(name="Value")}
    found = {name: _tidy(schema, value, value_ref) for name, schema in found.items()}
    if "Impression" in found:
        for features in (
            found["Impression"]["properties"]["candidates"]["items"],
            found["Impression"]["properties"]["context"],
        ):
            features["additionalProperties"] = {"anyOf": [value_ref, *_BESIDE_VALUES]}
    if "EntityEvent" in found:
        told = found["EntityEvent"]["properties"]["set"]
        told["additionalProperties"] = {"anyOf": [value_ref, *_BESIDE_ENTITY_VALUES]}
    if "Exposure" in found:
        found["Exposure"]["anyOf"] = one_of_these(shown="array", examined="integer")
    if any(value_ref["$ref"] in json.dumps(schema) for schema in found.values()):
        text = (
            "One feature's value: an id (integer or text), a number, or a list of ids. One of kind text "
            f"takes up to {LONG_TEXT_MAX} characters."
        )
        found["Value"] = {"title": "Value", "description": text, **plain}
    return list(refs[:-1]), found


def _tidy(schema: Any, value: Json, value_ref: Json) -> Any:
    """The same schema with features' values by reference and docstrings on one line."""
    if schema == value:
        return value_ref
    if isinstance(schema, Mapping):
        return {
            name: " ".join(part.split())
            if name == "description" and isinstance(part, str)
            else _tidy(part, value, value_ref)
            for name, part in schema.items()
        }
    if isinstance(schema, list):
        return [_tidy(part, value, value_ref) for part in schema]
    return schema


def _asyncapi() -> Json:
    """The AsyncAPI 3 document: topics, who writes and reads them, and their records."""
    kinds = (Impression, Action, Exposure, EntityEvent, Forget, Tick, Example, DeadLetter, Retry)
    _, schemas = _components(kinds, "#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Freshet",
            "version": str(SCHEMA_VERSION),
            "description": "Events in, decided examples and dead letters out. `version` is that of the "
            "records, their field `v`. Topics `updates` and `snapshots` are between Freshet's own roles.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {"host": "localhost:9092", "protocol": "kafka", "description": "Where your broker is."}
        },
        "channels": {
            EVENTS: _channel(
                EVENTS,
                "Impressions, actions, exposures and entity events, alone or as a batch. Each record is JSON "
                "or MessagePack: its first byte tells which.",
                "Impression",
                "Action",
                "Exposure",
                "EntityEvent",
                "Batch",
                "Forget",
                "Tick",
            ),
            EXAMPLES: _channel(
                EXAMPLES,
                "Decided requests, in the partitions of their events, in MessagePack; and entity events and "
                "requests to forget, where they stand among the events.",
                "Example",
                "EntityEvent",
                "Forget",
            ),
            DEAD_LETTERS: _channel(
                DEAD_LETTERS,
                "What could not be used, with its original bytes, and notes of what was sent again, "
                "in MessagePack.",
                "DeadLetter",
                "Retry",
            ),
        },
        "operations": {
            "takeEvents": _operation(
                "receive", EVENTS, "The joiner pairs impressions with their actions and exposures."
            ),
            "emitExamples": _operation("send", EXAMPLES, "The joiner emits each request once decided."),
            "sendDeadLetters": _operation(
                "send", DEAD_LETTERS, "Any role sends the records that it cannot use."
            ),
        },
        "components": {
            "messages": {
                "Impression": _message(
                    "Impression", "application/json", "request_id", encode_json(_IMPRESSION)
                ),
                "Action": _message("Action", "application/json", "request_id", encode_json(_ACTION)),
                "Exposure": _message("Exposure", "application/json", "request_id", encode_json(_EXPOSURE)),
                "EntityEvent": _message("EntityEvent", "application/json", "", encode_json(_ENTITY)),
                "Batch": _message("Batch", "application/json", "", _BATCH),
                "Example": _message("Example", "application/msgpack", "request_id"),
                "Forget": _message("Forget", "application/msgpack", ""),
                "Tick": _message("Tick", "application/msgpack", ""),
                "DeadLetter": _message("DeadLetter", "application/msgpack", ""),
                "Retry": _message("Retry", "application/msgpack", ""),
            },
            "schemas": {**schemas, "Batch": _batch()},
        },
    }


def _batch() -> Json:
    """Many events as one record."""
    kinds = ("Impression", "Action", "Exposure", "EntityEvent")
    events = [{"$ref": f"#/components/schemas/{name}"} for name in kinds]
    return {
        "title": "Batch",
        "description": "Events of one partition: that of each one's key, which the record is sent to.",
        "type": "array",
        "items": {"oneOf": events},
        "minItems": 1,
        "maxItems": BATCH_EVENTS_MAX,
    }


def _channel(topic: str, text: str, *messages: str) -> Json:
    return {
        "address": topic,
        "description": text,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"kafka": {"topic": topic, "bindingVersion": KAFKA_BINDING}},
    }


def _operation(action: str, topic: str, text: str) -> Json:
    return {"action": action, "channel": {"$ref": f"#/channels/{topic}"}, "summary": text}


def _message(name: str, content: str, key: str, example: bytes | None = None) -> Json:
    message: Json = {
        "name": name,
        "contentType": content,
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }
    if key:
        text = f"The record's {key}, as UTF-8: what belongs to one request meets in one partition."
        message["correlationId"] = {"location": f"$message.payload#/{key}"}
        message["bindings"] = {
            "kafka": {
                "key": {"type": "string", "description": text},
                "bindingVersion": KAFKA_BINDING,
            }
        }
    if example is not None:
        message["examples"] = [{"payload": json.loads(example)}]
    return message
