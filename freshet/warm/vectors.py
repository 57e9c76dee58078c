"""Files of vectors: Parquet, npy with ids, or an embedding of a torch checkpoint with its vocabulary."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from freshet.errors import WarmError
from ground import UNDECODABLE
from learner.deep.checkpoint import read_checkpoint
from learner.errors import NetworkError

TORCH_ENDINGS = (".pt", ".pth", ".ckpt", ".bin")

Ids = Sequence[int | str]
Floats = npt.NDArray[np.float32]


class Vectors(NamedTuple):
    """A vector for each of n ids; an id may be there several times."""

    where: str  # for messages
    ids: Ids  # (n,)
    values: Floats  # (n, dim)


def read_vectors(text: str, folder: Path) -> Vectors:
    """Read `FILE`, `FILE,IDS` or `FILE#TENSOR,IDS`.

    Args:
        text: FILE is Parquet with one column of ids and one of lists of numbers; or .npy of (n, dim) with
            IDS; or a torch checkpoint, of which TENSOR (n, dim) is an embedding, with IDS, its vocabulary.
            IDS is .npy, .txt with one id a line, or .json: a list, or an object from id to row.
        folder: where relative paths start.

    Raises:
        WarmError: a file cannot be read, or holds something else.
    """
    first, _, ids_name = text.partition(",")
    name, _, tensor = first.partition("#")
    file = folder / name
    if file.suffix == ".parquet":
        if ids_name or tensor:
            raise WarmError(f"{text}: a Parquet file holds its ids itself; name it alone")
        return _of_parquet(file)
    if file.suffix == ".npy":
        values = read_npy(file)
    elif file.suffix in TORCH_ENDINGS:
        values = _tensor_of(file, tensor)
    else:
        raise WarmError(
            f"{file}: expected .parquet, .npy, or a torch checkpoint ({', '.join(TORCH_ENDINGS)})"
        )
    if not ids_name:
        raise WarmError(f"{text}: name the file of the vectors' ids too: {text},IDS (.npy, .txt or .json)")
    if values.ndim != 2 or values.dtype.kind != "f":
        raise WarmError(f"{file}: holds {values.dtype} of shape {values.shape}; expected floats (n, dim)")
    return _with_ids(first, values, folder / ids_name)


def read_state_dict(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a torch state_dict, or of an .npz file, by name.

    Raises:
        WarmError: the file cannot be read, or holds something else.
        TorchMissingError: torch is not installed.
    """
    if file.suffix == ".npz":
        try:
            with np.load(file, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (OSError, ValueError) as error:
            raise WarmError(f"{file}: cannot be read: {error}") from None
    try:
        return read_checkpoint(file)
    except NetworkError as error:
        raise WarmError(str(error)) from None


def read_npy(file: Path) -> npt.NDArray[np.generic]:
    """The array of an .npy file.

    Raises:
        WarmError: it cannot be read, or holds Python objects.
    """
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WarmError(f"{file}: cannot be read: {error}") from None
    if not isinstance(found, np.ndarray):
        raise WarmError(f"{file}: holds no array")
    return found


def _of_parquet(file: Path) -> Vectors:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise WarmError(f"{file}: cannot be read: {_short(error)}") from None
    lists = [f.name for f in table.schema if _is_vector(f.type)]
    singles = [f.name for f in table.schema if pa.types.is_integer(f.type) or _is_text(f.type)]
    lists = ["vector"] if "vector" in lists else lists
    singles = ["id"] if "id" in singles else singles
    if len(lists) != 1 or len(singles) != 1:
        columns = ", ".join(f"{f.name} ({f.type})" for f in table.schema)
        raise WarmError(
            f"{file}: its columns are {columns}; expected one column of ids (integers or text) and one of "
            "lists of numbers (called id and vector if there are several)"
        )
    ids, vectors = table.column(singles[0]), table.column(lists[0]).combine_chunks()
    if ids.null_count or vectors.null_count:
        raise WarmError(f"{file}: an id or a vector is missing")
    flat = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    n = len(vectors)
    widths = {len(flat) // n} if n else {0}
    if not pa.types.is_fixed_size_list(vectors.type) and n:
        widths = set(np.diff(vectors.offsets.to_numpy()).tolist())
    if len(widths) != 1:
        raise WarmError(
            f"{file}: its vectors have {min(widths)} to {max(widths)} numbers; expected one width"
        )
    return Vectors(str(file), ids.to_pylist(), flat.reshape(n, widths.pop()))


def _is_vector(kind: pa.DataType) -> bool:
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return nested and pa.types.is_floating(kind.value_type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _tensor_of(file: Path, name: str) -> npt.NDArray[np.generic]:
    found = read_state_dict(file)
    matrices = [key for key, value in found.items() if value.ndim == 2]
    if not name and len(matrices) == 1:
        name = matrices[0]
    if name not in found:
        raise WarmError(
            f"{file}: {f'has no tensor {name!r}' if name else 'say which of its tensors is the embedding'}: "
            f"FILE#TENSOR,IDS; its matrices are {', '.join(matrices[:20]) or 'none'}"
        )
    return found[name]


def _with_ids(where: str, values: npt.NDArray[np.generic], file: Path) -> Vectors:
    found = _read_ids(file)
    rows = np.arange(len(found))
    ids: Ids = list(found)
    if isinstance(found, dict):
        ids, rows = list(found), np.array(list(found.values()), dtype=np.int64)
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(values)):
        raise WarmError(
            f"{file}: names row {max(rows.max(), -rows.min())}, but {where} has rows 0 to {len(values) - 1}"
        )
    if not isinstance(found, dict) and len(found) != len(values):
        raise WarmError(f"{file}: has {len(found):,} ids for the {len(values):,} vectors of {where}")
    return Vectors(where, ids, np.ascontiguousarray(values[rows], dtype=np.float32))


def _read_ids(file: Path) -> list[int | str] | dict[str, int]:
    if file.suffix == ".npy":
        array = read_npy(file)
        if array.ndim != 1 or array.dtype.kind not in "iuU":
            raise WarmError(f"{file}: holds {array.dtype} of shape {array.shape}; expected ids (n,)")
        ids: list[int | str] = array.tolist()
        return ids
    try:
        if file.suffix == ".txt":
            return list(file.read_text(encoding="utf-8-sig").splitlines())
        if file.suffix == ".json":
            return msgspec.json.decode(file.read_bytes(), type=list[int | str] | dict[str, int])
    except (OSError, ValueError, *UNDECODABLE) as error:
        raise WarmError(f"{file}: cannot be read as ids: {error}") from None
    raise WarmError(f"{file}: expected ids as .npy, .txt (one a line) or .json (a list, or id to row)")


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
