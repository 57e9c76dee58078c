"""How evenly examples are spread over their partitions, and how much of them one entity causes."""

import logging

from stream.join.sharding.places import Place

ENTITIES_MAX = 64
SAMPLED = 7  # one in so many examples is counted by its entity
SAID_FROM = 10_000  # examples, before anything is said of them
SKEW_MAX = 2.0  # of the largest partition's share over an equal one

_log = logging.getLogger("freshet.joiner")


class Skew:
    """Examples sent to each partition since the role was started.

    In a sample, entities are counted as by Misra and Gries (1982, "Finding repeated elements"): of n examples
    the count of each entity is right, or less by at most n / 65. So who has a large share is among those.
    """

    def __init__(self, shard_by: str, partitions: int) -> None:
        self._shard_by = shard_by
        self._sent = [0] * partitions
        self._total = self._sampled = 0
        self._entities: dict[bytes, int] = {}
        self._warned = False

    def note(self, place: Place) -> None:
        """Count one example."""
        self._sent[place.partition] += 1
        self._total += 1
        if self._total % SAMPLED == 0:
            self._count(place)
        if self._total % SAID_FROM == 0 and not self._warned:
            self._warn()

    def _count(self, place: Place) -> None:
        self._sampled += 1
        entities = self._entities
        if place.named:
            if place.key in entities or len(entities) < ENTITIES_MAX:
                entities[place.key] = entities.get(place.key, 0) + 1
            else:
                self._entities = {key: count - 1 for key, count in entities.items() if count > 1}

    @property
    def sent(self) -> list[int]:
        """Examples by partition. May be called from any thread."""
        return list(self._sent)

    @property
    def largest(self) -> float:
        """The share of the partition that has most, over an equal share; 1 where there is no example."""
        return max(self._sent) * len(self._sent) / self._total if self._total else 1.0

    @property
    def largest_entity(self) -> float:
        """The share of the examples that the most frequent entity has at least; 0 where there is none."""
        return max(self._entities.values(), default=0) / self._sampled if self._sampled else 0.0

    def _warn(self) -> None:
        if self.largest <= SKEW_MAX:
            return
        self._warned = True
        busiest = self._sent.index(max(self._sent))
        entity = max(self._entities, key=lambda key: self._entities[key], default=b"")
        _log.warning(
            "partition %d of topic examples gets %.0f %% of them, %.1f times an equal share of %d "
            "partitions; %s %.40r alone has at least %.0f %%. What reads it has that much more to do",
            busiest, 100.0 * self._sent[busiest] / self._total, self.largest, len(self._sent),
            self._shard_by, entity.decode(errors="replace"), 100.0 * self.largest_entity,
        )  # fmt: skip
