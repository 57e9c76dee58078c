"""What each other column of a sample becomes: an id, a number, a list, or no feature; and why."""

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from freshet.init.answers import Answer
from freshet.init.column import FEW, Column, hash_like, is_time_text, shown, smooth
from freshet.init.labels.first import OUTCOME_WORDS
from freshet.init.labels.further import NO_LABELS_BESIDE, LabelsBeside
from freshet.init.leaks import OF_BEFORE, why_leak
from freshet.init.sample import Sample
from freshet.init.times import OTHER_TIME, began
from stream.files.times import Cell
from stream.limits import CANDIDATES_MAX, FEATURES_MAX, LONG_TEXT_MAX, TEXT_MAX, VECTOR_MAX, WEIGHT_MAX
from stream.records.fields import tidy_value

ID_WORDS = {
    "id", "ids", "uid", "user", "item", "product", "movie", "song", "track", "article", "code", "zip", "sku",
    "category", "cat", "brand", "shop", "store", "city", "country", "region", "device", "os", "browser",
    "ad", "campaign", "site", "app", "page", "type", "class", "group", "gender", "channel", "hash",
}  # fmt: skip
NUMBER_WORDS = {
    "price", "amount", "count", "cnt", "num", "qty", "quantity", "age", "score", "length", "duration", "size",
    "lat", "lon", "latitude", "longitude", "distance", "width", "height", "weight", "value", "ratio", "pct",
    "percent", "seconds", "minutes", "days", "temperature", "discount", "views",
}  # fmt: skip
USER_WORDS = {"user", "uid", "visitor", "customer", "member", "viewer", "person", "account", "client"}
ENTITY_WORDS = USER_WORDS | {"item", "product", "movie", "ad", "article", "song", "track"}
GROUP_WORDS = {"category", "cat", "genre", "brand", "group", "topic", "type", "class", "shop", "channel"}
CONTEXT_WORDS = USER_WORDS | {
    "device", "browser", "os", "platform", "country", "city", "region", "zip", "age", "gender", "locale",
    "referrer", "referer", "hour", "weekday", "session", "ip", "occupation",
}  # fmt: skip
PLACE_WORDS = {"position", "pos"}
PLACE_WORDS_WITHIN = {
    "rank",
    "place",
    "slot",
    "index",
    "order",
}  # if no two candidates of a request have the same value
SHOWN_WORDS = {"shown", "displayed", "exposed", "visible"}
WEIGHT_WORDS = {"sample", "instance", "example", "row", "importance", "case"}  # beside "weight"
PROPENSITY_WORDS = {"propensity", "pscore"}  # with no others but these:
PROPENSITY_WORDS_BESIDE = {"score", "logged", "logging", "policy", "action"}
LIST_WORDS = {"tags", "genres", "keywords", "categories", "topics", "history", "items", "ids", "clicks"}
_PAIR = re.compile(r"\s*\[?\s*(-?\d{1,2}\.\d+)\s*,\s*(-?\d{1,3}\.\d+)\s*\]?\s*").fullmatch
REPEATED = 3.0  # from so many lines per value on, whole numbers without a telling name are ids
UNIQUE_SHARE = 0.95  # share of different values among the lines, from which on an id carries no information
TEXT_LENGTH = 40  # mean length from which on words with spaces are prose, not ids
LIST_SHARE = 0.05  # share of the cells that contain the separator
BEYOND = "some are beyond a signed 64-bit integer, so all are read as text"
OUTCOME = "named like an outcome"
TOO_MANY = f"a candidate has {FEATURES_MAX} features at most"
_SEPARATORS = ("|", ";", ",", " ")


class Feature(NamedTuple):
    """A column as a feature.

    Attributes:
        kind: of the feature in the model: id, ids or number; empty: it is left out.
        type: how the file's cells are read, as [data.types] says; empty: they have types.
        separator: between the ids of a list, if it is one.
        why: the reason.
        sure: no doubt about it.
        context: it belongs to the request rather than to the candidate.
        leaks: it is left out because it tells the label by itself.
        says: the key of [data] that it is: `shown`, `weight` or `propensity`.
        length: of a vector.
        trial: it is kept only if it gains something on the sample.
    """

    column: Column
    kind: str
    type: str
    separator: str
    why: str
    sure: bool
    context: bool = False
    leaks: bool = False
    says: str = ""
    length: int = 0
    trial: bool = False


def find_features(
    sample: Sample,
    taken: Sequence[Column | None],
    request: Column | None,
    labels: Sequence[float | None] = (),
    outcomes: LabelsBeside = NO_LABELS_BESIDE,
    label: Column | None = None,
) -> list[Feature]:
    """A feature for every column without another role, in file order.

    Args:
        labels: of the sample's lines, by which columns are found that tell them by themselves.
        label: their column; None: they are of some of the lines that have one, or of no column.
        outcomes: further targets, which are no features, and which no feature may tell by itself.
    """
    found = []
    targets = [target.column for target in outcomes.further]
    refused = {id(column): why for column, why in outcomes.refused}
    for column in sample.columns:
        if any(column is other for other in (*taken, *targets)):
            continue
        if id(column) in refused:
            why = f"an outcome, and no further target: {refused[id(column)]}"
            found.append(Feature(column, "", "", "", why, True))
            continue
        feature = _as_exposure(column, request, labels) or _feature(sample, column)
        if labels and (feature.kind or feature.why.startswith(OUTCOME)):
            why = why_leak(column, labels, feature.kind in ("id", "ids"), label)
            if why and feature.kind != "place":
                why = why if feature.kind else f"{feature.why}; it {why}"
                feature = feature._replace(kind="", why=why, leaks=bool(feature.kind))
        for target in outcomes.further:
            if feature.kind not in ("", "place") and target.kind == "event":
                why = why_leak(column, target.labels, feature.kind in ("id", "ids"))
                if why:
                    feature = feature._replace(kind="", why=f"of {target.name}: {why}", leaks=True)
        if feature.kind not in ("", "place"):
            feature = feature._replace(context=_in_context(sample, column, request))
        found.append(feature)
    return _with_one_separator(_no_more_than_fit(_each_once(found)))


def as_of_time(feature: Feature, time: Answer, clear: bool) -> Feature:
    """A column that is another time than the event's: how long ago that was, or no feature.

    Args:
        clear: it is clearly a time.
    """
    if feature.leaks or feature.kind == "place":
        return feature
    if began(feature.column, time, clear):
        why = "days from then to the request, which says it in Unix seconds"
        return feature._replace(kind="age", type="time", why=why, sure=True, trial=True)
    return feature._replace(kind="", why=OTHER_TIME) if clear else feature


def other_kind(feature: Feature) -> Feature:
    """The same column with the other kind: a number for an id, an id for a number."""
    kind = "number" if feature.kind == "id" else "id"
    return feature._replace(kind=kind, type=kind, why="as you said", sure=True)


def _feature(sample: Sample, column: Column) -> Feature:
    n, distinct = len(column.cells), len(column.counts)

    def left_out(why: str) -> Feature:
        return Feature(column, "", "", "", why, True)

    if not column.name:
        return left_out("it has no name, as the row numbers that some tools write")
    if distinct == 0:
        return left_out("empty in the sample")
    if distinct == 1:
        return left_out(f"always {shown(column.filled[0])} in the sample")
    if any(isinstance(cell, dict) for cell in column.filled):
        return left_out("holds objects; their fields are columns of their own")
    outcomes = column.words & OUTCOME_WORDS
    if outcomes and not column.words & OF_BEFORE:
        return left_out(f"{OUTCOME} ({', '.join(sorted(outcomes))}): not known when a score is asked for")
    if all(is_time_text(cell) for cell in column.filled):
        return left_out("another time; a time as such is no feature")
    if all(map(_is_place_on_earth, column.filled)):
        return Feature(column, "geo", "", "", "latitude and longitude", True, trial=True)
    found = _as_list(column) or _as_number(sample, column)
    if found is not None:
        return found
    named = bool(column.words & ID_WORDS)
    characters = [len(str(cell)) for cell in column.filled]
    spaced = sum(" " in value for value in column.counts) > distinct // 2
    unique = distinct > UNIQUE_SHARE * n and n >= 50 and not column.words & ENTITY_WORDS
    if spaced and (sum(characters) > TEXT_LENGTH * n or unique) and max(characters) <= LONG_TEXT_MAX:
        words = sum(len(value.split()) * count for value, count in column.counts.items()) / len(column.filled)
        return Feature(column, "text", "text", "", f"words, {words:.0f} in a cell", True, trial=True)
    if distinct > UNIQUE_SHARE * n and n >= 50 and not column.words & ENTITY_WORDS:
        return left_out(f"{distinct:,} different values on {n:,} lines: nothing to learn from so far")
    if max(characters) > TEXT_MAX:
        return left_out(f"some cells have more than {TEXT_MAX:,} characters: text to read, not an id")
    why = f"{distinct:,} different values on {n:,} lines" + (", and its name" if named else "")
    mixed = any(isinstance(cell, float) for cell in column.filled)
    return Feature(column, "id", "id" if sample.format == "csv" else "text" if mixed else "", "", why, True)


def _is_place_on_earth(cell: Cell) -> bool:
    """Whether a cell is text of a latitude and a longitude, each with a fraction."""
    pair = _PAIR(cell) if isinstance(cell, str) else None
    return pair is not None and abs(float(pair[1])) <= 90.0 and abs(float(pair[2])) <= 180.0


def _as_exposure(column: Column, request: Column | None, labels: Sequence[float | None]) -> Feature | None:
    """A column about how candidates were shown: which of them, or where. It is no feature of a candidate."""
    if column.words & OF_BEFORE:
        return None
    says = {str(cell).strip().lower() in ("1", "1.0", "true") for cell in column.filled}
    known = set(column.counts) <= {"0", "1", "0.0", "1.0", "true", "false", "True", "False"}
    if column.words & SHOWN_WORDS and known and says == {True, False} and len(column.filled) == len(labels):
        unseen = (
            label
            for cell, label in zip(column.cells, labels, strict=True)
            if str(cell).strip().lower() in ("0", "0.0", "false")
        )
        if not any(unseen):
            return Feature(
                column, "", "", "", "lines of 0 were not shown, and are left out", True, says="shown"
            )
    numbers = column.numbers
    counts = "weight" in column.words and column.words & WEIGHT_WORDS and None not in column.cells
    if counts and numbers is not None and 0.0 <= min(numbers) <= max(numbers) <= WEIGHT_MAX:
        return Feature(column, "", "", "", "by how much a line counts", True, says="weight")
    drawn = column.words & PROPENSITY_WORDS and column.words <= PROPENSITY_WORDS | PROPENSITY_WORDS_BESIDE
    if drawn and numbers is not None:
        why = "how likely a candidate was to be put there: not known when a score is asked for"
        each = None not in column.cells and len(column.filled) == len(column.cells)
        fits = each and 0.0 < min(numbers) <= max(numbers) <= 1.0
        return Feature(column, "", "", "", why, True, says="propensity" if fits else "")
    if numbers is None or not column.whole or min(numbers) < 0 or max(numbers) >= CANDIDATES_MAX:
        return None
    named = column.words & PLACE_WORDS or (
        column.words & PLACE_WORDS_WITHIN and request is not None and _differs_within(column, request)
    )
    if not named:
        return None
    why = "the place where a candidate was shown: not known when a score is asked for"
    if len(column.filled) < len(column.cells) or not (request is None or _differs_within(column, request)):
        return Feature(column, "", "", "", why, True)
    return Feature(column, "place", "", "", f"{why}, and left out of it", True, trial=True)


def _differs_within(column: Column, request: Column) -> bool:
    """Whether no two candidates of a request have the same value, and some request has several candidates."""
    lines = list(zip(request.cells, map(str, column.cells), strict=True))
    return len(set(lines)) == len(lines) > len({str(key) for key, _ in lines})


def _as_list(column: Column) -> Feature | None:
    cells = column.filled
    length = _vector_length(cells)
    if length:
        why = f"lists of {length} numbers"
        return Feature(column, "vector", "vector", "", why, True, length=length, trial=True)
    if any(isinstance(cell, list) for cell in cells):
        for cell in cells:
            try:
                tidy_value(cell)
            except ValueError as error:
                return Feature(column, "", "", "", f"{error}, as {shown(cell)}", True)
        if not all(isinstance(cell, list) for cell in cells):
            return Feature(column, "ids", "list", "", f"lists and single ids, as {shown(cells[0])}", True)
        return Feature(column, "ids", "", "", f"lists, as {shown(cells[0])}", True)
    if not all(isinstance(cell, str) for cell in cells) or column.numbers is not None:
        return None
    if all(cell[:1] == "[" and cell[-1:] == "]" for cell in cells):
        return Feature(column, "ids", "list", "", f"lists in brackets, as {shown(cells[0])}", True)
    for separator in _SEPARATORS:
        if separator == " " and not column.words & LIST_WORDS:
            continue  # otherwise every title would be a list
        split = [cell for cell in cells if separator in cell]
        if len(split) < LIST_SHARE * len(cells):
            continue
        items = [item for cell in cells for item in cell.split(separator) if item]
        # the items of a list recur one by one and are short; a sentence has too many words
        repeated = len(items) >= REPEATED * len(set(items)) and len(set(items)) < len(column.counts)
        tight = not any(item != item.strip() for item in items)
        if repeated and tight and max(map(len, items)) <= TEXT_LENGTH:
            why = f"ids between {separator!r}, as {shown(split[0])}"
            return Feature(column, "ids", "list", separator, why, separator != " ")
    return None


def _vector_length(cells: Sequence[object]) -> int:
    """How many numbers each cell is a list of, with fractions among them; 0: they are no vectors."""
    sizes = {len(cell) if isinstance(cell, list) else 0 for cell in cells}
    if len(sizes) != 1 or not 2 <= (size := sizes.pop()) <= VECTOR_MAX:
        return 0
    numbers = [one for cell in cells if isinstance(cell, list) for one in cell]
    fits = all(type(one) in (int, float) and math.isfinite(one) for one in numbers)
    return size if fits and any(isinstance(one, float) for one in numbers) else 0


def _as_number(sample: Sample, column: Column) -> Feature | None:
    """The column as a number, or in doubt as an id of whole numbers; None: not numbers."""
    numbers = column.numbers
    if numbers is None:
        return None
    n, distinct = len(column.filled), len(set(numbers))
    text = any(isinstance(cell, str) for cell in column.filled)
    typed = "number" if text or column.whole else ""
    span = f"{min(numbers):g} to {max(numbers):g}"
    unique = distinct > UNIQUE_SHARE * n and n >= 50

    def number(why: str, sure: bool = True) -> Feature:
        return Feature(column, "number", typed, "", why, sure)

    def an_id(why: str, sure: bool = True) -> Feature:
        if unique and not column.words & ENTITY_WORDS:
            return Feature(column, "", "", "", f"a different number on each of {n:,} lines", True)
        if max(numbers) >= 2**63:
            return Feature(column, "id", "text", "", f"{why}; {BEYOND}", True)
        kind = "int" if column.dotted else "id" if sample.format == "csv" else ""
        if column.dotted:
            why = f"{why}; written as {shown(column.filled[0])}, as programs do where some are missing"
        return Feature(column, "id", kind, "", why, sure)

    head = numbers[: sample.head]
    if len(head) > 2 and all(b - a == 1 for a, b in itertools.pairwise(head)):
        return Feature(column, "", "", "", "counts the lines", True)
    if not column.whole:
        return number(f"numbers with fractions, {span}")
    if column.words & ID_WORDS and not column.words & NUMBER_WORDS:
        return an_id(f"its name; {distinct:,} different values on {n:,} lines")
    if hash_like(numbers):
        return an_id(f"whole numbers of many digits with nothing between them, {span}, as hashes are")
    if column.words & NUMBER_WORDS and not column.words & {"id", "code"}:
        return number(f"its name, and whole numbers from {span}")
    if min(numbers) < -1:
        return number(f"whole numbers from {span}: counted from below zero, and not of many digits")
    if distinct <= FEW:
        return an_id(f"whole numbers, and only {distinct} different ones")
    if smooth(numbers):
        return number(f"whole numbers, {span}, of which near ones come as often")
    if unique:
        return number(f"whole numbers, {span}, nearly all different", sure=False)
    if n >= REPEATED * distinct:
        return an_id(f"whole numbers; each of {distinct:,} comes {n / distinct:.0f} times", sure=False)
    return number(f"whole numbers, {span}, most of them rare", sure=False)


def _in_context(sample: Sample, column: Column, request: Column | None) -> bool:
    """Whether the feature belongs to the request: constant within each request, or about the person by its
    name.
    """
    if request is None:
        return bool(column.words & CONTEXT_WORDS)
    same: dict[str, object] = {}
    return all(
        same.setdefault(str(key), cell) == cell for key, cell in zip(request.cells, column.cells, strict=True)
    )


def _each_once(features: list[Feature]) -> list[Feature]:
    """Leave out a second weight, propensity, place or mark of what was shown: [data] names one of each."""
    first: dict[str, str] = {}
    once = []
    for feature in features:
        says = feature.says or ("place" if feature.kind == "place" else "")
        if says and first.setdefault(says, feature.column.name) != feature.column.name:
            why = f"{feature.why}; column {first[says]!r} says it already"
            feature = feature._replace(kind="", says="", why=why)
        once.append(feature)
    return once


def _no_more_than_fit(features: list[Feature]) -> list[Feature]:
    """Keep as many features as a request's context and a candidate may have; the others are left out."""
    room = {True: FEATURES_MAX, False: FEATURES_MAX}
    fitting = []
    for feature in features:
        if feature.kind:
            room[feature.context] -= 1
            if room[feature.context] < 0:
                why = f"{TOO_MANY}, and those before it are as many"
                feature = feature._replace(kind="", why=why)
        fitting.append(feature)
    return fitting


def _with_one_separator(features: list[Feature]) -> list[Feature]:
    """[data] has one separator for all lists: use the most frequent one; columns with another become ids."""
    separators = [feature.separator for feature in features if feature.separator]
    if not separators:
        return features
    common = max(sorted(set(separators)), key=lambda s: (s != " ", separators.count(s)))
    return [
        feature
        if feature.separator in ("", common)
        else feature._replace(
            kind="id",
            type="id",
            separator="",
            why=f"{feature.why}, taken whole: other lists are split at {common!r}",
        )
        for feature in features
    ]
