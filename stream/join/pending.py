"""Requests that are not finished (undecided, or decided and remembered): a memory cache over the disk."""

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from stream.join.exposures import Exposed
from stream.limits import PENDING_BYTES_MAX_MEMORY
from stream.records.decoding import Decoder, is_msgpack
from stream.records.forgetting import Entity, left_of
from stream.records.types import Impression, encode
from stream.state.role_state import Commit, RoleState


class Reaction(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The latest action, by event time, with one candidate."""

    label: float
    time: float


class Waiting(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An action or exposure whose impression has not come: as it arrived, for a dead letter.

    `deadline`: the clock at which its own wait ends.
    """

    offset: int
    original: bytes
    deadline: float


class Entry(msgspec.Struct, array_like=True, gc=False):
    """One request: first waiting for its impression (`size` 0), then undecided, then decided.

    A decided entry is kept for a while, to recognise duplicates and late actions.
    """

    deadline: float
    size: int = 0  # candidates of the impression
    decided: bool = False
    original: bytes = b""  # the impression's, while it is needed
    reactions: dict[int, Reaction] = {}
    waiting: tuple[Waiting, ...] = ()
    gone: list[int] | None = None  # candidates that are forgotten
    stored: bool = False  # the disk has an entry of this request, perhaps an older one
    exposed: Exposed | None = None  # what was said of what was shown


class PendingRequests:
    """The entries of one partition. Changes are visible at once, and written with the next commit.

    An entry that is added and dropped between two commits is never written.
    """

    def __init__(
        self,
        state: RoleState,
        prefix: bytes,
        memory_max: int,
        count: int,
        kind: type[Entry] = Entry,
        bytes_max: int = PENDING_BYTES_MAX_MEMORY,
    ) -> None:
        """Entries under `prefix`, of which about `memory_max` are kept in memory between commits.

        Args:
            count: number of entries on disk.
            kind: of the entries.
            bytes_max: of events in those that are kept in memory.
        """
        self._bytes_max = bytes_max
        self._bytes_most = 0  # upper limit of the bytes in memory: as last measured, plus all added since
        self._state = state
        self._prefix = prefix
        self._memory_max = memory_max
        self._count = count  # of entries, in memory or not
        self._entries: dict[str, Entry] = {}  # the least recently set first
        self._changed: dict[str, Entry] = {}
        self._deleted: set[str] = set()  # on disk until the next commit
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._encode = msgspec.msgpack.Encoder().encode

    @property
    def in_memory(self) -> list[str]:
        """The requests whose entries are in memory, the least recently set first."""
        return list(self._entries)

    def get(self, request_id: str) -> Entry | None:
        """The entry of a request; call `changed` after changing it."""
        entry = self._entries.get(request_id)
        if entry is None and len(self._entries) < self._count and request_id not in self._deleted:
            data = self._state.get(self._prefix + request_id.encode())
            if data is not None:
                entry = self._entries[request_id] = self._decode(data)
                self._bytes_most += len(data)
        return entry

    def add(self, request_id: str, entry: Entry) -> None:
        """Add an entry where there is none."""
        self._entries[request_id] = self._changed[request_id] = entry
        self._count += 1

    def changed(self, request_id: str, entry: Entry) -> None:
        """Note that an entry has changed."""
        self._changed[request_id] = entry

    def drop(self, request_id: str, entry: Entry) -> None:
        """Delete an entry."""
        del self._entries[request_id]
        self._changed.pop(request_id, None)
        self._count -= 1
        if entry.stored:
            self._deleted.add(request_id)

    def find(self, may_match: Callable[[bytes], bool]) -> Iterator[tuple[str, Entry]]:
        """The entries whose MessagePack may match, in no order, and those with other originals.

        A look at each entry, at about 1 µs on disk and 2 µs in memory. Call `changed` after changing one.
        """
        for request_id, entry in list(self._entries.items()):
            if may_match(self._encode(entry)) or not is_msgpack(entry.original):
                yield request_id, entry
        if len(self._entries) == self._count:
            return
        strip = len(self._prefix)
        for key, data in self._state.scan(self._prefix):
            request_id = key[strip:].decode()
            if request_id in self._entries or request_id in self._deleted:
                continue
            entry = self._decode(data)
            if may_match(data) or not is_msgpack(entry.original):
                self._entries[request_id] = entry
                yield request_id, entry

    def flush(self, commit: Commit) -> None:
        """Write what has changed; entries beyond the memory limit are evicted."""
        prefix, encode = self._prefix, self._encode
        for request_id in self._deleted:
            commit.delete(prefix + request_id.encode())
        for request_id, entry in self._changed.items():
            entry.stored = True
            data = encode(entry)
            self._bytes_most += len(data)
            commit.put(prefix + request_id.encode(), data)
        self._deleted.clear()
        self._changed.clear()
        self._give_back()

    def _give_back(self) -> None:
        """Keep the entries set last, as many as the limits allow."""
        excess = len(self._entries) - self._memory_max
        if excess > 0:
            for request_id in list(self._entries)[:excess]:
                del self._entries[request_id]
        if self._bytes_most <= self._bytes_max:
            return
        size = sum([len(entry.original) for entry in self._entries.values()])
        size += sum([len(w.original) for e in self._entries.values() if e.waiting for w in e.waiting])
        for request_id, entry in list(self._entries.items()):
            if size <= self._bytes_max:
                break
            del self._entries[request_id]
            size -= len(entry.original) + sum([len(waiting.original) for waiting in entry.waiting])
        self._bytes_most = size


def remove_ids(
    entry: Entry, entity: Entity, impressions: Decoder[Impression]
) -> Literal["nothing", "some", "all"]:
    """Remove ids from a request's impression; returns how much was removed.

    "all": an id is in the context, or no candidate is left. The entry is then unchanged.

    Args:
        impressions: decodes the entry's impression.
    """
    if not entry.original:
        return "nothing"
    impression = impressions.decode_again(entry.original)
    left = left_of(impression.context, impression.candidates, list(entity.keys), entity.named)
    if left is None:
        return "all"
    if not left.changed:
        return "nothing"
    gone = set(entry.gone or ()) | {i for i, candidate in enumerate(left.candidates) if candidate is None}
    if len(gone) == len(impression.candidates):
        return "all"
    entry.gone = sorted(gone)
    rest = msgspec.structs.replace(
        impression,
        context=left.context,
        candidates=[{} if candidate is None else candidate for candidate in left.candidates],
    )
    entry.original = encode(rest)
    return "some"
