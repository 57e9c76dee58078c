"""Forgetting: what of a request names certain ids, and what is left of it without them.

A request whose context *is* one of the ids (`"user": "ann"`) is gone whole; a candidate that is one of
them goes alone; in a list of ids (a history, tags) the one id goes. Ids are compared as everywhere: by
feature and 64-bit key (`ground.keys`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import xxhash

from ground.keys import key_of
from stream.log.base import Log, Outgoing
from stream.records.types import Example, Features, Forget, Value, encode, picked

REFUSALS_MAX = 100_000
"""Ids refused at a time; of more the one that would be refused for the shortest time goes."""


_INTEGERS = {
    **{0xCC + i: (1 << i, 0, (1 << (8 << i)) - 1) for i in range(4)},
    **{0xD0 + i: (1 << i, -(1 << (8 << i) - 1), (1 << (8 << i) - 1) - 1) for i in range(4)},
}
"""MessagePack's forms of an integer: first byte -> (width in bytes, least, most)."""


class Left(NamedTuple):
    """What is left of a request without certain ids."""

    context: Features
    candidates: list[Features | None]  # None: gone
    changed: bool


Named = Callable[[str, int | str], bool]
"""Whether (feature, id) is one of those that are looked for."""


class Entity:
    """The ids of one `Forget`.

    >>> entity = Entity({"user": ["ann"]})
    >>> entity.named("user", "ann"), entity.named("user", "bob"), entity.named("item", "ann")
    (True, False, False)
    """

    def __init__(self, ids: Mapping[str, Sequence[int | str]]) -> None:
        self.keys = {feature: {key_of(value) for value in values} for feature, values in ids.items()}
        # what a MessagePack record that names one of them has in its bytes, whoever has encoded it
        self.marks = sorted({mark for values in ids.values() for value in values for mark in _marks(value)})

    def named(self, feature: str, value: int | str) -> bool:
        """Whether it is one of them."""
        return key_of(value) in self.keys.get(feature, ())

    def within(self, data: bytes) -> bool:
        """Whether a MessagePack record may name one of them; who says no may be sure."""
        return any(mark in data for mark in self.marks)


def left_of(
    context: Features, candidates: Sequence[Features], features: Sequence[str], named: Named
) -> Left | None:
    """A request without the ids that `named` knows of `features`; None where nothing is left.

    Args:
        features: those that `named` has to be asked about.
    """
    rest = _without(context, features, named)
    if rest is None:
        return None
    kept = [_without(candidate, features, named) for candidate in candidates]
    changed = rest is not context or any(new is not old for new, old in zip(kept, candidates, strict=True))
    if changed and all(candidate is None for candidate in kept):
        return None
    return Left(rest, kept, changed)


def example_without(example: Example, features: Sequence[str], named: Named) -> Example | None:
    """An example without the ids that `named` knows of `features`; the same one where it has none of them."""
    left = left_of(example.context, example.candidates, features, named)
    if left is None or not left.changed:
        return None if left is None else example
    kept = [i for i, candidate in enumerate(left.candidates) if candidate is not None]
    return msgspec.structs.replace(
        example,
        context=left.context,
        candidates=[candidate for candidate in left.candidates if candidate is not None],
        labels=[example.labels[i] for i in kept],
        served=None if example.served is None else example.served.picked(kept),
        place=picked(example.place, kept),
        propensity=picked(example.propensity, kept),
    )


class _Refusal(msgspec.Struct, frozen=True, array_like=True):
    """One id that is refused: not itself, which is to be forgotten, but a fingerprint of it."""

    feature: str
    mark: bytes
    until: float  # event time, Unix seconds


class Refusals:
    """The ids that are refused for a while after they were forgotten.

    Time is the newest event time among the examples asked about, so what is refused follows from the
    examples and their order alone.
    """

    def __init__(self, saved: bytes = b"") -> None:
        self._clock = 0.0
        self._until: dict[tuple[str, bytes], float] = {}
        if saved:
            self._clock, found = msgspec.msgpack.decode(saved, type=tuple[float, list[_Refusal]])
            self._until = {(one.feature, one.mark): one.until for one in found}
        self._features = self._named_features()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, forget: Forget) -> None:
        """Refuse the ids of a request to forget for as long as it says."""
        if forget.refuse_s > 0.0:
            until = forget.time + forget.refuse_s
            for feature, values in forget.entity.items():
                for value in values:
                    place = feature, _fingerprint(feature, value)
                    self._until[place] = max(until, self._until.get(place, 0.0))
        while len(self._until) > REFUSALS_MAX:
            del self._until[min(self._until, key=lambda place: (self._until[place], place))]
        self._features = self._named_features()

    def admit(self, example: Example) -> Example | None:
        """What may be learnt of an example; None: nothing."""
        if not self._until:
            return example
        if example.time > self._clock:
            self._clock = example.time
            over = [place for place, until in self._until.items() if until < self._clock]
            for place in over:
                del self._until[place]
            if over:
                self._features = self._named_features()
        return example_without(example, self._features, self._refused)

    def encode(self) -> bytes:
        """What the constructor takes."""
        found = [_Refusal(feature, mark, until) for (feature, mark), until in sorted(self._until.items())]
        return msgspec.msgpack.encode((self._clock, found))

    def _refused(self, feature: str, value: int | str) -> bool:
        return (feature, _fingerprint(feature, value)) in self._until

    def _named_features(self) -> list[str]:
        return sorted({feature for feature, _ in self._until})


def append_forget(log: Log, topic: str, forget: Forget) -> list[tuple[int, int]]:
    """Write a request to forget into every partition of `events`; returns where it lies.

    Raises:
        LogError: the log fails; asked again under the same or another name it does no harm.
    """
    return log.append(topic, forget_records(forget, log.partitions(topic)))


def forget_records(forget: Forget, partitions: int) -> list[Outgoing]:
    """A request to forget as records, one for each partition.

    >>> [record.partition for record in forget_records(Forget("f", 1e9, {"user": ["ann"]}), 3)]
    [0, 1, 2]
    """
    value = encode(forget)
    return [Outgoing(b"forget", value, number) for number in range(partitions)]


def _without(features: Features, looked_at: Sequence[str], named: Named) -> Features | None:
    """Features without the ids in their lists; None where one of them is such an id itself."""
    rest = features
    for name in looked_at:
        value: Value | None = features.get(name)
        if isinstance(value, list):
            kept = [one for one in value if not named(name, one)]
            if len(kept) < len(value):
                rest = {**rest, name: kept}
        elif isinstance(value, int | str) and named(name, value):
            return None
    return rest


def _marks(value: int | str) -> list[bytes]:
    """The ways in which MessagePack may have an id: an integer and its two's complement are one key."""
    if isinstance(value, str):
        return [value.encode()]
    key = key_of(value)
    forms = [key, key - (1 << 64)] if key >> 63 else [key]
    marks = [msgspec.msgpack.encode(form) for form in forms]
    for form in forms:
        for kind, (width, least, most) in _INTEGERS.items():
            if least <= form <= most:
                marks.append(bytes([kind]) + form.to_bytes(width, "big", signed=least < 0))
    return marks


def _fingerprint(feature: str, value: int | str) -> bytes:
    return xxhash.xxh3_128_digest(feature.encode() + b"\0refused\0" + key_of(value).to_bytes(8, "big"))
