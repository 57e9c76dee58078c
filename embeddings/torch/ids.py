"""The forms in which a batch's ids may come, read into 64-bit keys and the limits of bags."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from embeddings.errors import TableInputError
from embeddings.types import Keys
from ground.keys import string_keys

_MASK = (1 << 64) - 1
Ints = npt.NDArray[np.int64]


class Jagged(NamedTuple):
    """Lists of ids of n rows, one behind the other: row r has the ids offsets[r] to offsets[r + 1].

    `weights`, one per id, are factors of the vectors; they may require a gradient.
    """

    values: object  # (k,) integers or text
    offsets: object  # (n + 1,) integers, from 0 to k
    weights: torch.Tensor | None = None  # (k,)


class Padded(NamedTuple):
    """Lists of ids of n rows in a matrix: an id counts where `mask` is true."""

    ids: object  # (n, L) integers or text
    mask: object  # (n, L) bool
    weights: torch.Tensor | None = None  # (n, L)


class _Nested(Protocol):
    def values(self) -> torch.Tensor: ...
    def offsets(self) -> torch.Tensor: ...


class IdLists(NamedTuple):
    """The ids of n rows, as the kernels take them."""

    keys: Keys  # (k,)
    start: Ints  # (n + 1,)
    weights: torch.Tensor | None  # (k,)


def string_ids(texts: Sequence[str]) -> torch.Tensor:
    """The ids of texts as a tensor (n,) of int64, for example in a DataLoader's worker (`collate_fn`).

    A module takes such a tensor for the same ids as the texts themselves, and faster.

    >>> string_ids(["tea", "coffee"]).dtype
    torch.int64
    """
    return torch.from_numpy(keys_of("string_ids", list(texts))[0].view(np.int64))


def keys_of(where: str, ids: object) -> tuple[Keys, tuple[int, ...]]:
    """The keys of ids, flat, and the shape in which they came.

    Integers keep all 64 bits: a negative int64 is the key of its two's complement. Text is hashed to 64 bits.
    The keys are a copy: the caller may change its tensor before `backward`.

    Raises:
        TableInputError: ids are neither whole numbers nor text.
    """
    if isinstance(ids, torch.Tensor):
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise _no_ids(where, f"a tensor of {ids.dtype}")
        if ids.device.type == "meta" or ids.layout != torch.strided or ids.is_quantized:
            kind = "that has no data (meta)" if ids.device.type == "meta" else f"of {ids.layout}, {ids.dtype}"
            raise _no_ids(where, f"a tensor {kind}")
        ids = ids.detach().cpu().numpy()
    array = ids if isinstance(ids, np.ndarray) else _array(where, ids)
    if isinstance(array, np.ma.MaskedArray):
        raise _no_ids(where, "a masked array; Padded takes a mask")
    if array.dtype.kind == "i":
        keys = array.astype(np.int64).reshape(-1).view(np.uint64)
    elif array.dtype.kind == "u":
        keys = array.astype(np.uint64).reshape(-1)
    elif array.dtype.kind in "UO":
        texts = array.reshape(-1).tolist()
        if not all(isinstance(text, str) for text in texts):
            other = next(text for text in texts if not isinstance(text, str))
            raise _no_ids(where, f"{other!r} among text")
        try:
            keys = string_keys(texts)
        except UnicodeEncodeError as error:
            raise _no_ids(
                where, f"{error.object[:60]!r}, which is no Unicode text ({error.reason})"
            ) from None
    else:
        raise _no_ids(where, f"an array of {array.dtype}")
    return keys, array.shape


def _array(where: str, ids: object) -> npt.NDArray[np.generic]:
    """A list of ids, or a list of equally long lists, as an array."""
    if isinstance(ids, np.integer | np.str_):
        return np.asarray(ids)
    if isinstance(ids, str | int) and not isinstance(ids, bool):
        return _array(where, [ids]).reshape(())
    if not isinstance(ids, list | tuple):
        raise _no_ids(where, f"a {type(ids).__name__}")
    if not ids:
        return np.zeros(0, dtype=np.int64)
    if all(isinstance(i, str) for i in ids):
        return np.array(ids, dtype=object)
    if all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        if not all(-(1 << 63) <= i <= _MASK for i in ids):
            raise _no_ids(where, "an integer beyond 64 bits")
        return np.fromiter((i & _MASK for i in ids), dtype=np.uint64, count=len(ids))
    if all(isinstance(i, list | tuple) for i in ids) and len({len(i) for i in ids}) == 1:
        return np.stack([_array(where, i) for i in ids])
    raise _no_ids(where, f"a list with {next(i for i in ids if not isinstance(i, str | int) or i is True)!r}")


def _no_ids(where: str, what: str) -> TableInputError:
    return TableInputError(
        f"{where}: ids must be whole numbers of 64 bits or text, not {what}; a float cannot hold every id: "
        "convert where the ids come from"
    )


def lists_of(where: str, ids: object, padding_idx: int | None) -> IdLists:
    """Read the ids of n rows in any form: one per row, padded, jagged, nested, or lists of lists.

    Args:
        where: the feature, for messages.
        padding_idx: in a matrix, this id counts as none; not in `Padded` and `Jagged`.

    Raises:
        TableInputError: they are no ids, or their parts do not fit together.
    """
    weights = None
    if isinstance(ids, torch.Tensor) and ids.is_nested:
        ids = jagged(ids)
    elif isinstance(ids, list) and ids and all(isinstance(row, list | tuple) for row in ids):
        ends = np.cumsum([len(row) for row in ids], dtype=np.int64)
        ids = Jagged([i for row in ids for i in row], np.concatenate([np.zeros(1, dtype=np.int64), ends]))
    if isinstance(ids, Jagged):
        keys, shape = keys_of(where, ids.values)
        _check_weights(where, ids.weights, shape)
        return IdLists(keys, _start(where, ids.offsets, len(keys)), ids.weights)
    if isinstance(ids, Padded):
        keys, shape = keys_of(where, ids.ids)
        mask = as_mask(where, ids.mask, shape)
        weights = ids.weights
        _check_weights(where, weights, shape)
    else:
        keys, shape = keys_of(where, ids)
        mask = unpadded(keys, padding_idx).reshape(shape)
    if len(shape) == 1:
        mask, shape = mask[:, None], (shape[0], 1)
    if len(shape) != 2:
        raise TableInputError(f"{where}: ids must be (n,) or (n, L), not of shape {shape}")
    if mask.all():
        start = np.arange(shape[0] + 1, dtype=np.int64) * shape[1]
        return IdLists(keys, start, None if weights is None else weights.reshape(-1))
    start = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(mask.sum(axis=1), out=start[1:])
    kept = mask.reshape(-1)
    if weights is not None:
        weights = weights.reshape(-1)[torch.from_numpy(kept).to(weights.device)]
    return IdLists(keys[kept], start, weights)


def jagged(nested: torch.Tensor) -> Jagged:
    """The parts of a nested tensor.

    Raises:
        TableInputError: its layout is not torch.jagged.
    """
    if nested.layout != torch.jagged:
        raise TableInputError("nested tensors of ids must have the layout torch.jagged")
    parts = cast(_Nested, nested)  # torch's own types leave these methods out
    return Jagged(parts.values(), parts.offsets())


def unpadded(keys: Keys, padding_idx: int | None) -> npt.NDArray[np.bool_]:
    """Which keys (k,) are ids, and not padding."""
    if padding_idx is None:
        return np.ones(len(keys), dtype=np.bool_)
    return keys != np.uint64(padding_idx & _MASK)


def as_mask(where: str, mask: object, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """A mask of the ids' shape.

    Raises:
        TableInputError: it has another shape or type.
    """
    array = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if array.dtype != np.bool_ or array.shape != shape:
        raise TableInputError(
            f"{where}: mask must be bool of shape {shape}, as the ids, not {array.dtype} of shape "
            f"{array.shape}"
        )
    return array


def _start(where: str, offsets: object, k: int) -> Ints:
    """The limits of bags."""
    array = offsets.detach().cpu().numpy() if isinstance(offsets, torch.Tensor) else np.asarray(offsets)
    fits = array.ndim == 1 and len(array) and array.dtype.kind in "iu" and array[0] == 0 and array[-1] == k
    if not fits or (np.diff(array.astype(np.int64)) < 0).any():
        raise TableInputError(
            f"{where}: offsets must be (n + 1,) integers, never decreasing, from 0 to the number of ids, {k}"
        )
    return np.require(array, dtype=np.int64, requirements=["C", "W"])


def _check_weights(where: str, weights: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    if weights is None:
        return
    if not isinstance(weights, torch.Tensor) or not weights.is_floating_point() or weights.shape != shape:
        raise TableInputError(f"{where}: weights must be a tensor of floats of shape {shape}, one per id")


def times_of(where: str, times: object) -> npt.NDArray[np.float64]:
    """Event times as an array."""
    array = times.detach().cpu().numpy() if isinstance(times, torch.Tensor) else np.asarray(times)
    if array.dtype.kind not in "iuf":
        raise TableInputError(f"{where}: times must be numbers, Unix seconds, not {array.dtype}")
    return array.astype(np.float64)
