"""`type` of a feature, checked in events."""

from collections.abc import Collection, Mapping
from typing import Protocol

from ground.errors import FreshetError
from ground.id_types import IdType, ids_of_type
from stream.errors import RecordError
from stream.records.fields import Declared
from stream.records.types import Example, Impression

OF_NUMBERS = ("vector", "geo")
"""Kinds whose values are lists of numbers."""


class DeclaredFeature(Protocol):
    """The part of a feature's settings that decides what its ids are."""

    @property
    def kind(self) -> str:
        """id, ids, number, hour or sequence."""

    @property
    def of(self) -> str:
        """Of a sequence: the feature whose ids it holds."""

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
        [value for name, feature in features.items() for value in feature.coordinates or (name,)],
        [name for name, kind in kinds.items() if kind in OF_NUMBERS],
        [name for name, kind in kinds.items() if kind == "text"],
    )


def check_id_types(features: Mapping[str, DeclaredFeature], request: Impression | Example) -> None:
    """Check a request's ids against the declared types.

    Args:
        features: the declared features by name.

    Raises:
        RecordError: an id is not of its feature's declared type.
    """
    for name, feature in features.items():
        type_ = features.get(feature.of, feature).id_type
        if type_ is None:
            continue
        for held in (request.context, *request.candidates):
            value = held.get(name)
            if value is not None:
                try:
                    ids_of_type(name, feature.kind, type_, value if isinstance(value, list) else [value])
                except FreshetError as error:
                    raise RecordError(str(error)) from None
