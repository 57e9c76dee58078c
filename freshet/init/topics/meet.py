"""How the actions of one topic find the impressions of another: by which values the two share."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from freshet.init.column import Column
from freshet.init.features import CONTEXT_WORDS, ENTITY_WORDS, PLACE_WORDS, PLACE_WORDS_WITHIN, USER_WORDS
from freshet.init.times import REQUEST_WORDS
from freshet.init.topics.choose import TopicSketch, request_fields
from freshet.init.topics.fields import Field
from ground.id_types import IdType, is_plain_integer
from stream.files.times import Cell

SHARE_MIN = 0.2  # of the actions whose value is among those of the impressions
AFTER_S = 3_600.0  # an action is compared if it came at most so long after the impressions that were read
APART_SHARE = 0.9  # of a request's candidates that a field tells apart, on average
INDEX_WORDS = PLACE_WORDS | PLACE_WORDS_WITHIN | {"candidate"}


class ShownRequests(NamedTuple):
    """The requests of a topic of impressions, and the values of their candidates."""

    topic: TopicSketch
    request: Field | None
    why: str  # of that field
    together: bool  # consecutive records are one request
    context: list[Field]  # a cell for each record
    inner: list[Field]  # a cell for each candidate
    group_of: list[int]  # of each record: the first record of its request
    record_of: list[int]  # of each candidate: the same


class Meeting(NamedTuple):
    """How actions find their candidate."""

    request: Field | None  # in the action
    named: Field | None  # the same in the impression
    match: tuple[Field, Field] | None  # (in the candidate, in the action)
    by: tuple[Field, Field] | None  # (in the context, in the action)
    position: Field | None  # of the candidate
    share: float  # of the actions compared that find one
    compared: int


def meet(action: TopicSketch, shown: ShownRequests) -> Meeting:
    """The way on which most actions find a candidate."""
    rows = _rows(action, shown.topic)
    ways = [way for way in (_by_request(action, shown, rows), _by_entity(action, shown, rows)) if way]
    nothing = Meeting(None, None, None, None, None, 0.0, len(rows))
    # A request id leaves no doubt, so it goes first if it finds about as many.
    return max(ways, key=lambda way: way.share + 0.1 * (way.request is not None), default=nothing)


class EntityRows(NamedTuple):
    """A topic that holds what is true of entities: a row for each."""

    of: Field  # in the impressions: the ids of the entities
    id: Field  # in the topic
    share: float  # of those ids, that have a row


def find_table(topic: TopicSketch, shows: Sequence[ShownRequests]) -> EntityRows | None:
    """Whose rows the records of a topic are, if nothing says that they are impressions or actions."""
    if topic.sure or topic.kind != "impression" or topic.lists is not None:
        return None
    called = {word.removesuffix("s") for word in Column(topic.records.topic, []).words}
    best: EntityRows | None = None
    for shown in shows:
        for theirs in [*(shown.inner if shown.topic.lists is not None else ()), *shown.context]:
            ids = {_key(cell) for cell in theirs.column.filled if type(cell) in (int, str)}
            for mine in topic.fields if len(ids) > 1 else ():
                keys = [_key(cell) for cell in mine.column.filled if type(cell) in (int, str)]
                changes = topic.records.envelope == "debezium"  # of one row there may be many
                if len(keys) < len(mine.cells) or not (changes or len(set(keys)) >= APART_SHARE * len(keys)):
                    continue
                share = len(ids & set(keys)) / len(ids)
                alike = (mine.column.words | called) & theirs.column.words - {"id"}
                by_chance = not alike and all(isinstance(cell, int) for cell in mine.column.filled)
                if share >= SHARE_MIN and not by_chance and (best is None or share > best.share):
                    best = EntityRows(theirs, mine, share)
    return best


def _rows(action: TopicSketch, shown: TopicSketch) -> list[int]:
    """The actions in the time of the impressions that were read; all, if none is."""
    times = [at for at in shown.time.seconds if not math.isnan(at)]
    inside = [
        row for row, at in enumerate(action.time.seconds) if min(times) - 60.0 <= at <= max(times) + AFTER_S
    ]
    return inside or list(range(len(action.time.seconds)))


def _by_request(action: TopicSketch, shown: ShownRequests, rows: Sequence[int]) -> Meeting | None:
    named = [shown.request] if shown.request is not None else [f for f, _ in request_fields(shown.topic)]
    best: Meeting | None = None
    for theirs in named:
        records: dict[Cell, list[int]] = defaultdict(list)
        for record, cell in enumerate(theirs.cells):
            records[_key(cell)].append(shown.group_of[record])
        for field in action.fields:
            found = {row: records[key] for row in rows if (key := _key(field.cells[row])) in records}
            if len(found) < SHARE_MIN * len(rows):
                continue
            match, share = _match(action, shown, found, field)
            index = None if match is not None else _index(action, shown, found)
            if match is None:
                if not _may_name(field, theirs) or (index is None and not _all_alone(shown, found)):
                    continue
                share = 1.0
            way = Meeting(field, theirs, match, None, index, share * len(found) / len(rows), len(rows))
            if best is None or way.share > best.share:
                best = way
    return best


def _may_name(field: Field, theirs: Field) -> bool:
    """Whether equal values mean that a field names the requests. Integers may be equal by chance, as the
    number of a request and that of a user; then the names must say it too."""
    numbers = all(type(cell) is int or is_plain_integer(str(cell)) for cell in field.column.filled)
    words = field.column.words - {"id"}
    return not numbers or bool(words & (theirs.column.words | REQUEST_WORDS))


def _all_alone(shown: ShownRequests, found: dict[int, list[int]]) -> bool:
    """Whether each request that was found has one candidate."""
    sizes = Counter(shown.record_of)
    return all(sizes[record] == 1 for records in found.values() for record in records)


def _by_entity(action: TopicSketch, shown: ShownRequests, rows: Sequence[int]) -> Meeting | None:
    best: tuple[float, Meeting] | None = None
    for theirs in shown.context:
        records: dict[Cell, list[int]] = defaultdict(list)
        for record, cell in enumerate(theirs.cells):
            if cell is not None and not isinstance(cell, list | bool | float):
                records[_key(cell)].append(shown.group_of[record])
        if len(records) < 2:
            continue
        for field in action.fields:
            found = {row: records[key] for row in rows if (key := _key(field.cells[row])) in records}
            if len(found) < SHARE_MIN * len(rows):
                continue
            match, share = _match(action, shown, found, field)
            if match is None:
                continue
            way = Meeting(None, None, match, (theirs, field), None, share * len(found) / len(rows), len(rows))
            # Few values, such as a device's, are shared by many requests: a user tells more.
            points = way.share + 0.3 * bool(theirs.column.words & USER_WORDS) + 0.1 * len(records) / len(rows)
            if best is None or points > best[0]:
                best = points, way
    return None if best is None else best[1]


def _match(
    action: TopicSketch, shown: ShownRequests, found: dict[int, list[int]], taken: Field
) -> tuple[tuple[Field, Field] | None, float]:
    """The fields that name the same candidate in both, and the share of the actions for which they do."""
    best: tuple[float, tuple[Field, Field] | None, float] = (0.0, None, 0.0)
    wanted = {record for records in found.values() for record in records}
    for theirs in shown.inner:
        if shown.topic.lists is None and theirs.column.words & CONTEXT_WORDS:
            continue  # of the request, not of its candidate
        values: dict[int, set[Cell]] = defaultdict(set)
        sizes: dict[int, int] = defaultdict(int)
        for record, cell in zip(shown.record_of, theirs.cells, strict=True):
            if record in wanted and cell is not None:
                values[record].add(_key(cell))
                sizes[record] += 1
        apart = sum(len(values[record]) for record in values)
        if not values or apart < APART_SHARE * sum(sizes.values()):
            continue
        for field in action.fields:
            if field is taken:
                continue
            hits = sum(
                any(_key(field.cells[row]) in values[record] for record in records)
                for row, records in found.items()
                if field.cells[row] is not None
            )
            share = hits / max(len(found), 1)
            # Of fields that find as many, the one that names an item rather than what items share.
            points = share + 0.05 * (theirs.column.name == field.column.name)
            points += 0.05 * bool(theirs.column.words & ENTITY_WORDS)
            points += 0.1 * len(theirs.column.counts) / max(len(theirs.column.filled), 1)
            if share >= SHARE_MIN and points > best[0]:
                best = points, (theirs, field), share
    return best[1:]


def _index(action: TopicSketch, shown: ShownRequests, found: dict[int, list[int]]) -> Field | None:
    """The field that is the index of the candidate in its request."""
    sizes: dict[int, int] = defaultdict(int)
    for record in shown.record_of:
        sizes[record] += 1
    for field in action.fields:
        if field.column.words & INDEX_WORDS and all(
            type(cell := field.cells[row]) is int and 0 <= cell < sizes[records[-1]]
            for row, records in found.items()
        ):
            return field
    return None


def _key(cell: Cell) -> Cell:
    """A value to compare: the integer 3 and the text "3" may be one, if the feature says so (`type_of`)."""
    if isinstance(cell, str) and is_plain_integer(cell):
        return (int, int(cell))
    return (type(cell), str(cell) if isinstance(cell, list) else cell)


def type_of(pair: tuple[Field, Field]) -> IdType | None:
    """The `type` of a feature that two fields hold, if one has integers where the other has them as text."""
    kinds = [{type(cell) for cell in field.column.filled} for field in pair]
    if kinds[0] == kinds[1] or not kinds[0] | kinds[1] <= {int, str}:
        return None
    cells = [cell for field in pair for cell in field.column.filled]
    return "int" if all(type(cell) is int or is_plain_integer(str(cell)) for cell in cells) else "text"
