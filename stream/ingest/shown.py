"""What was shown lately, by the key under which actions look for it: bounded, and kept in the state.

Showings lie in generations of event time, each as long as actions look back and wait. A generation is removed
as a whole once no action can look for it any more.
"""

from collections import OrderedDict

import msgspec

from stream.ingest.records import Seeking, Showing, names_of
from stream.records.forgetting import Entity
from stream.records.types import Value
from stream.state.role_state import Commit, RoleState

SHOWN = b"match/shown/"
CACHED_MAX = 20_000  # keys of a partition that are kept in memory
CLOCKS_S = 1.0  # how much later than its action an impression may seem, as clocks differ
REMOVED_AT_ONCE = 2_000
KEPT_GENERATIONS = 3

_decode = msgspec.msgpack.Decoder(list[Showing]).decode
_encode = msgspec.msgpack.Encoder().encode


class Showings:
    """The showings of one partition of topic `matches`.

    Args:
        reach_s: how far actions look back, and how long they wait, together; event time.
        recent_max: showings of one key and generation; the oldest go.
    """

    def __init__(self, state: RoleState, partition: int, reach_s: float, recent_max: int) -> None:
        self._state = state
        self._prefix = SHOWN + partition.to_bytes(4, "big")
        self._reach_s = reach_s
        self._recent_max = recent_max
        self._cache: OrderedDict[bytes, list[Showing]] = OrderedDict()
        self._changed: set[bytes] = set()

    def add(self, key: bytes, showing: Showing, clock_s: float) -> bool:
        """Remember a showing, unless it is too old for any action, or known; returns whether it is new."""
        generation = self._generation(showing.time)
        if generation < self._oldest(clock_s):
            return False
        name = self._name(generation, key)
        shown = self._get(name)
        if any(known.request_id == showing.request_id for known in shown):
            return False
        shown.append(showing)
        shown.sort(key=_newest_last)
        del shown[: max(len(shown) - self._recent_max, 0)]
        self._changed.add(name)
        return True

    def find(self, key: bytes, seeking: Seeking, clock_s: float) -> tuple[str, int] | None:
        """(request id, index of the candidate) of the newest showing that an action belongs to."""
        earliest_s, latest_s = self._span(seeking)
        # older ones may be removed, or not yet
        oldest = max(self._generation(earliest_s), self._oldest(clock_s))
        for generation in range(self._generation(latest_s), oldest - 1, -1):
            for showing in reversed(self._get(self._name(generation, key))):
                if earliest_s <= showing.time <= latest_s:
                    candidate = candidate_of(showing, seeking.match)
                    if candidate is not None:
                        return showing.request_id, candidate
        return None

    def fits(self, showing: Showing, seeking: Seeking) -> tuple[str, int] | None:
        """The same, if it is this showing."""
        earliest_s, latest_s = self._span(seeking)
        if not earliest_s <= showing.time <= latest_s:
            return None
        candidate = candidate_of(showing, seeking.match)
        return None if candidate is None else (showing.request_id, candidate)

    def forget(self, entity: Entity) -> None:
        """Remove an entity's ids: all that was shown to them, and the values of candidates that they are."""
        stored = [name for name, value in self._state.scan(self._prefix) if entity.within(name + value)]
        for name in dict.fromkeys([*stored, *self._cache]):
            shown = self._get(name)
            whose = names_of(name[len(self._prefix) + 8 :], entity)
            left = [] if whose else [_without(showing, entity) for showing in shown]
            if left != shown:
                self._cache[name] = left
                self._changed.add(name)

    def _span(self, seeking: Seeking) -> tuple[float, float]:
        """The times of the impressions that an action may belong to."""
        if seeking.request_id:
            return seeking.time - self._reach_s, seeking.time + self._reach_s
        return seeking.time - seeking.within_s, seeking.time + CLOCKS_S

    def flush(self, commit: Commit, clock_s: float) -> None:
        """Write what has changed into the commit, and remove some of what is too old."""
        for name in self._changed:
            shown = self._cache[name]
            if shown:
                commit.put(name, _encode(shown))
            else:
                commit.delete(name)  # all of it was forgotten
        self._changed.clear()
        end = self._prefix + max(self._oldest(clock_s), 0).to_bytes(8, "big")
        for count, (name, _) in enumerate(self._state.scan(self._prefix)):
            if name >= end or count >= REMOVED_AT_ONCE:
                break
            commit.delete(name)
            self._cache.pop(name, None)
        while len(self._cache) > CACHED_MAX:
            self._cache.popitem(last=False)

    def _get(self, name: bytes) -> list[Showing]:
        shown = self._cache.get(name)
        if shown is None:
            saved = self._state.get(name)
            shown = self._cache[name] = [] if saved is None else _decode(saved)
        else:
            self._cache.move_to_end(name)
        return shown

    def _name(self, generation: int, key: bytes) -> bytes:
        return self._prefix + generation.to_bytes(8, "big") + key

    def _generation(self, time_s: float) -> int:
        return max(int(time_s // self._reach_s), 0)

    def _oldest(self, clock_s: float) -> int:
        return self._generation(clock_s) - KEPT_GENERATIONS + 1


def candidate_of(showing: Showing, match: dict[str, Value]) -> int | None:
    """The index of the first candidate that has these values; None: there is none.

    >>> showing = Showing("r", 1e9, ["item", "size"], [[7, "s"], [7, "m"]])
    >>> candidate_of(showing, {"item": 7, "size": "m"}), candidate_of(showing, {"item": 8})
    (1, None)
    """
    try:
        wanted = [(showing.names.index(name), value) for name, value in match.items()]
    except ValueError:
        return None
    for index, values in enumerate(showing.candidates):
        if all(values[at] == value and type(values[at]) is type(value) for at, value in wanted):
            return index
    return None


def _without(showing: Showing, entity: Entity) -> Showing:
    """A showing in which an entity's ids are no values of candidates any more."""
    candidates = [
        [
            None if isinstance(value, int | str) and entity.named(name, value) else value
            for name, value in zip(showing.names, values, strict=True)
        ]
        for values in showing.candidates
    ]
    return msgspec.structs.replace(showing, candidates=candidates)


def _newest_last(showing: Showing) -> tuple[float, str]:
    return showing.time, showing.request_id
