"""Which column of a sample is the time, which the label, which holds a request together; and why.

Each question is answered by candidates with points: a name that says so, values that can be nothing
else. An answer is sure when its points are many, and more than any other's.
"""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from freshet.init.sample import Column, Sample, is_time_text, shown
from stream.files.times import TimeUnit, time_reader
from stream.limits import TIME_MAX_S

TIME_WORDS = {"time", "timestamp", "ts", "date", "datetime", "when", "at", "unix", "epoch", "created"}
LATER_WORDS = {"birth", "birthday", "release", "released", "expires", "expiry", "updated", "until", "end"}
LABEL_WORDS = {"label", "click", "clicked", "clicks", "target", "y", "response", "converted", "conversion"}
OUTCOME_WORDS = LABEL_WORDS | {
    "purchase", "purchased", "bought", "buy", "liked", "like", "watched", "dwell", "revenue", "rating",
    "stars", "outcome", "skipped", "ordered", "added", "shared", "attributed",
}  # fmt: skip
RATING_WORDS = {"rating", "ratings", "rate", "stars", "score", "grade"}
EVENT_WORDS = {"event", "action", "type", "behavior", "behaviour", "interaction", "feedback", "response"}
POSITIVE_VALUES = {
    "click", "clicked", "clickout", "cart", "addtocart", "add_to_cart", "fav", "purchase", "buy", "bought",
    "transaction", "order", "conversion", "like", "liked", "yes", "y", "pos", "positive", "play", "watch",
    "t",
}  # fmt: skip
NEGATIVE_VALUES = {
    "view", "viewed", "impression", "show", "shown", "pv", "pageview", "no", "n", "neg", "negative", "none",
    "skip", "skipped", "dislike", "remove", "remove_from_cart", "removefromcart", "ignore", "f",
}  # fmt: skip
REQUEST_WORDS = {
    "request",
    "impression",
    "impressionid",
    "slate",
    "display",
    "query",
    "qid",
    "srch",
    "auction",
}
SURE_POINTS, SURE_GAP = 2.5, 1.0
ONLY_POINTS = 2.0  # of the only answer there is, from which on it is sure
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

_FORMATS = (
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y",
    "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d/%m/%Y", "%m/%d/%Y",
    "%d/%b/%Y:%H:%M:%S %z", "%d-%b-%Y %H:%M:%S", "%a %b %d %H:%M:%S %z %Y", "%Y%m%d%H%M%S", "%y%m%d%H",
    "%Y%m%d", "%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S.%f UTC", "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
)  # fmt: skip


class Answer(NamedTuple):
    """One answer to a question: the settings of [data] that it means, and why.

    Attributes:
        column: the column that is meant; None: no column.
        settings: keys of [data] beside the column's name.
        why: a reason for each key; under the empty key the one of the column itself.
        points: how much speaks for it.
    """

    column: Column | None
    settings: dict[str, Any]
    why: dict[str, str]
    points: float


class Question(NamedTuple):
    """A question with its answers, best first; `sure` if the first leaves no doubt."""

    text: str
    answers: list[Answer]
    sure: bool


def _ask(text: str, answers: list[Answer]) -> Question:
    best = sorted(answers, key=lambda answer: -answer.points)  # stable: else in the file's order
    second = best[1].points if len(best) > 1 else -math.inf
    enough = ONLY_POINTS if len(best) == 1 else SURE_POINTS
    sure = bool(best) and best[0].points >= enough and best[0].points - second >= SURE_GAP
    return Question(text, best, sure)


# Time


def ask_time(sample: Sample) -> Question:
    """Which column is the event time; the last answer is that there is none."""
    answers = [answer for column in sample.columns if column.name for answer in _as_times(column)]
    none = Answer(None, {}, {"": "no column looks like a time: lines count as a second apart"}, 1.0)
    question = _ask("Which column is the time of the event?", [*answers, none])
    if question.answers[0].column is None:  # that nothing was found needs no asking
        return question._replace(sure=len(question.answers) == 1)
    return question


def _as_times(column: Column) -> list[Answer]:
    """What the column is if it is a time: one answer, or one per way to read it."""
    named = bool(column.words & TIME_WORDS)
    points = (2.0 if named else 0.0) - (1.5 if column.words & LATER_WORDS else 0.0)
    points -= 2.0 if len(column.filled) < len(column.cells) else 0.0  # an event has a time
    said = "its name, and " if named else ""
    found = []
    for settings, read, what, sure in _ways(column, named):
        seconds = [read(cell) for cell in column.filled]
        sort, why_sort = _order(seconds)
        whole = {**settings, "sort": True} if sort else settings
        rising = 0.0 if sort or len(set(seconds)) < 2 else 1.0
        why = {"": f"{said}{what}", "sort": why_sort, "time_unit": "", "time_format": ""}
        found.append(Answer(column, whole, why, points + sure + rising))
    return found


def _ways(column: Column, named: bool) -> list[tuple[dict[str, Any], Callable[[Any], float], str, float]]:
    """(settings, reader, what the cells are, points) of each way to read all cells as times."""
    cells = column.filled
    if not cells:
        return []
    example = shown(cells[0])
    if all(is_time_text(cell) for cell in cells):
        what = f"its cells are ISO 8601 times, as {example}"
        return [({"time_unit": "iso"}, time_reader("iso"), what, 2.0)]
    unit = _epoch(column)
    if unit is not None:
        read = time_reader(unit)
        day = datetime.fromtimestamp(read(cells[0]), UTC).date()
        return [({"time_unit": unit}, read, f"its numbers are {_UNITS[unit]} since 1970, as of {day}", 1.5)]
    if named:
        fitting = [pattern for pattern in _FORMATS if _all_fit(cells, pattern)]
        # day and month may be the other way round; what else fits as well says the same
        ways = fitting[:2] if {pattern[:2] for pattern in fitting[:2]} == {"%d", "%m"} else fitting[:1]
        if ways:
            return [
                ({"time_format": w}, time_reader("auto", w), f"its cells fit {w}, as {example}", 1.5 - i / 2)
                for i, w in enumerate(ways)
            ]
    numbers = column.numbers
    if named and numbers and min(numbers) >= 0 and max(numbers) <= TIME_MAX_S:
        return [
            ({"time_unit": "s"}, time_reader("s"), f"numbers from {min(numbers):g}, taken as seconds", 0.0)
        ]
    return []


def _epoch(column: Column) -> TimeUnit | None:
    """The unit in which all the column's numbers are times from 2000 to 2100."""
    numbers = column.numbers
    if numbers is None:
        return None
    low, high = min(numbers), max(numbers)
    units: tuple[tuple[TimeUnit, float], ...] = (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))
    for unit, scale in units:
        if low >= 946_684_800 * scale and high <= TIME_MAX_S * scale:
            return unit
    return None


def _all_fit(cells: Sequence[Any], pattern: str) -> bool:
    read = time_reader("auto", pattern)
    try:
        return all(read(cell) >= 0.0 for cell in cells)
    except ValueError:
        return False


def _order(seconds: Sequence[float]) -> tuple[bool, str]:
    """Whether lines have to be sorted, and why."""
    newest = -math.inf
    for line, second in enumerate(seconds, 1):
        if second < newest:
            return (
                True,
                f"line {line} of the sample is earlier than one before it; sorting takes memory",
            )
        newest = second
    return False, "the sample is in order of time"


# Label


def ask_label(sample: Sample, taken: Column | None) -> Question:
    """Which column is the label, and what of it counts as 1."""
    answers = []
    for place, column in enumerate(sample.columns):
        if column is taken or not column.filled or not column.name:
            continue
        answer = _as_label(column)
        if answer is not None:
            # first or last is where a label stands, where nothing else tells
            edge = 0.5 if place in (0, len(sample.columns) - 1) else 0.0
            empty = 2.0 if len(column.filled) < len(column.cells) else 0.0
            answers.append(answer._replace(points=answer.points + edge - empty))
    return _ask("Which column says whether it was liked (the label)?", answers)


def _as_label(column: Column) -> Answer | None:
    values = set(column.counts)
    named = 2.0 if column.words & LABEL_WORDS else 1.0 if column.words & OUTCOME_WORDS else 0.0
    said = "its name, and " if named else ""
    if {value.lower() for value in values} <= {"0", "1", "0.0", "1.0", "true", "false"}:
        ones = sum(n for value, n in column.counts.items() if value.lower() in ("1", "1.0", "true"))
        share = ones / len(column.filled)
        why = f"{said}it is 0 or 1 everywhere, 1 on {share:.1%} of the lines"
        points = 1.5 + named - (1.0 if len(values) < 2 else 0.0)
        return Answer(column, {}, {"": why}, points)
    numbers = column.numbers
    if numbers and column.words & RATING_WORDS and len(values) <= 101 and len(values) < len(numbers):
        low, high = min(numbers), max(numbers)
        bound = 0.8 * high
        liked = min((number for number in numbers if number >= bound), default=high)
        share = sum(number >= liked for number in numbers) / len(numbers)
        why = f"its name, and its numbers from {low:g} to {high:g}"
        bar = f"{liked:g} or more of {high:g} ({share:.0%} of the lines) counts as liked; set what you mean"
        return Answer(column, {"positive_from": liked}, {"": why, "positive_from": bar}, 2.5 + named)
    if numbers is None and len(values) <= 20:
        return _as_words(column, values)
    if numbers and named and column.whole and len(set(numbers)) > 1 and min(numbers) in (-1, 0):
        share = sum(number >= 1 for number in numbers) / len(numbers)
        why = f"its name, and whole numbers from {min(numbers):g} to {max(numbers):g}"
        bar = f"1 or more ({share:.1%} of the lines) counts as 1"
        return Answer(column, {"positive_from": 1.0}, {"": why, "positive_from": bar}, 1.0 + named)
    return None


def _as_words(column: Column, values: set[str]) -> Answer | None:
    """A label in words, such as view and buy."""
    plain = {value: re.sub(r"[\s-]+", "_", value.strip().lower()) for value in values}
    positive = sorted(value for value, word in plain.items() if word in POSITIVE_VALUES)
    negative = [value for value, word in plain.items() if word in NEGATIVE_VALUES]
    if not positive or not len(positive) < len(values):
        return None
    named = 1.5 if column.words & (EVENT_WORDS | OUTCOME_WORDS) else 0.0
    known = 1.5 if len(positive) + len(negative) == len(values) else 0.0
    rest = ", ".join(sorted(values - set(positive)))
    why = {
        "": "what was done, in words: " + ", ".join(f"{v} ({n:,})" for v, n in column.counts.most_common(5)),
        "positive": f"these count as 1; {rest[:60]} as 0",
    }
    return Answer(column, {"positive": positive}, why, 1.5 + named + known)


# Request


def ask_request(sample: Sample, taken: Sequence[Column | None], time: Column | None) -> Question:
    """Whether lines belong together as the candidates of one request; the last answer is that none do."""
    none = Answer(None, {}, {"": "no column holds lines together: each line is a request of one"}, 2.0)
    answers = [none]
    for column in sample.columns:
        if any(column is other for other in taken) or column.words & OUTCOME_WORDS - {"response"}:
            continue
        runs, again = _runs(column.cells)
        size = len(column.cells) / max(runs, 1)
        if len(column.filled) < len(column.cells) or again or size < 1.2 or runs < 3:
            continue
        together = time is None or all(
            a == b
            for (a, b, i, j) in zip(time.cells, time.cells[1:], column.cells, column.cells[1:], strict=False)
            if i == j
        )
        named = bool(column.words & REQUEST_WORDS)
        if not named and not (together and time is not None and "session" in column.words):
            continue
        why = f"its name, and {size:.1f} lines in a row share each value: they were shown together"
        answers.append(Answer(column, {}, {"": why}, 2.0 + 2.0 * named + (1.0 if together else -0.5)))
    return _ask("Which column is the same for all candidates of one request?", answers)._replace(
        sure=len(answers) == 1 or max(answer.points for answer in answers) >= SURE_POINTS
    )


def _runs(cells: Sequence[Any]) -> tuple[int, bool]:
    """How many runs of equal values, and whether a value comes again after its run."""
    seen: set[str] = set()
    runs, last, again = 0, object(), False
    for cell in cells:
        if cell != last:
            runs += 1
            last = cell
            again = again or str(cell) in seen
            seen.add(str(cell))
    return runs, again
