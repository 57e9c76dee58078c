"""Values of a config: what they hold, and what they are called in messages."""

from collections.abc import Iterator, Mapping, Sequence

TYPES = {
    "float": "a number", "int": "an integer", "str": "text", "bool": "true or false",
    "array": "a list", "object": "a table", "null": "nothing",
}  # fmt: skip
"""The names of types in messages of msgspec, in words."""


def floats(value: object) -> Iterator[float]:
    """The floats in a value, however deep."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from floats(item)
    elif isinstance(value, Mapping):
        yield from floats(list(value.values()))


def dotted(path: Sequence[str]) -> str:
    """A key as a person writes it."""
    return ".".join(path)


def kind_of(value: object) -> str:
    """What a value is, in words."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")
