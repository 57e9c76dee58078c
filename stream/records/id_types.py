"""`type` of a feature, checked in events."""

from collections.abc import Collection, Mapping
from typing import Protocol

from ground.errors import FreshetError
from ground.id_types import IdType, ids_of_type
from stream.errors import RecordError
from stream.records.fields import AT, KEYS, MEAN, Declared
from stream.records.types import Example, Impression

OF_NUMBERS = ("vector", "geo")
"""Kinds whose values are lists of numbers."""
ATTRIBUTES = ("id", "ids", "number", "text", "vector", "calendar", "age", "geo")
"""Kinds of features that may be attributes of an entity: of the feature `of`, if that is of kind id."""


class DeclaredFeature(Protocol):
    """The part of a feature's settings that decides what its ids are."""

    @property
    def kind(self) -> str:
        """What its values are."""

    @property
    def describes(self) -> str:
        """The feature that it describes; else empty."""

    @property
    def held(self) -> str:
        """Of a sequence or history: the feature whose ids it holds; else empty."""

    @property
    def coordinates(self) -> tuple[str, str] | None:
        """The names of the values that it is made of; None: it is one value, of its own name."""

    @property
    def id_type(self) -> IdType | None:
        """What its ids are declared to be; None: nothing is declared."""


def declared_of(features: Collection[str] | Mapping[str, DeclaredFeature]) -> Declared:
    """What decoders need to know of declared features; of names alone, none takes numbers or long texts."""
    if not isinstance(features, Mapping):
        return Declared(features)
    kinds = {name: feature.kind for name, feature in features.items()}
    return Declared(
        [value for name, feature in features.items() for value in _value_names(name, feature)],
        [name for name, kind in kinds.items() if kind in OF_NUMBERS],
        [name for name, kind in kinds.items() if kind == "text"],
        owners_of(features),
    )


def owners_of(features: Mapping[str, DeclaredFeature]) -> dict[str, list[str]]:
    """By feature, in the order of the schema: the names of the attributes of its entities."""
    found: dict[str, list[str]] = {}
    for name, feature in features.items():
        owner = features.get(feature.describes)
        if feature.kind in ATTRIBUTES and owner is not None and owner.kind == "id":
            found.setdefault(feature.describes, []).extend(feature.coordinates or (name,))
    return found


def _value_names(name: str, feature: DeclaredFeature) -> tuple[str, ...]:
    if feature.kind == "history":
        return name, name + KEYS, name + AT
    if feature.kind == "rate":
        return name, name + MEAN
    return feature.coordinates or (name,)


def check_id_types(features: Mapping[str, DeclaredFeature], request: Impression | Example) -> None:
    """Check a request's ids against the declared types.

    Args:
        features: the declared features by name.

    Raises:
        RecordError: an id is not of its feature's declared type.
    """
    for name, feature in features.items():
        type_ = features.get(feature.held, feature).id_type
        if type_ is None:
            continue
        for held in (request.context, *request.candidates):
            value = held.get(name)
            if value is not None:
                try:
                    ids_of_type(name, feature.kind, type_, value if isinstance(value, list) else [value])
                except FreshetError as error:
                    raise RecordError(str(error)) from None
