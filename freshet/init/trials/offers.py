"""Features that a file does not have as columns, and that are kept if they gain something: a calendar, cells
on Earth, histories and rates."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from freshet.init.column import Column
from freshet.init.config import Plan, hour_of, line_of, value_text
from freshet.init.features import ENTITY_WORDS, GROUP_WORDS, USER_WORDS
from stream.files.times import time_reader

WEEKS_MIN = 2  # that a file must span before its weekdays are looked at
WINDOWS_S = (300.0, 1200.0, 3600.0, 6 * 3600.0, 86_400.0, 7 * 86_400.0, 30 * 86_400.0)
WINDOWS_TRIED = 4
WINDOW_LINES = 5.0  # with the item of a line, that a window of a rate holds on average
WINDOWS_MIN = 3.0  # that the lines must span
HISTORY_LENGTH = 50
GROUP_LENGTH = 5
GROUP_SHARE = 0.98  # of the lines, whose item has the group that it has most often
LATITUDES, LONGITUDES = {"lat", "latitude"}, {"lon", "lng", "long", "longitude"}
_DAY_S = 86_400


class Offer(NamedTuple):
    """A further feature, kept only if it gains something."""

    name: str
    lines: list[str]
    why: str


class Keepers(NamedTuple):
    """Whose histories and rates a file can have; empty: no column says."""

    user: str
    item: str
    group: str  # of items


def offers_of(plan: Plan) -> list[Offer]:
    """A calendar, and cells on Earth."""
    found = []
    names = {feature.column.name for feature in plan.features}
    if plan.time.column is not None and hour_of(plan)[-1].startswith("kind") and "week" not in names:
        settings = plan.time.settings
        read = time_reader(settings.get("time_unit", "auto"), settings.get("time_format", ""))
        times = [read(cell) for cell in plan.time.column.filled]
        if max(times) - min(times) >= WEEKS_MIN * 7 * _DAY_S:
            lines = line_of("kind", "calendar", "{why}; in UTC, without a zone")
            found.append(Offer("week", lines, "hour and weekday"))
    numbers = [feature.column for feature in plan.features if feature.kind == "number"]
    latitudes = [c for c in numbers if c.words & LATITUDES and max(map(abs, c.numbers or [])) <= 90.0]
    longitudes = [c for c in numbers if c.words & LONGITUDES and max(map(abs, c.numbers or [])) <= 180.0]
    if len(latitudes) == len(longitudes) == 1 and "cell" not in names:
        lines = line_of("kind", "geo", "{why}")
        lines += [
            f"latitude = {value_text(latitudes[0].name)}",
            f"longitude = {value_text(longitudes[0].name)}",
        ]
        found.append(Offer("cell", lines, "cells of three sizes"))
    return [offer for offer in found if offer.name not in names]


def keepers_of(plan: Plan) -> Keepers:
    """The columns of people, items and groups of items among the ids of a file with times."""
    if plan.time.column is None:
        return Keepers("", "", "")
    ids = [f for f in plan.features if f.kind == "id"]
    user = next((f.column for f in ids if f.column.words & USER_WORDS), None)
    others = [f.column for f in ids if not f.context and f.column is not user]
    item = next((c for c in others if c.words & (ENTITY_WORDS - USER_WORDS)), None)
    if item is None:
        item = max(others, key=lambda c: len(c.counts), default=None)
    if item is None:
        return Keepers("", "", "")
    groups = [c for c in others if c is not item and _is_group(c, item)]
    group = max(groups, key=lambda c: (bool(c.words & GROUP_WORDS), len(c.counts)), default=None)
    return Keepers("" if user is None else user.name, item.name, "" if group is None else group.name)


def history_offers(keepers: Keepers) -> list[Offer]:
    """Histories of the items and of their groups by the user."""
    user, item, group = keepers
    if not (user and item):
        return []
    found = [history_offer(user, item, HISTORY_LENGTH, "what the person took before")]
    if group:
        found.append(history_offer(user, group, GROUP_LENGTH, "the groups that the person took last"))
    return found


def rate_offers(item: str, times: Sequence[float], counts: Counter[str]) -> list[Offer]:
    """The rate of the items over some windows: the shortest that holds enough lines of an item on average,
    and longer ones.

    Args:
        times: of requests, Unix seconds.
        counts: of the lines of each item.
    """
    if not times or not counts:
        return []
    span = max(times) - min(times)
    with_item = sum(count * count for count in counts.values()) / sum(counts.values())
    fits = [w for w in WINDOWS_S if w * WINDOWS_MIN <= span and w / span * with_item >= WINDOW_LINES]
    return [rate_offer(item, window_s) for window_s in fits[:WINDOWS_TRIED]]


def history_offer(by: str, of: str, length: int, why: str) -> Offer:
    """The newest ids of one feature that had a click, by those of another one."""
    lines = [*line_of("kind", "history", "{why}"), f"by = {value_text(by)}", f"of = {value_text(of)}"]
    lines += [f"length = {length}", 'attention = "shared"']
    return Offer(f"{of}_history", lines, why)


def rate_offer(of: str, window_s: float) -> Offer:
    """How often the ids of a feature had a click lately."""
    lines = [*line_of("kind", "rate", "{why}"), f"of = {value_text(of)}", f"window_s = {window_s}"]
    return Offer(f"{of}_rate", lines, "how the item did lately")


def _is_group(column: Column, item: Column) -> bool:
    """Whether an item has one value of the column, which many items share."""
    pairs = Counter((str(i), str(g)) for i, g in zip(item.cells, column.cells, strict=True))
    most: dict[str, int] = {}
    for (i, _), count in pairs.items():
        most[i] = max(most.get(i, 0), count)
    return 2 <= 2 * len(column.counts) <= len(item.counts) and sum(most.values()) >= GROUP_SHARE * len(
        item.cells
    )
