"""A topic of impressions as requests with candidates, and the features of these."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from freshet.init.column import Column
from freshet.init.features import CONTEXT_WORDS, Feature, find_features
from freshet.init.messages import error
from freshet.init.times import LATER_WORDS, TIME_WORDS, ask_request
from freshet.init.topics.choose import TopicSketch, as_times, request_fields, sample_of
from freshet.init.topics.fields import Field
from freshet.init.topics.meet import EntityRows, Meeting, ShownRequests
from ground.id_types import IdType


class SourceFeature(NamedTuple):
    """A field of an impression as a feature."""

    name: str
    path: str
    shared: bool  # by all candidates of a request
    feature: Feature
    field: Field
    type: IdType | None = None  # what its ids are, where one topic has integers and another one their text
    why_type: str = ""
    of: str = ""  # an attribute: the feature whose entities it describes


def requests_of(topic: TopicSketch) -> ShownRequests:
    """The requests of a topic of impressions; the field that names them may not be known yet."""
    rows = list(range(len(topic.records.records)))
    if topic.lists is not None:
        record_of = [at for at, items in enumerate(topic.lists.items) for _ in items]
        return ShownRequests(topic, None, "", False, topic.fields, topic.lists.fields, rows, record_of)
    answer = ask_request(sample_of([field.column for field in topic.fields]), [], None).answers[0]
    request = next((field for field in topic.fields if field.column is answer.column), None)
    group = list(rows)
    if request is not None:
        for before, row in pairwise(rows):
            if request.cells[before] == request.cells[row]:
                group[row] = group[before]
    why = answer.why[""] if request is not None else ""
    return ShownRequests(topic, request, why, request is not None, topic.fields, topic.fields, group, group)


def with_request(shown: ShownRequests, meetings: Sequence[Meeting]) -> ShownRequests:
    """The same with the field that names its requests: the one that actions name too, or the likeliest.

    Raises:
        InitError: none does, and actions will have to name one.
    """
    if shown.request is not None:
        return shown
    for meeting in meetings:
        if meeting.named is not None:
            return shown._replace(request=meeting.named, why="actions have the same values")
    likely = request_fields(shown.topic)
    if likely:
        return shown._replace(request=likely[0][0], why="its name, and another value in each record")
    if shown.topic.kind == "impression":
        names = ", ".join(field.path for field in shown.topic.fields[:12])
        raise error("no request id", name=shown.topic.records.name, names=names)
    return shown


def features_of(shown: ShownRequests, wanted: Sequence[Field]) -> list[SourceFeature]:
    """A feature for each field without another role, in the order of the fields.

    Args:
        wanted: fields by which actions find a candidate: they keep their place whatever they hold.
    """
    topic = shown.topic
    kept = [field.column for field in wanted]
    taken = [
        f.column for f in (topic.label, shown.request) if f is not None and not is_one_of(f.column, kept)
    ]

    def is_free(field: Field) -> bool:
        return not is_one_of(field.column, taken)

    outer = [field for field in shown.context if is_free(field) and field.path != topic.time.path]
    inner = [field for field in shown.inner if is_free(field)] if topic.lists is not None else []
    fields = [*outer, *inner]
    names = _names_of(fields)
    columns = [Column(name, field.cells) for name, field in zip(names, fields, strict=True)]
    labels = [float(cell) for cell in topic.label.cells] if topic.label is not None else []
    request = Column("", [str(group) for group in shown.record_of]) if shown.together else None
    # Of requests with lists of candidates, the label belongs to the candidates.
    chosen = find_features(sample_of(columns[: len(outer)]), [], request, [] if inner else labels)
    chosen += find_features(sample_of(columns[len(outer) :]), [], None, labels) if inner else []
    by_column = {id(feature.column): feature for feature in chosen}
    found = []
    for at, (name, field, column) in enumerate(zip(names, fields, columns, strict=True)):
        feature = _as_sent(by_column[id(column)])
        if feature.kind and column.words & (TIME_WORDS | LATER_WORDS) and any(as_times(field)):
            feature = feature._replace(kind="", why="another time; a time as such is no feature")
        if topic.lists is not None:
            shared = at < len(outer)
        else:
            shared = feature.context if shown.together else bool(column.words & CONTEXT_WORDS)
        found.append(SourceFeature(name, field.path, shared, feature, field))
    return found


def is_one_of(column: Column, columns: Sequence[Column]) -> bool:
    """Whether a column is one of these, and not only equal to one."""
    return any(column is other for other in columns)


def attributes_of(topic: TopicSketch, table: EntityRows, of: str) -> list[SourceFeature]:
    """The fields of a topic of entities as attributes of a feature, those that can be."""
    left = [topic.time.path, table.id.path]
    fields = [f for f in topic.fields if f.path not in left and not any(as_times(f))]
    names = [f"{of}_{name}" if name == of else name for name in _names_of(fields)]
    columns = [Column(name, field.cells) for name, field in zip(names, fields, strict=True)]
    by_column = {id(one.column): one for one in find_features(sample_of(columns), [], None, [])}
    return [
        SourceFeature(name, field.path, False, _as_sent(by_column[id(column)]), field, of=of)
        for name, field, column in zip(names, fields, columns, strict=True)
    ]


def _as_sent(feature: Feature) -> Feature:
    """A feature of records that are taken as they are: a source converts nothing, and tries nothing."""
    if feature.kind and feature.trial:
        return feature._replace(kind="", why=f'{feature.why}; kind = "{feature.kind}" may be worth a try')
    if feature.separator:
        return feature._replace(kind="", why=f"{feature.why}; in one text, which a source does not part")
    return feature


def _names_of(fields: Sequence[Field]) -> list[str]:
    """A name for each field: the last step of its path, or more of it where that is taken."""
    found: list[str] = []
    for field in fields:
        name = field.column.name
        if name in found:
            name = field.path.rstrip("?").replace(".", "_").replace("'", "")
        while name in found:
            name += "_"
        found.append(name)
    return found
