"""Finds the label among a sample's columns and the values of it that count as 1, and what to ask in doubt.

The rules, in order (docs/data.md explains them to users): the name says label or target; it says click; it
names another outcome (of several, the one that is 1 most often); the values can be nothing but a label.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from freshet.init.answers import Answer, Question, rank
from freshet.init.column import Column, is_time_text, shown
from freshet.init.labels.numbers import VALUE_WORDS, as_value, cuts, offers, read_middle
from freshet.init.labels.words import negatives, positives
from freshet.init.messages import error
from freshet.init.sample import Sample
from stream.files.outcomes import label_reader

TARGET_WORDS = {"label", "target", "y", "response"}
CLICK_WORDS = {"click", "clicked", "clicks", "clk", "isclick"}
LABEL_WORDS = TARGET_WORDS | CLICK_WORDS | {"converted", "conversion"}
OUTCOME_WORDS = LABEL_WORDS | {
    "purchase", "purchased", "bought", "buy", "liked", "like", "watched", "dwell", "revenue", "rating",
    "stars", "outcome", "skipped", "ordered", "added", "shared", "attributed", "follow", "followed",
    "comment", "commented", "forward", "share", "hate", "favorite", "favourite", "collect", "nonclk",
    "noclick", "reward", "paid", "churn", "churned", "subscribed", "installed",
}  # fmt: skip
RATING_WORDS = {"rating", "ratings", "rate", "stars", "score", "grade", "overall"}
AMOUNT_WORDS = {
    "play",
    "plays",
    "watch",
    "duration",
    "ratio",
    "listen",
    "listens",
    "dwell",
    "progress",
    "completion",
}
LESS_IS_MORE = {"cost", "loss", "penalty"}
PAST_WORDS = {"history", "past", "prior", "previous", "last", "avg", "mean", "user", "total"}
EVENT_WORDS = {"event", "action", "type", "behavior", "behaviour", "interaction", "feedback", "response"}
NEGATED_WORDS = {"not", "non", "no", "nonclk", "noclick"}
NAMES_WORDS = {
    "id", "ids", "user", "item", "product", "movie", "category", "brand", "type", "class", "city", "country",
    "device", "hour", "day", "weekday", "age", "year", "month",
}  # fmt: skip
"""Names for what is liked, by whom, or when; they say nothing of a quantity."""
INSIDE_MIN = 0.99  # of the ones of an outcome, that lie where another is 1 if it happens among those
LEVELS_MAX = 101
NOT_RATED_SHARE = 0.2  # of zeros among ratings, from which on they mean that there is none


def ask_label(sample: Sample, taken: Column | None) -> Question:
    """The question which column is the label, and which of its values count as 1."""
    answers = []
    for index, column in enumerate(sample.columns):
        if column is taken or not column.filled or not column.name:
            continue
        answer = as_label(column)
        if answer is not None:
            # without other evidence, the label is likely to be the first or the last column
            edge = 0.5 if index in (0, len(sample.columns) - 1) else 0.0
            empty = 1.0 if len(column.filled) < len(column.cells) else 0.0
            often = 0.4 * share_of_ones(column, answer) if column.words & OUTCOME_WORDS else 0.0
            answers.append(answer._replace(points=answer.points + edge + often - empty))
    question = rank("Which column says whether it was liked (the label)?", answers)
    if not question.answers:
        return question
    best = question.answers[0]
    alike = [a for a in question.answers if _points_of_name(a.column) == _points_of_name(best.column) > 0]
    if len(alike) > 1:
        first = _around(best, alike)
        rest = [answer for answer in question.answers if answer is not first]
        return question._replace(answers=[first, *rest], sure=False)
    return question


def _around(best: Answer, others: Sequence[Answer]) -> Answer:
    """The answer in whose ones those of the best one lie, as purchases lie in carts; else the best one."""
    ones = {at for at, label in enumerate(read_labels(best)) if label == 1.0}
    found, most = best, len(ones)
    for other in others:
        around = {at for at, label in enumerate(read_labels(other)) if label == 1.0}
        if len(around) > most and len(ones & around) >= INSIDE_MIN * len(ones):
            found, most = other, len(around)
    return found


def as_label(column: Column) -> Answer | None:
    """The column as a label; None: nothing suggests that it is one."""
    if not column.filled:
        return None
    named = _points_of_name(column)
    said = "its name, and " if named else ""
    numbers = column.numbers
    values = set(column.counts)
    truths = {value.lower() for value in values} <= {"true", "false"}
    if truths or (numbers is not None and set(numbers) <= {0.0, 1.0}):
        share = share_of_ones(column, Answer(column, {}, {}, 0.0))
        why = f"{said}it is 0 or 1 everywhere, 1 on {share:.1%} of the lines"
        points = 1.5 + named - (1.0 if len(values) < 2 else 0.0)
        return _with_unlabelled(column, Answer(column, {}, {"": why}, points), set())
    if numbers is None:
        return _as_words(column, values) if len(values) <= 20 else None
    levels = sorted(set(numbers))
    if len(levels) == 2 and (named or column.words & LESS_IS_MORE):
        return _as_two(column, levels, named)
    if column.words & RATING_WORDS and len(levels) <= LEVELS_MAX and len(levels) < len(numbers):
        return _as_rating(column, named)
    if named and column.whole and len(levels) > 1 and levels[0] in (-1, 0):
        share = sum(number >= 1 for number in numbers) / len(numbers)
        why = f"its name, and whole numbers from {levels[0]:g} to {levels[-1]:g}"
        bar = f"1 or more ({share:.1%} of the lines) counts as 1"
        if 0.0 < share < 1.0:
            return Answer(column, {"positive_from": 1.0}, {"": why, "positive_from": bar}, 1.0 + named)
    return None


def as_levels(column: Column) -> Answer | None:
    """A column without a telling name as a rating: a few equally spaced levels, as 1 to 5 or 0.5 to 5."""
    numbers = column.numbers
    if numbers is None or column.words & NAMES_WORDS:
        return None
    levels = sorted(set(numbers))
    steps = {round(b - a, 6) for a, b in itertools.pairwise(levels)}
    usual = 3 <= len(levels) <= 11 and levels[0] in (0.0, 0.5, 1.0) and levels[-1] <= 10.0
    if not usual or len(steps) != 1 or not steps <= {0.5, 1.0}:
        return None
    answer = _as_rating(column, 0.0)
    why = f"numbers from {levels[0]:g} to {levels[-1]:g} in even steps, as ratings are"
    return answer._replace(why={**answer.why, "": why}, points=1.0)


def may_be_cut(sample: Sample, taken: Column | None) -> list[Column]:
    """Columns that could be labels with a threshold, the likeliest first."""
    found = []
    for index, column in enumerate(sample.columns):
        if column is taken or not column.name or column.numbers is None or not cuts(column):
            continue
        if column.words & NAMES_WORDS:
            continue
        levels = len(set(column.numbers))
        points = 2.0 * bool(column.words & (AMOUNT_WORDS | RATING_WORDS | OUTCOME_WORDS))
        points += 1.0 * (levels <= 11) + 0.5 * (index == len(sample.columns) - 1) + 0.3 * (not column.whole)
        points -= 1.0 * (column.whole and levels > LEVELS_MAX)
        found.append((-points, index, column))
    return [column for _, _, column in sorted(found, key=lambda item: item[:2])][:4]


def chosen_label(sample: Sample, path: Path, name: str, bar: float | None) -> Answer:
    """The label that the user named.

    Raises:
        InitError: there is no such column, or it cannot be one; the message says what can.
    """
    column = next((column for column in sample.columns if column.name == name), None)
    if column is None:
        names = ", ".join(column.name for column in sample.columns)
        raise error("no such column", path=path, name=name, names=names)
    said = "as you said"
    if bar is not None:
        if column.numbers is None:
            example = next(str(cell) for cell in column.filled if column.number_of(cell) is None)
            raise error("bar of words", path=path, name=name, example=shown(example))
        share = sum(number >= bar for number in column.numbers) / len(column.numbers)
        if not 0.0 < share < 1.0:
            raise error(
                "bar", path=path, bar=bar, name=name, share="none" if share == 0.0 else "all",
                low=min(column.numbers), high=max(column.numbers), offers=offers([column]),
            )  # fmt: skip
        why = {"": said, "positive_from": f"as you said; {share:.1%} of the lines reach it"}
        return _with_unlabelled(column, Answer(column, {"positive_from": bar}, why, 9.0), set())
    value = as_value(column)
    found = value if column.words & VALUE_WORDS and not column.words & LABEL_WORDS else None
    found = found or as_label(column) or as_levels(column) or _as_any_words(column) or value
    if len(set(column.counts)) == 1:
        (only,) = column.counts
        if len(column.filled) < len(column.cells):
            raise error("label or nothing", path=path, name=name, value=only)
        raise error("label alone", path=path, name=name, value=only)
    if found is not None:
        found = found._replace(points=9.0, why={**found.why, "": f"{said}; {found.why['']}"})
        return _with_unlabelled(column, found, set()) if found.value is not None else found
    if column.numbers is not None and cuts(column):
        raise error("no bar", path=path, offers=offers([column]))
    raise error(
        "label of nothing", path=path, name=name, distinct=len(column.counts),
        example=shown(column.filled[0]) if column.filled else "nothing",
    )  # fmt: skip


def refuse_ones_alone(label: Answer, path: Path) -> None:
    """Refuse a column of one value and empty cells, of which nobody knows whether they mean 0.

    Raises:
        InitError: it is one.
    """
    if label.column is not None and len(label.column.counts) == 1 and "unlabelled" in label.settings:
        (value,) = label.column.counts
        raise error("label or nothing", path=path, name=label.column.name, value=value)


def outcomes_beside(sample: Sample, label: Answer) -> list[Column]:
    """Other columns that are named like outcomes and look like labels."""
    return [
        column
        for column in sample.columns
        if column is not label.column and column.words & OUTCOME_WORDS and as_label(column) is not None
    ]


def read_labels(answer: Answer) -> list[float | None]:
    """The label of each line of the sample; None: the line has none. Of a value: whether it is a high one."""
    assert answer.column is not None
    if answer.value is not None:
        return read_middle(answer, answer.value.middle)
    settings, column = answer.settings, answer.column
    read = label_reader(
        settings.get("positive_from"), settings.get("positive", ()), column.decimal, column.thousands
    )
    unlabelled = set(settings.get("unlabelled", ()))
    found: list[float | None] = []
    for cell in column.cells:
        try:
            found.append(None if str(cell) in unlabelled or column.is_missing(cell) else read(cell))
        except ValueError:
            found.append(None)
    return found


def share_of_ones(column: Column, answer: Answer) -> float:
    """The share of ones among the lines with a label."""
    labels = [label for label in read_labels(answer._replace(column=column)) if label is not None]
    return sum(labels) / max(len(labels), 1)


def unknown_words(answer: Answer) -> list[str]:
    """Words of a label that count as 0 because they are unknown."""
    if answer.column is None or answer.column.numbers is not None or "positive" not in answer.settings:
        return []
    known = set(answer.settings["positive"])
    return sorted(answer.column.counts.keys() - known - set(negatives(answer.column.counts)))


def _points_of_name(column: Column | None) -> float:
    if column is None or column.words & {"id", "ids", "time", "timestamp", "date", "ts"}:
        return 0.0
    if column.words & TARGET_WORDS:
        return 3.0
    if column.words & NEGATED_WORDS:
        return -1.0
    if column.words & PAST_WORDS:
        return 0.0
    if column.words & CLICK_WORDS:
        return 2.0
    return 2.0 if column.words & LABEL_WORDS else 1.0 if column.words & OUTCOME_WORDS else 0.0


def _as_two(column: Column, levels: Sequence[float], named: float) -> Answer | None:
    low, high = levels
    numbers = column.numbers or []
    if column.words & LESS_IS_MORE:
        values = sorted(value for value in column.counts if column.number_of(value) == low)
        share = numbers.count(low) / len(numbers)
        why = {
            "": f"its name, and two values, {low:g} and {high:g}",
            "positive": f"the lower value, as it is a cost ({share:.1%} of the lines)",
        }
        return Answer(column, {"positive": values}, why, 1.5 + named)
    share = numbers.count(high) / len(numbers)
    why = {
        "": f"its name, and two values, {low:g} and {high:g}",
        "positive_from": f"the higher value ({share:.1%} of the lines) counts as 1",
    }
    bar = 1.0 if low <= 0.0 and high >= 1.0 else high
    return _with_unlabelled(column, Answer(column, {"positive_from": bar}, why, 1.5 + named), set())


def _as_rating(column: Column, named: float) -> Answer:
    numbers = column.numbers or []
    high = max(numbers)
    none = {-1.0} if min(numbers) == -1.0 and high > 1.0 else set()
    zeros, ones = numbers.count(0.0), numbers.count(1.0)
    if zeros > NOT_RATED_SHARE * len(numbers) and zeros > 3 * ones and high > 1.0:
        none.add(0.0)
    rated = [number for number in numbers if number not in none] or numbers
    low = min(rated)
    liked = min((number for number in rated if number >= 0.8 * high), default=high)
    if liked <= low:
        liked = min((number for number in rated if number > low), default=high)
    share = sum(number >= liked for number in rated) / len(rated)
    why = f"its name, and its numbers from {low:g} to {high:g}"
    bar = f"{liked:g} or more of {high:g} ({share:.0%} of the lines) counts as liked; set what you mean"
    answer = Answer(column, {"positive_from": liked}, {"": why, "positive_from": bar}, 2.5 + named)
    return _with_unlabelled(column, answer, none)


def _with_unlabelled(column: Column, answer: Answer, none: set[float]) -> Answer:
    """The same answer, with the values that mean "no label"."""
    values = sorted(value for value in column.counts if none and column.number_of(value) in none)
    empty = sorted(
        {
            "" if cell is None or cell != cell else str(cell)
            for cell in column.cells
            if column.is_missing(cell)
        }
    )
    if not values and not empty:
        return answer
    missing = len(column.cells) - len(column.filled) + sum(column.counts[value] for value in values)
    share = missing / len(column.cells)
    why = f"{share:.1%} of the lines have no label; they are left out"
    return answer._replace(
        settings={**answer.settings, "unlabelled": values + empty}, why={**answer.why, "unlabelled": why}
    )


def _as_words(column: Column, values: set[str]) -> Answer | None:
    """A label in words, such as view and buy."""
    if all(is_time_text(cell) for cell in column.filled):
        return None
    positive, negative = positives(values), negatives(values)
    if not positive or not len(positive) < len(values):
        return None
    named = 1.5 if column.words & (EVENT_WORDS | OUTCOME_WORDS) else 0.0
    known = 1.5 if len(positive) + len(negative) == len(values) else 0.0
    return _of_words(column, positive, 1.5 + named + known)


def _as_any_words(column: Column) -> Answer | None:
    """A label from the words of a column that the user named: the rarest word counts as 1."""
    values = set(column.counts)
    if column.numbers is not None or not 2 <= len(values) <= 20:
        return None
    positive = positives(values)
    if not positive or len(positive) == len(values):
        positive = [min(values, key=lambda value: (column.counts[value], value))]
    return _of_words(column, positive, 1.0)


def _of_words(column: Column, positive: list[str], points: float) -> Answer:
    rest = ", ".join(sorted(set(column.counts) - set(positive)))
    why = {
        "": "what was done, in words: " + ", ".join(f"{v} ({n:,})" for v, n in column.counts.most_common(5)),
        "positive": f"these count as 1; {rest[:60]} as 0",
    }
    return _with_unlabelled(column, Answer(column, {"positive": positive}, why, points), set())


def entropy(share: float) -> float:
    """The entropy of a label that is 1 with this share, in nats."""
    return -sum(p * math.log(p) for p in (share, 1.0 - share) if p > 0.0)
