"""What the decision of a target emits: its example, made of what is known to have happened by then."""

from stream.join.examples import Aim
from stream.join.exposures import LONG_SLATE, seen, settled
from stream.join.outputs import Decided
from stream.join.pairing import Pairing
from stream.join.settings import JoinCounts, JoinSettings
from stream.join.targets.fates import Fates
from stream.join.targets.outcomes import Outcomes, TargetEntry
from stream.join.targets.rules import TargetRules
from stream.records.fast_decoding import splices
from stream.records.types import Impression
from stream.state.role_state import RoleState


class Deciding(Pairing):
    """Decides single targets of the requests of one partition.

    There are three ways, which emit the same bytes: of a request with which nothing happened, as of most; of
    one whose candidates all count as shown; and of any.
    """

    def __init__(
        self, state: RoleState, partition: int, settings: JoinSettings, counts: JoinCounts, rules: TargetRules
    ) -> None:
        super().__init__(state, partition, settings, counts)
        self._rules = rules
        self._fates = Fates(rules)
        self._whole_rate = settings.negative_rate == 1.0
        self._aims = [
            Aim(rules.name_in_example(t), rules.of[t] < 0, rules.is_value[t]) for t in range(len(rules.names))
        ]

    def _outcomes(self, entry: TargetEntry) -> Outcomes:
        """What has happened, among what was shown."""
        if entry.exposed is None or entry.kept is not None:
            return Outcomes(self._rules, entry)
        touched = Outcomes(self._rules, entry).touched()
        impression = self._impressions.decode_again(entry.original)
        return Outcomes(self._rules, entry, seen(impression, entry.exposed, touched).candidates)

    def _laid_out(self, entry: TargetEntry, impression: Impression | None = None) -> Impression:
        """The entry's impression, with the places of what was shown if that was said."""
        impression = impression or self._impressions.decode_again(entry.original)
        if entry.exposed is None or entry.kept is not None:
            return impression
        touched = Outcomes(self._rules, entry).touched()
        return self._examples.laid_out(entry, impression, self.counts, touched)

    def _decide_target(
        self,
        request_id: str,
        entry: TargetEntry,
        target: int,
        decided: float,
        impression: Impression | None = None,
    ) -> None:
        """Emit the example of a target, unless its sample is empty. The caller notes that the entry changes.

        Args:
            impression: the entry's, if it came with its labels.
        """
        entry.done |= 1 << target
        aim, counts = self._aims[target], self.counts
        if not entry.said and not aim.root:
            return  # as of most requests: nothing happened with any candidate
        copies = target == 0 and impression is None and self._whole_rate
        if copies and entry.is_quiet():
            self._decide_quiet(request_id, entry, decided)
            return
        if aim.root and entry.exposed is not None and entry.kept is None:
            whole = impression or self._impressions.decode_again(entry.original)
            found = seen(whole, entry.exposed, Outcomes(self._rules, entry).touched())
            entry.exposed = settled(entry.exposed, found)
        labels = self._outcomes(entry).labels(target)
        if target == 0:
            if entry.exposed is not None:
                counts.exposed += 1
                counts.unshown += len(entry.numbers()) - len(labels)
            elif entry.size > LONG_SLATE and impression is None:
                counts.long_unsaid += 1
        if not labels:
            counts.emptied += aim.root
            return
        said = entry.said.get(target, {})
        counts.implied += sum([label != 0.0 and c not in said for c, label in labels.items()])
        if entry.kept is not None:
            labels = {entry.kept.index(c): label for c, label in labels.items()}
        made: bytes | None
        if copies and len(labels) == entry.size and entry.is_whole():
            made = self._examples.copy(entry.original, list(labels.values()), decided, counts)
        elif not aim.root and splices(entry.original):
            made = self._examples.copy_some(entry.original, labels, decided, counts, aim)
        else:
            laid_out = self._laid_out(entry, impression)
            made = self._examples.encode(laid_out, labels, decided, False, counts, aim)
        if made is not None:
            self._outputs.append(Decided(request_id, made, aim.name))

    def _decide_quiet(self, request_id: str, entry: TargetEntry, decided: float) -> None:
        """Emit the first target's example of a request with which nothing happened."""
        self.counts.long_unsaid += entry.size > LONG_SLATE
        example = self._examples.copy(entry.original, [0.0] * entry.size, decided, self.counts)
        self._outputs.append(Decided(request_id, example))

    def _decide_plain(self, request_id: str, entry: TargetEntry, decided: float) -> list[int]:
        """Decide what a step decides of a request whose candidates all count as shown, and can be copied.

        As `_decide_target` decides it, and faster; returns the candidates that are still needed behind it.
        """
        step, said, kept, original = entry.step, entry.said, entry.kept, entry.original
        acted: set[int] = set()
        for candidates in said.values():
            acted.update(candidates)
        fates = [(c, self._fates.of(entry, c)) for c in sorted(acted)]
        for target in self._rules.steps[step].decides:
            aim = self._aims[target]
            if entry.done >> target & 1:
                continue
            if aim.root and (target or kept is not None):
                self._decide_target(request_id, entry, target, decided)
                continue
            entry.done |= 1 << target
            labels: dict[int, float] = {}
            for candidate, fate in fates:
                part = fate.parts[target]
                if part is not None:
                    self.counts.implied += part.implied
                    at = candidate if kept is None else kept.index(candidate)
                    labels[at] = said[target][candidate].label if part.value else part.label
            if aim.root:
                every = [0.0] * entry.size
                for at, label in labels.items():
                    every[at] = label
                self.counts.long_unsaid += entry.size > LONG_SLATE
                example = self._examples.copy(original, every, decided, self.counts)
            elif labels:
                example = self._examples.copy_some(original, labels, decided, self.counts, aim)
            else:
                continue
            self._outputs.append(Decided(request_id, example, aim.name))
        if step < self._rules.roots_close_at:
            return list(entry.numbers())
        return [candidate for candidate, fate in fates if fate.waits]
