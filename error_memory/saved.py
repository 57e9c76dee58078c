"""Saved memories: settings and named arrays in one checked byte string.

Layout: magic, xxh3 of the rest, then one MessagePack map {settings, columns, arrays}.
"""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from error_memory.errors import MemoryStateError
from error_memory.settings import MemorySettings

_MAGIC = b"freshet.memory.4"


class _Saved(msgspec.Struct, frozen=True):
    settings: dict[str, Any]  # values of any type that a setting may have
    columns: int
    arrays: dict[str, tuple[str, list[int], bytes]]  # name: (dtype, shape, bytes)


def pack(settings: MemorySettings, columns: int, arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """The arrays and their settings as bytes."""
    body = msgspec.msgpack.encode(
        _Saved(
            settings=msgspec.to_builtins(settings),
            columns=columns,
            arrays={name: (a.dtype.str, list(a.shape), a.tobytes()) for name, a in arrays.items()},
        )
    )
    return _MAGIC + xxhash.xxh3_64_digest(body) + body


def unpack(saved: bytes, settings: MemorySettings, columns: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `pack`, writable.

    Raises:
        MemoryStateError: not a saved memory, damaged, or saved under other settings.
    """
    head = len(_MAGIC) + 8
    if len(saved) < head or saved[: len(_MAGIC)] != _MAGIC:
        raise MemoryStateError("these bytes are not a saved error memory of this version; start without them")
    body = saved[head:]
    if xxhash.xxh3_64_digest(body) != saved[len(_MAGIC) : head]:
        raise MemoryStateError("the saved error memory is damaged (its checksum differs); start without it")
    state = msgspec.msgpack.decode(body, type=_Saved)
    here = msgspec.msgpack.decode(msgspec.msgpack.encode(msgspec.to_builtins(settings)))
    for name in sorted(here.keys() | state.settings.keys()):
        if here.get(name) != state.settings.get(name):
            raise MemoryStateError(
                f"the error memory was saved with {name} = {state.settings.get(name)}, this one has "
                f"{here.get(name)}: set it back, or start without the saved memory"
            )
    if state.columns != columns:
        raise MemoryStateError(
            f"the error memory was saved for {state.columns} columns, this one has {columns}: "
            f"the features have changed; start without the saved memory"
        )
    return {
        name: np.frombuffer(data, dtype=np.dtype(dtype)).reshape(shape).copy()
        for name, (dtype, shape, data) in state.arrays.items()
    }
