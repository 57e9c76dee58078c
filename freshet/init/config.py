"""The text of the config that `freshet init` writes, with the reason of each choice beside it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from freshet.config import default_config
from freshet.init.answers import Answer
from freshet.init.column import Column
from freshet.init.features import USER_WORDS, Feature
from freshet.init.labels.further import NO_LABELS_BESIDE, LabelsBeside, ProposedTarget
from freshet.init.sample import Sample
from stream.files.times import time_reader

_WIDTH = 110
_DAY_S = 86_400
WEEKS_MIN = 2  # that a file must span before its weekdays are looked at
LATITUDES, LONGITUDES = {"lat", "latitude"}, {"lon", "lng", "long", "longitude"}
_HEAD = [
    "# Each choice has its reason beside it: change what is wrong. Every key: docs/configuration.md.",
    "",
    'log = "sqlite:.freshet/log.db"  # one file, in the folder of this one',
    'state = ".freshet"',
    "",
]
_GROUP_BY = "metrics per user (gauc) are over this feature"


class Plan(NamedTuple):
    """The choices for a file."""

    sample: Sample
    time: Answer
    label: Answer
    request: Answer
    features: list[Feature]
    guessed: list[str]  # guesses that the user should check, because nobody was asked
    more: Sequence[tuple[str, list[str]]] = ()  # further features, of others or of the time: (name, lines)
    outcomes: LabelsBeside = NO_LABELS_BESIDE


class Offer(NamedTuple):
    """A further feature, kept only if it gains something on the sample."""

    name: str
    lines: list[str]
    why: str


def write_config(plan: Plan, path: Path) -> str:
    """The config's text."""
    used = [feature for feature in plan.features if feature.kind]
    typed = [feature for feature in used if feature.type]
    user = next((f for f in used if f.kind == "id" and f.column.words & USER_WORDS), None)
    lines = [
        f"# Written by `freshet init` after a look at {plan.sample.lines:,} lines of {path.name}.",
        *_HEAD,
        *_targets(plan.outcomes),
        *_data(plan),
        "",
        *(line for target in plan.outcomes.further for line in _labels(target)),
        "[data.features]  # feature = column; what is not named here is not read",
        *(f"{_key(f.column.name)} = {_value(f.column.name)}" for f in used),
        *(
            _plain(f"# {f.column.name}: left out: {f.why}")
            for f in plan.features
            if not (f.kind or f.says_shown)
        ),
    ]
    if typed:
        lines += ["", "[data.types]  # how a feature's cells are read; the reasons are with the features"]
        lines += [f"{_key(f.column.name)} = {_value(f.type)}" for f in typed]
    for feature in used:
        lines += ["", f"[features.{_key(feature.column.name)}]", *_line("kind", feature.kind, feature.why)]
        if feature.length:
            lines.append(f"length = {feature.length}")
    lines += _hour(plan)
    for name, more in plan.more:
        lines += ["", f"[features.{_key(name)}]", *more]
    if user is not None:
        lines += ["", "[learner]", *_line("group_by", user.column.name, _GROUP_BY)]
    return "\n".join(lines) + "\n"


def _targets(outcomes: LabelsBeside) -> list[str]:
    """The sections [targets.NAME]; none if there is only one target."""
    if not outcomes.further:
        return []
    lines = [
        "# An action's `name` says which target it is of: its own name, or one in `actions`. Those that come",
        "# later than the first need a longer `window_s`.",
        f"[targets.{outcomes.first}]  # the label",
        "",
    ]
    for target in outcomes.further:
        lines.append(f"[targets.{target.name}]")
        if not target.of:
            lines.append(_plain(f"# {target.why['']}"))
        if target.kind == "value":
            lines += _line("kind", target.kind, target.why["kind"])
        if target.of:
            lines += _line("of", target.of, target.why["of"])
        if target.scale == "log1p":
            lines += _line("scale", target.scale, target.why["scale"])
        lines.append("")
    return lines


def _labels(target: ProposedTarget) -> list[str]:
    """The section [data.labels.NAME]."""
    lines = [f"[data.labels.{target.name}]", f"column = {_value(target.column.name)}"]
    for key, value in target.settings.items():
        lines.append(f"{key} = {_value(value)}")
    return [*lines, ""]


def _data(plan: Plan) -> list[str]:
    """The section [data]."""
    sample, time, label, request = plan.sample, plan.time, plan.label, plan.request
    known = {id(time.column): "time", id(label.column): "label", id(request.column): "request"}

    def name_of(column: Column | None) -> str:
        """The name of a column in the config; in a file without names, derived from the column's role."""
        if column is None:
            return ""
        return known.get(id(column), column.name) if sample.names_missing else column.name

    lines = ["[data]"]
    if sample.unnamed:
        lines += _line("format", sample.format, "the file's name does not say, and it has lines and cells")
    if sample.format == "csv":
        lines += _line("delimiter", sample.dialect.delimiter, sample.why["delimiter"])
        for key, value, usual in (
            ("quote", sample.dialect.quote, '"'),
            ("escape", sample.dialect.escape, ""),
            ("skip_lines", sample.skip, 0),
        ):
            if value != usual:
                lines += _line(key, value, sample.why[key])
        if sample.names_missing:
            lines += _line("columns", [name_of(c) for c in sample.columns], sample.why["columns"])
        else:
            lines.append(f"# {sample.why['columns']}")
    lines += _line("time", name_of(time.column), time.why[""])
    if time.column is not None:
        for key in ("time_unit", "time_format"):
            if key in time.settings:
                lines += _line(key, time.settings[key], time.why[key])
        lines += _line("sort", time.settings.get("sort", False), time.why["sort"])
    lines += _line("label", name_of(label.column), label.why[""])
    for key, value in label.settings.items():
        lines += _line(key, value, label.why[key])
    if request.column is None:
        lines.append(f"# {request.why['']}")
        together = "of the person, by their names"
    else:
        lines += _line("request", name_of(request.column), request.why[""])
        together = "the same for all candidates of a request"
    for feature in plan.features:
        if feature.says_shown:
            lines += _line("shown", name_of(feature.column), "lines of 0 were not shown, and are left out")
    context = [feature.column.name for feature in plan.features if feature.kind and feature.context]
    if context:
        lines += _line("context", context, together)
    for separator in {feature.separator for feature in plan.features if feature.kind} - {""}:
        lines += _line("list_separator", separator, "between the ids of a list")
    if sample.missing:
        lines += _line("missing", list(sample.missing), sample.why["missing"])
    if sample.marks != (".", ""):
        lines += _line("decimal", sample.marks[0], sample.why["decimal"])
        lines += _line("thousands", sample.marks[1], "between three digits and three")
    if sample.bad:
        lines += _line(
            "skip_bad", True, f"{sample.bad:,} lines of the sample cannot be used: {sample.first_bad}"
        )
    return lines


def _hour(plan: Plan) -> list[str]:
    """The hour of the day as a feature, if the file has times."""
    if plan.time.column is None or any(f.column.name == "hour" for f in plan.features):
        return []
    settings = plan.time.settings
    read = time_reader(settings.get("time_unit", "auto"), settings.get("time_format", ""))
    if all(read(cell) % _DAY_S == 0 for cell in plan.time.column.filled):
        return ["", "# No feature of the hour: the times are days."]
    return ["", "[features.hour]", *_line("kind", "hour", "of the day, UTC, made from the event's time")]


def offers_of(plan: Plan) -> list[Offer]:
    """Features that the file does not have as columns: a calendar, and places on Earth."""
    found = []
    names = {feature.column.name for feature in plan.features}
    if plan.time.column is not None and _hour(plan)[-1].startswith("kind") and "week" not in names:
        settings = plan.time.settings
        read = time_reader(settings.get("time_unit", "auto"), settings.get("time_format", ""))
        times = [read(cell) for cell in plan.time.column.filled]
        if max(times) - min(times) >= WEEKS_MIN * 7 * _DAY_S:
            lines = _line("kind", "calendar", "{why}; in UTC, without a zone")
            found.append(Offer("week", lines, "hour and weekday"))
    numbers = [feature.column for feature in plan.features if feature.kind == "number"]
    latitudes = [c for c in numbers if c.words & LATITUDES and max(map(abs, c.numbers or [])) <= 90.0]
    longitudes = [c for c in numbers if c.words & LONGITUDES and max(map(abs, c.numbers or [])) <= 180.0]
    if len(latitudes) == len(longitudes) == 1 and "cell" not in names:
        lines = _line("kind", "geo", "{why}")
        lines += [f"latitude = {_value(latitudes[0].name)}", f"longitude = {_value(longitudes[0].name)}"]
        found.append(Offer("cell", lines, "cells of three sizes"))
    return found


def write_ratings_config(kind: str, path: Path) -> str:
    """The text of the config for a folder of ratings: the built-in config, with reasons."""
    config = default_config(kind)
    lines = [
        f"# Written by `freshet init`: {path.name} holds ratings as {kind} has them.",
        *_HEAD,
        "[data]",
        *_line("format", kind, "by the names of its files and its first line"),
    ]
    liked = "8 of 10" if kind == "movietweetings" else "4 of 5"
    lines.append(f"# a rating of {liked} or more counts as liked; positive_from changes that")
    why = {
        "user": "who rated",
        "movie": "what was rated",
        "genres": "a list of words, from the movies' file",
        "hour": "of the day, UTC, made from the rating's time",
    }
    for name, spec in config.features.items():
        lines += ["", f"[features.{name}]", *_line("kind", spec.kind, why[name])]
    lines += ["", "[learner]", *_line("group_by", "user", _GROUP_BY)]
    return "\n".join(lines) + "\n"


def _line(key: str, value: object, why: str) -> list[str]:
    """`key = value  # why`; the reason is above if it does not fit beside the value."""
    line = f"{key} = {_value(value)}"
    reason = _plain(why)
    if not reason:
        return [line]
    if len(line) + len(reason) + 4 <= _WIDTH:
        return [f"{line}  # {reason}"]
    return [f"# {reason}", line]


def _value(value: object) -> str:
    """As TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return (
        json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        if isinstance(value, str)
        else repr(value)
    )


def _plain(text: str) -> str:
    """Text for a comment: one line, no control characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)
