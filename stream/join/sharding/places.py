"""Where the joiner's outputs go when examples are sharded: to the partition of their entity.

The entity is the value of one feature in the request's context; where all candidates have it instead, as in
a data file, it is put into the context as well, so that each example of the request has it. The partition is
that of the record's key, by the hash that the whole log uses, so any client of the topic can compute it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from stream.log.base import partition_of
from stream.records.types import Features, Impression, Value

PLACES_MAX = 1 << 14
"""Entities whose place is remembered: hashing a key takes longer."""


class Place(NamedTuple):
    """A record's key and partition in topic `examples`."""

    key: bytes
    partition: int
    named: bool  # the request names its entity; else its own id decides


class Places:
    """The places of examples.

    Args:
        shard_by: the feature whose value decides.
        partitions: of topic `examples`.

    >>> places = Places("user", 8)
    >>> places.of_request("r1", {"user": "ann"}), places.of_request("r1", {})
    (Place(key=b'ann', partition=2, named=True), Place(key=b'r1', partition=4, named=False))
    """

    def __init__(self, shard_by: str, partitions: int) -> None:
        self.shard_by = shard_by
        self.partitions = partitions
        self._of_id = lru_cache(PLACES_MAX)(self._find)
        self._decode = msgspec.msgpack.Decoder(_head(shard_by)).decode

    def of_example(self, example: bytes) -> Place:
        """The place of an encoded example. Of its features only the one that decides is read."""
        head = self._decode(example)
        return self._place(head.request_id, head.context.entity)

    def of_request(self, request_id: str, context: Features, candidates: Sequence[Features] = ()) -> Place:
        """The place of the example of a request."""
        value = context.get(self.shard_by)
        return self._place(request_id, self._of_all(candidates) if value is None else value)

    def completed(self, impression: Impression) -> Impression:
        """The impression with the entity in its context, if only its candidates have it, all the same one."""
        if self.shard_by in impression.context:
            return impression
        value = self._of_all(impression.candidates)
        if not _is_id(value):
            return impression
        return msgspec.structs.replace(impression, context={**impression.context, self.shard_by: value})

    def of_id(self, entity: int | str) -> int:
        """The partition of an entity's examples."""
        return self._of_id(str(entity)).partition

    def _find(self, entity: str) -> Place:
        key = entity.encode()
        return Place(key, partition_of(key, self.partitions), True)

    def _of_all(self, candidates: Sequence[Features]) -> Value | None:
        """What all candidates have; None if they differ."""
        first = candidates[0].get(self.shard_by) if candidates else None
        if first is None or any(candidate.get(self.shard_by) != first for candidate in candidates[1:]):
            return None
        return first

    def _place(self, request_id: str, value: object) -> Place:
        if _is_id(value):
            return self._of_id(str(value))  # 7 and "7" are one id where the feature's type says so
        key = request_id.encode()
        return Place(key, partition_of(key, self.partitions), False)


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _head(shard_by: str) -> Any:
    """The type of an example of which nothing is read but its request's id and one feature of the context."""
    context = msgspec.defstruct(
        "_Context",
        [("entity", object, msgspec.field(default=None, name=shard_by))],
        gc=False,
    )
    return msgspec.defstruct(
        "_Head",
        [("request_id", str), ("context", context, msgspec.field(default_factory=context))],
        gc=False,
    )
