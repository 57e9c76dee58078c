"""What a config says of one feature: its kind, its table's limits, and what the kind needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from embeddings.spec import EVICT_ROWS_MIN, ROWS_LIMIT, Evict, Optimizer
from ground.id_types import IdType
from ground.short_repr import ShortRepr
from learner.errors import FeatureError
from stream.limits import VECTOR_MAX
from stream.records.id_types import ATTRIBUTES

Kind = Literal[
    "id",
    "ids",
    "number",
    "hour",
    "sequence",
    "text",
    "vector",
    "calendar",
    "age",
    "geo",
    "place",
    "history",
    "rate",
]

OF_IDS = ("id", "ids", "hour", "sequence")
"""Kinds whose values are ids."""
ATTENDED = ("sequence", "history")
"""Kinds that hold ids of another feature, to which the deep part attends."""
Measure = Literal["rate", "count", "sum"]
"""What a feature of kind rate says of the candidates in its window: the share of them for which its target
happened (of a value: its mean), their number, or the sum of the target."""
SMOOTH = 10.0
SMOOTH_MAX = 1e6
WINDOW_MIN_S, WINDOW_MAX_S = 60.0, 366 * 86_400.0

KNOWN = ("history", "rate")
"""Kinds whose values Freshet keeps itself, as of each request, from the examples that it learns."""
OF_TIME = ("hour", "calendar")
"""Kinds that come from the request's event time if the request has no value."""


class FeatureSpec(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One feature. Its kind says which values it takes, and how they are read:

    - `id`: one id; `ids`: a list of them, pooled; `number`.
    - `sequence`: a list of ids of the feature `of`, newest last, for example the items that this person
      clicked before. The deep part attends to it with the candidate's value of `of`; the fast part ignores
      it.
    - `text`: words in any script; `vector`: `length` numbers, such as an embedding.
    - `hour` of the day in UTC, and `calendar`: hour, weekday and hour of the week in the time zone `zone`.
      Both come from the request's event time if the request has no value (of a calendar: Unix seconds).
    - `age`: Unix seconds at which something began; read as the days from then to the request.
    - `geo`: a latitude and a longitude, one list of two numbers, or the values named `latitude` and
      `longitude`; read as cells of three sizes.
    - `place`: where the candidate was shown; learned from examples, and left out of scores.
    - `history`: the newest `length` ids of the feature `of` for which target `on` happened, for each id of
      the feature `by`. The deep part attends to it as to a sequence; the fast part learns from "was it among
      them, and how long ago".
    - `rate`: how often target `on` happened among the candidates with the same id of `of` (of two features:
      the same two ids) in the last `window_s` seconds; or, as `measure` says, their count, or the sum.

    Except of a sequence, `of` names the feature that this one describes: the category of an item. They make
    no pair. If `of` is of kind id, this is an attribute of its entities: entity events say it, and a request
    need not have it.

    `ttl_s` is event time: a row unseen for longer expires. An id gets a row after `admit_after` sightings,
    or at each one with probability `admit_share`. At `rows_max` rows the table evicts as `evict` says: by
    default the least recently used rows, but nothing in a state that an older Freshet began.
    About `memory_rows` of them are in memory; the others rest on disk and come back when they are seen.
    `type` says what ids are, since the integer 3 and the text "3" are two: "int" takes decimal text as that
    integer and refuses other text, "text" takes integers as decimal text. A sequence has the type of `of`.
    """

    kind: Kind = "id"
    dim: int = 16
    # Of a sequence or history: the feature that attends; of a rate: the one or two whose ids it counts by;
    # else the feature that this one describes.
    of: str | list[str] = ""
    length: int = 50  # of a sequence or history: its newest values that are used; of a vector: its numbers
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
    memory_rows: int | msgspec.UnsetType = msgspec.UNSET  # rows beyond so many rest on disk; not set: none
    by: str | msgspec.UnsetType = msgspec.UNSET  # of a history: the feature whose ids have one each
    on: str | msgspec.UnsetType = msgspec.UNSET  # of a history or rate: the target; not set: the first
    window_s: float | msgspec.UnsetType = msgspec.UNSET  # of a rate
    measure: Measure | msgspec.UnsetType = msgspec.UNSET  # of a rate; not set: "rate"
    smooth: float | msgspec.UnsetType = msgspec.UNSET  # of a rate: candidates that the mean of all is worth

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
        if self.memory_rows is not msgspec.UNSET and not 1 <= self.memory_rows <= self.rows_max:
            raise ValueError(
                f"memory_rows must be 1 to rows_max = {self.rows_max}; without it all rows are in memory"
            )
        if not 0.0 <= self.rate <= 1e3:
            raise ValueError("rate must be 0 to 1000")
        if self.counts and self.kind != "id":
            raise ValueError("counts belong to features of kind id")
        self._check_of()
        self._check_known()
        if self.id_type is not None and self.kind not in ("id", "ids", "hour"):
            raise ValueError("type belongs to features of kind id, ids and hour; a sequence has that of `of`")
        most = VECTOR_MAX if self.kind == "vector" else 1000
        if not 1 <= self.length <= most:
            raise ValueError(f"length must be 1 to {most}")
        if self.zone is not msgspec.UNSET:
            if self.kind != "calendar":
                raise ValueError("zone belongs to features of kind calendar")
            # Imported here: they bring Numba, half a second for a role that only reads its config.
            from learner.features.calendar import zone_of

            zone_of(self.zone)
        if self.directions is not msgspec.UNSET:
            from learner.features.content import DIRECTIONS_MAX

            if self.kind != "vector" or not 1 <= self.directions <= DIRECTIONS_MAX:
                raise ValueError(f"directions must be 1 to {DIRECTIONS_MAX}, and belongs to kind vector")
        named = [name for name in (self.latitude, self.longitude) if name is not msgspec.UNSET]
        if named and (self.kind != "geo" or len(set(named)) != 2 or not all(named)):
            raise ValueError("latitude and longitude name two values of a request, and belong to kind geo")

    def _check_of(self) -> None:
        if self.kind == "sequence" and not self.of:
            raise ValueError("a sequence needs `of`: the feature whose ids it holds")
        if self.of and self.kind not in ("sequence", *ATTRIBUTES, *KNOWN):
            raise ValueError(
                "`of` belongs to a sequence or history (the feature whose ids it holds), to a rate (what it "
                f"counts by), and to kinds {', '.join(ATTRIBUTES)} (the feature that they describe)"
            )
        if isinstance(self.of, list) and (
            self.kind != "rate" or len(set(self.of)) != len(self.of) or not 1 <= len(self.of) <= 2
        ):
            raise ValueError("`of` names one feature; only a rate may have a list, of two different features")

    def _check_known(self) -> None:
        """Check what only a history or a rate may have."""
        if self.kind == "history" and not (self.by and self.of):
            raise ValueError(
                "a history needs `by`, the feature whose ids have one each, and `of`, the feature whose ids "
                'it holds, for example by = "user", of = "item"'
            )
        if self.kind == "history" and self.by == self.of:
            raise ValueError("`by` and `of` of a history are two features")
        if self.kind == "rate" and not (self.of and self.window_s):
            raise ValueError(
                "a rate needs `of`, the feature whose ids it counts by, and `window_s`, over how many seconds"
            )
        if self.by is not msgspec.UNSET and self.kind != "history":
            raise ValueError("`by` belongs to features of kind history")
        if self.on is not msgspec.UNSET and (self.kind not in KNOWN or not self.on):
            raise ValueError("`on` names a target, and belongs to features of kind history and rate")
        if self.window_s is not msgspec.UNSET and not (
            self.kind == "rate" and WINDOW_MIN_S <= self.window_s <= WINDOW_MAX_S
        ):
            raise ValueError(
                f"window_s must be {WINDOW_MIN_S:g} to {WINDOW_MAX_S:g} (a year), and belongs to kind rate"
            )
        if self.measure is not msgspec.UNSET and self.kind != "rate":
            raise ValueError("measure belongs to features of kind rate")
        smooths = self.kind == "rate" and self.measured == "rate"
        if self.smooth is not msgspec.UNSET and not (smooths and 0.0 <= self.smooth <= SMOOTH_MAX):
            raise ValueError(
                f"smooth must be 0 to {SMOOTH_MAX:g}, and belongs to kind rate with measure rate"
            )

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
        return 2 * self.dim if self.kind in ATTENDED and self.attention == "decoupled" else self.dim

    @property
    def described(self) -> tuple[str, ...]:
        """The features that `of` names."""
        return tuple(self.of) if isinstance(self.of, list) else (self.of,) if self.of else ()

    @property
    def describes(self) -> str:
        """The feature that it describes; "": none."""
        return self.of if self.kind in ATTRIBUTES and isinstance(self.of, str) else ""

    @property
    def held(self) -> str:
        """The feature whose ids are its values; "": none."""
        return self.of if self.kind in ATTENDED and isinstance(self.of, str) else ""

    @property
    def target(self) -> str:
        """Of a history or rate: the target that it is of; "": the first."""
        return "" if self.on is msgspec.UNSET else self.on

    @property
    def window(self) -> float:
        """Of a rate: its window in seconds."""
        return 0.0 if self.window_s is msgspec.UNSET else self.window_s

    @property
    def measured(self) -> Measure:
        """Of a rate: what it says."""
        return "rate" if self.measure is msgspec.UNSET else self.measure

    @property
    def smoothing(self) -> float:
        """Of a rate: how many candidates the mean of all is worth."""
        return SMOOTH if self.smooth is msgspec.UNSET else self.smooth

    @property
    def keeper(self) -> tuple[str, ...]:
        """The features whose ids have a history or rate each; empty: Freshet does not keep this feature."""
        if self.kind == "rate":
            return self.described
        return (self.by,) if self.kind == "history" and self.by is not msgspec.UNSET else ()

    @property
    def coordinates(self) -> tuple[str, str] | None:
        """The names of the two values that a geo feature is made of; None: its own value is a list of two."""
        if self.latitude is msgspec.UNSET or self.longitude is msgspec.UNSET:
            return None
        return self.latitude, self.longitude


def check_owners(features: Mapping[str, FeatureSpec]) -> None:
    """Check that each `of` that is no sequence's names a feature, and that they run in no circle.

    Raises:
        FeatureError: naming the feature and what was expected.
    """
    for name, spec in features.items():
        if not spec.describes or spec.kind not in ATTRIBUTES:
            continue
        owner = features.get(spec.describes)
        if owner is None:
            raise FeatureError(f"feature {name}: `of` is {spec.describes!r}, which is not declared")
        if owner.kind != "id" and spec.kind in ("id", "ids", "number", "age"):
            raise FeatureError(
                f"feature {name}: `of` is {spec.describes!r}, of kind {owner.kind}; only ids have "
                'attributes: expected a feature of kind "id"'
            )
        chain = [name]
        while (of := features[chain[-1]].describes) in features and features[chain[-1]].kind in ATTRIBUTES:
            chain.append(of)
            if of == name:
                raise FeatureError(
                    f"feature {name}: `of` runs in a circle, {' of '.join(chain)}; one of them must be in "
                    "the request: leave out its `of`"
                )
            if of in chain[:-1]:
                break  # a circle of others, which is found at them


def eviction_of(evict: Evict | None, rows_max: int, makes_room: bool) -> Evict:
    """The eviction of a table: as configured, or least recently used if `makes_room` and the table is not
    tiny."""
    if evict is not None:
        return evict
    return "least_recent" if makes_room and rows_max >= EVICT_ROWS_MIN else "none"
