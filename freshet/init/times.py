"""Finds the column with the time of an event, and the one that identifies a request; and why."""

import itertools
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from freshet.files import Json
from freshet.init.answers import SURE_POINTS, Answer, Question, rank
from freshet.init.column import Column, is_time_text, shown
from freshet.init.sample import Sample
from stream.files.times import Cell, TimeUnit, time_reader
from stream.limits import TIME_MAX_S

TIME_WORDS = {"time", "timestamp", "ts", "date", "datetime", "when", "at", "unix", "epoch", "created"}
LATER_WORDS = {"birth", "birthday", "release", "released", "expires", "expiry", "updated", "until", "end"}
BEGUN_WORDS = {
    "created", "published", "release", "released", "appeared", "added", "born", "since", "start", "started",
    "began", "begun", "joined", "registered", "uploaded", "posted", "launched", "listed",
}  # fmt: skip
SECONDS = {"time_unit": "s"}
HOUR_WORDS = {"hour", "day", "dt"}  # names of times only if the cells look like times, as 14102100
REQUEST_WORDS = {
    "request", "impression", "impressionid", "slate", "display", "query", "qid", "srch", "auction",
}  # fmt: skip
OTHER_TIME = "another time; a time as such is no feature"
FINE = 0.4
TIME_POINTS = 3.5  # of a column that is a time by its name and by its values
_SPAN_MAX_S = 40 * 366 * 86_400.0  # longest span of numbers for which only the size suggests times
_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

_FORMATS = (
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y",
    "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d/%m/%Y", "%m/%d/%Y",
    "%d/%b/%Y:%H:%M:%S %z", "%d-%b-%Y %H:%M:%S", "%a %b %d %H:%M:%S %z %Y", "%Y%m%d%H%M%S", "%Y%m%d",
    "%Y%m%d%H", "%y%m%d%H", "%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S.%f UTC", "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
)  # fmt: skip


def ask_time(sample: Sample) -> Question:
    """The question which column is the event time; the last answer is that there is none."""
    answers = [answer for column in sample.columns if column.name for answer in _as_times(column)]
    none = Answer(None, {}, {"": "no column looks like a time: lines count as one second apart"}, 1.0)
    question = rank("Which column is the time of the event?", [*answers, none])
    if question.answers[0].column is None:  # no question if nothing was found
        return question._replace(sure=len(question.answers) == 1)
    return question


def began(column: Column, time: Answer, clear: bool) -> bool:
    """Whether a column says when something began, such as when an item appeared: a time that each line has,
    none later than the event.

    Args:
        time: of the event.
        clear: it is clearly a time, whatever its name.
    """
    if time.column is None or len(column.filled) < len(column.cells):
        return False
    if not (clear or column.words & BEGUN_WORDS or all(map(is_time_text, column.filled))):
        return False
    ways = [settings for settings, *_ in _ways(column, clear) if settings in ({"time_unit": "iso"}, SECONDS)]
    if not ways:
        return False
    read = time_reader(time.settings.get("time_unit", "auto"), time.settings.get("time_format", ""))
    then = time_reader("auto")
    try:
        return all(then(a) <= read(b) for a, b in zip(column.cells, time.column.cells, strict=True))
    except ValueError:
        return False


def is_clear(column: Column, times: Question) -> bool:
    """Whether a column is clearly a time, by the answers to the question for it."""
    return any(answer.column is column and answer.points >= TIME_POINTS for answer in times.answers)


def _as_times(column: Column) -> list[Answer]:
    """The column as a time: one answer, or one per way to read it."""
    named = bool(column.words & TIME_WORDS)
    points = (2.0 if named else 0.0) - (1.5 if column.words & LATER_WORDS else 0.0)
    points -= 2.0 if len(column.filled) < len(column.cells) else 0.0  # an event has a time
    said = "its name, and " if named else ""
    found = []
    for settings, read, what, sure in _ways(column, named):
        try:
            seconds = [read(cell) for cell in column.filled]
        except ValueError:
            continue
        sort, why_sort = _order(seconds)
        whole = {**settings, "sort": True} if sort else settings
        rising = 0.0 if sort or len(set(seconds)) < 2 else 1.0
        fine = FINE * len(set(seconds)) / max(len(seconds), 1)  # milliseconds rather than days
        why = {"": f"{said}{what}", "sort": why_sort, "time_unit": "", "time_format": ""}
        found.append(Answer(column, whole, why, points + sure + rising + fine))
    return found


def _ways(column: Column, named: bool) -> list[tuple[Json, Callable[[Cell], float], str, float]]:
    """Each way to read all cells as times: (settings, reader, description of the cells, points)."""
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
    digits = str(cells[0]).strip().isdigit()
    if named or not digits or column.words & HOUR_WORDS:
        fitting = [pattern for pattern in _FORMATS if _all_fit(cells, pattern)]
        # day and month may be swapped; any other pattern that fits means the same
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
    """The unit in which all numbers of the column are times from 2000 to 2100."""
    numbers = column.numbers
    if numbers is None:
        return None
    low, high = min(numbers), max(numbers)
    units: tuple[tuple[TimeUnit, float], ...] = (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))
    for unit, scale in units:
        if low >= 946_684_800 * scale and high <= TIME_MAX_S * scale:
            rising = all(a <= b for a, b in itertools.pairwise(numbers))
            named = bool(column.words & TIME_WORDS)
            # Ids of ten digits have that size too, but span a century.
            return unit if named or rising or high - low <= _SPAN_MAX_S * scale else None
    return None


def _all_fit(cells: Sequence[Cell], pattern: str) -> bool:
    if pattern.replace("%", "").isalnum() and len({len(str(cell)) for cell in cells}) > 1:
        return False
    read = time_reader("auto", pattern)
    try:
        return all(read(cell) >= 0.0 for cell in cells)
    except ValueError:
        return False


def _order(seconds: Sequence[float]) -> tuple[bool, str]:
    """Whether lines must be sorted, and why."""
    newest = -math.inf
    for line, second in enumerate(seconds, 1):
        if second < newest:
            return (
                True,
                f"line {line} of the sample is earlier than one before it; sorting takes memory",
            )
        newest = second
    return False, "the sample is in order of time"


def ask_request(sample: Sample, taken: Sequence[Column | None], time: Column | None) -> Question:
    """The question which column groups lines into requests; the last answer is that none does."""
    none = Answer(None, {}, {"": "no column holds lines together: each line is a request of one"}, 2.0)
    answers = [none]
    for column in sample.columns:
        if any(column is other for other in taken):
            continue
        cells = column.cells[: sample.head]
        runs, again = _runs(cells)
        size = len(cells) / max(runs, 1)
        if len(column.filled) < len(column.cells) or again or size < 1.2 or runs < 3:
            continue
        together = time is None or all(
            a == b
            for (a, b, i, j) in zip(time.cells, time.cells[1:], cells, cells[1:], strict=False)
            if i == j
        )
        named = bool(column.words & REQUEST_WORDS)
        if not named and not (together and time is not None and "session" in column.words):
            continue
        why = f"its name, and {size:.1f} lines in a row share each value: they were shown together"
        answers.append(Answer(column, {}, {"": why}, 2.0 + 2.0 * named + (1.0 if together else -0.5)))
    return rank("Which column is the same for all candidates of one request?", answers)._replace(
        sure=len(answers) == 1 or max(answer.points for answer in answers) >= SURE_POINTS
    )


def _runs(cells: Sequence[Cell]) -> tuple[int, bool]:
    """The number of runs of equal values, and whether a value recurs after its run."""
    seen: set[str] = set()
    runs, last, again = 0, object(), False
    for cell in cells:
        if cell != last:
            runs += 1
            last = cell
            again = again or str(cell) in seen
            seen.add(str(cell))
    return runs, again
