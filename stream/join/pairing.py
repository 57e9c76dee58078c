"""Pairs the impressions of one partition with their actions and exposures, in event time.

The partition's clock is the newest plausible event time in it (`stream.join.event_clock`). A request is
decided when the clock reaches its impression's time plus the window, or, if configured, at its first action.
Requests that come due together are decided in the order of (deadline, request_id). So the decisions depend
only on the partition's records and their order.

They depend only on recent records: a record has no influence once the clock has advanced by `REACH_WINDOWS`
windows. A request waits for at most one window and is remembered for two more, and an action waits for its
impression for at most one. Behind a jump of the clock, a request is remembered from there on. So a joiner
that takes the partition over reads back only that far, and then decides the same (`stream.join.assignment`).
"""

from collections.abc import Sequence

import msgspec

from stream.errors import RecordError
from stream.join.event_clock import PartitionProgress
from stream.join.examples import ExampleMaker
from stream.join.exposures import LONG_SLATE, UNSAID, Exposed, amended
from stream.join.outputs import CommitShare, Decided, Origin, Outputs, Unusable
from stream.join.pending import Entry, PendingRequests, Reaction, Waiting, remove_ids
from stream.join.settings import JoinCounts, JoinSettings
from stream.join.timers import Timers
from stream.limits import WAITING_MAX, further_actions_max
from stream.records.decoding import Decoder
from stream.records.forgetting import Entity
from stream.records.types import Action, Exposure, Impression, encode
from stream.state.role_state import Commit, RoleState

REMEMBERED_WINDOWS = 2.0  # how long a decided request is remembered, in windows
REACH_WINDOWS = 1.0 + REMEMBERED_WINDOWS + 1.0
DUE_AT_ONCE = 100  # timers, after which the outputs are weighed

# Prefixes of a partition's keys: of its numbers (+ 4 bytes of partition), of its entries (+ the same + "/").
PROGRESS = b"join/partition/"
ENTRIES = (b"join/pending/", b"join/close/", b"join/forget/", b"join/later/")
_NOTHING = msgspec.msgpack.encode({})


class Pairing:
    """The requests of one partition, with one target."""

    entries: type[Entry] = Entry

    def __init__(self, state: RoleState, partition: int, settings: JoinSettings, counts: JoinCounts) -> None:
        """Load a partition from the state.

        Args:
            counts: to count into. The attribute `counts` may be replaced at any time.
        """
        number = partition.to_bytes(4, "big")
        self._key = PROGRESS + number
        self.progress = msgspec.msgpack.decode(state.get(self._key) or _NOTHING, type=PartitionProgress)
        pending, *queues = (prefix + number + b"/" for prefix in ENTRIES)
        count = self.progress.undecided + self.progress.remembered + self.progress.waiting
        self._pending = PendingRequests(state, pending, settings.pending_max_memory, count, kind=self.entries)
        self._closing, self._forgetting, self._later = (Timers(state, queue) for queue in queues)
        self._queues = [(self._closing, self._close), (self._forgetting, self._forget)]
        self._settings = settings
        self._window_s = settings.window_s
        self._pending_max = settings.pending_max
        self._further_actions_max = further_actions_max(settings.pending_max)
        self._remembered_s = REMEMBERED_WINDOWS * settings.window_s
        self.counts = counts
        self._impressions = Decoder(Impression)
        self._sequels = Decoder[Action | Exposure](Action, Exposure)
        self._examples = ExampleMaker(settings, self._impressions)
        self._outputs: Outputs = []  # of the current event

    def take(
        self,
        event: Impression | Action | Exposure,
        offset: int,
        original: bytes,
        latest_s: float,
        timed: bool = True,
    ) -> Outputs:
        """Take the partition's next event; returns its outputs.

        If the progress is `advancing` afterwards, the event was not taken: too much was due before it. Then
        commit, call `advance` until that is over, and take it once more, with `latest_s` the clock.

        Args:
            event: decoded from `original`.
            offset: of its record.
            original: its bytes.
            latest_s: upper limit of its event time, Unix seconds; a later time counts as this.
            timed: whether the log notes ingest times. If not, `latest_s` comes from `latest`, and the window
                of an impression ahead of it begins at its own time, because the stream may have paused.
        """
        time = event.time
        ahead = time > latest_s
        if ahead:
            time = latest_s
        progress = self.progress
        if time > progress.clock:
            if time < self._closing.next_s and time < self._forgetting.next_s and time < self._later.next_s:
                progress.clock = time  # nothing is due, as for most events: saves a call
            else:
                self._advance(time)
                if progress.advancing:
                    return self._taken_outputs()
        if ahead:
            self.counts.ahead += 1
        try:
            if isinstance(event, Impression):
                self._take_impression(event, time if timed else event.time, original)
            else:
                self._take_sequel(event, offset, original)
        except RecordError as error:
            self._outputs.append(Unusable(None, str(error)))
        if (
            progress.undecided + progress.waiting > self._pending_max
            or progress.remembered > self._pending_max
            or progress.further_actions > self._further_actions_max
            or progress.waiting_bytes > self._settings.waiting_bytes_max
        ):
            self._keep_limit()
        return self._taken_outputs()

    def advance(self) -> Outputs:
        """Process more of the timers that are due at the clock; returns the outputs."""
        self._end_due()
        return self._taken_outputs()

    def _taken_outputs(self) -> Outputs:
        outputs, self._outputs = self._outputs, []
        return outputs

    @property
    def lacks_time(self) -> bool:
        """Whether requests wait for time to pass, and `pass_time` can advance the clock."""
        progress = self.progress
        return progress.undecided + progress.waiting > 0 and progress.lives(self._window_s)

    def pass_time(self, ingest_s: float) -> Outputs:
        """Advance the clock by the time between the ingest of a `Tick` and of the record before it.

        So the requests of a quiet partition are decided too. Only the log's times count, so every joiner and
        every rerun decides the same. If the progress is `advancing` afterwards, commit, and call `advance`
        until that is over.
        """
        progress = self.progress
        passed_s = ingest_s - progress.ingest_s
        if not progress.lives(self._window_s) or passed_s <= 0.0:
            return []
        progress.ingest_s = ingest_s
        self._advance(progress.clock + passed_s)
        return self._taken_outputs()

    def _advance(self, time: float) -> None:
        """Advance the clock, and process the timers that are due."""
        self.progress.clock = time
        self._end_due()

    def _end_due(self) -> None:
        """Process the timers that are due: all of them, or as many as one commit should hold."""
        progress, share, clock = self.progress, CommitShare(), self.progress.clock
        for timers, end in self._queues:
            while timers.next_s <= clock and (due := timers.due(clock, DUE_AT_ONCE)):
                for deadline, request_id in due:
                    end(request_id, deadline)
                progress.advancing = len(due) == DUE_AT_ONCE and share.is_full(len(due), self._outputs)
                if progress.advancing:
                    return
        progress.advancing = False

    def forget(self, entity: Entity) -> None:
        """Remove ids: whole requests whose context has them, and candidates of other requests.

        A request that is removed completely counts as decided, so that its actions are late, not orphans.
        """
        self.counts.forgets += 1
        for request_id, entry in self._pending.find(entity.within):
            removed = remove_ids(entry, entity, self._impressions)
            if removed == "nothing":
                continue
            self.counts.forgotten += 1
            if removed == "all":
                self._drop(request_id, entry)
            else:
                self._pending.changed(request_id, entry)

    def flush(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        self.progress.flushes += 1
        self._pending.flush(commit)
        for timers, _ in self._queues:
            timers.flush(commit, self.progress.flushes)
        commit.put(self._key, msgspec.msgpack.encode(self.progress))

    def _take_impression(self, impression: Impression, time: float, original: bytes) -> None:
        request_id = impression.request_id
        if type(impression) is Impression:
            # the bytes are copied into the example: leave out values that no feature takes
            original = encode(impression)
        entry = self._pending.get(request_id)
        waiting: tuple[Waiting, ...] = ()
        deadline = time + self._window_s
        if entry is None:
            entry = Entry(deadline, len(impression.candidates), False, original)
            if impression.shown is not None:
                entry.exposed = Exposed(impression.shown)
            self.progress.undecided += 1
            self._pending.add(request_id, entry)
        elif entry.size == 0:
            waiting, entry.waiting = entry.waiting, ()
            self._end_wait(len(waiting) - 1)
            entry.deadline, entry.size, entry.original = deadline, len(impression.candidates), original
            if impression.shown is not None:
                entry.exposed = Exposed(impression.shown)
            self._pending.changed(request_id, entry)
        else:
            self.counts.duplicate_impressions += 1
            return
        self.counts.impressions += 1
        if impression.labels is not None:
            entry.reactions = {
                i: Reaction(label, impression.time) for i, label in enumerate(impression.labels) if label
            }
            self._decide(request_id, entry, impression.time, impression)
        else:
            self._closing.add(deadline, request_id)
        if waiting:
            self._take_waiting(request_id, waiting, entry)
        if deadline <= self.progress.clock and not entry.decided:
            self._decide(request_id, entry, deadline, impression)

    def _take_waiting(self, request_id: str, waiting: Sequence[Waiting], entry: Entry) -> None:
        """Apply what came before its impression: exposures first, since an action may decide the request."""
        events = [(self._sequels.decode(one.original), one) for one in waiting]
        for event, one in sorted(events, key=lambda pair: isinstance(pair[0], Action)):
            try:
                self._apply(event, entry)
            except RecordError as error:
                origin = Origin(one.offset, request_id.encode(), one.original)
                self._outputs.append(Unusable(origin, str(error)))

    def _take_sequel(self, event: Action | Exposure, offset: int, original: bytes) -> None:
        """Take an event that says more of a request."""
        request_id = event.request_id
        entry = self._pending.get(request_id)
        if entry is not None and entry.size:
            self._apply(event, entry)
            return
        deadline = self.progress.clock + self._window_s
        waiting = Waiting(offset, original, deadline)
        if entry is None:
            self._pending.add(request_id, self.entries(deadline, waiting=(waiting,)))
            self.progress.undecided += 1
        elif any(other.original == original for other in entry.waiting):
            self.counts.duplicate_actions += isinstance(event, Action)
            self.counts.duplicate_exposures += isinstance(event, Exposure)
            return
        elif len(entry.waiting) == WAITING_MAX:
            raise RecordError(f"over {WAITING_MAX} events wait for the impression of request {request_id!r}")
        else:
            entry.waiting += (waiting,)
            self.progress.further_actions += 1
            self._pending.changed(request_id, entry)
        self._closing.add(deadline, request_id)

    def _apply(self, event: Action | Exposure, entry: Entry) -> None:
        """Apply an action or exposure to a request whose impression is there."""
        if isinstance(event, Action):
            self._react(event, entry)
        else:
            self._expose(event, entry)

    def _expose(self, exposure: Exposure, entry: Entry) -> None:
        before = entry.exposed or UNSAID
        after = amended(before, exposure, entry.size)
        if after.says(before):
            self.counts.duplicate_exposures += 1
        elif entry.decided or before.settled is not None:
            self.counts.late_exposures += 1
            return
        else:
            self.counts.exposures += 1
        if after != before and not entry.decided:
            entry.exposed = after
            self._pending.changed(exposure.request_id, entry)

    def _react(self, action: Action, entry: Entry) -> None:
        """Apply an action to a request whose impression is there."""
        if action.candidate >= entry.size:
            raise RecordError(
                f"action with candidate {action.candidate} of a request of {entry.size} candidates "
                f"(0 to {entry.size - 1})"
            )
        before = entry.reactions.get(action.candidate)
        if before is not None and (before.label == action.label or action.time < before.time):
            self.counts.duplicate_actions += 1
            return
        entry.reactions[action.candidate] = Reaction(action.label, action.time)
        self._pending.changed(action.request_id, entry)
        if entry.decided:
            self.counts.late += 1
            if entry.original and action.candidate not in (entry.gone or ()):
                clock = self.progress.clock
                example = self._examples.make_late(entry, action, before, clock, self.counts)
                if example is not None:
                    self._outputs.append(Decided(action.request_id, example))
            return
        self.counts.actions += 1
        if action.label and self._settings.decide == "first_action":
            self._decide(action.request_id, entry, self.progress.clock)

    def _close(self, request_id: str, deadline: float, decided: float | None = None) -> bool:
        """End the wait of a request, unless the timer is stale."""
        entry = self._pending.get(request_id)
        if entry is None or entry.decided or (entry.size and entry.deadline != deadline):
            return False
        if entry.size:
            self._decide(request_id, entry, deadline if decided is None else decided)
            return True
        over = [action for action in entry.waiting if action.deadline <= deadline]
        entry.waiting = entry.waiting[len(over) :]
        self._end_wait(len(over) if entry.waiting else len(over) - 1)
        if entry.waiting:
            self._pending.changed(request_id, entry)
        else:
            self.progress.undecided -= 1
            self._pending.drop(request_id, entry)
        if self.progress.clock < deadline:
            wait = "and too many requests are pending to wait longer"
        else:
            wait = f"within {self._settings.window_s:g} s of event time"
        why = f"without impression: none for request {request_id!r} came in this partition {wait}"
        self.counts.orphans += len(over)
        for action in over:
            origin = Origin(action.offset, request_id.encode(), action.original)
            what = "action" if isinstance(self._sequels.decode(action.original), Action) else "exposure"
            self._outputs.append(Unusable(origin, f"{what} {why}"))
        return not entry.waiting

    def _decide(
        self, request_id: str, entry: Entry, decided: float, impression: Impression | None = None
    ) -> None:
        assert entry.size and not entry.decided
        if (
            entry.exposed is None
            and entry.size > LONG_SLATE
            and (impression is None or impression.labels is None)
        ):
            self.counts.long_unsaid += 1
        example = self._examples.make(entry, decided, impression, self.counts)
        if example is not None:
            self._outputs.append(Decided(request_id, example))
        if self._settings.late == "drop":
            entry.original = b""
        self._remember(request_id, entry)

    def _drop(self, request_id: str, entry: Entry) -> None:
        """Delete the content of a request, but remember its id."""
        entry.original = b""
        entry.reactions = {}
        if entry.decided:
            self._pending.changed(request_id, entry)
        else:
            self._remember(request_id, entry)

    def _remember(self, request_id: str, entry: Entry) -> None:
        """Remember a decided request for a while, to recognise duplicates and late actions."""
        progress = self.progress
        progress.undecided -= 1
        progress.remembered += 1
        entry.decided = True
        entry.deadline = progress.clock + self._remembered_s
        self._pending.changed(request_id, entry)
        self._forgetting.add(entry.deadline, request_id)

    def _end_wait(self, further: int) -> None:
        """Subtract actions that no longer wait, beyond the first of each request."""
        # states from before this count existed hold actions that are not in it
        self.progress.further_actions = max(self.progress.further_actions - further, 0)

    def _forget(self, request_id: str, deadline: float) -> bool:
        entry = self._pending.get(request_id)
        if entry is None or not entry.decided or entry.deadline != deadline:
            return False
        self._pending.drop(request_id, entry)
        self.progress.remembered -= 1
        return True

    def _keep_limit(self) -> None:
        """While there are too many requests, decide the oldest early and forget those decided longest ago."""
        progress = self.progress
        while progress.undecided > self._pending_max or progress.further_actions > self._further_actions_max:
            timer = self._closing.pop()
            assert timer is not None, "every undecided request has a timer"
            if self._close(timer[1], timer[0], progress.clock):
                self.counts.early += 1
        while progress.remembered > self._pending_max:
            timer = self._forgetting.pop()
            assert timer is not None, "every remembered request has a timer"
            if self._forget(timer[1], timer[0]):
                self.counts.forgotten_early += 1
