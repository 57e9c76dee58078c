"""Events with NumPy values: their scalars and arrays become Python's numbers, texts and lists."""

import msgspec
import numpy as np

from stream.errors import RecordError
from stream.records.entities.record import AnyEvent


def without_numpy(event: AnyEvent) -> AnyEvent | None:
    """The event with plain values in place of NumPy's; None if it has none.

    Raises:
        RecordError: it also has a value of a type that no record has.

    >>> from stream.records.types import Action
    >>> without_numpy(Action("r", 1e9, np.int64(2))).candidate
    2
    """
    found = False

    def plain(value: object) -> object:
        nonlocal found
        if not isinstance(value, np.generic | np.ndarray):
            raise TypeError(f"objects of type {type(value).__name__} are unsupported")
        found = True
        return value.tolist()

    try:
        builtins = msgspec.to_builtins(event, enc_hook=plain)
        return msgspec.convert(builtins, type(event)) if found else None
    except (TypeError, msgspec.ValidationError) as error:
        if not found:
            return None
        raise RecordError(f"the event cannot be sent: {error}; expected plain Python values") from None
