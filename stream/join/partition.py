"""One partition of a joiner: pairs its events, and emits what follows from them.

Examples keep the partition of the events they come from, unless they are sharded (`stream.join.sharding`).
The numbers of outputs do not depend on that: in each partition of the examples those of one producer rise.
"""

from collections.abc import Mapping, Sequence

import msgspec

from stream.errors import LogError
from stream.join.outputs import Decided, Origin, Outputs, output_seq, producer_of
from stream.join.pairing import REMEMBERED_WINDOWS, Pairing
from stream.join.settings import JoinCounts, JoinSettings
from stream.join.sharding.places import Places
from stream.join.sharding.skew import Skew
from stream.join.targets.pairing import TargetsPairing
from stream.join.targets.rules import TargetRules
from stream.limits import OFFSET_END
from stream.log.base import DEAD_LETTERS, EXAMPLES, Outgoing, Record
from stream.records.entities.record import EntityEvent, entity_key
from stream.records.forgetting import Entity
from stream.records.types import DeadLetter, Forget, encode
from stream.run.dead_letter_limit import BadShare
from stream.state.role_state import Commit, RoleState

SENT = b"join/sent/"
"""Prefix of the keys under which a state has what a partition has sent (+ 4 bytes of partition)."""

POINTS_MAX = 32  # resume points in the reach of a record


class ResumePoint(msgspec.Struct, frozen=True, array_like=True):
    """A place in a partition from which another joiner can begin, once the clock has reached `over`."""

    clock: float
    offset: int
    ingest_s: float = 0.0  # ingest time of the record before `offset`, as far as known
    over: float = 0.0  # from this clock on, records before `offset` have no influence; 0: not known yet
    decided: float = 0.0  # the clock when all requests before `offset` were decided; 0: some are not


class RecordCut(msgspec.Struct, frozen=True, array_like=True):
    """A record that is being taken in several commits."""

    offset: int
    examples: int  # its outputs so far
    letters: int
    events: int  # of it that were taken, if it is a batch
    further: dict[str, int] = {}  # its examples of further targets so far


class _Sent(msgspec.Struct):
    """Per partition: points to resume from, and which of the last records were bad."""

    points: list[ResumePoint] = msgspec.field(default_factory=list, name="marks")
    counted_from: int = 0  # records before it were counted by another joiner
    bad: bytes = msgspec.field(default=b"", name="useless")
    cut: RecordCut | None = None


class JoinedPartition:
    """One partition's pairing and outputs.

    Args:
        state: holds what earlier commits have written.
        number: of the partition.
        commit: receives outputs; replaced by the caller for each commit.
        topic: of the events.
        counts: of the joiner, over all partitions; counted into.
        rules: of the targets; None: there is one, which the settings describe.
        forget_to: topics beside the examples to which requests to forget are passed on.
        places: of examples, if they are sharded.
        skew: over all partitions; counted into.
    """

    def __init__(
        self,
        state: RoleState,
        number: int,
        commit: Commit,
        topic: str,
        settings: JoinSettings,
        counts: JoinCounts,
        rules: TargetRules | None = None,
        forget_to: Sequence[str] = (),
        places: Places | None = None,
        skew: Skew | None = None,
    ) -> None:
        self.number = number
        self._places = places
        self._skew = skew
        self._shard_by = "" if places is None else places.shard_by
        self._producer = producer_of(number, "", self._shard_by)
        self._producers: dict[str, str] = {"": self._producer}
        self._sent_to: Mapping[int, int] = {}
        self.commit = commit
        self._topic = topic
        self._counts = counts
        self._forget_to = forget_to
        self._key = SENT + number.to_bytes(4, "big")
        saved = state.get(self._key)
        self._sent = _Sent() if saved is None else msgspec.msgpack.decode(saved, type=_Sent)
        self._share = BadShare(
            "join", "join", settings.dead_letter_window, settings.dead_letter_share_max, self._sent.bad
        )
        self._offset = -1  # of the current record
        self._examples = self._letters = 0  # outputs of the current record so far
        self._further: dict[str, int] = {}  # examples of further targets among them
        self.events = 0  # of the current record that were taken by an earlier call
        if (cut := self._sent.cut) is not None:
            self._offset, self._examples, self._letters, self.events = (
                cut.offset, cut.examples, cut.letters, cut.events
            )  # fmt: skip
            self._further = dict(cut.further)
        # an action waits for its impression, and that for its own decision: see `stream.join.pairing`
        self._remembered_s = REMEMBERED_WINDOWS * settings.window_s
        self._window_s = settings.window_s
        self._longest_s = settings.window_s if rules is None else rules.longest_s
        self._decided_s = settings.window_s + self._longest_s
        self._point_every_s = (self._remembered_s + self._decided_s) / POINTS_MAX
        points = self._sent.points
        self._next_point_s = points[-1].clock + self._point_every_s if points else float("-inf")
        self._next_over_s = self._next_change_s()
        self._elsewhere = JoinCounts()
        self.sends_from = 0
        counts = self._counts_of(self._offset)
        self.pairing = (
            Pairing(state, number, settings, counts)
            if rules is None
            else TargetsPairing(state, number, settings, counts, rules)
        )

    def begin(self, offset: int) -> None:
        """The next record is the one at `offset`.

        Raises:
            LogError: no number is left for its outputs.
        """
        if offset == self._offset:
            return
        if offset >= OFFSET_END:
            raise LogError(
                f"topic {self._topic!r}, partition {self.number}: offset {offset} is beyond "
                f"{OFFSET_END - 1:,}, the last one that a joiner can number outputs of; use a new topic"
            )
        self._offset = offset
        self._examples = self._letters = self.events = 0
        if self._further:
            self._further = {}
        self._sent.cut = None
        self.pairing.counts = self._counts_of(offset)
        progress = self.pairing.progress
        clock = progress.clock
        if clock >= self._next_over_s:
            self._note_decided(clock)
        if clock >= self._next_point_s and progress.steady:
            points = self._sent.points
            points.append(ResumePoint(clock, offset, progress.ingest_s))
            while len(points) > 1 and 0.0 < points[1].over <= clock:
                del points[0]
            self._next_point_s = clock + self._point_every_s
            self._next_over_s = self._next_change_s()

    def goes_on(self, offset: int) -> bool:
        """Whether the record at an offset is the one that an earlier call has begun."""
        return offset == self._offset

    def cut(self, events: int) -> None:
        """Note that the current record goes on after a commit.

        Args:
            events: of it that were taken.
        """
        self.events = events
        self._sent.cut = RecordCut(self._offset, self._examples, self._letters, events, self._further)

    def _counts_of(self, offset: int) -> JoinCounts:
        return self._counts if offset >= self._sent.counted_from else self._elsewhere

    def resume_point(self) -> ResumePoint | None:
        """The newest point that can be begun from; None: this joiner took the partition over too recently."""
        first = self._sent.points[:1]
        return first[0] if first and 0.0 < first[0].over <= self.pairing.progress.clock else None

    def _note_decided(self, clock: float) -> None:
        """What waited before some points is decided now, however far the clock has jumped, and remembered."""
        self._sent.points = [self._noted(point, clock) for point in self._sent.points]
        self._next_over_s = self._next_change_s()

    def _noted(self, point: ResumePoint, clock: float) -> ResumePoint:
        decided, over = point.decided, point.over
        if not decided and clock >= point.clock + self._longest_s:
            decided = clock
        if not over and clock >= point.clock + self._decided_s:
            # Whoever begins here does not know these requests: an action that comes while they are remembered
            # waits there for its impression.
            over = max(clock + self._remembered_s, decided + self._remembered_s + self._window_s)
        return msgspec.structs.replace(point, over=over, decided=decided)

    def _next_change_s(self) -> float:
        """The clock at which more becomes known of one of the points."""
        clocks = (
            point.clock + (self._decided_s if point.decided else self._longest_s)
            for point in self._sent.points
            if not point.over
        )
        return min(clocks, default=float("inf"))

    def start(self, point: ResumePoint) -> None:
        """Begin, with an empty state, at a point where another joiner was."""
        self.pairing.progress.begin_at(point.clock, point.ingest_s)
        self._sent.points = [point]
        self._next_point_s = point.clock + self._point_every_s
        self._next_over_s = self._next_change_s()

    def send_from(self, offset: int, sent_to: Mapping[int, int]) -> None:
        """Send and count only the outputs of records from `offset` on; another joiner has sent the rest.

        Args:
            sent_to: of sharded examples, for each of their partitions the offset from which on they are sent.
        """
        self.sends_from = offset
        self._sent_to = sent_to
        self._sent.counted_from = max(self._sent.counted_from, offset)

    def note_good(self, count: int) -> None:
        """Count good events, except those that another joiner has counted."""
        if count and self._offset >= self.sends_from:
            self._share.good(count)

    def note_bad(self, record: Record, why: str) -> None:
        """Count a bad event, unless another joiner has counted it.

        Raises:
            DeadLetterFloodError: too many of the last events are bad.
        """
        if record.offset >= self.sends_from:
            self._share.bad(record.topic, record.partition, record.offset, why)

    def send(self, outputs: Outputs) -> str:
        """Emit the outputs of an event; returns why the event itself cannot be used, or ""."""
        refused = ""
        for output in outputs:
            if isinstance(output, Decided):
                if self._places is not None:
                    self._send_sharded(output, self._places)
                elif output.target:
                    self._send_further(output)
                else:
                    self._send(output.request_id.encode(), output.example)
            elif output.origin is not None:
                self.dead_letter(output.origin, output.reason)
            else:
                refused = output.reason
        return refused

    def refuse(self, record: Record, event: bytes, why: str) -> None:
        """Emit a dead letter for an event of a record, and count it.

        Raises:
            DeadLetterFloodError: too many of the last events are bad.
        """
        self.dead_letter(Origin(record.offset, record.key, event), why)
        self.note_bad(record, why)

    def dead_letter(self, origin: Origin, reason: str) -> None:
        """Emit a dead letter."""
        self.pairing.counts.dead_letters += 1
        letter = DeadLetter(
            reason=reason,
            stage="joiner",
            topic=self._topic,
            partition=self.number,
            offset=origin.offset,
            original=origin.value,
            key=origin.key,
        )
        # one key for all of a partition's letters, so that they stay in order
        outgoing = Outgoing(
            key=f"{self._topic}/{self.number}".encode(),
            value=encode(letter),
            producer=f"joiner-{self.number}-dead",
            seq=output_seq(self._offset, self._letters),
        )
        self._letters += 1
        if self._offset >= self.sends_from:
            self.commit.emit(DEAD_LETTERS, outgoing)

    def forget(self, forget: Forget) -> None:
        """Remove some ids from pending requests, and pass the request on at its offset."""
        self.pairing.forget(Entity(forget.entity))
        self.commit.purge = True
        value = encode(forget)
        if self._places is None:
            self._send(b"forget", value)
        else:  # any partition may hold a request that names one of the ids
            self._send_to(range(self._places.partitions), b"forget", value)
        if self._offset >= self.sends_from:
            for topic in self._forget_to:
                seq = output_seq(self._offset, 0)
                producer = producer_of(self.number)
                self.commit.emit(topic, Outgoing(b"forget", value, self.number, producer, seq))

    def pass_on(self, event: EntityEvent) -> None:
        """Pass an entity event on at its offset."""
        self.pairing.counts.entities += 1
        key, value, places = entity_key(event.feature, event.id), encode(event), self._places
        if places is None:
            self._send(key, value)
        elif event.feature == places.shard_by:
            self._send_to([places.of_id(event.id)], key, value)
        else:  # requests of all partitions have this entity
            self._send_to(range(places.partitions), key, value)

    def flush(self) -> None:
        """Write what has changed into the commit."""
        self.pairing.flush(self.commit)
        self._sent.bad = self._share.encode()
        self.commit.put(self._key, msgspec.msgpack.encode(self._sent))

    def _send(self, key: bytes, value: bytes) -> None:
        index = self._examples
        self._examples = index + 1
        if self._offset >= self.sends_from:
            seq = output_seq(self._offset, index)
            self.commit.emit(EXAMPLES, Outgoing(key, value, self.number, self._producer, seq))

    def _send_further(self, output: Decided) -> None:
        """Emit an example of a further target."""
        index = self._further.get(output.target, 0)
        self._further[output.target] = index + 1
        if self._offset >= self.sends_from:
            seq = output_seq(self._offset, index)
            producer = self._producer_of(output.target)
            self.commit.emit(
                EXAMPLES, Outgoing(output.request_id.encode(), output.example, self.number, producer, seq)
            )

    def _send_sharded(self, output: Decided, places: Places) -> None:
        """Emit an example to its entity's partition."""
        place = places.of_example(output.example)
        if not place.named:
            self.pairing.counts.without_entity += 1
        if self._send_to([place.partition], place.key, output.example, output.target) and self._skew:
            self._skew.note(place)

    def _send_to(self, partitions: Sequence[int], key: bytes, value: bytes, target: str = "") -> bool:
        """Emit one output to some partitions, under one number; returns whether it was still to be sent."""
        if target:
            index = self._further.get(target, 0)
            self._further[target] = index + 1
        else:
            index = self._examples
            self._examples = index + 1
        offset, sent_to, emitted = self._offset, self._sent_to, False
        seq, producer = output_seq(offset, index), self._producer_of(target)
        for partition in partitions:
            if offset >= sent_to.get(partition, 0):
                self.commit.emit(EXAMPLES, Outgoing(key, value, partition, producer, seq))
                emitted = True
        return emitted

    def _producer_of(self, target: str) -> str:
        found = self._producers.get(target)
        if found is None:
            found = self._producers[target] = producer_of(self.number, target, self._shard_by)
        return found
