"""The attributes of all entities that were told of: bounded, saved and replicated with the model."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import xxhash

from ground.errors import FreshetError
from learner.entities.attributes import Owner, check_told, owners_in_order
from learner.entities.timelines import HEAD, Latest, as_of, latest, told, without
from learner.errors import FeatureError
from learner.features.spec import FeatureSpec
from learner.settings import LearnerSettings
from stream.records.entities.record import EntityEvent
from stream.records.forgetting import Entity
from stream.records.types import Features

OVERHEAD = 176  # bytes of memory for one entity beside what is kept of it, about
CACHED_BYTES_MAX = 16 << 20  # of entities whose newest values are held as Python objects
LEFT_SHARE = 7 / 8  # of the budget, after an eviction

Change = tuple[str, int, bytes]
"""(feature, key, what is kept of the entity); nothing: it is gone."""


class EntityStore:
    """What is true of entities, as of any time.

    A store takes events in the order of the log. Over `entities_bytes_max` it evicts those entities that were
    told of and seen longest ago, by the hour.

    >>> store = EntityStore({"item": FeatureSpec(), "brand": FeatureSpec(of="item")}, LearnerSettings())
    >>> store.tell(EntityEvent("item", 7, 100.0, {"brand": "acme"}))
    True
    >>> store.read("item", 7, 99.0), store.read("item", 7, 100.0)
    ({}, {'brand': 'acme'})

    Attributes:
        owners: the features whose entities have attributes, in the order in which requests are filled.
        attributes: the names of all attributes, sorted.
        nbytes: memory used, about.
        evicted: entities evicted for lack of room, since the store was made.
    """

    def __init__(self, features: Mapping[str, FeatureSpec], settings: LearnerSettings) -> None:
        self.owners = {owner.name: owner for owner in owners_in_order(features)}
        self.nbytes = 0
        self.evicted = 0
        self.attributes = sorted(name for owner in self.owners.values() for name in owner.attributes)
        self._bytes_max = settings.entities_bytes_max
        self._versions = settings.entity_versions
        self._kept: dict[str, dict[int, bytes]] = {name: {} for name in self.owners}
        self._changed: dict[tuple[str, int], None] = {}
        self._seen: dict[tuple[str, int], bytes] = {}  # in which hour
        # A cache. Another thread may read while changes are taken, so an entry says what it was read from.
        self._latest: dict[str, dict[int, Latest]] = {name: {} for name in self.owners}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def counts(self) -> dict[str, int]:
        """How many entities of each feature are known."""
        return {name: len(kept) for name, kept in self._kept.items()}

    def check(self, event: EntityEvent) -> int:
        """The key of an event's entity.

        Raises:
            FeatureError: its feature has no attributes, the id is not of that feature, or a value is not of
                its attribute's kind.
        """
        owner = self.owners.get(event.feature)
        if owner is None:
            known = ", ".join(self.owners) or "none"
            raise FeatureError(
                f"entity {event.feature} {str(event.id)[:60]!r}: no feature is declared with of = "
                f"{event.feature!r}; features with attributes: {known}"
            )
        check_told(owner, event)
        try:
            return owner.key(event.id)
        except FreshetError as error:
            raise FeatureError(str(error)) from None

    def tell(self, event: EntityEvent) -> bool:
        """Take an event; returns whether it says what was not known.

        Raises:
            FeatureError: as `check`; nothing has changed.
        """
        key = self.check(event)
        mine = self.owners[event.feature].attributes
        event = msgspec.structs.replace(event, set={n: v for n, v in event.set.items() if n in mine})
        if not event.set:
            return False
        before = self._kept[event.feature].get(key, b"")
        after = told(before, event, self._versions)
        self._put(event.feature, key, after)
        if self.nbytes > self._bytes_max:
            self._evict()
        return after != before

    def read(self, feature: str, entity: int | str, time: float) -> Features:
        """The attributes of an entity at a time, by name; empty: nothing is known. Do not change it."""
        return self.values(self.owners[feature], entity, time, b"")

    def values(self, owner: Owner, entity: object, time: float, seen: bytes) -> Features:
        """`read` with the owner at hand; an id of a wrong type has no attributes.

        Args:
            seen: note that the entity was seen in that hour, see `hour_of`; empty: it was not.
        """
        try:
            key = owner.key(entity)
        except (FreshetError, OverflowError):
            return {}  # refused where it is encoded
        kept = self._kept[owner.name].get(key)
        if kept is None:
            return {}
        if kept[:HEAD] < seen:
            self.see(owner.name, key, seen)
            self._seen[owner.name, key] = seen
            kept = self._kept[owner.name][key]
        newest = self._latest[owner.name].get(key)
        if newest is None or newest.kept is not kept:
            newest = self._cache(owner.name, key, kept)
        return newest.values if time >= newest.since else as_of(kept, time)

    def see(self, name: str, key: int, hour: bytes) -> None:
        """Note that an entity was seen in an hour, see `hour_of`."""
        kept = self._kept[name].get(key, b"")
        if kept and kept[:HEAD] < hour:
            later = self._kept[name][key] = hour + kept[HEAD:]
            newest = self._latest[name].get(key)
            if newest is not None and newest.kept is kept:  # the hour says nothing of the values
                self._latest[name][key] = newest._replace(kept=later)
            self._changed[name, key] = None

    def take_seen(self) -> list[Change]:
        """The entities that were seen for the first time in their hour since the last call or `changes`, each
        with that hour."""
        found = [(name, key, hour) for (name, key), hour in self._seen.items()]
        self._seen.clear()
        return found

    def forget(self, ids: Mapping[str, Sequence[int | str]]) -> None:
        """Remove entities by feature and id, and the values of attributes that are such ids."""
        entity = Entity(ids)
        for name, keys in entity.keys.items():
            for key in keys & self._kept.get(name, {}).keys():
                self._put(name, key, b"")
        for owner in self.owners.values():
            if not entity.keys.keys() & owner.attributes.keys():
                continue
            for key, kept in list(self._kept[owner.name].items()):
                left = without(kept, entity.named)
                if left is not kept:
                    self._put(owner.name, key, left)

    def changes(self) -> list[Change]:
        """What has changed since the last call, by feature and key."""
        found = [(name, key, self.kept(name, key)) for name, key in sorted(self._changed)]
        self._changed.clear()
        self._seen.clear()
        return found

    def kept(self, name: str, key: int) -> bytes:
        """What is kept of an entity; nothing: it is not known."""
        return self._kept[name].get(key, b"")

    def entries(self) -> list[Change]:
        """Everything, by feature and key."""
        return [
            (name, key, kept) for name in sorted(self._kept) for key, kept in sorted(self._kept[name].items())
        ]

    def take_all(self) -> list[Change]:
        """Everything, for another store; this one is empty afterwards."""
        taken = self.entries()
        self.load((name, key, b"") for name, key, _ in taken)
        return taken

    def load(self, entries: Iterable[Change]) -> None:
        """Take what `changes` or `entries` of a store of the same schema gave; it counts as unchanged."""
        for name, key, kept in entries:
            if name in self._kept:
                self._put(name, key, kept)
        self._changed.clear()

    def renew(self) -> None:
        """Let the next `changes` give everything."""
        self._changed = {(name, key): None for name, kept in self._kept.items() for key in kept}

    def digest(self) -> bytes:
        """A hash of everything that is kept; empty where nothing is."""
        if not len(self):
            return b""
        hasher = xxhash.xxh3_128()
        for name, key, kept in self.entries():
            hasher.update(name.encode() + key.to_bytes(8, "little") + kept)
        return hasher.digest()

    def _put(self, name: str, key: int, kept: bytes) -> None:
        before = self._kept[name].get(key)
        if before is not None:
            self.nbytes -= OVERHEAD + len(before)
        if kept:
            self._kept[name][key] = kept
            self.nbytes += OVERHEAD + len(kept)
        elif before is not None:
            del self._kept[name][key]
        self._latest[name].pop(key, None)
        self._changed[name, key] = None

    def _cache(self, name: str, key: int, kept: bytes) -> Latest:
        newest = latest(kept)
        if self._cached_bytes > CACHED_BYTES_MAX:
            for cached in self._latest.values():
                cached.clear()
            self._cached_bytes = 0
        self._latest[name][key] = newest
        self._cached_bytes += len(kept)
        return newest

    def _evict(self) -> None:
        oldest = sorted((kept[:HEAD], name, key) for name, key, kept in self.entries())
        for _, name, key in oldest:
            if self.nbytes <= self._bytes_max * LEFT_SHARE:
                break
            self._put(name, key, b"")
            self.evicted += 1
