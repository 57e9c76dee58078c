"""The ledger with what Freshet keeps by itself: a history, a rate, an attribute of items, and rows that rest.

Of each item its brand is told before the first request. Later events either say the same again, or are true
from a time on that no request reaches. So what is learned of a request hangs on no order among partitions,
and yet every event changes what is kept of its item.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec
from ledger import BEGIN_S, ITEMS, Ledger, difference, fresh_records

from ground.keys import key_of
from learner.features.encoder import Encoder
from learner.features.spec import KNOWN
from stream.log.base import EXAMPLES, Log, Outgoing
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent, entity_key
from stream.records.types import Example, Forget, encode

BRANDS = 12
LATER_S = BEGIN_S + 4e7
"""After all requests, and before today: a joiner refuses what is ahead of its clock."""
VERSIONS = 8
"""`entity_versions`: of more events of one item some would be dropped."""
TOLD_SHARE = 0.3
"""Of the requests: so many come with an entity event."""

SECTIONS = """
[features.brand]
of = "item"
dim = 2
pairs = false
[features.past]
kind = "history"
by = "user"
of = "item"
length = 3
dim = 2
[features.ctr]
kind = "rate"
of = "item"
window_s = 600.0
dim = 2
"""
MEMORY_ROWS = {"features.user": 20, "features.item": 40, "features.once": 500}


def with_known(config: str) -> str:
    """A config with these features, and most rows on disk."""
    for section, rows in MEMORY_ROWS.items():
        config = config.replace(f"[{section}]\n", f"[{section}]\nmemory_rows = {rows}\n")
    return config.replace("[learner]\n", "[learner]\npairs_memory_rows = 2000\n") + SECTIONS


class KnownLedger(Ledger):
    """A ledger that tells of items too.

    Attributes:
        places: partitions of topic `examples` to which the joiner passes each entity event on.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.places = 1
        self._brands = [f"brand-{self._rng.randrange(BRANDS)}" for _ in range(ITEMS)]
        self._told: list[list[tuple[float, str | None]]] = [[] for _ in range(ITEMS)]
        self._events: list[EntityEvent] = []

    def prelude(self) -> list[Outgoing]:
        records = []
        for item, brand in enumerate(self._brands):
            event = self._tell(item, 0.0, brand)
            records.append(self._numbered(entity_key("item", item), encode(event)))
        return records

    def _make(self) -> None:
        rng, item = self._rng, self._rng.randrange(ITEMS)
        if rng.random() < TOLD_SHARE and len(self._told[item]) < VERSIONS:
            if rng.random() < 0.3:
                event = self._tell(item, float(self.requests + 1), self._brands[item])
            else:
                brand = f"brand-{rng.randrange(BRANDS)}" if rng.random() < 0.8 else None
                event = self._tell(item, LATER_S + rng.randrange(1000) + self.requests / 1e6, brand)
            self._come(self._now_s(), entity_key("item", item), encode(event), copied=False)
        super()._make()

    def _tell(self, item: int, time: float, brand: str | None) -> EntityEvent:
        event = EntityEvent("item", item, time, {"brand": brand})
        self._told[item].append((time, brand))
        self._events.append(event)
        self.sent["entity events"] += 1
        return event

    # --- the books ---

    def balance(self, log: Log, learner: Any) -> dict[str, Any]:
        return {
            **super().balance(log, learner),
            **self._compare_passed_on(log),
            "entities_off": self._compare_entities(learner.model.entities),
        }

    def completed(self, examples: list[Example]) -> list[Example]:
        return [
            msgspec.structs.replace(example, candidates=[self._with_brand(c) for c in example.candidates])
            for example in examples
        ]

    def sightings(self, encoder: Encoder, learnt: list[Example]) -> dict[int, Counter[int]]:
        found = {
            t: counts
            for t, counts in super().sightings(encoder, self.completed(learnt)).items()
            if encoder.kinds[encoder.feature_of[t]] not in KNOWN
        }
        users, items = Counter[int](), Counter[int]()  # corrections change what is kept, as sightings do
        for example in learnt:
            before = example.before or [0.0] * len(example.labels)
            user = example.context.get("user")
            if user is not None and any(
                (y > 0.0) != (was > 0.0) for y, was in zip(example.labels, before, strict=True)
            ):
                users[key_of(user)] += 1
            items.update(key_of(item) for item in _runs(example))
        return {**found, encoder.columns_of("past")[-1]: users, encoder.columns_of("ctr")[-1]: items}

    def _with_brand(self, candidate: Any) -> Any:
        return candidate | ({"brand": self._brands[candidate["item"]]} if "item" in candidate else {})

    def _compare_passed_on(self, log: Log) -> dict[str, int]:
        expected = Counter({encode(event): self.places for event in self._events})
        decode = Decoder[Example | Forget | EntityEvent](Example, Forget, EntityEvent).decode_again
        records = (record.value for record in fresh_records(log, EXAMPLES))
        return difference("told", expected, Counter(v for v in records if isinstance(decode(v), EntityEvent)))

    def _compare_entities(self, store: Any) -> int:
        """Values that differ, of each item as of each event."""
        off = abs(len(store) - sum(1 for told in self._told if told))
        for item, told in enumerate(self._told):
            told.sort(key=lambda version: version[0])
            for time, _ in told:
                brand = told[bisect_right(told, time, key=lambda version: version[0]) - 1][1]
                off += store.read("item", item, time) != ({} if brand is None else {"brand": brand})
        return off


def _runs(example: Example) -> Iterator[Any]:
    """The items of a request; one that stands several times in a row counts once."""
    items = [candidate["item"] for candidate in example.candidates if "item" in candidate]
    return (item for item, _ in groupby(items))
