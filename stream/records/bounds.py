"""The limits of a record as types that the decoder checks, shared by events and HTTP bodies.

They are stricter than the rules, which do not look at features that nobody has declared. What they refuse is
therefore decoded again by `stream.records.decoding.Decoder`, which also says what is wrong.
"""

import sys
from typing import Annotated, Any

import msgspec

from stream.limits import (
    CANDIDATES_MAX,
    FEATURES_MAX,
    LONG_TEXT_MAX,
    REQUEST_ID_MAX,
    SCHEMA_VERSION,
    TEXT_MAX,
    TIME_MAX_S,
    TIME_MIN_S,
    VALUES_MAX,
    VECTOR_MAX,
)

BoundedRequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=REQUEST_ID_MAX)]
BoundedTime = Annotated[float, msgspec.Meta(ge=TIME_MIN_S, le=TIME_MAX_S)]
BoundedCandidate = Annotated[int, msgspec.Meta(ge=0, le=CANDIDATES_MAX - 1)]
BoundedVersion = Annotated[int, msgspec.Meta(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)]
BoundedProbability = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]  # NaN fits neither
BoundedText = Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]
Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


def bounded_features(id_type: Any, number_type: Any = Finite, content: bool = False) -> Any:
    """The type of one set of features whose integer ids and numbers are of these types.

    Any: msgspec takes types that are made while the program runs, mypy does not.

    Args:
        content: lists of numbers and long texts fit too, whatever the feature.
    """
    if content:
        listed = Annotated[list[id_type | number_type | BoundedText], msgspec.Meta(max_length=VECTOR_MAX)]
        text = Annotated[str, msgspec.Meta(max_length=LONG_TEXT_MAX)]
        return Annotated[
            dict[str, id_type | number_type | text | listed], msgspec.Meta(max_length=FEATURES_MAX)
        ]
    ids = Annotated[list[id_type | BoundedText], msgspec.Meta(max_length=VALUES_MAX)]
    return Annotated[
        dict[str, id_type | number_type | BoundedText | ids], msgspec.Meta(max_length=FEATURES_MAX)
    ]


def bounded_candidates(features: Any) -> Any:
    """The type of a request's candidates, given that of their features."""
    return Annotated[list[features], msgspec.Meta(min_length=1, max_length=CANDIDATES_MAX)]
