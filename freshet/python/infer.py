"""The features of rows for which nobody declared any: found as `freshet init` finds those of a file."""

import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from freshet.config import parse_config
from freshet.errors import ModelError
from freshet.init.command import make_config
from freshet.python.rows import Row, plain
from ground import FreshetError
from learner.features.spec import FeatureSpec

ROWS_MAX = 20_000
"""Rows that are looked at."""

Kind = Literal["id", "ids", "number"]

_LABEL = "label_of_the_row"


def find_features(
    rows: Iterable[Row], labels: Iterable[float], not_features: frozenset[str]
) -> Mapping[str, FeatureSpec]:
    """The features of rows, each one candidate, by a look at their values and labels.

    Args:
        not_features: columns that are something else.

    Raises:
        ModelError: no feature was found.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("wb") as file:
            for row, label in zip(rows, labels, strict=False):
                cells: dict[str, object] = {
                    name: plain(value) for name, value in row.items() if name not in not_features
                }
                file.write(msgspec.json.encode({**cells, _LABEL: int(label)}, enc_hook=str) + b"\n")
        try:
            text, _ = make_config(path, None, _LABEL, 1.0)
            return parse_config(tomllib.loads(text), "the rows").features
        except FreshetError as error:
            raise ModelError(
                f"no features could be found in the rows ({error}); declare them: "
                'Model(features={"NAME": {"kind": "id"}})'
            ) from None


def features_by_type(rows: Iterable[Row]) -> dict[str, FeatureSpec]:
    """The features of rows by the types of their values alone, sorted by name.

    Numbers are of kind number; text and booleans of kind id; lists and sets of kind ids. What has values of
    several kinds, or of none of these, is left out.
    """
    kinds: dict[str, set[Kind | None]] = {}
    for row in rows:
        for name, value in row.items():
            value = plain(value)
            if value is not None:
                kinds.setdefault(str(name), set()).add(_kind_of(value))
    return {
        name: FeatureSpec(kind=kind)
        for name, (kind, *others) in ((name, list(kinds[name])) for name in sorted(kinds))
        if kind is not None and not others
    }


def _kind_of(value: object) -> Kind | None:
    if isinstance(value, bool | str):
        return "id"
    if isinstance(value, int | float):
        return "number"
    return "ids" if isinstance(value, list) else None
