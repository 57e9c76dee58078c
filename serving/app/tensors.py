"""Tensors of the Open Inference Protocol (v2): as JSON, and as the binary extension lays them out.

A request or answer with binary tensors is a JSON document, whose length the header
`Inference-Header-Content-Length` gives, followed by the raw bytes of the tensors in their order. Numbers are
little-endian and row-major; each element of BYTES has its length before it, as 4 bytes.
"""

import struct
from math import prod
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ground import UNDECODABLE
from serving.errors import RequestError

HEADER = b"inference-header-content-length"
BINARY = b"application/octet-stream"
KINDS: dict[str, str] = {
    "BOOL": "?",
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
"""numpy's types by the protocol's names; BYTES is text."""
DIMENSIONS_MAX = 2

Parameter = bool | int | float | str
Parameters = dict[str, Parameter | None]  # None: as if it were not there
Values = list[Parameter]
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]

_LISTS: dict[str, tuple[object, object]] = {
    "BYTES": (list[str], list[list[str]]),
    "BOOL": (list[bool], list[list[bool]]),
    "FP": (list[float], list[list[float]]),
    "INT": (list[int], list[list[int]]),
}
"""What a tensor's JSON data may be, flat or by rows."""


class TensorInput(msgspec.Struct, frozen=True):
    """One input: a feature's values for n candidates, or one value for all of them."""

    name: str
    shape: list[Size]
    datatype: str
    parameters: Parameters | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # absent: binary, behind the JSON


class TensorOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """One output of an answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Parameter] = {}
    data: list[float | int] | None = None


class Tensor(NamedTuple):
    """Decoded values: `rows` by `width`, flat."""

    rows: int
    width: int | None  # None: one value a row, without a second dimension
    values: Values


def split_binary(body: bytes, length: bytes | None) -> tuple[bytes, memoryview]:
    """A body's JSON, and the bytes behind it; `length` is the header's value.

    Raises:
        RequestError: the header is no length within the body.
    """
    if length is None:
        return body, memoryview(b"")
    text = length.decode("latin-1").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= len(body)):
        raise RequestError(
            f"Inference-Header-Content-Length is {text[:40]!r}; expected the length of the JSON, at most the "
            f"{len(body)} bytes of the body"
        )
    return body[: int(text)], memoryview(body)[int(text) :]


def decode_tensors(inputs: list[TensorInput], binary: memoryview) -> dict[str, Tensor]:
    """The tensors of a request by name.

    Args:
        binary: what follows the JSON.

    Raises:
        RequestError: a tensor is there twice, or its shape, type and data do not agree.
    """
    found: dict[str, Tensor] = {}
    at = 0
    for one in inputs:
        if one.name in found:
            raise RequestError(f"input {one.name[:200]!r} is there twice")
        if not 1 <= len(one.shape) <= DIMENSIONS_MAX:
            raise _wrong(one, f"has shape {one.shape[:8]}; expected [n], or [n, m] for a list of ids")
        if one.datatype != "BYTES" and one.datatype not in KINDS:
            raise _wrong(one, f"has datatype {one.datatype[:40]!r}; expected BYTES or {', '.join(KINDS)}")
        size = (one.parameters or {}).get("binary_data_size")
        if size is not None:
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) - at:
                raise _wrong(one, f"has binary_data_size {size}, but {len(binary) - at} bytes are left")
            values = _from_bytes(one, binary[at : at + size])
            at += size
        elif isinstance(one.data, msgspec.Raw):
            values = _from_json(one, one.data)
        else:
            raise _wrong(one, "has neither data nor binary_data_size")
        if len(values) != prod(one.shape):
            raise _wrong(one, f"has {len(values)} values; its shape {one.shape} needs {prod(one.shape)}")
        found[one.name] = Tensor(one.shape[0], one.shape[1] if len(one.shape) == 2 else None, values)
    if at != len(binary):
        raise RequestError(f"{len(binary) - at} bytes behind the JSON belong to no input")
    return found


def encode_answer(
    head: dict[str, object], outputs: list[tuple[str, npt.NDArray[np.generic], bool]]
) -> tuple[bytes, int | None]:
    """An answer's body, and the length of its JSON if binary tensors follow it.

    Args:
        head: the fields beside `outputs`.
        outputs: name, values (n,) of float64 or int64, and whether to send them as bytes.
    """
    tensors = []
    tail = b""
    for name, values, as_bytes in outputs:
        datatype = "FP64" if values.dtype.kind == "f" else "INT64"
        raw = values.astype(KINDS[datatype]).tobytes()
        tensors.append(
            TensorOutput(
                name,
                datatype,
                list(values.shape),
                {"binary_data_size": len(raw)} if as_bytes else {},
                None if as_bytes else values.tolist(),
            )
        )
        tail += raw if as_bytes else b""
    body = msgspec.json.encode({**head, "outputs": tensors})
    any_binary = any(as_bytes for _, _, as_bytes in outputs)
    return body + tail, len(body) if any_binary else None


def _from_bytes(one: TensorInput, raw: memoryview) -> Values:
    if one.datatype == "BYTES":
        texts: Values = []
        at = 0
        try:
            while at < len(raw):
                (length,) = struct.unpack_from("<I", raw, at)
                if length > len(raw) - at - 4:
                    raise _wrong(one, "has a text that is longer than its bytes")
                texts.append(str(raw[at + 4 : at + 4 + length], "utf-8"))
                at += 4 + length
        except (struct.error, UnicodeDecodeError) as error:
            raise _wrong(one, f"holds bytes that are no UTF-8 texts with their lengths ({error})") from None
        return texts
    kind = np.dtype(KINDS[one.datatype])
    if len(raw) % kind.itemsize:
        raise _wrong(one, f"has {len(raw)} bytes; {one.datatype} has {kind.itemsize} each")
    found: Values = np.frombuffer(raw, dtype=kind).tolist()
    return found


def _from_json(one: TensorInput, data: msgspec.Raw) -> Values:
    """Numbers or texts, flat or nested as the shape is."""
    kind = one.datatype if one.datatype in ("BYTES", "BOOL") else one.datatype[:2]
    flat, by_row = _LISTS.get(kind, _LISTS["INT"])
    try:
        try:
            found: Values = msgspec.json.decode(data, type=flat)
        except msgspec.ValidationError:
            nested: list[Values] = msgspec.json.decode(data, type=by_row)
            if len(nested) != one.shape[0] or len({len(row) for row in nested}) > 1:
                raise _wrong(one, f"has data that is not of shape {one.shape}") from None
            found = [value for row in nested for value in row]
    except UNDECODABLE as error:
        raise _wrong(one, f"has data that is no list of {one.datatype}: {error}") from None
    return found


def _wrong(one: TensorInput, why: str) -> RequestError:
    return RequestError(f"input {one.name[:200]!r} {why}")
