"""The items that can be found: their ids, and their features as they were when they were last shown.

The model holds hashes of ids, so ids and features come from topic `examples`, from its oldest record on. An
item that no record of the log holds any more is not found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ground.keys import key_of
from learner.errors import FeatureError
from learner.features.encoder import FeatureSpec
from learner.features.values import ids_of_type
from stream.records.types import Example, Features, Value

EVICT_SHARE = 16
"""A full catalogue loses one item in so many at once."""

Ints = npt.NDArray[np.int64]
Exists = Callable[[], npt.NDArray[np.bool_]]
"""Says which places have an item with a row in the model."""


class ItemCatalogue:
    """Items in numbered places. One thread writes.

    Args:
        features: the schema.
        of: the feature of the items.
        items_max: places.
    """

    def __init__(self, features: Mapping[str, FeatureSpec], of: str, items_max: int) -> None:
        self.of = of
        self.items_max = items_max
        self.ids: list[int | str | None] = []  # by place; None: the place is free
        self.candidates: list[Features] = []
        self.keys = np.zeros(items_max, dtype=np.uint64)
        self.seen = np.zeros(items_max)  # event time at which each was last shown
        self.evicted = 0
        self._spec = features[of]
        self._places: dict[int, int] = {}  # by key
        self._free: list[int] = []
        # Places, in the order of their change; of a plain dict the first are slow to take one after another.
        self._changed: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def place_of(self, value: Value | None) -> int:
        """The place of an item, -1 if it has none or the value is no id."""
        item = self._as_declared(value)
        return -1 if item is None else self._places.get(key_of(item), -1)

    def take(self, example: Example, exists: Exists) -> None:
        """Note the items of an example. Of a full catalogue, those without a row in the model go first."""
        # what a server filled in is filled in anew
        known = example.served.filled if example.served else ()
        for shown in example.candidates:
            candidate = {name: v for name, v in shown.items() if name not in known} if known else shown
            value = candidate.get(self.of)
            item = self._as_declared(value)
            if item is None:
                continue
            key = key_of(item)
            place = self._places.get(key)
            if place is None:
                place = self._new_place(exists)
                self._places[key] = place
                self.ids[place] = item
                self.keys[place] = key
                self.candidates[place] = {}
            if self.candidates[place] != candidate:
                self.candidates[place] = candidate
                self._changed[place] = None
            self.seen[place] = example.time

    def touch(self, feature: str, item: int | str) -> None:
        """Note that something has become known of an entity."""
        if feature == self.of and (place := self.place_of(item)) >= 0:
            self._changed[place] = None

    def forget(self, entity: Mapping[str, Sequence[int | str]]) -> None:
        """Remove items, and ids from what is known of the others."""
        for name, ids in entity.items():
            gone = set(ids)
            if name == self.of:
                for one in ids:
                    if (place := self.place_of(one)) >= 0:
                        self._remove(place)
            for place, candidate in enumerate(self.candidates):
                value = candidate.get(name)
                if isinstance(value, list):
                    left: Value | None = [one for one in value if one not in gone]
                else:
                    left = None if value in gone else value
                if left != value:
                    rest = {key: other for key, other in candidate.items() if key != name}
                    self.candidates[place] = rest if left is None else {**rest, name: left}
                    self._changed[place] = None

    def changed(self, most: int) -> Ints:
        """Up to `most` places whose features have changed since they were last given."""
        count = min(most, len(self._changed))
        return np.array([self._changed.popitem(last=False)[0] for _ in range(count)], dtype=np.int64)

    def all_changed(self) -> None:
        """Give every place again."""
        self._changed = OrderedDict.fromkeys(self._places.values())

    def _as_declared(self, value: Value | None) -> int | str | None:
        if not isinstance(value, int | str):
            return None
        if self._spec.id_type is None:
            return value
        try:
            (item,) = ids_of_type(self.of, self._spec.kind, self._spec.id_type, [value])
        except FeatureError:
            return None
        return item

    def _new_place(self, exists: Exists) -> int:
        if self._free:
            return self._free.pop()
        if len(self.ids) < self.items_max:
            self.ids.append(None)
            self.candidates.append({})
            return len(self.ids) - 1
        for place in self._least_wanted(exists):
            self._remove(place)
            self.evicted += 1
        return self._free.pop()

    def _least_wanted(self, exists: Exists) -> Iterator[int]:
        """An EVICT_SHARE of all places: those without a row in the model, then those seen longest ago.

        Of the half seen last, and of what the index has not read yet, a row may come with the next update.
        """
        wanted = exists()[: self.items_max].copy()
        wanted[list(self._changed)] = True
        wanted[np.argsort(self.seen)[self.items_max // 2 :]] = True
        yield from np.lexsort((self.seen, wanted))[: -(-self.items_max // EVICT_SHARE)].tolist()

    def _remove(self, place: int) -> None:
        item = self.ids[place]
        assert item is not None
        del self._places[key_of(item)]
        self.ids[place] = None
        self.candidates[place] = {}
        self.seen[place] = 0.0
        self._free.append(place)
        self._changed[place] = None
