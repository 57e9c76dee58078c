"""Columns: which columns of the rows each declared feature has, and how its values fill them.

Most features have one column of their own name. Those of some kinds have several, each with its own table,
priors and pairs: a calendar has hour, weekday and hour of the week, so the priors decide which of them says
something. Columns of one feature make no pairs with each other.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import log2
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from learner.errors import FeatureError
from learner.features import calendar, content, geo
from learner.features.known.columns import known_columns
from learner.features.known.given import GivenHistory, GivenRate, given_in, value_names
from learner.features.spec import KNOWN, FeatureSpec
from learner.features.values import Values, read_ids, read_lists
from stream.records.fields import Declared
from stream.records.id_types import declared_of
from stream.records.types import Example, Features, Value

SEVERAL = ("text", "vector", "calendar", "geo")
"""Kinds with more than one column."""
UNPAIRED = ("number", "age", "sequence", "place")
"""Kinds that make no pairs."""
NUMBERS = ("number", "age")
"""Kinds that are read as a number: three buckets, and one input of the deep part."""
ENTRIES_MAX = 1 << 23
"""Limit of entries (features and pairs, 16 bytes each) of a request. 2,000 candidates with 90 values each
fit."""

PLACES = 16
"""The first places are told apart, one by one; beyond them, two classes to each doubling."""

Part = tuple[str, Literal["id", "ids"], bool, bool]
"""The name behind the feature's, the kind of its table, whether the deep part sees it, whether it pairs."""


class ModelColumn(NamedTuple):
    """One column of the rows."""

    name: str
    feature: int  # the number of its feature among those declared
    spec: FeatureSpec  # of its table
    dim: int  # of its embedding; 0: the deep part does not see it
    pairs: bool
    words: int = 0  # of a row of what Freshet keeps itself, which has no weights


def columns_of(features: Mapping[str, FeatureSpec]) -> list[ModelColumn]:
    """The columns of a schema, in its order.

    Raises:
        FeatureError: a column of one feature has the name of another.
    """
    found: list[ModelColumn] = []
    for f, (name, spec) in enumerate(features.items()):
        if spec.kind in KNOWN:
            for known in known_columns(spec):
                full = f"{name}.{known.part}" if known.part else name
                _check_name(features, name, spec, full)
                dim = spec.dim if known.deep else 0
                found.append(ModelColumn(full, f, known.spec, dim, False, known.words))
            continue
        if spec.kind not in SEVERAL:
            dim = 0 if spec.kind == "place" else spec.dim
            found.append(ModelColumn(name, f, spec, dim, spec.pairs and spec.kind not in UNPAIRED))
            continue
        for part, kind, deep, pairs in _PARTS[spec.kind]:
            own = msgspec.structs.replace(spec, kind=kind, counts=False, length=1, of="", **_UNSET)
            full = f"{name}.{part}" if part else name
            _check_name(features, name, spec, full)
            found.append(ModelColumn(full, f, own, spec.dim if deep else 0, spec.pairs and pairs))
    return found


def _check_name(features: Mapping[str, FeatureSpec], name: str, spec: FeatureSpec, full: str) -> None:
    if full != name and full in features:
        raise FeatureError(
            f"feature {full} has the name of a column of feature {name}, of kind {spec.kind}; rename one"
        )


def directions_of(spec: FeatureSpec) -> int:
    """How many directions a vector is projected on."""
    return content.DIRECTIONS if spec.directions is msgspec.UNSET else spec.directions


def reader_of(name: str, spec: FeatureSpec) -> Callable[[Sequence[Value | None]], list[Values]]:
    """`read_columns` of one feature. Vectors of entities, which are the same lists each time, are kept."""
    known = spec.kind == "vector" and spec.describes and spec.length > directions_of(spec)
    cached = content.VectorCache(name, spec.length, directions_of(spec)) if known else None
    return partial(read_columns, name, spec, cached=cached)


def read_columns(
    name: str, spec: FeatureSpec, values: Sequence[Value | None], cached: content.VectorCache | None = None
) -> list[Values]:
    """The entries of n rows in each column of a feature that is neither a number nor a sequence.

    Args:
        values: (n,), of its declared type; None where a row has none.
        cached: of the feature.

    Raises:
        FeatureError: a value is not of the feature's kind.
    """
    if spec.kind == "text":
        return [content.read_texts(name, values)]
    if spec.kind == "vector":
        if cached is not None:
            return cached.read(values)
        vectors = content.read_vectors(name, spec.length, values)
        codes = [content.codes(vectors, bits) for bits in content.CODE_BITS]
        return [content.coordinates(vectors, spec.length, directions_of(spec)), *codes]
    if spec.kind == "calendar":
        zone = "UTC" if spec.zone is msgspec.UNSET else spec.zone
        return calendar.read_calendar(name, zone, values)
    if spec.kind == "geo":
        return geo.read_places(name, values)
    return [read_lists(name, spec.kind, values) if spec.kind == "ids" else read_ids(name, spec.kind, values)]


def check_size(
    sizes: npt.NDArray[np.int64], values: npt.NDArray[np.int64], pairs: Sequence[tuple[int, int]]
) -> None:
    """Refuse a request with too many entries: pairs of long context lists multiply, for each candidate.

    Args:
        sizes: (R,), candidates of each request.
        values: (F, n), the number of values of each candidate and feature.
        pairs: the features that make them.

    Raises:
        FeatureError: naming how many there would be.
    """
    entries = values.sum(axis=0)  # (n,)
    if (entries + entries * (entries - 1) // 2).sum() <= ENTRIES_MAX:
        return
    for left, right in pairs:
        entries = entries + values[left] * values[right]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    for begin, end in itertools.pairwise(bounds):
        if (size := int(entries[begin:end].sum())) > ENTRIES_MAX:
            raise FeatureError(
                f"the lists of {end - begin} candidates and their pairs make {size:,} entries, "
                f"over the limit of {ENTRIES_MAX:,} for one request; send fewer candidates or shorter "
                "lists, or declare `pairs = false` for the lists' features"
            )


def places_shown(request: object, candidates: int) -> list[int | None]:
    """Where each candidate of a request was shown (n,), in classes that widen from `PLACES` on; None for the
    first place, and for all of a request that is to be scored: it is scored as if each candidate came first.
    """
    if not isinstance(request, Example):
        return [None] * candidates
    places = range(candidates) if request.place is None else request.place
    return [_class_of_place(place) for place in places]


def _class_of_place(place: int) -> int | None:
    if place < PLACES:
        return place or None
    return PLACES + int(2.0 * log2(place / PLACES))


def names_of_values(name: str, spec: FeatureSpec) -> tuple[str, ...]:
    """The names of the values of a request that a feature is read from."""
    return value_names(name, spec.kind) if spec.kind in KNOWN else spec.coordinates or (name,)


def value_of(name: str, spec: FeatureSpec, values: Features) -> Value | GivenHistory | GivenRate | None:
    """A feature's value among those of a request or candidate; None: it has none."""
    if spec.kind in KNOWN:
        return given_in(name, spec.kind, values)
    if spec.coordinates is None:
        return values.get(name)
    latitude, longitude = map(values.get, spec.coordinates)
    if not (isinstance(latitude, int | float) and isinstance(longitude, int | float)):
        return latitude if longitude is not None else None  # what is no number is refused where it is read
    return [latitude, longitude]


def declared_by(features: Mapping[str, FeatureSpec]) -> Declared:
    """What the decoders of records need to know of a schema."""
    return declared_of(features)


_UNSET = dict.fromkeys(("zone", "directions", "latitude", "longitude"), msgspec.UNSET)
_CODES: list[Part] = [(f"code{bits}", "id", False, True) for bits in content.CODE_BITS]
_PARTS: dict[str, list[Part]] = {
    "text": [("", "ids", True, True)],
    "vector": [("", "ids", True, True), *_CODES],
    "calendar": [(part, "id", part != "week", part != "week") for part in calendar.PARTS],
    "geo": [(part, "id", part == "city", part != "street") for part in geo.PARTS],
}
