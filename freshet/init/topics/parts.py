"""Topics that hold what was shown and what was done side by side: a part for each."""

from collections.abc import Callable, Collection

from freshet.init.column import Column
from freshet.init.topics.choose import SHOWN_WORDS, words_field
from freshet.init.topics.fields import fields_of, id_lists_of, lists_of
from freshet.init.topics.records import TopicRecords
from freshet.init.topics.words import TARGETS, meaning_of, words_in
from stream.sources.paths import compile_path

VIEW_WORDS = SHOWN_WORDS | {
    "viewed",
    "impressed",
    "shown",
    "displayed",
    "exposed",
    "pv",
    "pageview",
    "served",
}


def parts_of(records: TopicRecords, alone: bool) -> list[TopicRecords]:
    """The topic itself, or, if a field says in words both what was shown and what was done, its two parts.

    Args:
        alone: no other topic says what was shown. Else views without a list of candidates are mere visits.
    """
    if Column(records.topic, []).words & SHOWN_WORDS:
        return [records]
    words = words_field(fields_of(records.records))
    if words is None:
        return [records]
    shown, done = [], []
    for word in words.column.counts:
        if meaning_of(word) in (*TARGETS, "other"):
            done.append(word)
        elif words_in(word) & VIEW_WORDS:
            shown.append(word)
    if not shown or not done:
        return [records]
    get = compile_path(words.path)

    def says(these: Collection[str]) -> Callable[[int], bool]:
        return lambda at: get(records.records[at], records.messages[at]) in these

    part = _part(records, says(shown), "impression", {words.path: sorted(shown)})
    if not alone and not lists_of(part.records) and not id_lists_of(fields_of(part.records)):
        return [records]
    return [
        part,
        _part(records, says([w for w in words.column.counts if w not in shown]), "action", {}),
    ]


def _part(
    records: TopicRecords, holds: Callable[[int], bool], kind: str, only: dict[str, list[str]]
) -> TopicRecords:
    kept = [at for at in range(len(records.records)) if holds(at)]
    return records._replace(
        messages=[records.messages[at] for at in kept],
        records=[records.records[at] for at in kept],
        logged_s=[records.logged_s[at] for at in kept],
        holds=kind,
        only=only,
    )
