"""The error memory: corrects a served model by the errors that the model has not learned from yet.

It wraps any model that outputs a probability:

    >>> import numpy as np
    >>> from error_memory import MemorySettings, keys_of, make_memory
    >>> memory = make_memory(MemorySettings(), columns=2)
    >>> keys = keys_of(["ann", "ann"], [1, 2])  # one request: two candidates, two fields
    >>> base = np.array([0.1, 0.1])             # the model's predictions
    >>> for position in range(300):
    ...     _ = memory.observe(keys, base, [1, 0], position)
    >>> corrected = memory.correct(keys, base)
    >>> bool(corrected[0] > 0.5 > corrected[1])
    True
    >>> memory.advance(299)                                 # now a model is served that has learned all of it
    >>> memory.correct(keys, base).tolist()
    [0.1, 0.1]
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from error_memory.errors import MemoryInputError, MemorySettingsError, MemoryStateError
    from error_memory.keys import keys_of
    from error_memory.make import make_memory
    from error_memory.protocol import ErrorMemory, Explained, Keys
    from error_memory.settings import MemorySettings

_HOMES = {
    "ErrorMemory": "protocol",
    "Explained": "protocol",
    "Keys": "protocol",
    "MemoryInputError": "errors",
    "MemorySettings": "settings",
    "MemorySettingsError": "errors",
    "MemoryStateError": "errors",
    "keys_of": "keys",
    "make_memory": "make",
}

__all__ = [
    "ErrorMemory",
    "Explained",
    "Keys",
    "MemoryInputError",
    "MemorySettings",
    "MemorySettingsError",
    "MemoryStateError",
    "keys_of",
    "make_memory",
]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must not pay for numba to print its help."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"error_memory.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'error_memory' has no attribute {name!r}")
