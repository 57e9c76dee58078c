"""Sealed bytes: a body behind its checksum, so that corruption is detected before the body is decoded.

8 bytes   xxh3 of what follows, little-endian
rest      the body
"""

import xxhash

_SEAL_BYTES = 8


def seal(body: bytes) -> bytes:
    """The body behind its checksum."""
    return xxhash.xxh3_64_intdigest(body).to_bytes(_SEAL_BYTES, "little") + body


def unseal(data: bytes) -> memoryview:
    """The body of sealed bytes; not a copy.

    Raises:
        ValueError: the checksum does not fit the bytes.
    """
    body = memoryview(data)[_SEAL_BYTES:]
    if len(data) < _SEAL_BYTES or xxhash.xxh3_64_intdigest(body).to_bytes(8, "little") != data[:_SEAL_BYTES]:
        raise ValueError("it is damaged: its checksum does not fit its bytes")
    return body
