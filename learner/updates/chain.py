"""Which updates count: those of the newest term, in their order, each once.

Several learners may write to the topic: one that was paused, has been replaced, and wakes up goes on
writing for a moment. A new leader begins its *term* with a record that holds nothing else. From there
on whatever a lower term writes does not count, for any reader, since all read the topic in one order.
The new leader has itself read up to that record, so it goes on from just what everybody has.
"""

import msgspec

from learner.errors import UpdateGapError
from learner.updates.format import Update


class Place(msgspec.Struct, frozen=True):
    """Where one is in topic `updates`: what came before `offset` is done with.

    `seq` is the last whole update before it that counts, of a learner's `epoch`, made in `made_in`;
    `term` is the highest that had begun.
    """

    offset: int = 0
    term: int = -1
    epoch: int = 0
    seq: int = 0
    made_in: int = -1


class Chain:
    """Takes the records of topic `updates` in order and gives whole updates that count."""

    def __init__(self, place: Place) -> None:
        self.term = place.term
        self.epoch = place.epoch
        self.seq = place.seq
        self.made_in = place.made_in
        self.repeated = 0
        self.fenced = 0
        self._forked = False
        self._parts: list[Update] = []

    def place(self, offset: int) -> Place:
        """Where it is, for one who has taken all before `offset`."""
        return Place(offset, self.term, self.epoch, self.seq, self.made_in)

    def take(self, update: Update) -> list[Update] | None:
        """All parts of an update, once its last is taken; None: not yet, or it does not count.

        Raises:
            UpdateGapError: updates before it are missing; nothing is taken until `jump`.
        """
        if update.term < self.term:
            self.fenced += 1
            return None
        if update.term > self.term:
            self.term = update.term
            self._parts = []
        if update.parts == 0:
            return None  # a term begins
        same = update.epoch == self.epoch
        if same and (self._forked or (update.seq <= self.seq and update.term > self.made_in)):
            # the record that began its term was never seen: what was taken behind it does not count
            self._forked = True
            raise UpdateGapError(f"update {self.seq} was taken of a learner that led no more")
        if (same and update.seq <= self.seq) or (
            not same and (update.term, update.epoch) < (self.made_in, self.epoch)
        ):
            self.repeated += 1
            return None
        expected = self.seq + 1 if same else 1
        if update.seq != expected or update.part > len(self._parts):
            self._parts = []
            raise UpdateGapError(f"update {update.seq} came where {expected} was expected")
        # A learner that died between parts sends the update again, from its first part.
        self._parts = [*self._parts[: update.part], update]
        if len(self._parts) < update.parts:
            return None
        parts, self._parts = self._parts, []
        self.epoch, self.seq, self.made_in = update.epoch, update.seq, update.term
        self._forked = False
        return parts

    def jump(self, epoch: int, seq: int, made_in: int) -> None:
        """Go on behind an update that was learnt of in another way."""
        self.epoch, self.seq, self.made_in = epoch, seq, made_in
        self.term = max(self.term, made_in)
        self._forked = False
        self._parts = []
