"""Values of a config: what they hold, and what they are called in messages."""

import math
from collections.abc import Mapping, Sequence

TYPES = {
    "float": "a number", "int": "an integer", "str": "text", "bool": "true or false",
    "array": "a list", "object": "a table", "null": "nothing",
}  # fmt: skip
"""The names of types in messages of msgspec, in words."""


INTEGER_MAX = (1 << 63) - 1
"""The largest of TOML, which Python's reader of it does not keep to."""


def is_finite(value: object) -> bool:
    """Whether all numbers in a value, however deep, are finite, and integers have 64 bits."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -INTEGER_MAX <= value <= INTEGER_MAX
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return not isinstance(value, Mapping) or all(map(is_finite, value.values()))


def dotted(path: Sequence[str]) -> str:
    """A key as a person writes it."""
    return ".".join(path)


def kind_of(value: object) -> str:
    """What a value is, in words."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")
