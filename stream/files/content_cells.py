"""Cells of vectors and texts: a CSV file does not say that a column is one, the declared features do."""

import re
from collections.abc import Callable, Collection

from stream.files.columns import Convert, DataSettings, number_reader, typed_converter
from stream.files.times import Cell
from stream.records.fields import Declared
from stream.records.types import Value


def takes_of(settings: DataSettings, declared: Collection[str] | None) -> Callable[[str], tuple[bool, bool]]:
    """Whether a feature takes (lists of numbers, long texts), by its name."""
    known = declared if isinstance(declared, Declared) else Declared(())

    def takes(name: str) -> tuple[bool, bool]:
        vector, text = known.takes(name)
        return vector or settings.types.get(name) == "vector", text

    return takes


def content_converters(settings: DataSettings, declared: Collection[str] | None) -> dict[str, Convert]:
    """Converters for the features that are known to be vectors or texts, whatever their cells look like."""
    number = number_reader(settings.decimal, settings.thousands)
    separator = settings.list_separator
    found: dict[str, Convert] = {
        name: vector_reader(separator, number) for name, kind in settings.types.items() if kind == "vector"
    }
    if isinstance(declared, Declared) and declared.any_content:
        for name in set(declared).difference(settings.types):
            vector, text = declared.takes(name)
            if vector or text:
                found[name] = (
                    vector_reader(separator, number) if vector else typed_converter("text", separator)
                )
    return found


def vector_reader(separator: str, number: Convert) -> Convert:
    """A converter of cells to lists of numbers: text, or lists as they are."""

    def read(cell: Cell) -> Value:
        return (
            to_numbers(cell, separator, number) if isinstance(cell, str) else typed_converter(None, "")(cell)
        )

    return read


def to_numbers(text: str, separator: str, number: Convert) -> list[int | float | str]:
    """Split text into a list of numbers: at the separator, or at commas and spaces, with or without brackets.

    >>> [to_numbers(text, "|", float) for text in ("[0.5, -1]", "0.5|-1", "0.5 -1")]
    [[0.5, -1.0], [0.5, -1.0], [0.5, -1.0]]
    """
    inner = text.strip().strip("[]()")
    parts = inner.split(separator) if separator in inner else re.split(r"[,;\s]+", inner)
    numbers: list[int | float | str] = []
    for part in parts:
        if part.strip():
            value = number(part.strip())
            assert isinstance(value, float)
            numbers.append(value)
    return numbers
