"""The sources, features and targets that topics are proposed to be."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from freshet.init.column import Column
from freshet.init.features import USER_WORDS
from freshet.init.messages import error, look_at
from freshet.init.topics.choose import TopicSketch
from freshet.init.topics.fields import DEPTH_MAX, FIELDS_MAX, Field
from freshet.init.topics.meet import EntityRows, Meeting, ShownRequests, find_table, meet, type_of
from freshet.init.topics.records import TopicRecords
from freshet.init.topics.shown import (
    SourceFeature,
    attributes_of,
    features_of,
    is_one_of,
    requests_of,
    with_request,
)
from freshet.init.topics.words import TARGETS, Meaning, meaning_of, meaning_of_name

BUY_WINDOW_S = 86_400
SHARE_LOW = 0.5  # of the actions that find a candidate, below which people should look at it


class Setting(NamedTuple):
    """A key of a section, with its value and its reason."""

    key: str
    value: object
    why: str = ""


class Section(NamedTuple):
    """A section of the config."""

    name: str
    settings: list[Setting]


class Proposal(NamedTuple):
    """What topics are proposed to be."""

    sources: list[Section]
    targets: list[Section]
    features: list[SourceFeature]
    group_by: str  # the feature with the user; empty: there is none
    guessed: list[str]
    read: list[TopicRecords]  # of each source
    more: Sequence[tuple[str, list[str]]] = ()  # further features, made by the model: (name, lines)


def propose(topics: Sequence[TopicSketch]) -> Proposal:
    """Sources for topics, of which at least one holds impressions.

    Raises:
        InitError: nothing says what was shown, or what names a request, or no feature is left.
    """
    names = ", ".join(topic.records.name for topic in topics)
    if all(topic.kind == "action" for topic in topics):
        raise error("no impressions", names=names)
    shows = {at: requests_of(topic) for at, topic in enumerate(topics) if topic.kind != "action"}
    tables: dict[int, EntityRows] = {}
    for at, topic in enumerate(topics):
        others = [
            shown for to, shown in shows.items() if to != at and (shown.topic.sure or shown.topic.lists)
        ]
        if (table := find_table(topic, others)) is not None:
            tables[at] = table
    shows = {at: shown for at, shown in shows.items() if at not in tables}
    guessed = [
        look_at("topic kind", name=t.records.topic, kind=t.kind, why=t.why)
        for at, t in enumerate(topics)
        if not t.sure and at not in tables
    ]
    guessed += [
        look_at("many fields", name=t.records.topic, most=FIELDS_MAX, depth=DEPTH_MAX)
        for t in topics
        if len(t.fields) >= FIELDS_MAX
    ]
    found: dict[int, tuple[int, Meeting]] = {}
    for at, topic in enumerate(topics):
        ways = [(to, meet(topic, shown)) for to, shown in shows.items() if topic.kind == "action"]
        if ways:
            found[at] = max(ways, key=lambda way: way[1].share)
    sections = _names_of(topics)
    sources: dict[int, Section] = {}
    features: dict[str, SourceFeature] = {}
    named: list[tuple[Field, str]] = []  # fields of impressions that actions name, with their features
    for at, shown in shows.items():
        meetings = {sections[of]: meeting for of, (to, meeting) in found.items() if to == at}
        shown = with_request(shown, list(meetings.values()))
        wanted = [pair[0] for m in meetings.values() for pair in (m.match, m.by) if pair]
        mine = [_with_type(one, meetings) for one in features_of(shown, wanted)]
        named += [(one.field, one.name) for one in mine]
        for one in mine:
            known = features.setdefault(one.name, one)
            if one.type is not None and known.type is None:
                features[one.name] = one
        sources[at] = Section(sections[at], _shown_settings(shown, mine, wanted))
    done = {at: _done(topics[at]) for at in found}
    targets = _targets(list(done.values()))
    for at, (_, meeting) in found.items():
        settings = _action_settings(topics[at], meeting, named, done[at], bool(targets))
        sources[at] = Section(sections[at], settings)
        if meeting.share < SHARE_LOW:
            guessed.append(
                look_at("few meet", name=sections[at], share=meeting.share, count=meeting.compared)
            )
    for at, table in tables.items():
        of = _feature_of(table.of, named)
        mine = [one for one in attributes_of(topics[at], table, of) if one.name not in features]
        if features[of].feature.kind == "id" and any(one.feature.kind for one in mine):
            features.update({one.name: one for one in mine})
            sources[at] = Section(sections[at], _table_settings(topics[at], table, of, mine))
        else:
            guessed.append(look_at("no attributes", name=topics[at].records.topic, of=of))
    used = [one for one in features.values() if one.feature.kind]
    if not used:
        reasons = "".join(f"; {one.name}: {one.feature.why}" for one in features.values())
        raise error("no feature", path=names, reasons=reasons)
    people = [one.name for one in used if one.feature.kind == "id" and one.feature.column.words & USER_WORDS]
    in_order = [sources[at] for at in sorted(sources)]
    read = [topics[at].records for at in sorted(sources)]
    return Proposal(in_order, targets, list(features.values()), people[0] if people else "", guessed, read)


def _head(topic: TopicSketch) -> list[Setting]:
    """The keys that every source has."""
    records = topic.records
    settings = [Setting("topic", records.topic), Setting("log", records.log)]
    if records.format != "json" or records.why["format"] != "its records are JSON":
        settings.append(Setting("format", records.format, records.why["format"]))
    if records.registry:
        settings.append(Setting("registry", records.registry))
    if records.envelope != "none":
        settings.append(Setting("envelope", records.envelope, records.why["envelope"]))
    settings.append(Setting("kind", topic.kind, topic.why))
    time = {"field": topic.time.path, "unit": topic.time.unit}
    if topic.time.zone:
        time["zone"] = topic.time.zone
    settings.append(Setting("time", time, topic.time.why))
    return settings


def _shown_settings(
    shown: ShownRequests, features: Sequence[SourceFeature], wanted: Sequence[Field]
) -> list[Setting]:
    topic = shown.topic
    settings = _head(topic)
    if topic.only:
        settings.append(Setting("only", topic.only))
    if shown.request is not None:
        why = "consecutive records with one value are one request" if shown.together else shown.why
        settings.append(Setting("request_id", shown.request.path, why))
    if topic.lists is not None:
        settings.append(Setting("candidates", topic.lists.path))
    elif not shown.together:
        settings.append(Setting("lines_wait_s", 0.0, "each record is a request of its own"))
    if topic.label is not None:
        settings.append(Setting("label", topic.label.path, "its name, and it is 0 or 1"))
    kept = [field.column for field in wanted]
    for key, shared in (("context", True), ("features", False)):
        taken = {
            one.name: one.path
            for one in features
            if one.shared == shared and (one.feature.kind or is_one_of(one.field.column, kept))
        }
        if taken:
            settings.append(Setting(key, taken))
    return settings


def _table_settings(
    topic: TopicSketch, table: EntityRows, of: str, attributes: Sequence[SourceFeature]
) -> list[Setting]:
    """The keys of a source of entities."""
    why = f"{table.share:.0%} of the values of {of} that were shown have a row"
    settings = [s if s.key != "kind" else Setting("kind", "entity", why) for s in _head(topic)]
    settings += [Setting("only", topic.only, "rows that were not deleted")] if topic.only else []
    settings += [Setting("feature", of), Setting("id", table.id.path)]
    return [*settings, Setting("features", {one.name: one.path for one in attributes if one.feature.kind})]


def _action_settings(
    topic: TopicSketch,
    meeting: Meeting,
    named: Sequence[tuple[Field, str]],
    done: Mapping[Meaning, Sequence[str]],
    several: bool,
) -> list[Setting]:
    """The keys of a source of actions.

    Args:
        named: fields of impressions, with the names of their features.
        done: its words, by what they mean.
        several: there are several targets.
    """
    settings = _head(topic)
    if topic.words is not None:
        path, counts = topic.words.path, topic.words.column.counts
        kept = [m for m in done if m in TARGETS] if several else [m for m in done if m != "none"]
        good = sorted(word for meaning in kept for word in done[meaning])
        if good:
            rest = ", ".join(sorted(set(counts) - set(good)))
            why = f"these count as 1; left out: {rest[:60]}" if rest else "these count as 1"
            settings += [Setting("only", {**topic.only, path: good}, why), Setting("name", path)]
    elif topic.only:
        settings.append(Setting("only", topic.only, "rows that were not deleted"))
    if topic.words is None and several:
        (meaning,) = done
        settings.append(Setting("name", {"constant": meaning}, "the target, by the topic's name"))
    found = f"{meeting.share:.0%} of {meeting.compared:,} actions find their candidate so"
    if meeting.request is not None:
        settings.append(Setting("request_id", meeting.request.path, found))
    if meeting.match is not None:
        theirs, mine = meeting.match
        why = "" if meeting.request else found
        settings.append(Setting("match", {_feature_of(theirs, named): mine.path}, why))
    elif meeting.position is not None:
        settings.append(
            Setting("candidate", meeting.position.path, "its name, and never beyond the candidates")
        )
    elif meeting.request is not None:
        settings.append(Setting("candidate", 0, "the only one of its request"))
    if meeting.by is not None:
        theirs, mine = meeting.by
        whose = "whose newest impression it was"
        settings.append(Setting("by", {_feature_of(theirs, named): mine.path}, whose))
    if meeting.request is None and meeting.by is None:
        raise error(
            "never meet", name=topic.records.name, names=", ".join(field.path for field in topic.fields[:12])
        )
    return settings


def _feature_of(field: Field, named: Sequence[tuple[Field, str]]) -> str:
    return next(name for other, name in named if other.column is field.column)


def _with_type(one: SourceFeature, meetings: Mapping[str, Meeting]) -> SourceFeature:
    """A feature with the `type` that it needs to be found by the actions of some sources, by their names."""
    for name, meeting in meetings.items():
        for pair in (meeting.match, meeting.by):
            if pair and is_one_of(one.field.column, [pair[0].column]) and (found := type_of(pair)):
                ours, theirs = ("text", "integers") if _has_text(pair[0]) else ("integers", "text")
                why = f"{ours} here and {theirs} in {name}: without a type they would never be equal"
                feature = one.feature if one.feature.kind == "id" else one.feature._replace(kind="id")
                return one._replace(feature=feature, type=found, why_type=why)
    return one


def _has_text(field: Field) -> bool:
    return any(isinstance(cell, str) for cell in field.column.filled)


def _done(topic: TopicSketch) -> dict[Meaning, list[str]]:
    """What the actions of a topic are: their words, by what they mean; without words, what its name says."""
    if topic.words is None:
        return {meaning_of_name(Column(topic.records.topic, []).words): []}
    found: dict[Meaning, list[str]] = {}
    for word in topic.words.column.counts:
        if meaning := meaning_of(word):
            found.setdefault(meaning, []).append(word)
    return found


def _targets(done: Sequence[Mapping[Meaning, Sequence[str]]]) -> list[Section]:
    """The targets that words and names of topics mean, if there are several."""
    there = [target for target in TARGETS if any(target in one for one in done)]
    if len(there) < 2:
        return []
    sections = []
    for target in there:
        words = sorted({word for one in done for word in one.get(target, ())})
        names = [target] if any(one.get(target) == [] for one in done) else []
        settings = []
        if target != there[0]:
            settings.append(Setting("of", there[0], f"learned among what had a {there[0]}"))
        settings.append(Setting("actions", [*names, *words], "the words that mean it" if words else ""))
        if target == "buy":
            why = "a guess: how long after its impression one counts"
            settings.append(Setting("window_s", BUY_WINDOW_S, why))
        sections.append(Section(target, settings))
    return sections


def _names_of(topics: Sequence[TopicSketch]) -> list[str]:
    """A section's name for each topic: the last part of the topic's that tells it apart."""
    found: list[str] = []
    for topic in topics:
        whole = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in topic.records.topic)
        parts = [part for part in topic.records.topic.split(".") if part and part.isascii()]
        name = parts[-1] if parts and all(c.isalnum() or c in "_-" for c in parts[-1]) else whole
        name += {"impression": "_shown", "action": "_done"}.get(topic.records.holds, "")
        name = (name if name not in found else whole)[:50]
        while name in found or name == "matches":
            name += "_"
        found.append(name)
    return found
