"""What a learner should have seen, by a plain reading of the examples that it has taken."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from ledger import fresh_records
from sim_config import FEATURES, SAID, Config

from ground.keys import key_of
from learner.errors import FeatureError
from learner.features.encoder import Encoder
from learner.model.model import Model
from stream.log.base import EXAMPLES, Log
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent, Told
from stream.records.refusals import Refusals
from stream.records.types import Example, Features, Forget
from stream.state.journal import JournalStretch

Journal = list[list[JournalStretch]]


def begins_of(journal: Journal) -> dict[int, int]:
    """Where a journal begins behind the front of a partition, which the log had dropped."""
    begins: dict[int, int] = {}
    for taken in (t for commit in journal for t in commit):
        begins.setdefault(taken.partition, taken.start)
    return {partition: offset for partition, offset in begins.items() if offset}


class Said:
    """What is true of items and people: for each attribute, the newest that was said before a time."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, int | str], list[tuple[float, int, str, Told]]] = defaultdict(list)
        self._count = 0

    def take(self, event: EntityEvent) -> None:
        """Take an event."""
        self._count += 1
        for name, value in event.set.items():
            self._said[event.feature, event.id].append((event.time, self._count, name, value))

    def forget(self, forget: Forget) -> None:
        """Forget all of some items and people."""
        for feature, ids in forget.entity.items():
            for value in ids:
                self._said.pop((feature, value), None)

    def filled(self, example: Example) -> Example:
        """An example with what was true at its time."""
        candidates = [self._with("item", candidate, example.time) for candidate in example.candidates]
        context = self._with("user", example.context, example.time)
        return msgspec.structs.replace(example, context=context, candidates=candidates)

    def _with(self, feature: str, features: Features, time_s: float) -> Features:
        entity = features.get(feature)
        if not isinstance(entity, int):
            return features
        found: dict[str, Told] = {}
        for since_s, _, name, value in sorted(self._said.get((feature, entity), []), key=_when):
            if since_s <= time_s:
                found[name] = value
        true: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        return {**true, **features}


def _when(said: tuple[float, int, str, Told]) -> tuple[float, int]:
    return said[:2]


class Learned:
    """What was taken along a journal.

    Args:
        archive: all records that the log ever had.
    """

    def __init__(self, archive: Log, config: Config) -> None:
        self._archive = archive
        self._config = config

    def sightings(self, journal: Journal, model: Model) -> dict[str, int]:
        """How often each id was seen since it was forgotten, against what the tables say."""
        encoder = model.encoder
        names = encoder.names
        expected = self._expected(journal, encoder)
        lost = double = 0
        for name, counts, table in zip(names, expected, model.tables, strict=False):
            if name not in FEATURES and name not in SAID:
                continue  # what the model keeps itself is in no example
            held, slots = table.items()
            there = Counter(dict(zip(held.tolist(), table.counts(slots).tolist(), strict=True)))
            lost += (counts - there).total()
            double += (there - counts).total()
        return {"sightings_lost": lost, "sightings_double": double}

    def _expected(self, journal: Journal, encoder: Encoder) -> list[Counter[int]]:
        names = encoder.names
        expected: list[Counter[int]] = [Counter() for _ in names]
        for found in self._taken(journal):
            if isinstance(found, Forget):
                for name in found.entity.keys() & set(names):
                    for value in found.entity[name]:
                        expected[names.index(name)].pop(key_of(value), None)
                continue
            if found.before is not None:
                continue  # a correction: it was seen when it was learned first
            try:
                rows = encoder.encode([found]).rows
            except FeatureError:
                continue  # a dead letter
            for column, key in zip(rows.column.tolist(), rows.key.tolist(), strict=True):
                if column < len(names):
                    expected[column][key] += 1
        return expected

    def _taken(self, journal: Journal) -> Iterator[Example | Forget]:
        """What a learner has taken, in its order."""
        decode = Decoder[Any](Example, Forget, EntityEvent, targets=self._config.targets).decode
        records = fresh_records(self._archive, EXAMPLES, begins_of(journal))
        fresh: Mapping[tuple[int, int], bytes] = {(r.partition, r.offset): r.value for r in records}
        refusals, said = Refusals(), Said()
        for taken in (t for commit in journal for t in commit):
            for offset in range(taken.start, taken.end):
                value = fresh.get((taken.partition, offset))
                if value is None:
                    continue
                found: Example | Forget | EntityEvent = decode(value)
                if isinstance(found, Forget):
                    refusals.add(found)
                    said.forget(found)
                    yield found
                elif isinstance(found, EntityEvent):
                    if (event := refusals.admit_entity(found)) is not None:
                        said.take(event)
                elif (admitted := refusals.admit(found)) is not None:
                    yield said.filled(admitted)
