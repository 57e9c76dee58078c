"""The text of the config that `freshet init` writes, with the reason of each choice beside it."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from freshet.config import default_config
from freshet.init.answers import Answer
from freshet.init.column import Column
from freshet.init.features import USER_WORDS, Feature
from freshet.init.labels.further import NO_LABELS_BESIDE, LabelsBeside, ProposedTarget
from freshet.init.labels.numbers import in_doubt
from freshet.init.messages import error
from freshet.init.sample import Sample
from stream.files.times import time_reader

_WIDTH = 110
_DAY_S = 86_400
HEAD = [
    "# Each choice has its reason beside it: change what is wrong. Every key: docs/configuration.md.",
    "",
    'log = "sqlite:.freshet/log.db"  # one file, in the folder of this one',
    'state = ".freshet"',
    "",
]
GROUP_BY = "metrics per user (gauc) are over this feature"


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


def write_config(plan: Plan, path: Path) -> str:
    """The config's text."""
    used = [feature for feature in plan.features if feature.kind]
    typed = [feature for feature in used if feature.type]
    user = next((f for f in used if f.kind == "id" and f.column.words & USER_WORDS), None)
    lines = [
        f"# Written by `freshet init` after a look at {plan.sample.lines:,} lines of {path.name}.",
        *HEAD,
        *_targets(plan.outcomes, plan.label),
        *_data(plan),
        "",
        *(line for target in plan.outcomes.further for line in _labels(target)),
        *_in_doubt(plan),
        "[data.features]  # feature = column; what is not named here is not read",
        *(f"{key_text(f.column.name)} = {value_text(f.column.name)}" for f in used if f.kind != "place"),
        *(
            plain_text(f"# {f.column.name}: left out: {f.why}")
            for f in plan.features
            if not (f.kind or f.says)
        ),
    ]
    if typed:
        lines += ["", "[data.types]  # how a feature's cells are read; the reasons are with the features"]
        lines += [f"{key_text(f.column.name)} = {value_text(f.type)}" for f in typed]
    for feature in used:
        lines += [
            "",
            f"[features.{key_text(feature.column.name)}]",
            *line_of("kind", feature.kind, feature.why),
        ]
        if feature.length:
            lines.append(f"length = {feature.length}")
    lines += hour_of(plan)
    for name, more in plan.more:
        lines += ["", f"[features.{key_text(name)}]", *more]
    if user is not None:
        lines += ["", "[learner]", *line_of("group_by", user.column.name, GROUP_BY)]
    return "\n".join(lines) + "\n"


def _in_doubt(plan: Plan) -> list[str]:
    """Comments that propose further targets."""
    leaks = [feature.column for feature in plan.features if feature.leaks]
    declared = [target.name for target in plan.outcomes.further]
    if declared or plan.label.value is not None:
        declared.append(plan.outcomes.first)
    return in_doubt(leaks, plan.outcomes.first, declared)


def _targets(outcomes: LabelsBeside, label: Answer) -> list[str]:
    """The sections [targets.NAME]; none if there is only one target, and it is an event."""
    if not outcomes.further and label.value is None:
        return []
    lines = [
        "# An action's `name` says which target it is of: its own name, or one in `actions`. Those that come",
        "# later than the first need a longer `window_s`.",
        f"[targets.{outcomes.first}]  # the label",
    ]
    if label.value is not None:
        lines.append('kind = "value"')
        lines += line_of("scale", label.value.scale, label.value.why) if label.value.why else []
    lines.append("")
    for target in outcomes.further:
        lines.append(f"[targets.{target.name}]")
        if not target.of:
            lines.append(plain_text(f"# {target.why['']}"))
        if target.kind == "value":
            lines += line_of("kind", target.kind, target.why["kind"])
        if target.of:
            lines += line_of("of", target.of, target.why["of"])
        if target.scale == "log1p":
            lines += line_of("scale", target.scale, target.why["scale"])
        lines.append("")
    return lines


def _labels(target: ProposedTarget) -> list[str]:
    """The section [data.labels.NAME]."""
    lines = [f"[data.labels.{target.name}]", f"column = {value_text(target.column.name)}"]
    for key, value in target.settings.items():
        lines.append(f"{key} = {value_text(value)}")
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
        lines += line_of("format", sample.format, "the file's name does not say, and it has lines and cells")
    if sample.format == "csv":
        lines += line_of("delimiter", sample.dialect.delimiter, sample.why["delimiter"])
        for key, value, usual in (
            ("quote", sample.dialect.quote, '"'),
            ("escape", sample.dialect.escape, ""),
            ("skip_lines", sample.skip, 0),
        ):
            if value != usual:
                lines += line_of(key, value, sample.why[key])
        if sample.names_missing:
            lines += line_of("columns", [name_of(c) for c in sample.columns], sample.why["columns"])
        else:
            lines.append(f"# {sample.why['columns']}")
    lines += line_of("time", name_of(time.column), time.why[""])
    if time.column is not None:
        for key in ("time_unit", "time_format"):
            if key in time.settings:
                lines += line_of(key, time.settings[key], time.why[key])
        lines += line_of("sort", time.settings.get("sort", False), time.why["sort"])
    lines += line_of("label", name_of(label.column), label.why[""])
    for key, value in label.settings.items():
        lines += line_of(key, value, label.why[key])
    if request.column is None:
        lines.append(f"# {request.why['']}")
        together = "of the person, by their names"
    else:
        lines += line_of("request", name_of(request.column), request.why[""])
        together = "the same for all candidates of a request"
    for feature in plan.features:
        if feature.says:
            lines += line_of(feature.says, name_of(feature.column), feature.why)
        if feature.kind == "place":
            lines += line_of("place", feature.column.name, "where a candidate was shown")
            first = int(min(feature.column.numbers or [0.0]))
            lines += line_of("place_from", first, "the first place") if first else []
    context = [feature.column.name for feature in plan.features if feature.kind and feature.context]
    if context:
        lines += line_of("context", context, together)
    for separator in {feature.separator for feature in plan.features if feature.kind} - {""}:
        lines += line_of("list_separator", separator, "between the ids of a list")
    if sample.missing:
        lines += line_of("missing", list(sample.missing), sample.why["missing"])
    if sample.marks != (".", ""):
        lines += line_of("decimal", sample.marks[0], sample.why["decimal"])
        why = "between three digits and three" if sample.marks[1] else "none is seen"
        lines += line_of("thousands", sample.marks[1], why)
    if sample.bad:
        lines += line_of(
            "skip_bad", True, f"{sample.bad:,} lines of the sample cannot be used: {sample.first_bad}"
        )
    return lines


def hour_of(plan: Plan) -> list[str]:
    """The hour of the day as a feature, if the file has times."""
    if plan.time.column is None or any(f.column.name == "hour" for f in plan.features):
        return []
    settings = plan.time.settings
    read = time_reader(settings.get("time_unit", "auto"), settings.get("time_format", ""))
    if all(read(cell) % _DAY_S == 0 for cell in plan.time.column.filled):
        return ["", "# No feature of the hour: the times are days."]
    return ["", "[features.hour]", *line_of("kind", "hour", "of the day, UTC, made from the event's time")]


def write_out(text: str, out: str, guessed: Sequence[str]) -> bool:
    """Write a config's text and say what to look at; returns whether it is in a file, and not printed.

    Raises:
        InitError: it cannot be written.
    """
    if out == "-":
        sys.stdout.write(text)
        return False
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as wrong:
        raise error("not written", out=out, why=wrong.strerror) from None
    print(f"wrote {out}, with a reason for each choice")
    for note in guessed:
        print(f"  look at  {note}")
    return True


def write_ratings_config(kind: str, path: Path) -> str:
    """The text of the config for a folder of ratings: the built-in config, with reasons."""
    config = default_config(kind)
    lines = [
        f"# Written by `freshet init`: {path.name} holds ratings as {kind} has them.",
        *HEAD,
        "[data]",
        *line_of("format", kind, "by the names of its files and its first line"),
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
        lines += ["", f"[features.{name}]", *line_of("kind", spec.kind, why[name])]
    lines += ["", "[learner]", *line_of("group_by", "user", GROUP_BY)]
    return "\n".join(lines) + "\n"


def line_of(key: str, value: object, why: str) -> list[str]:
    """`key = value  # why`; the reason is above if it does not fit beside the value."""
    line = f"{key} = {value_text(value)}"
    reason = plain_text(why)
    if not reason:
        return [line]
    if len(line) + len(reason) + 4 <= _WIDTH:
        return [f"{line}  # {reason}"]
    return [f"# {reason}", line]


def value_text(value: object) -> str:
    """As TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(value_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key_text(key)} = {value_text(item)}" for key, item in value.items()) + " }"
    return (
        json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        if isinstance(value, str)
        else repr(value)
    )


def plain_text(text: str) -> str:
    """Text for a comment: one line, no control characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())


def key_text(name: str) -> str:
    """A key as TOML writes it."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else value_text(name)
