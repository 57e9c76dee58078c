"""Forgetting: what of a request names certain ids, and what is left of it without them.

A request whose context *is* one of the ids (`"user": "ann"`) is gone whole; a candidate that is one of
them goes alone; in a list of ids (a history, tags) the one id goes. Ids are compared as everywhere: by
feature and 64-bit key (`ground.keys`).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import NamedTuple

import msgspec

from ground.keys import key_of
from stream.log.base import Log, Outgoing
from stream.records.fields import AT, ID_END, KEYS
from stream.records.types import Example, Features, Forget, Value, encode, picked

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
        # the byte forms that any MessagePack encoder may give to one of the ids
        self.marks = sorted({mark for values in ids.values() for value in values for mark in _marks(value)})

    def named(self, feature: str, value: int | str) -> bool:
        """Whether it is one of them."""
        if isinstance(value, int) and value >= ID_END:
            return False  # of a state from before such ids were refused
        return key_of(value) in self.keys.get(feature, ())

    def within(self, data: bytes) -> bool:
        """Whether a MessagePack record may name one of the ids; False is certain."""
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
        weight=picked(example.weight, kept),
        before=picked(example.before, kept),
    )


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
            keep = [isinstance(one, float) or not named(name, one) for one in value]
            if not all(keep):
                rest = {**rest, name: list(compress(value, keep))}
                beside = name.removesuffix(KEYS) + AT  # times, one for each
                times = features.get(beside)
                if isinstance(times, list) and len(times) == len(keep):
                    rest = {**rest, beside: list(compress(times, keep))}
        elif isinstance(value, int | str) and named(name, value):
            return None
    return rest


def _marks(value: int | str) -> list[bytes]:
    """The ways in which MessagePack may have an id."""
    if isinstance(value, str):
        return [value.encode()]
    marks = [msgspec.msgpack.encode(value)]
    for kind, (width, least, most) in _INTEGERS.items():
        if least <= value <= most:
            marks.append(bytes([kind]) + value.to_bytes(width, "big", signed=least < 0))
    return marks
