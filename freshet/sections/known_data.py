"""Configs of data whose columns are known, as plain tables."""

from typing import Any

_MOVIES: dict[str, Any] = {
    "features": {
        "user": {"kind": "id"},
        "movie": {"kind": "id"},
        "genres": {"kind": "ids"},
        "hour": {"kind": "hour"},
    },
    "learner": {"group_by": "user"},
}
KNOWN_DATA: dict[str, dict[str, Any]] = {
    "movietweetings": {**_MOVIES, "data": {"format": "movietweetings"}},
    "movielens": {**_MOVIES, "data": {"format": "movielens"}},
    "simulator": {
        "features": {
            "user": {"kind": "id"},
            "item": {"kind": "id"},
            "segment": {"kind": "id"},
            "category": {"kind": "id"},
            "age": {"kind": "id"},
            "device": {"kind": "id"},
            "hour": {"kind": "hour"},
        },
        "learner": {"group_by": "user"},
    },
}
