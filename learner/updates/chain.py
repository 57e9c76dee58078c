"""Which updates count: those of the newest term, in their order, each once.

Several learners may write to the topic: a learner that was paused and replaced still writes for a moment
after it wakes up. A new leader begins its *term* with a record that holds nothing else. Records of a lower
term behind that record do not count. All readers agree, since they read the topic in one order. The new
leader has read up to that record too, so it continues from the state that all readers have.

Of a learner in shards each sends its parts of an update, in any order among them. The update is complete when
all parts of all shards are there. None sends its part of the next one before.
"""

import msgspec

from learner.errors import UpdateGapError
from learner.updates.format import Update, together


class UpdatePosition(msgspec.Struct, frozen=True):
    """A reader's position in topic `updates`: all records before `offset` are processed.

    `seq` is the last complete update before it that counts, `epoch` its epoch and `made_in` its term. `term`
    is the highest term begun.
    """

    offset: int = 0
    term: int = -1
    epoch: int = 0
    seq: int = 0
    made_in: int = -1


class Chain:
    """Takes the records of topic `updates` in order and returns the complete updates that count."""

    def __init__(self, position: UpdatePosition) -> None:
        self.term = position.term
        self.epoch = position.epoch
        self.seq = position.seq
        self.made_in = position.made_in
        self.repeated = 0
        self.fenced = 0
        self._forked = False
        self._parts: dict[int, list[Update]] = {}  # of the next update, by shard

    def position(self, offset: int) -> UpdatePosition:
        """The position of a reader that has taken all records before `offset`."""
        return UpdatePosition(offset, self.term, self.epoch, self.seq, self.made_in)

    def take(self, update: Update) -> list[Update] | None:
        """All parts of an update when its last part is taken; None: parts are missing, or it does not count.

        Raises:
            UpdateGapError: updates before it are missing; call `jump` before the next `take`.
        """
        if update.term < self.term:
            self.fenced += 1
            return None
        if update.term > self.term:
            self.term = update.term
            self._parts = {}
        if update.parts == 0:
            return None  # a term begins
        same = update.epoch == self.epoch
        if same and (self._forked or (update.seq <= self.seq and update.term > self.made_in)):
            # the record that began its term was damaged: updates applied after it do not count
            self._forked = True
            raise UpdateGapError(f"update {self.seq} was applied from a deposed leader")
        if (same and update.seq <= self.seq) or (
            not same and (update.term, update.epoch) < (self.made_in, self.epoch)
        ):
            self.repeated += 1
            return None
        expected = self.seq + 1 if same else 1
        parts = self._parts.get(update.shard, [])
        if update.seq != expected or update.part > len(parts):
            self._parts = {}
            raise UpdateGapError(f"update {update.seq} came instead of {expected}")
        # A learner that crashed between parts sends the update again, from its first part.
        self._parts[update.shard] = [*parts[: update.part], update]
        shards = [self._parts.get(shard, []) for shard in range(max(update.shards, 1))]
        if any(not one or len(one) < one[-1].parts for one in shards):
            return None
        self._parts = {}
        self.epoch, self.seq, self.made_in = update.epoch, update.seq, update.term
        self._forked = False
        return together(shards)

    def jump(self, epoch: int, seq: int, made_in: int) -> None:
        """Continue after an update whose state came from a snapshot."""
        self.epoch, self.seq, self.made_in = epoch, seq, made_in
        self.term = max(self.term, made_in)
        self._forked = False
        self._parts = {}
