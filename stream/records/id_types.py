"""`type` of a feature, checked in events."""

from collections.abc import Mapping
from typing import Protocol

from ground.errors import FreshetError
from ground.id_types import IdType, ids_of_type
from stream.errors import RecordError
from stream.records.types import Example, Impression


class DeclaredFeature(Protocol):
    """The part of a feature's settings that decides what its ids are."""

    @property
    def kind(self) -> str:
        """id, ids, number, hour or sequence."""

    @property
    def of(self) -> str:
        """Of a sequence: the feature whose ids it holds."""

    @property
    def id_type(self) -> IdType | None:
        """What its ids are declared to be; None: nothing is declared."""


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
