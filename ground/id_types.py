"""What a feature's ids are declared to be, since the integer 3 and the text "3" are two ids."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from ground.errors import FreshetError

IdType = Literal["int", "text"]
"""What a feature's ids are, where the schema says so."""

_DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,19}", re.ASCII)
"""An integer as it is written in one way only: "007" and "+7" may mean something else than 7."""
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
"""The integers that have keys."""


def is_plain_integer(text: str) -> bool:
    """Whether a text is the plain decimal form of an integer of 64 bits.

    >>> is_plain_integer("-4"), is_plain_integer("007")
    (True, False)
    """
    return _DECIMAL.fullmatch(text) is not None and _INT_MIN <= int(text) <= _INT_MAX


def ids_of_type(name: str, kind: str, type_: IdType, values: Sequence[Any]) -> list[Any]:
    """A feature's ids as its declared type: for "int" decimal text becomes the integer that it writes, for
    "text" an integer becomes its decimal text. None stays None.

    >>> ids_of_type("item", "id", "int", ["3", 3]), ids_of_type("item", "id", "text", ["3", 3])
    ([3, 3], ['3', '3'])

    Raises:
        FreshetError: a value is of neither type, or for "int" a text that is no decimal integer of 64 bits.
    """
    found: list[Any] = []
    for value in values:
        given = type(value)  # exact: a bool is no id
        if given is int and _INT_MIN <= value <= _INT_MAX:
            found.append(value if type_ == "int" else str(value))
        elif value is None or (given is str and type_ == "text"):
            found.append(value)
        elif given is str and is_plain_integer(value):
            found.append(int(value))
        else:
            digits = "an integer of 64 bits, or its decimal digits as text"
            expected = digits if type_ == "int" else "text, or an integer of 64 bits"
            raise FreshetError(
                f"feature {name} (kind {kind}) has the value {str(value)[:80]!r} of type "
                f'{given.__name__}; expected {expected} (type = "{type_}")'
            )
    return found
