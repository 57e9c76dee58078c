"""What a config says of one feature: its kind, its table's limits, and what the kind needs."""

from __future__ import annotations

from typing import Literal

import msgspec

from embeddings.spec import EVICT_ROWS_MIN, ROWS_LIMIT, Evict, Optimizer
from ground.id_types import IdType
from ground.short_repr import ShortRepr
from learner.features.calendar import zone_of
from learner.features.content import DIRECTIONS_MAX
from stream.limits import VECTOR_MAX

Kind = Literal["id", "ids", "number", "hour", "sequence", "text", "vector", "calendar", "age", "geo", "place"]

OF_IDS = ("id", "ids", "hour", "sequence")
"""Kinds whose values are ids."""
OF_SOMETHING = ("text", "vector", "calendar", "geo")
"""Kinds that may describe another feature, `of`: they make no pairs with it."""
OF_TIME = ("hour", "calendar")
"""Kinds that come from the request's event time if the request has no value."""


class FeatureSpec(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One feature. Its kind says which values it takes, and how they are read:

    - `id`: one id; `ids`: a list of them, pooled; `number`.
    - `sequence`: a list of ids of the feature `of`, newest last, for example the items that this person
      clicked before. The deep part attends to it with the candidate's value of `of`; the fast part ignores
      it.
    - `text`: words in any script; `vector`: `length` numbers, such as an embedding. `of` names the feature
      that they describe, if there is one.
    - `hour` of the day in UTC, and `calendar`: hour, weekday and hour of the week in the time zone `zone`.
      Both come from the request's event time if the request has no value (of a calendar: Unix seconds).
    - `age`: Unix seconds at which something began; read as the days from then to the request.
    - `geo`: a latitude and a longitude, one list of two numbers, or the values named `latitude` and
      `longitude`; read as cells of three sizes.
    - `place`: where the candidate was shown; learned from examples, and left out of scores.

    `ttl_s` is event time: a row unseen for longer expires. An id gets a row after `admit_after` sightings,
    or at each one with probability `admit_share`. At `rows_max` rows the table evicts as `evict` says: by
    default the least recently used rows, but nothing in a state that an older Freshet began.
    `type` says what ids are, since the integer 3 and the text "3" are two: "int" takes decimal text as that
    integer and refuses other text, "text" takes integers as decimal text. A sequence has the type of `of`.
    """

    kind: Kind = "id"
    dim: int = 16
    of: str = ""  # of a sequence: the feature that attends; of content: the feature that it describes
    length: int = 50  # of a sequence: how many of its newest values are used; of a vector: its numbers
    attention: Literal["decoupled", "shared"] = "decoupled"  # of a sequence: two vectors an id, or one
    counts: bool | None = None  # "seen how often before" as an input of its own; None: for ids only
    pairs: bool = True
    ttl_s: float = 0.0
    admit_after: int = 1
    admit_share: float = 1.0
    rows_max: int = 1 << 24
    evict: Evict | None = None
    optimizer: Optimizer = "adagrad"  # of the embedding
    rate: float = 0.0  # of the optimizer; 0: the learner's embedding_rate, for adam a tenth of it
    # Last, and left out of the saved schema where they are not set, so that older states are still known.
    type: IdType | msgspec.UnsetType = msgspec.UNSET
    zone: str | msgspec.UnsetType = msgspec.UNSET  # of a calendar, as "Europe/Berlin"; not set: UTC
    directions: int | msgspec.UnsetType = msgspec.UNSET  # that a vector is projected on; not set: 16
    latitude: str | msgspec.UnsetType = msgspec.UNSET  # of a geo: the names of two values of the request
    longitude: str | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= 512:
            raise ValueError("dim must be 1 to 512")
        if self.ttl_s < 0 or not 1 <= self.admit_after <= 255:
            raise ValueError("ttl_s must not be negative and admit_after must be 1 to 255")
        if not 0.0 < self.admit_share <= 1.0 or (self.admit_share < 1.0 and self.admit_after > 1):
            raise ValueError("admit_share must be above 0 and at most 1, and goes without admit_after")
        if (
            not (EVICT_ROWS_MIN if self.evict not in (None, "none") else 1)
            <= self.rows_max
            <= ROWS_LIMIT // 2
        ):
            raise ValueError(f"rows_max must be 1 to {ROWS_LIMIT // 2}, with evict at least {EVICT_ROWS_MIN}")
        if not 0.0 <= self.rate <= 1e3:
            raise ValueError("rate must be 0 to 1000")
        if self.counts and self.kind != "id":
            raise ValueError("counts belong to features of kind id")
        if self.kind == "sequence" and not self.of:
            raise ValueError("a sequence needs `of`: the feature whose ids it holds")
        if self.of and self.kind not in ("sequence", *OF_SOMETHING):
            raise ValueError(
                "`of` belongs to a sequence (the feature whose ids it holds), and to features of kind "
                f"{', '.join(OF_SOMETHING)} (the feature that they describe)"
            )
        if self.id_type is not None and self.kind not in ("id", "ids", "hour"):
            raise ValueError("type belongs to features of kind id, ids and hour; a sequence has that of `of`")
        most = VECTOR_MAX if self.kind == "vector" else 1000
        if not 1 <= self.length <= most:
            raise ValueError(f"length must be 1 to {most}")
        if self.zone is not msgspec.UNSET:
            if self.kind != "calendar":
                raise ValueError("zone belongs to features of kind calendar")
            zone_of(self.zone)
        if self.directions is not msgspec.UNSET and (
            self.kind != "vector" or not 1 <= self.directions <= DIRECTIONS_MAX
        ):
            raise ValueError(f"directions must be 1 to {DIRECTIONS_MAX}, and belongs to kind vector")
        named = [name for name in (self.latitude, self.longitude) if name is not msgspec.UNSET]
        if named and (self.kind != "geo" or len(set(named)) != 2 or not all(named)):
            raise ValueError("latitude and longitude name two values of a request, and belong to kind geo")

    def eviction(self, makes_room: bool) -> Evict:
        """The eviction of the feature's table; see `eviction_of`."""
        return eviction_of(self.evict, self.rows_max, makes_room)

    @property
    def id_type(self) -> IdType | None:
        """What its ids are declared to be; None: nothing is declared."""
        return None if self.type is msgspec.UNSET else self.type

    @property
    def counted(self) -> bool:
        """Whether the feature has a count column."""
        return self.kind == "id" if self.counts is None else self.counts

    @property
    def row_dim(self) -> int:
        """Width of a table row's vector: a decoupled sequence has two vectors, a key and a value."""
        return 2 * self.dim if self.kind == "sequence" and self.attention == "decoupled" else self.dim

    @property
    def coordinates(self) -> tuple[str, str] | None:
        """The names of the two values that a geo feature is made of; None: its own value is a list of two."""
        if self.latitude is msgspec.UNSET or self.longitude is msgspec.UNSET:
            return None
        return self.latitude, self.longitude


def eviction_of(evict: Evict | None, rows_max: int, makes_room: bool) -> Evict:
    """The eviction of a table: as configured, or least recently used if `makes_room` and the table is not
    tiny."""
    if evict is not None:
        return evict
    return "least_recent" if makes_room and rows_max >= EVICT_ROWS_MIN else "none"
