"""What a topic holds, when its events happened, and what names a request: chosen from a sample of records."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from freshet.init.column import Column, shown
from freshet.init.features import USER_WORDS
from freshet.init.labels.first import EVENT_WORDS, OUTCOME_WORDS, ask_label
from freshet.init.messages import error
from freshet.init.sample import Sample
from freshet.init.times import LATER_WORDS, REQUEST_WORDS, TIME_WORDS
from freshet.init.topics.fields import Field, Lists, fields_of, id_lists_of, lists_of
from freshet.init.topics.records import TopicRecords
from freshet.init.topics.words import meaning_of
from stream.errors import RecordError
from stream.files.csv_rows import Dialect
from stream.sources.settings import Unit
from stream.sources.values import to_seconds

Kind = Literal["impression", "action", "labelled"]

SHOWN_WORDS = {
    "impression", "impressions", "shown", "exposure", "exposures", "request", "requests", "served", "ranking",
    "rankings", "ranked", "slate", "slates", "display", "displays", "recommendation", "recommendations",
    "search", "searches", "query", "queries", "view", "views", "auction", "auctions", "feed",
}  # fmt: skip
DONE_WORDS = {
    "click", "clicks", "clicked", "action", "actions", "conversion", "conversions", "purchase", "purchases",
    "order", "orders", "feedback", "interaction", "interactions", "buy", "buys", "like", "likes", "cart",
    "engagement", "engagements", "watch", "plays", "booking", "bookings", "reaction", "reactions",
}  # fmt: skip
DELETED_NAME = "__deleted"  # of the field that Debezium adds to rows without their envelope
ENVELOPE_TIMES = ("ts_ms", "payload.ts_ms", "time")
UNITS: tuple[Unit, ...] = ("s", "ms", "us", "ns")
NEAR_S = 3_600.0  # of the log's time, within which most times of an event are
UNIQUE_SHARE = 0.95
WORDS_MAX = 30  # different values of a field that says what was done


class TimeChoice(NamedTuple):
    """When the events happened."""

    path: str
    unit: Unit
    seconds: list[float]  # of each record; NaN where it has none
    why: str
    zone: str = ""  # of times that name none: a guess


class TopicSketch(NamedTuple):
    """A topic, and what is known of it by itself."""

    records: TopicRecords
    kind: Kind
    why: str  # the reason of its kind
    sure: bool
    fields: list[Field]
    lists: Lists | None  # the candidates, if a record has a list of them
    time: TimeChoice
    label: Field | None  # of a candidate, or of the record
    words: Field | None  # says what was done
    only: Mapping[str, Sequence[str | bool]]  # by path: records with other values are left out


def look_at_topic(records: TopicRecords) -> TopicSketch:
    """Find out what a topic holds.

    Raises:
        InitError: no field is the time of the event.
    """
    fields = fields_of(records.records)
    time = choose_time(records, fields)
    lists = lists_of(records.records)
    if not lists and (lists := id_lists_of(fields)):
        fields = [field for field in fields if field.path != lists[0].path]
    words = words_field(fields)
    named = Column(records.topic, []).words
    done, seen = named & DONE_WORDS, named & SHOWN_WORDS
    label: Field | None = None
    if records.holds == "action":
        kind: Kind = "action"
        why, sure = "what its words mean", True
    elif records.only:
        kind, why, sure = "impression", f"what {next(iter(records.only))} says", True
        label = None if lists is None or not lists else label_of(lists[0].fields)
    elif lists and not done:
        kind = "impression"
        what = "ids" if lists[0].fields and lists[0].fields[0].path == "." else "objects"
        why = f"{lists[0].path} is a list of {what}, {_mean(lists[0].items):.1f} in a record"
        label, sure = label_of(lists[0].fields), True
    elif done and (not seen or words is not None):
        kind, why, sure = "action", f"its name ({', '.join(sorted(done))})", True
    elif words is not None and not seen:
        kind, why, sure = "action", f"{words.path} says what was done", True
    else:
        label = label_of(fields)
        kind, why = "impression", f"its name ({', '.join(sorted(seen))})" if seen else "a guess"
        sure = bool(seen) or label is not None
    if label is not None:
        kind, why = "labelled", f"{label.path} is 0 or 1, and its name"
    chosen = lists[0] if lists and kind != "action" else None
    words = words if kind == "action" else None
    only = {**records.only, **_rows_that_are_there(fields)}
    return TopicSketch(records, kind, why, sure, fields, chosen, time, label, words, only)


def _rows_that_are_there(fields: Sequence[Field]) -> dict[str, list[str | bool]]:
    """What rows say that were not deleted, where change events were made flat and deleted ones are kept."""
    for field in fields:
        values = set(field.column.filled) if field.column.name == DELETED_NAME else set()
        if values and values <= {False, True, "false", "true"}:
            return {field.path: [False] if values & {False, True} else ["false"]}
    return {}


def choose_time(records: TopicRecords, fields: Sequence[Field]) -> TimeChoice:
    """The field with the event time: by its name, and by how near it is to when the log took the record.

    Raises:
        InitError: there is none.
    """
    found = []
    outside = [] if records.envelope == "none" else fields_of(records.messages)
    around = [Field(f"@{f.path}", f.column) for f in outside if f.path in ENVELOPE_TIMES]
    for field in (*fields, *around):
        for unit, seconds, zone in as_times(field):
            apart = [
                abs(logged - at)
                for logged, at in zip(records.logged_s, seconds, strict=True)
                if logged and not math.isnan(at)
            ]
            near = bool(apart) and statistics.median(apart) < NEAR_S
            named = bool(field.column.words & TIME_WORDS)
            points = 2.0 * named + 1.5 * near - 1.5 * bool(field.column.words & LATER_WORDS)
            points += 1.0 * field.whole - 1.0 * field.path.startswith("@")
            points -= 1e-6 * (statistics.median(apart) if apart else 0.0) ** 0.25
            why = "its name" if named else "its values are times"
            why += f", {shown(field.column.filled[0])}" + (", near the log's own time" if near else "")
            why += f"; its times name no zone, {zone} is {'likely' if near else 'a guess'}" if zone else ""
            found.append((points, TimeChoice(field.path, unit, seconds, why, zone)))
    if not found:
        raise error("no event time", name=records.name, names=", ".join(field.path for field in fields[:12]))
    return max(found, key=lambda one: one[0])[1]


def as_times(field: Field) -> Iterator[tuple[Unit, list[float], str]]:
    """The units in which all values of a field are times, with the times, and a zone if they name none."""
    cells = field.column.filled
    if not cells or any(isinstance(cell, bool | list) for cell in cells):
        return
    if any(isinstance(cell, datetime) for cell in cells):
        units: tuple[Unit, ...] = ("ms",)  # which is not used for a type of time
    else:
        units = ("iso", *UNITS) if any(isinstance(cell, str) for cell in cells) else UNITS
    named = bool(field.column.words & TIME_WORDS)
    for unit in units:
        for zone in ("", "UTC") if unit in ("iso", "ms") else ("",):
            zone_info = ZoneInfo(zone) if zone else None
            try:
                seconds = [
                    math.nan if c is None else to_seconds(field.path, c, unit, zone_info) for c in field.cells
                ]
            except RecordError:
                continue
            if named or unit in ("iso", "ms") or len(set(cells)) > 1:
                yield unit, seconds, zone
            break


def label_of(fields: Sequence[Field]) -> Field | None:
    """The field that is 0 or 1 and named like a label; None: there is none."""
    sample = sample_of([field.column for field in fields])
    fit = [f for f in fields if f.whole and set(f.column.counts) <= {"0", "1", "0.0", "1.0", "True", "False"}]
    for answer in ask_label(sample, None).answers:
        for field in fit:
            if field.column is answer.column and field.column.words & OUTCOME_WORDS:
                return field
    return None


def request_fields(topic: TopicSketch) -> list[tuple[Field, float]]:
    """The fields that may name a request, the likeliest first, with points."""
    found = []
    for field in topic.fields:
        column = field.column
        values = [
            cell for cell in column.filled if isinstance(cell, str | int) and not isinstance(cell, bool)
        ]
        if not field.whole or len(values) < len(column.cells) or field.path == topic.time.path:
            continue
        once = len(column.counts) >= UNIQUE_SHARE * len(column.cells)
        words = column.words
        points = 2.0 * bool(words & REQUEST_WORDS) + 1.0 * bool(words & {"id", "uuid"})
        points += 0.5 * isinstance(values[0], str) - 3.0 * bool(words & USER_WORDS)
        points += 1.0 if once else -1.0
        if points > 1.0:
            found.append((field, points))
    return sorted(found, key=lambda one: -one[1])


def sample_of(columns: list[Column]) -> Sample:
    """Columns as a sample of a file of objects."""
    lines = len(columns[0].cells) if columns else 0
    return Sample("jsonl", Dialect(), 0, False, False, columns, lines, lines, lines, 0, "", {})


def words_field(fields: Sequence[Field]) -> Field | None:
    """The field that says in words what was done."""
    best: tuple[float, Field] | None = None
    for field in fields:
        values = field.column.counts
        if not all(isinstance(cell, str) for cell in field.column.filled) or not 0 < len(values) <= WORDS_MAX:
            continue
        known = sum(n for word, n in values.items() if meaning_of(word))
        share = known / len(field.column.filled)
        points = 2.0 * share + 1.0 * bool(field.column.words & (EVENT_WORDS | {"kind", "verb"}))
        if share > 0.0 and points >= 1.5 and (best is None or points > best[0]):
            best = points, field
    return None if best is None else best[1]


def _mean(items: Sequence[Sequence[object]]) -> float:
    return sum(map(len, items)) / max(len(items), 1)
