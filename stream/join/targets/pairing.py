"""Pairs impressions with the actions of several targets, in event time.

A request goes through the steps of `TargetRules`, counted from its impression's time. Until its first target
is decided it is undecided, as with one target; from then on it *waits*, with only those candidates of which
something is still open. A target's example holds its own sample. What changes after the decision, while the
target is open, is learned as a correction.
"""

from collections.abc import Sequence
from typing import cast

from stream.errors import RecordError
from stream.join.examples import Amended
from stream.join.exposures import Exposed
from stream.join.outputs import Decided, Origin, Unusable
from stream.join.pending import Entry, Waiting
from stream.join.settings import JoinCounts, JoinSettings
from stream.join.targets.deciding import Deciding
from stream.join.targets.outcomes import Outcome, TargetEntry
from stream.join.targets.rules import TargetRules
from stream.records.types import Action, Impression, encode
from stream.state.role_state import RoleState


class TargetsPairing(Deciding):
    """The requests of one partition, with several targets."""

    entries = TargetEntry

    def __init__(
        self, state: RoleState, partition: int, settings: JoinSettings, counts: JoinCounts, rules: TargetRules
    ) -> None:
        super().__init__(state, partition, settings, counts, rules)
        self._queues.insert(1, (self._later, self._end_wait_for_further))
        self._first_s = rules.steps[0].after_s
        self._first_done = sum([1 << target for target in rules.steps[0].decides])
        self._quiet_end_at_once = rules.quiet_end_at_once and self._whole_rate

    def _take_impression(self, impression: Impression, time: float, original: bytes) -> None:
        request_id = impression.request_id
        if type(impression) is Impression:
            original = encode(impression)  # without values that no feature takes
        found = self._pending.get(request_id)
        waiting: tuple[Waiting, ...] = ()
        if found is not None and found.size:
            self.counts.duplicate_impressions += 1
            return
        if found is None:
            entry = TargetEntry(time)
            self.progress.undecided += 1
            self._pending.add(request_id, entry)
        else:
            entry = cast(TargetEntry, found)
            waiting, entry.waiting = entry.waiting, ()
            self._end_wait(len(waiting) - 1)
            self._pending.changed(request_id, entry)
        entry.start, entry.size, entry.original = time, len(impression.candidates), original
        entry.deadline = time + self._first_s
        if impression.shown is not None:
            entry.exposed = Exposed(impression.shown)
        self.counts.impressions += 1
        if impression.labels is not None:
            self._take_labels(entry, impression, impression.labels)
        if waiting:
            self._take_waiting(request_id, waiting, entry)
        if not entry.decided or entry.original:
            if entry.deadline <= self.progress.clock:  # saves a call of most requests
                self._pass_steps(request_id, entry, self.progress.clock)
            if entry.original and not entry.decided:
                self._closing.add(entry.deadline, request_id)

    def _take_labels(self, entry: TargetEntry, impression: Impression, labels: list[float]) -> None:
        """Decide a request whose labels are known: of the first target, and of those with outcomes."""
        outcomes: dict[str, Sequence[float | None]] = {self._rules.names[0]: labels}
        outcomes |= impression.outcomes or {}
        entry.said = {
            self._rules.names.index(name): {
                c: Outcome(impression.time, True, label) for c, label in enumerate(found) if label
            }
            for name, found in outcomes.items()
        }
        known = [self._rules.names.index(name) for name in outcomes]
        for target in self._rules.order:
            if target in known:
                self._decide_target(impression.request_id, entry, target, impression.time, impression)
        self._finish(impression.request_id, entry)

    def _take_waiting(self, request_id: str, waiting: Sequence[Waiting], entry: Entry) -> None:
        """Apply what came before its impression: exposures, then actions at their own event times."""
        assert isinstance(entry, TargetEntry)
        events = [(self._sequels.decode(one.original), one) for one in waiting]
        for event, one in sorted(events, key=lambda pair: (isinstance(pair[0], Action), pair[0].time)):
            try:
                if isinstance(event, Action):
                    self._pass_steps(request_id, entry, min(event.time, self.progress.clock))
                self._apply(event, entry)
            except RecordError as error:
                origin = Origin(one.offset, request_id.encode(), one.original)
                self._outputs.append(Unusable(origin, str(error)))

    def _react(self, action: Action, entry: Entry) -> None:
        assert isinstance(entry, TargetEntry)
        candidate, request_id = action.candidate, action.request_id
        if candidate >= entry.size:
            raise RecordError(
                f"action with candidate {candidate} of a request of {entry.size} candidates "
                f"(0 to {entry.size - 1})"
            )
        rules, target = self._rules, self._rules.number_of(action.name)
        label = action.value if rules.is_value[target] and action.value is not None else action.label
        new = Outcome(action.time, bool(action.label), label if action.label else 0.0)
        said = entry.said.get(target)
        old = said.get(candidate) if said else None
        if old is not None and (new <= old or new.says(old)):
            self.counts.duplicate_actions += 1
            if new > old and entry.original:
                self._say(request_id, entry, target, candidate, new)
            return
        if not entry.original or candidate not in entry.numbers():
            self.counts.late += 1
            return
        if not self._fates.counts(entry, candidate, target):
            self.counts.late += 1
            return
        self.counts.actions += 1
        taught = self._outcomes(entry).taught(candidate) if entry.done else {}
        self._say(request_id, entry, target, candidate, new)
        if entry.done:
            self._amend(request_id, entry, candidate, taught)
        if rules.first_action and new.happened:
            self._decide_at_once(request_id, entry, candidate)

    def _say(self, request_id: str, entry: TargetEntry, target: int, candidate: int, new: Outcome) -> None:
        entry.said.setdefault(target, {})[candidate] = new
        self._pending.changed(request_id, entry)

    def _amend(self, request_id: str, entry: TargetEntry, candidate: int, before: dict[int, float]) -> None:
        """Emit what an action changed of what was learned of a candidate."""
        outcomes = self._outcomes(entry)
        after = outcomes.taught(candidate)
        for target in self._rules.order:
            if not outcomes.is_open(target):
                continue
            was, now = before.get(target), after.get(target)
            if now is None:
                if was is not None:  # it is in the sample no more: what was learned stays
                    entry.left = {**entry.left, target: {**entry.left.get(target, {}), candidate: was}}
                continue
            if was is None:
                was = entry.left.get(target, {}).pop(candidate, None)
            if was == now:
                continue
            aim, labels, clock = self._aims[target], Amended(was, now), self.progress.clock
            at = candidate if entry.kept is None else entry.kept.index(candidate)
            example = self._examples.amend(self._laid_out(entry), at, labels, clock, self.counts, aim)
            if example is not None:
                self._outputs.append(Decided(request_id, example, aim.name))

    def _decide_at_once(self, request_id: str, entry: TargetEntry, candidate: int) -> None:
        """Decide the events that have happened with a candidate, though their time has not come."""
        rules, outcomes = self._rules, self._outcomes(entry)
        for target in rules.order:
            if rules.is_value[target] or entry.is_done(target) or not outcomes.happened(target, candidate):
                continue
            self._decide_target(request_id, entry, target, self.progress.clock)
        if not entry.decided and entry.is_done(0):
            self._settle(request_id, entry)

    def _close(self, request_id: str, deadline: float, decided: float | None = None) -> bool:
        entry = self._pending.get(request_id)
        if entry is None or not entry.size:
            return super()._close(request_id, deadline, decided)
        assert isinstance(entry, TargetEntry)
        if entry.decided or entry.deadline != deadline:
            return False
        if self._quiet_end_at_once and not entry.step and entry.is_quiet():  # as of most: saves the steps
            self._decide_quiet(request_id, entry, deadline if decided is None else decided)
            entry.done, entry.step = self._first_done, 1
            self._finish(request_id, entry)
            return True
        self._pass_steps(request_id, entry, max(deadline, self.progress.clock), decided)
        if not entry.decided:
            self._closing.add(entry.deadline, request_id)
        return True

    def _end_wait_for_further(self, request_id: str, deadline: float) -> bool:
        """Take the next step of a request that waits for further targets, unless the timer is stale."""
        entry = self._waiting_at(request_id, deadline)
        if entry is not None:
            self._pass_steps(request_id, entry, self.progress.clock)
        return entry is not None

    def _end_early(self) -> None:
        """Finish the request that waits for further targets and whose next step is the first to come."""
        timer = self._later.pop()
        assert timer is not None, "every request that waits has a timer"
        deadline, request_id = timer
        entry = self._waiting_at(request_id, deadline)
        if entry is None:
            return
        for target in self._rules.order:
            if not entry.is_done(target):
                self._decide_target(request_id, entry, target, self.progress.clock)
        self._finish(request_id, entry)
        self.counts.early += 1

    def _waiting_at(self, request_id: str, deadline: float) -> TargetEntry | None:
        """The request that waits, unless its timer is stale."""
        entry = self._pending.get(request_id)
        if entry is None or not entry.decided or not entry.original or entry.deadline != deadline:
            return None
        assert isinstance(entry, TargetEntry)
        return entry

    def _pass_steps(
        self, request_id: str, entry: TargetEntry, until: float, decided: float | None = None
    ) -> None:
        """Take all of a request's steps that are due.

        Then the order among requests follows from the clock. Taken one step at a time, it would depend on
        how many timers are taken together, stale ones among them.

        Args:
            until: the clock.
            decided: the event time that its examples say; None: when each step was due.
        """
        steps = self._rules.steps
        self._pending.changed(request_id, entry)
        while entry.original and entry.deadline <= until:
            when = entry.deadline if decided is None else decided
            needed: list[int] | None = None
            if self._whole_rate and entry.is_plain():
                needed = self._decide_plain(request_id, entry, when)
            else:
                for target in steps[entry.step].decides:
                    if not entry.is_done(target):
                        self._decide_target(request_id, entry, target, when)
            entry.step += 1
            if entry.step < len(steps):
                entry.deadline = entry.start + steps[entry.step].after_s
                self._settle(request_id, entry, until, needed)
            else:
                self._finish(request_id, entry)

    def _settle(
        self, request_id: str, entry: TargetEntry, until: float = -1.0, needed: list[int] | None = None
    ) -> None:
        """Keep what is still needed of a request, behind a step; set its timer if it waits beyond `until`.

        The caller notes that the entry changes.

        Args:
            needed: the candidates that are still needed, if that is known already.
        """
        if not entry.done & 1:
            return
        if needed is None:
            needed = self._outcomes(entry).needed()
        if not needed:
            self._finish(request_id, entry)
            return
        if len(needed) < (entry.size if entry.kept is None else len(entry.kept)):
            entry.keep(needed, self._impressions)
        if not entry.decided:
            entry.decided = True
            self.progress.undecided -= 1
            self.progress.waiting += 1
        size = len(entry.original)
        self.progress.waiting_bytes += size - entry.held
        entry.held = size
        if entry.deadline > until:
            self._later.add(entry.deadline, request_id)

    def _finish(self, request_id: str, entry: TargetEntry) -> None:
        """Nothing of a request is open any more: remember only its id."""
        progress = self.progress
        if entry.decided:
            progress.waiting -= 1
            progress.waiting_bytes -= entry.held
        else:
            progress.undecided -= 1
        entry.decided, entry.original, entry.held = True, b"", 0
        entry.said, entry.left, entry.kept, entry.gone, entry.exposed = {}, {}, None, None, None
        progress.remembered += 1
        entry.deadline = progress.clock + self._remembered_s
        self._pending.changed(request_id, entry)
        self._forgetting.add(entry.deadline, request_id)

    def _drop(self, request_id: str, entry: Entry) -> None:
        assert isinstance(entry, TargetEntry)
        if entry.original:
            self._finish(request_id, entry)

    def _forget(self, request_id: str, deadline: float) -> bool:
        entry = self._pending.get(request_id)
        if entry is None or not entry.decided or entry.original or entry.deadline != deadline:
            return False
        self._pending.drop(request_id, entry)
        self.progress.remembered -= 1
        return True

    def _keep_limit(self) -> None:
        progress, most, further_max = self.progress, self._pending_max, self._further_actions_max
        while progress.undecided + progress.waiting > most or progress.further_actions > further_max:
            if progress.waiting > progress.undecided and progress.further_actions <= further_max:
                self._end_early()
                continue
            timer = self._closing.pop()
            assert timer is not None, "every undecided request has a timer"
            if self._close(timer[1], timer[0], progress.clock):
                self.counts.early += 1
        while progress.waiting_bytes > self._settings.waiting_bytes_max:
            self._end_early()
        while progress.remembered > most:
            timer = self._forgetting.pop()
            assert timer is not None, "every remembered request has a timer"
            if self._forget(timer[1], timer[0]):
                self.counts.forgotten_early += 1
