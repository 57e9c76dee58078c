"""The record of an entity event.

It travels on topic `events`, keyed by its entity, so that all events of an entity lie in one partition in
their order. The joiner passes it on to `examples`, at the same place in the order.
"""

from typing import Annotated

import msgspec

from stream.limits import FEATURES_MAX, SCHEMA_VERSION, TIME_MAX_S, TIME_MIN_S
from stream.records.types import Event, Id, Text, Value, Version

Told = Value | bool | None
"""What an event says of one attribute; null takes it away."""

FeatureName = Annotated[str, msgspec.Meta(description="The feature whose id it is: `item`, `user`.")]
EntityId = Annotated[Id | Text, msgspec.Meta(description="The id, as requests have it.")]
Since = Annotated[
    float,
    msgspec.Meta(
        description="From when on it is true: event time, Unix seconds. 0: it was always true.",
        extra_json_schema={"minimum": TIME_MIN_S, "maximum": TIME_MAX_S},
    ),
]
Attributes = Annotated[
    dict[str, Told],
    msgspec.Meta(
        description="The attributes by name; null takes one away. Those that are not named stay.",
        extra_json_schema={"minProperties": 1, "maxProperties": FEATURES_MAX},
    ),
]


class EntityEvent(msgspec.Struct, frozen=True, repr_omit_defaults=True, tag="entity", omit_defaults=True):
    """What is true of one entity from `time` on: values of the features that are declared with `of`.

    Requests from then on need not have these values. Events may come in any order: for each attribute the
    newest event before the request counts.
    """

    feature: FeatureName
    id: EntityId
    time: Since
    set: Attributes
    v: Version = SCHEMA_VERSION


AnyEvent = Event | EntityEvent
"""What producers send of requests, and what is told of entities."""


def key_of_event(event: AnyEvent) -> bytes:
    """The key of an event's record in topic `events`: what belongs together meets in one partition."""
    if isinstance(event, EntityEvent):
        return entity_key(event.feature, event.id)
    return event.request_id.encode()


def entity_key(feature: str, entity: int | str) -> bytes:
    """The record's key in topic `events`.

    >>> entity_key("item", 7)
    b'item/7'
    """
    return f"{feature}/{entity}".encode()
