"""Which features are attributes of which entities, and whether a value is one of its attribute."""

from collections.abc import Mapping
from typing import NamedTuple

from ground import id_types
from ground.errors import FreshetError
from ground.id_types import IdType
from ground.keys import key_of
from learner.errors import FeatureError
from learner.features.calendar import moment
from learner.features.columns import read_columns
from learner.features.spec import FeatureSpec
from learner.features.values import read_numbers
from stream.records.entities.record import EntityEvent, Told
from stream.records.id_types import owners_of

_PLAIN: dict[str, tuple[type, ...]] = {"id": (int, str), "number": (int, float), "text": (str,)}
"""By kind: the types that need no further look; `checked` has looked at the limits."""


class Owner(NamedTuple):
    """A feature whose entities have attributes."""

    name: str
    id_type: IdType | None
    attributes: dict[str, FeatureSpec]  # by the name of the value in a request

    def key(self, entity: object) -> int:
        """The key of one of its ids.

        Raises:
            FreshetError: it is no id of the feature.
        """
        if self.id_type is not None:
            (entity,) = id_types.ids_of_type(self.name, "id", self.id_type, (entity,))
        if type(entity) is not int and type(entity) is not str:
            raise FeatureError(
                f"feature {self.name} (kind id) has the value {str(entity)[:80]!r} of type "
                f"{type(entity).__name__}; expected an integer or a string"
            )
        return key_of(entity)


def owners_in_order(features: Mapping[str, FeatureSpec]) -> list[Owner]:
    """The features whose entities have attributes: an item before its brand, if that has attributes too."""
    found = [
        Owner(
            name,
            features[name].id_type,
            {value: spec for value in values if (spec := _feature_of(features, value)) is not None},
        )
        for name, values in owners_of(features).items()
    ]
    return sorted(found, key=lambda owner: _depth(features, owner.name))


def check_told(owner: Owner, event: EntityEvent) -> None:
    """Check that each value is one of its attribute's kind.

    Raises:
        FeatureError: naming the entity, the attribute and what was expected.
    """
    for name, value in event.set.items():
        spec = owner.attributes.get(name)
        if spec is None or value is None:
            continue
        try:
            _check(name, spec, value)
        except FreshetError as error:
            raise FeatureError(f"entity {owner.name} {str(event.id)[:60]!r}: {error}") from None


def _check(name: str, spec: FeatureSpec, value: Told) -> None:
    if spec.kind in ("id", "ids") and spec.id_type is not None:
        id_types.ids_of_type(name, spec.kind, spec.id_type, value if isinstance(value, list) else [value])
    plain = _PLAIN.get("number" if spec.coordinates is not None else spec.kind, ())
    if type(value) in plain or (spec.kind == "ids" and type(value) is list and all(map(_is_id, value))):
        return  # as most are: what reads whole columns takes twenty times as long
    if spec.kind == "number" or spec.coordinates is not None:
        read_numbers(name, [value])
    elif spec.kind == "age":
        moment(name, spec.kind, value)
    else:
        read_columns(name, spec, [value])


def _is_id(value: object) -> bool:
    return type(value) is int or type(value) is str


def _feature_of(features: Mapping[str, FeatureSpec], value: str) -> FeatureSpec | None:
    """The feature that a value of a request is of, or one of the two numbers of."""
    return features.get(value) or next(
        (spec for spec in features.values() if value in (spec.coordinates or ())), None
    )


def _depth(features: Mapping[str, FeatureSpec], name: str) -> int:
    depth = 0
    while name in features and (name := features[name].describes):
        depth += 1
    return depth
