"""Ids that are refused for a while after they were forgotten: examples are learnt without them.

The cost of an example does not grow with the number of refused ids: one hash and one look-up for each of its
ids. Adding, expiring and evicting an id cost the logarithm of that number, by a heap.
"""

import heapq
import struct
from collections import Counter
from collections.abc import Iterable

import msgspec
import xxhash

from ground.keys import key_of
from stream.records.entities.record import EntityEvent
from stream.records.forgetting import example_without
from stream.records.types import Example, Forget

REFUSALS_MAX = 100_000
"""Ids refused at a time. Of more, the one that would be refused for the shortest time is evicted."""

_UNTIL = struct.Struct(">d")
_MARK_BYTES = 16

Refused = tuple[str, bytes]
"""(feature, fingerprint of the id): not the id itself, which is to be forgotten."""


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    """One refused id in a state of before Freshet saved only what changes."""

    feature: str
    mark: bytes
    until: float  # event time, Unix seconds


class Refusals:
    """The refused ids, each until an event time.

    Time is the newest event time among the examples asked about, so what is refused follows from the
    records and their order alone.

    >>> refusals = Refusals()
    >>> refusals.add(Forget("f", 100.0, {"user": ["ann"]}, refuse_s=60.0))
    >>> refusals.admit(Example("r", 110.0, 110.0, [{"item": 1}], [1.0], {"user": "ann"})) is None
    True
    >>> refusals.admit(Example("r", 161.0, 161.0, [{"item": 1}], [1.0], {"user": "ann"})) is None
    False
    """

    def __init__(self) -> None:
        self.clock = 0.0  # save it and give it to `load`
        self._until: dict[Refused, float] = {}
        self._features: Counter[str] = Counter()  # refused ids of each feature
        self._names: list[str] = []  # the features, sorted
        # The ids in the order of their ends. One whose end has moved has an older entry too, which is stale.
        self._ends: list[tuple[float, Refused]] = []
        self._changed: set[Refused] = set()  # since the last `changes`

    def __len__(self) -> int:
        return len(self._until)

    def add(self, forget: Forget) -> None:
        """Refuse the ids of a request to forget for its `refuse_s`."""
        until = forget.time + forget.refuse_s
        if forget.refuse_s > 0.0 and until >= self.clock:
            for feature, values in forget.entity.items():
                for value in values:
                    self._refuse((feature, _fingerprint(feature, value)), until)

    def admit(self, example: Example) -> Example | None:
        """The part of an example that may be learned; None: nothing."""
        if example.time > self.clock:
            self.clock = example.time
            self._expire()
        if not self._until:
            return example
        return example_without(example, self._names, self._refused)

    def admit_entity(self, event: EntityEvent) -> EntityEvent | None:
        """The part of an entity event that may be taken; None: nothing. It moves no time."""
        if not self._until:
            return event
        if self._refused(event.feature, event.id):
            return None
        told = {
            name: value
            for name, value in event.set.items()
            if not (isinstance(value, int | str) and self._refused(name, value))
        }
        for name, value in told.items():
            if isinstance(value, list) and name in self._features:
                told[name] = [one for one in value if isinstance(one, float) or not self._refused(name, one)]
        return msgspec.structs.replace(event, set=told) if told else None

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """What has changed since the last call, as entries of a state: (key, value), None for deleted."""
        entries = [(_key(one), self._value(one)) for one in sorted(self._changed)]
        self._changed.clear()
        return entries

    def load(self, entries: Iterable[tuple[bytes, bytes]], clock: float) -> None:
        """Go on from the entries that `changes` gave, and the `clock` of then."""
        for key, value in entries:
            (until,) = _UNTIL.unpack(value)
            self._refuse((key[:-_MARK_BYTES].decode(), key[-_MARK_BYTES:]), until)
        self.clock = clock
        self._changed.clear()
        self._expire()

    def load_whole(self, saved: bytes) -> None:
        """Go on from the form in which Freshet 0.1 saved them; the next `changes` gives all of them."""
        self.clock, found = msgspec.msgpack.decode(saved, type=tuple[float, list[_Saved]])
        for one in found:
            self._refuse((one.feature, one.mark), one.until)

    def _refuse(self, one: Refused, until: float) -> None:
        before = self._until.get(one)
        if before is not None and before >= until:
            return
        if before is None:
            self._count(one[0], 1)
        self._until[one] = until
        self._changed.add(one)
        heapq.heappush(self._ends, (until, one))
        while len(self._until) > REFUSALS_MAX:
            self._drop_first()
        if len(self._ends) > 2 * len(self._until) + 100:  # mostly stale
            self._ends = [(end, refused) for refused, end in self._until.items()]
            heapq.heapify(self._ends)

    def _expire(self) -> None:
        while self._ends and self._ends[0][0] < self.clock:
            self._drop_first()

    def _drop_first(self) -> None:
        """Take the entry with the nearest end off the heap, and its id with it unless the entry is stale."""
        until, one = heapq.heappop(self._ends)
        if self._until.get(one) == until:
            del self._until[one]
            self._count(one[0], -1)
            self._changed.add(one)

    def _count(self, feature: str, by: int) -> None:
        self._features[feature] += by
        if self._features[feature] == 0:
            del self._features[feature]
        if len(self._features) != len(self._names):
            self._names = sorted(self._features)

    def _value(self, one: Refused) -> bytes | None:
        until = self._until.get(one)
        return None if until is None else _UNTIL.pack(until)

    def _refused(self, feature: str, value: int | str) -> bool:
        return (feature, _fingerprint(feature, value)) in self._until


def _key(one: Refused) -> bytes:
    feature, mark = one
    return feature.encode() + mark


def _fingerprint(feature: str, value: int | str) -> bytes:
    return xxhash.xxh3_128_digest(feature.encode() + b"\0refused\0" + key_of(value).to_bytes(8, "big"))
