"""Finds the columns beside the label that are labels of further targets: events, and amounts of them.

An event is a column of two values that is named like an outcome, or that is 1 only where the label is. An
amount is a column of numbers that is named like one and is zero or empty where the event did not happen. What
leaves doubt is refused with a reason, and is no feature either if it is named like an outcome.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from freshet.files import Json
from freshet.init.answers import Answer
from freshet.init.column import Column
from freshet.init.labels.first import (
    INSIDE_MIN,
    NEGATED_WORDS,
    OUTCOME_WORDS,
    PAST_WORDS,
    as_label,
    read_labels,
    unknown_words,
)
from freshet.init.labels.numbers import VALUE_WORDS, scale_of
from stream.limits import TARGET_NAME_MAX, TARGETS_MAX

Labels = list[float | None]
"""Of each line of the sample; None: it has none."""

NOT_OUTCOME_WORDS = NEGATED_WORDS | {
    "id", "ids", "time", "timestamp", "date", "ts", "history", "past", "prior", "previous", "last", "avg",
    "mean",
}  # fmt: skip
TIME_SPENT_WORDS = {"watch", "watched", "dwell", "listen", "listened", "play", "played", "stay", "spent"}
CHANCE_MAX = 0.05  # that so many lie there by chance
CHANCE_UNNAMED_MAX = 1e-6  # the same, where no name says that it is an outcome


class ProposedTarget(NamedTuple):
    """A further target and its column.

    Attributes:
        name: of the target.
        kind: event or value.
        of: the target among which it is learned; empty: among all.
        scale: of a value.
        settings: of its labels: `positive` or `positive_from`.
        labels: of the lines where its `of` happened; None elsewhere.
        why: a reason for each key of [targets.NAME]; under the empty key the one of the target itself.
    """

    name: str
    column: Column
    kind: str
    of: str
    scale: str
    settings: Json
    labels: Labels
    why: dict[str, str]


class LabelsBeside(NamedTuple):
    """Labels beside the first one.

    Attributes:
        first: the name of the first target.
        further: the others, each after its `of`.
        refused: columns that look like outcomes and are no target, with the reason.
    """

    first: str
    further: list[ProposedTarget]
    refused: list[tuple[Column, str]]


NO_LABELS_BESIDE = LabelsBeside("", [], [])


class _Event(NamedTuple):
    """A target that happens or not, among which others may be learned."""

    name: str
    labels: Labels

    @property
    def ones(self) -> int:
        return sum(label == 1.0 for label in self.labels)


def find_further(columns: Sequence[Column], label: Answer, label_name: str) -> LabelsBeside:
    """Find further targets.

    Args:
        columns: those that may be labels.
        label: the first target's.
        label_name: its name in the config.
    """
    primary = read_labels(label)
    if label.value is not None:  # nothing is learned among a value, so nothing lies inside it
        primary = [None if one is None else 0.0 for one in primary]
    words = label.column.words if label.column is not None else ()
    found = LabelsBeside(target_name(label_name, [], words), [], [])
    events = [_Event(found.first, primary)]
    possible = []
    for column in columns:
        if not column.name or column.words & NOT_OUTCOME_WORDS:
            continue
        answer = _as_event(column)
        if answer is not None:
            known = read_labels(answer)
            labels = [None if first is None else own for first, own in zip(primary, known, strict=True)]
            possible.append((answer, labels))
    # those that happen most often come first, since others can only be of what happens at least as often
    for answer, labels in sorted(possible, key=lambda item: -item[1].count(1.0)):
        _take_event(found, events, answer, labels)
    for column in columns:
        value = _as_value(column, primary)
        if value is not None:
            _take_value(found, events, column, value)
    return found


def target_name(column: str, taken: Sequence[str], words: Collection[str] = ()) -> str:
    """A name for a target, made of a column's name, or of its words where that has no letters of a target's.

    >>> target_name("is click", []), target_name("2nd", []), target_name("点击", []), target_name("a", ["a"])
    ('is_click', 't_2nd', 'target', 'a_2')
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "_", column).strip("_")
    plain = plain or "_".join(sorted(word for word in words if word.isascii() and word.isalpha())) or "target"
    plain = (f"t_{plain}" if plain[0].isdigit() else plain)[: TARGET_NAME_MAX - 4]
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}_{number}"
    return name


def _named(column: Column) -> bool:
    return bool(column.words & OUTCOME_WORDS) and not column.words & PAST_WORDS


def _as_event(column: Column) -> Answer | None:
    """A column of two values as labels; None: it cannot be one, or a name or words leave doubt."""
    answer = as_label(column) if len(column.counts) == 2 else None
    if answer is None or unknown_words(answer):
        return None
    settings = {key: value for key, value in answer.settings.items() if key != "unlabelled"}
    return answer._replace(settings=settings)


def _as_value(column: Column, primary: Labels) -> Labels | None:
    """A column of numbers as amounts; None: it is none by its name or values."""
    numbers = column.numbers
    # "watch time" is no time of the day
    words = column.words - {"time"} if column.words & TIME_SPENT_WORDS else column.words
    if numbers is None or min(numbers) < 0.0 or len(set(numbers)) < 3:
        return None
    if not words & VALUE_WORDS or words & NOT_OUTCOME_WORDS:
        return None
    return [
        None if first is None else column.number_of(cell)
        for first, cell in zip(primary, column.cells, strict=True)
    ]


def _take_event(found: LabelsBeside, events: list[_Event], answer: Answer, labels: Labels) -> None:
    """Add an event to the targets, or to what is refused if it is named like an outcome."""
    column = answer.column
    assert column is not None
    named, ones = _named(column), labels.count(1.0)
    primary = events[0]
    if not ones:
        return
    inside = _share_inside(labels, primary)
    name = target_name(column.name, [event.name for event in events], column.words)
    share = f"{ones / max(_known(primary.labels), 1):.1%} of the lines are 1"
    among = list(_parents(labels, events, CHANCE_MAX if named else CHANCE_UNNAMED_MAX))
    for parent in among:
        own = _within(labels, parent)
        if own is not None and {0.0, 1.0} <= set(own):
            of = f"{_share_inside(labels, parent):.1%} of them lie among those of {parent.name}"
            _take(found, ProposedTarget(name, column, "event", parent.name, "", answer.settings, own,
                                 {"": share, "of": f"{share}, and {of}"}))  # fmt: skip
            # among those of its `of` only, as it is read from files
            events.append(_Event(name, own))
            return
    if not (named or among):
        return
    why = f"{share}, {inside:.1%} of them among those of {primary.name}"
    empty = sum(own is None and first is not None for own, first in zip(labels, primary.labels, strict=True))
    if _says_the_same(labels, primary):
        found.refused.append((column, f"it says the same as {primary.name}"))
    elif among:
        missing = _empty_within(labels, among[-1])
        told = f"empty on {missing} of the lines" if missing else "always 1"
        found.refused.append((column, f"it is {told} where {among[-1].name} is 1"))
    elif empty:
        found.refused.append((column, f"it is empty on {empty} lines; {why}"))
    else:
        chance = ", which may be chance" if inside >= INSIDE_MIN else ""
        why = f"{why if primary.ones else share}{chance}: learned among all lines"
        _take(found, ProposedTarget(name, column, "event", "", "", answer.settings, labels, {"": why}))
        events.append(_Event(name, labels))


def _take_value(found: LabelsBeside, events: list[_Event], column: Column, values: Labels) -> None:
    """Add an amount to the targets if it is zero or empty where an event did not happen."""
    name = target_name(column.name, [found.first, *(target.name for target in found.further)], column.words)
    chance = CHANCE_MAX if _named(column) else CHANCE_UNNAMED_MAX
    among = list(_parents(values, events, chance))
    for parent in among:
        own = _within(values, parent)
        if own is None:
            continue
        known = np.array([value for value in own if value is not None])
        why = f"numbers of at least 0, {known.mean():.3g} on average where {parent.name} is 1"
        of = f"{_share_inside(values, parent):.1%} of those above 0 lie among the lines of {parent.name}"
        reasons = {"": f"{why}; {of}", "kind": why, "of": of}
        scale, reasons["scale"] = scale_of(known)
        _take(found, ProposedTarget(name, column, "value", parent.name, scale, {}, own, reasons))
        return
    if among:
        missing = _empty_within(values, among[-1])
        found.refused.append((column, f"it is empty on {missing} of the lines where {among[-1].name} is 1"))


def _take(found: LabelsBeside, target: ProposedTarget) -> None:
    if len(found.further) + 1 < TARGETS_MAX:
        found.further.append(target)
    else:
        found.refused.append((target.column, f"there are {TARGETS_MAX} targets at most"))


def _parents(labels: Labels, events: Sequence[_Event], chance_max: float) -> Iterator[_Event]:
    """The events in which what happened lies, more than by chance; the rarest first."""
    happened = sum(bool(label) for label in labels)
    for event in sorted(events, key=lambda event: event.ones):
        told = chance_max == CHANCE_MAX and _only_within(labels, event, events[0])
        chance = (event.ones / max(_known(events[0].labels), 1)) ** happened
        if _share_inside(labels, event) >= INSIDE_MIN and (told or chance < chance_max):
            yield event


def _only_within(labels: Labels, event: _Event, primary: _Event) -> bool:
    """Whether some labels are missing where the event did not happen, and none where it did."""
    lines = zip(labels, event.labels, primary.labels, strict=True)
    outside = any(own is None and label != 1.0 and first is not None for own, label, first in lines)
    return outside and not _empty_within(labels, event)


def _within(labels: Labels, event: _Event) -> Labels | None:
    """The labels where an event happened; None: some are missing."""
    if _empty_within(labels, event):
        return None
    return [own if label == 1.0 else None for own, label in zip(labels, event.labels, strict=True)]


def _empty_within(labels: Labels, event: _Event) -> int:
    return sum(own is None and label == 1.0 for own, label in zip(labels, event.labels, strict=True))


def _share_inside(labels: Labels, event: _Event) -> float:
    """Of the lines where something happened, the share where the event did."""
    there = [label == 1.0 for own, label in zip(labels, event.labels, strict=True) if own]
    return sum(there) / max(len(there), 1)


def _says_the_same(labels: Labels, event: _Event) -> bool:
    """Whether the event's label, 0 or 1, determines the other one."""
    pairs = {(own, label) for own, label in zip(labels, event.labels, strict=True) if label is not None}
    return all(
        len({own for own, label in pairs if label == said and own is not None}) <= 1 for said in (0, 1)
    )


def _known(labels: Labels) -> int:
    return len(labels) - labels.count(None)
