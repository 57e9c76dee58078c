"""Where history ends and the live log begins: each example is learned from one of the two, exactly once.

Around the switch time T both sources hold the same requests: a nightly file is written some time after its
last event, and the log retains some days. The event time t of the impression, and near T the request id (of
a further target, or of what came late, the example), decides from which source an example is learned:

    t < T - overlap              history alone
    T - overlap ≤ t < T          history if it has the request; else the log
    T ≤ t < T + overlap          the log, unless history had the very request with t < T
    T + overlap ≤ t              the log alone

No example is missed if the files are complete up to T - overlap and the log holds every impression from T -
overlap on. So the overlap is at least as long as a further target, or what comes late, waits: what was
decided after the files were written is only in the log. No example is learned twice if the two sources' times
of a request differ by less than the overlap. (Times in whole seconds differ from the log's by less than one
second.)
"""

from typing import Self

import msgspec
import numpy as np
import xxhash

from stream.records.types import Example

KEY = b"learner/boundary"  # in a learner's state
IDS_MAX = 5_000_000  # of history's requests in the overlap, at 8 bytes in the state


class Boundary:
    """Decides which examples of the log were already learned from history.

    Args:
        until: T, event time in Unix seconds.
        overlap_s: seconds around T in which request ids decide.
    """

    def __init__(self, until: float, overlap_s: float) -> None:
        self.until = until
        self.overlap_s = overlap_s
        self._ids: set[int] = set()

    def of_history(self, example: Example) -> bool:
        """Whether to learn an example of the files. Stores its request id if it lies in the overlap."""
        if example.time >= self.until:
            return False
        # two overlaps back: its time in the log may be a little later and fall into the overlap
        if example.time >= self.until - 2.0 * self.overlap_s:
            self._ids.add(_hash(example))
        return True

    def learnt(self, example: Example) -> bool:
        """Whether an example of the log was already learned from history."""
        if example.time >= self.until + self.overlap_s:
            return False
        return example.time < self.until - self.overlap_s or _hash(example) in self._ids

    @property
    def ids(self) -> int:
        """How many request ids of history are stored."""
        return len(self._ids)

    def encode(self) -> bytes:
        """All of it as bytes."""
        ids = np.sort(np.fromiter(self._ids, dtype=np.uint64, count=len(self._ids)))
        return msgspec.msgpack.encode((self.until, self.overlap_s, ids.tobytes()))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of `encode`."""
        until, overlap_s, ids = msgspec.msgpack.decode(data, type=tuple[float, float, bytes])
        found = cls(until, overlap_s)
        found._ids = set(np.frombuffer(ids, dtype=np.uint64).tolist())
        return found


def _hash(example: Example) -> int:
    """Of what both sources hold alike. A request may have an example of each target, and later ones of what
    came late, which history need not have because it has the request.
    """
    if not example.target and not example.late:
        return xxhash.xxh3_64_intdigest(example.request_id.encode())
    named: list[object] = [example.request_id, example.target]
    if example.late:
        named += [example.candidates, example.labels, example.before]
    return xxhash.xxh3_64_intdigest(msgspec.json.encode(named, order="sorted"))
