"""MurmurHash2 as Kafka's own clients use it to choose a record's partition from its key.

Java's client, and every client that can be configured to agree with it (librdkafka's
`partitioner=murmur2_random`), puts a key into partition `(murmur2(key) & 0x7fffffff) % partitions`
(org.apache.kafka.clients.producer.internals.BuiltInPartitioner). Here a key of 32 bytes takes 2 µs.
"""

import struct
from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_U32 = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """The hash, 32 bits unsigned.

    >>> murmur2(b"21") == -973932308 & 0xFFFFFFFF
    True
    """
    size = len(key)
    h = _SEED ^ size
    for k in _words(size >> 2).unpack_from(key):
        k = k * _M & _U32
        h = (h * _M & _U32) ^ ((k ^ k >> 24) * _M & _U32)
    rest = size & 3
    if rest:
        h = (h ^ int.from_bytes(key[size - rest :], "little")) * _M & _U32
    h = (h ^ h >> 13) * _M & _U32
    return h ^ h >> 15


@lru_cache(256)
def _words(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")
