"""`freshet init`: reads a sample of a data file and writes a config for it, with a reason for each choice."""

import sys
import tomllib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from freshet.config import Config, parse_config
from freshet.init.answers import Answer, Question
from freshet.init.column import Column, shown
from freshet.init.config import Plan, write_config, write_out, write_ratings_config
from freshet.init.features import TOO_MANY, Feature, as_of_time, find_features, other_kind
from freshet.init.labels.first import (
    as_levels,
    ask_label,
    chosen_label,
    may_be_cut,
    outcomes_beside,
    read_labels,
    refuse_ones_alone,
    unknown_words,
)
from freshet.init.labels.further import LabelsBeside, find_further
from freshet.init.labels.numbers import as_value, cuts, offers
from freshet.init.labels.repeated import REPEATED_FROM, repeated_share
from freshet.init.messages import error, look_at
from freshet.init.sample import Sample, read_sample
from freshet.init.times import TIME_WORDS, ask_request, ask_time, is_clear
from freshet.init.trials.keep import keep_what_gains
from ground import FreshetError
from learner.features.columns import declared_by
from learner.features.encoder import Encoder
from stream.files.movielens import detect_ratings
from stream.files.sources import read_lines

CHECKED_LINES = 1_000
SHOWN_LINES = "lines_shown"  # the source of what was shown, of a file of events
ASKED_MAX = 8  # answers offered per question

Ask = Callable[[str, Sequence[str]], int]
"""Asks a question with several answers, the likeliest first; returns the index of the chosen one."""


def run_init(
    data: str,
    out: str,
    force: bool = False,
    yes: bool = False,
    label: str | None = None,
    positive_from: float | None = None,
    entities: str | None = None,
) -> None:
    """Write a config for a data file, asking on a terminal where the sample leaves doubt.

    Args:
        data: the file, or a folder of ratings.
        out: the config's path; "-" prints it.
        force: write over a config that is there.
        yes: ask nothing.
        label: the column that says what was liked; None: found by its name and values.
        positive_from: from where on its numbers count as 1.
        entities: a second file, that says what is true of the items or people of the first.

    Raises:
        InitError: no config can be made for the file, or it cannot be written.
        SourceError: there is no such file, or a line cannot be read as the config says.
    """
    path = Path(data)
    if positive_from is not None and label is None:
        raise error("bar alone")
    if out != "-" and Path(out).exists() and not force:
        raise error("there already", out=out)
    if entities is not None:
        from freshet.init.entities import check_entities, with_entities  # it imports what a replay does

        check_entities(Path(entities))  # what cannot be read is refused before features are tried
    ask = _ask_on_terminal if not yes and sys.stdin.isatty() and sys.stderr.isatty() else None
    text, guessed, of_events = _make(path, ask, label, positive_from)
    if not of_events:
        check_config(text, path, out)
    if entities is not None:
        text, more = with_entities(text, path, Path(entities), out)
        guessed += more
        entities = entities if not more else None
    if not write_out(text, out, guessed):
        return
    if of_events:
        print(f"send it  freshet produce --config {out} --data {data} --source {SHOWN_LINES}")
        _print_live(out, entities)
        return
    print(f"try it   freshet replay --config {out} --data {data} --report report.json")
    _print_live(out, entities)


def _print_live(out: str, entities: str | None) -> None:
    print(f"go live  freshet up --config {out}")
    if entities is not None:
        print(f"and say  freshet produce --config {out} --entities {entities}")


def make_config(
    path: Path, ask: Ask | None = None, label: str | None = None, positive_from: float | None = None
) -> tuple[str, list[str]]:
    """The text of a config for a data file, and the list of guesses in it.

    Raises:
        InitError: no config can be made.
        SourceError: the file cannot be read.
    """
    return _make(path, ask, label, positive_from, events=False)[:2]


def _make(
    path: Path, ask: Ask | None, label: str | None, positive_from: float | None, events: bool = True
) -> tuple[str, list[str], bool]:
    """`make_config`, and whether the config is one of sources, because each line is an event.

    Args:
        events: whether it may be.
    """
    kind = detect_ratings(path) if path.exists() else None
    if kind is not None and label is None:
        return write_ratings_config(kind, path), [], False
    if path.is_dir():
        raise error("folder", path=path)
    sample = read_sample(path)
    if events and label is None:
        from freshet.init.topics.lines import write_lines  # it imports what reads topics

        found = write_lines(path, sample)
        if found is not None:
            return *found, True
    plan = keep_what_gains(make_plan(sample, path, ask, label, positive_from), path)
    return write_config(plan, path), plan.guessed, False


def make_plan(
    sample: Sample,
    path: Path,
    ask: Ask | None,
    label_name: str | None = None,
    positive_from: float | None = None,
) -> Plan:
    """Choose a role for every column; in doubt, ask.

    Raises:
        InitError: there is no label, or no feature.
    """
    guessed: list[str] = []
    times = ask_time(sample)
    time = _decide(times, "time", ask, guessed)
    if label_name is not None:
        label = _with_words(chosen_label(sample, path, label_name, positive_from), ask, guessed)
        if time.column is label.column:
            time = _no_time()
    else:
        label = _find_label(sample, path, time, ask, guessed)
    labels = read_labels(label)
    outcomes = _find_outcomes(sample, time, label)
    if label_name is None and ask is None:
        _note_outcomes(sample, time, label, outcomes, guessed)
    _note_what_is_odd(sample, time, label, guessed)
    taken = [time.column, label.column, *(target.column for target in outcomes.further)]
    request = _decide(ask_request(sample, taken, time.column), "request", ask, guessed)
    features = find_features(sample, [*taken, request.column], request.column, labels, outcomes, label.column)
    features = [as_of_time(f, time, is_clear(f.column, times)) for f in features]
    features = [_settle(feature, ask, guessed) for feature in features]
    if not any(feature.kind for feature in features):
        reasons = "".join(f"; {feature.column.name}: {feature.why}" for feature in features)
        raise error("no feature", path=path, reasons=reasons)
    over = [feature.column.name for feature in features if feature.why.startswith(TOO_MANY)]
    if over:
        guessed.append(look_at("over", count=len(over), first=over[0], why=TOO_MANY))
    guessed += [look_at("leak", name=f.column.name, why=f.why) for f in features if f.leaks]
    _note_targets(outcomes, guessed)
    return Plan(sample, time, label, request, features, guessed, outcomes=outcomes)


def _find_outcomes(sample: Sample, time: Answer, label: Answer) -> LabelsBeside:
    """Further targets among the columns that are neither time nor label."""
    assert label.column is not None
    others = [c for c in sample.columns if c is not time.column and c is not label.column]
    return find_further(others, label, "label" if sample.names_missing else label.column.name)


def _note_targets(outcomes: LabelsBeside, guessed: list[str]) -> None:
    for target in outcomes.further:
        of = f" of {target.of}" if target.of else ""
        guessed.append(look_at("target", name=target.name, of=of, why=target.why["of" if of else ""]))
    for column, why in outcomes.refused:
        guessed.append(look_at("no target", name=column.name, why=why))


def _no_time() -> Answer:
    return Answer(None, {}, {"": "no other column looks like a time: lines count as one second apart"}, 1.0)


def _find_label(sample: Sample, path: Path, time: Answer, ask: Ask | None, guessed: list[str]) -> Answer:
    """Find the label by its name and values, by asking, or, for numbers that look like ratings, as a guess.

    Raises:
        InitError: nothing says which column it is; the message offers what it may be.
    """
    question = ask_label(sample, time.column)
    if question.answers:
        refuse_ones_alone(label := _decide(question, "label", ask, guessed), path)
        return _with_words(label, ask, guessed)
    possible = may_be_cut(sample, time.column)
    if ask is not None and possible:
        return _ask_for_bar(possible, ask)
    levels = [answer for column in possible if (answer := as_levels(column)) is not None]
    if len(levels) == 1:
        guessed.append(look_at("guess", key="label", also=f"; {levels[0].why['positive_from']}"))
        return levels[0]
    if possible:
        raise error("no bar", path=path, offers=offers(possible))
    names = ", ".join(column.name for column in sample.columns)
    raise error("no label", path=path, names=names)


def _ask_for_bar(possible: Sequence[Column], ask: Ask) -> Answer:
    """Ask which column is the label, and from which value it counts as 1."""
    values = [value for column in possible[:2] if (value := as_value(column)) is not None]
    bars = [(column, bar, share) for column in possible for bar, share in cuts(column)[:2]]
    bars = bars[: ASKED_MAX - len(values)]
    chosen = ask(
        "No column says by itself what was liked. Which does, and from where on?",
        [f"{column.name}: {bar:g} or more ({share:.0%} of the lines)" for column, bar, share in bars]
        + [f"{value.column.name}: {value.why['']}" for value in values if value.column is not None],
    )
    if chosen >= len(bars):
        return values[chosen - len(bars)]
    column, bar, share = bars[chosen]
    why = {"": "as you said", "positive_from": f"as you said; {share:.1%} of the lines reach it"}
    return Answer(column, {"positive_from": bar}, why, 9.0)


def _with_words(label: Answer, ask: Ask | None, guessed: list[str]) -> Answer:
    """The label given as words; asks for words that are unknown."""
    words = unknown_words(label)
    if not words or label.column is None:
        return label
    if ask is None:
        guessed.append(look_at("words", words=", ".join(words)))
        return label
    positive = list(label.settings["positive"])
    for word in words:
        share = label.column.counts[word] / len(label.column.filled)
        question = f"Does {word} in {label.column.name} ({share:.0%} of the lines) count as 1?"
        if ask(question, ["no", "yes"]) == 1:
            positive.append(word)
    if len(positive) == len(label.column.counts):
        return label
    return label._replace(settings={**label.settings, "positive": sorted(positive)})


def _note_outcomes(
    sample: Sample, time: Answer, label: Answer, outcomes: LabelsBeside, guessed: list[str]
) -> None:
    """Name the columns that could be the label instead, and are nothing else."""
    told = [*(target.column for target in outcomes.further), *(column for column, _ in outcomes.refused)]
    others = [c.name for c in outcomes_beside(sample, label) if not any(c is other for other in told)]
    if others and label.column is not None and ask_label(sample, time.column).sure:
        name, why = label.column.name, label.why[""]
        guessed.append(look_at("outcomes", others=", ".join(others), name=name, why=why))


def _note_what_is_odd(sample: Sample, time: Answer, label: Answer, guessed: list[str]) -> None:
    """Warn about a config that works but learns little, or leaves lines out."""
    if time.column is None:
        named = [column for column in sample.columns if column.words & TIME_WORDS and column.filled]
        like = f"; {named[0].name}, as {shown(named[0].filled[0])}, may need time_format" if named else ""
        guessed.append(look_at("no time", like=like))
    values = label.column.counts if label.column is not None else {}
    if len(values) == 1:
        guessed.append(look_at("one label", value=next(iter(values))))
    repeating = repeated_share(sample.columns, time.column, label)
    if repeating >= REPEATED_FROM:
        guessed.append(look_at("lines of events", share=repeating))
    if not sample.marks_sure:
        guessed.append(look_at("decimal", why=sample.why["decimal"]))
    if sample.bad:
        guessed.append(look_at("skip bad", bad=sample.bad, lines=sample.looked_at, first=sample.first_bad))
    none = label.settings.get("unlabelled")
    if none:
        labels = read_labels(label)
        share = labels.count(None) / max(len(labels), 1)
        what = " or ".join(value or "an empty cell" for value in none)
        guessed.append(look_at("unlabelled", share=share, what=what))


def check_config(text: str, path: Path, source: str) -> Config:
    """Read the first lines of the file with the config.

    Raises:
        FreshetError: a line does not fit; the message says which.
    """
    config = parse_config(tomllib.loads(text), source)
    lines = read_lines(path, config.data, declared_by(config.features), config.known_targets())
    examples = list(islice(lines, CHECKED_LINES))
    if not examples:
        raise error("no example", path=path, source=source)
    try:
        Encoder(config.features, config.learner.pairs_max).encode(examples)
    except FreshetError as wrong:
        raise error("does not fit", path=path, source=source, why=wrong) from None
    return config


def _decide(question: Question, key: str, ask: Ask | None, guessed: list[str]) -> Answer:
    """The best answer. In doubt, the chosen one, or the best with a note."""
    best = question.answers[0]
    if question.sure:
        return best
    if ask is not None:
        offered = question.answers[:ASKED_MAX]
        return offered[ask(question.text, [_with_reason(answer) for answer in offered])]
    others = [answer.column.name for answer in question.answers[1:4] if answer.column is not None]
    also = f" (also possible: {', '.join(others)})" if others else ""
    guessed.append(look_at("guess", key=key, also=also))
    return best._replace(why={**best.why, "": f"{best.why['']}; a guess{also}"})


def _with_reason(answer: Answer) -> str:
    name = "none" if answer.column is None else answer.column.name
    return f"{name}: {answer.why['']}"


def _settle(feature: Feature, ask: Ask | None, guessed: list[str]) -> Feature:
    """A feature after doubts are resolved: as answered, or unchanged with a note."""
    if feature.sure or feature.kind not in ("id", "number"):
        return feature
    name = feature.column.name
    if ask is None:
        guessed.append(look_at("feature", name=name, kind=feature.kind))
        return feature._replace(why=f"{feature.why}; a guess")
    other = other_kind(feature)
    chosen = ask(
        f"Does {name} (as {', '.join(map(str, feature.column.filled[:4]))}) name something, or count it?",
        [f"{feature.kind}: {feature.why}", other.kind],
    )
    return [feature._replace(sure=True), other][chosen]


def _ask_on_terminal(question: str, answers: Sequence[str]) -> int:
    """Ask until the answer is valid; an empty answer means the first."""
    print(f"\n{question}", file=sys.stderr)
    for number, answer in enumerate(answers, 1):
        print(f"  {number}  {answer}", file=sys.stderr)
    while True:
        print(f"1 to {len(answers)} [1]: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        said = line.strip() or "1"
        if said.isdecimal() and 1 <= int(said) <= len(answers):
            return int(said) - 1
        if not line:
            raise KeyboardInterrupt
