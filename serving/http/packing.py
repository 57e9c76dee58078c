"""Decompression of request bodies (`Content-Encoding: gzip`), within the size limit of a body."""

import zlib
from collections.abc import Mapping

from serving.errors import MediaTypeError, RequestError, TooLargeError

MEMBERS_MAX = 100
"""Limit of gzip members in a body; usual clients send one."""
_GZIP = 31  # zlib's name for gzip with any window


def unpack(body: bytes, headers: Mapping[bytes, bytes], bytes_max: int) -> bytes:
    """Decompress a body; return it unchanged if it is not compressed.

    Args:
        headers: by lower-case name.
        bytes_max: size limit of the decompressed body; decompression stops there.

    Raises:
        MediaTypeError: the encoding is not gzip.
        TooLargeError: the decompressed body is over the limit.
        RequestError: the body is damaged or truncated, or has too many members.
    """
    packing = headers.get(b"content-encoding", b"").strip().lower()
    if packing in (b"", b"identity"):
        return body
    if packing not in (b"gzip", b"x-gzip"):
        name = packing[:50].decode("latin-1")
        raise MediaTypeError(
            f"Content-Encoding is {name!r}; compress the body with gzip, or send it uncompressed"
        )
    parts: list[bytes] = []
    size = members = 0
    rest = body
    while rest or not members:
        members += 1
        if members > MEMBERS_MAX:
            raise RequestError(f"the body has over {MEMBERS_MAX} gzip members; pack it as one")
        unpacker = zlib.decompressobj(_GZIP)
        try:
            parts.append(unpacker.decompress(rest, bytes_max - size + 1))
        except zlib.error as error:
            raise RequestError(f"the body is not gzip, or is damaged: {error}") from None
        size += len(parts[-1])
        if size > bytes_max:
            raise TooLargeError(
                f"the body is over the limit of {bytes_max:,} bytes (body_bytes_max) when unpacked; "
                "send less at once"
            )
        if not unpacker.eof:
            raise RequestError("the body is gzip that ends too soon")
        rest = unpacker.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)
