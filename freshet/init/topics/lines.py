"""A file with one line an event: its lines as records of one topic, with a source for each kind of them."""

from itertools import islice
from pathlib import Path

from freshet.init.answers import Answer
from freshet.init.column import Column
from freshet.init.config import line_of
from freshet.init.labels.repeated import REPEATED_FROM, repeated_share
from freshet.init.messages import look_at
from freshet.init.sample import Sample
from freshet.init.times import ask_time
from freshet.init.topics.choose import WORDS_MAX, look_at_topic
from freshet.init.topics.parts import VIEW_WORDS, parts_of
from freshet.init.topics.propose import Proposal, Section, Setting, propose
from freshet.init.topics.records import TopicRecords
from freshet.init.topics.tried import keep_what_gains
from freshet.init.topics.words import TARGETS, meaning_of, words_in
from freshet.init.topics.write import write_topics
from freshet.tools.produce_lines import LINE_NUMBER, lines_of
from ground import FreshetError
from stream.files.columns import DataSettings

LINES_MAX = 20_000
LINES = "lines"


def write_lines(path: Path, sample: Sample) -> tuple[str, list[str]] | None:
    """The config for a file of events, and what people should look at.

    None: no column says in words which lines are of what was shown and which of what was done with it, the
    latter do not repeat the former, or nothing says which line an action is of.

    Args:
        path: of the file.
        sample: of it.
    """
    said = None if sample.names_missing else _column_of_events(sample)
    if said is None:
        return None
    dialect = sample.dialect
    settings = DataSettings(
        delimiter=dialect.delimiter, quote=dialect.quote, escape=dialect.escape, skip_lines=sample.skip
    )
    lines = list(islice(lines_of(path, settings), LINES_MAX))
    numbered = [{LINE_NUMBER: f"{path.name}-{i}", **line} for i, line in enumerate(lines)]
    for records in (lines, numbered):
        parts = parts_of(_as_topic(list(records)), alone=True)
        if len(parts) < 2:
            return None
        try:
            proposal = propose([look_at_topic(part) for part in parts])
            proposal = keep_what_gains(proposal)
            break
        except FreshetError:
            continue  # nothing names a request, perhaps
    else:
        return None
    text = write_topics(_of_topic(proposal, f"{_plain(path)}.{LINES}"), parts, whole=True)
    guessed = [look_at("lines as sources", column=said.name), *proposal.guessed]
    return text + "\n".join(["", *_data(settings)]), guessed


def _column_of_events(sample: Sample) -> Column | None:
    """The column that says what each line is, if lines of what was done repeat those of what was shown."""
    time = ask_time(sample).answers[0].column
    for column in sample.columns:
        if not column.name or not 2 <= len(column.counts) <= WORDS_MAX:
            continue
        done = [word for word in column.counts if meaning_of(word) in TARGETS]
        if not done or not any(words_in(word) & VIEW_WORDS for word in column.counts):
            continue
        label = Answer(column, {"positive": sorted(done)}, {}, 0.0)
        if repeated_share(sample.columns, time, label) >= REPEATED_FROM:
            return column
    return None


def _as_topic(lines: list[object]) -> TopicRecords:
    why = {"format": "its records are JSON"}
    return TopicRecords("", LINES, "json", "none", "", lines, lines, [0.0] * len(lines), 0, 0, why, "", {})


def _plain(path: Path) -> str:
    """A part of a topic's name of a file's."""
    name = path.name.split(".")[0]
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in name) or "file"


def _of_topic(proposal: Proposal, topic: str) -> Proposal:
    """The proposal with sources of this topic, in the config's own log."""
    head = Setting("topic", topic, "of the file's lines, as freshet produce --source sends them")
    sources = [
        Section(source.name, [head, *(one for one in source.settings if one.key not in ("topic", "log"))])
        for source in proposal.sources
    ]
    return proposal._replace(sources=sources)


def _data(settings: DataSettings) -> list[str]:
    """The section [data], as far as it says how lines are cut into cells."""
    usual = DataSettings()
    named = [(key, getattr(settings, key)) for key in ("delimiter", "quote", "escape", "skip_lines")]
    told = [line for key, value in named if value != getattr(usual, key) for line in line_of(key, value, "")]
    return ["[data]", *told, ""] if told else []
