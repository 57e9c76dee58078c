"""`freshet init`: look at a sample of a data file and write a config for it, each choice with its reason."""

import sys
import tomllib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from freshet.config import Config, parse_config
from freshet.errors import InitError
from freshet.init.config import Plan, write_config, write_ratings_config
from freshet.init.features import TOO_MANY, Feature, find_features, other_kind
from freshet.init.roles import TIME_WORDS, Answer, Question, ask_label, ask_request, ask_time
from freshet.init.sample import Sample, read_sample, shown
from ground import FreshetError
from learner.features.encoder import Encoder
from stream.files.movielens import detect_ratings
from stream.files.sources import read_lines

CHECKED_LINES = 1_000
ASKED_MAX = 8  # answers that are offered

Ask = Callable[[str, Sequence[str]], int]
"""Asks a question with several answers, the likeliest first; returns the index of the chosen one."""


def run_init(data: str, out: str, force: bool = False, yes: bool = False) -> None:
    """Write a config for a data file, asking on a terminal where the sample leaves doubt.

    Args:
        data: the file, or a folder of ratings.
        out: the config's path; "-" prints it.
        force: write over a config that is there.
        yes: ask nothing.

    Raises:
        InitError: no config can be made for the file, or it cannot be written.
        SourceError: there is no such file, or a line cannot be read as the config says.
    """
    path = Path(data)
    if out != "-" and Path(out).exists() and not force:
        raise InitError(f"{out}: is there already; write elsewhere with --out FILE, or over it with --force")
    ask = _ask_on_terminal if not yes and sys.stdin.isatty() and sys.stderr.isatty() else None
    text, guessed = make_config(path, ask)
    if out == "-":
        sys.stdout.write(text)
    else:
        try:
            Path(out).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InitError(f"{out}: the config cannot be written: {error.strerror}") from None
    check_config(text, path, out)
    if out == "-":
        return
    print(f"wrote {out}: what each column is, and beside each choice why")
    for note in guessed:
        print(f"  look at  {note}")
    print(f"try it   freshet replay --config {out} --data {data} --report report.json")
    print(f"go live  freshet up --config {out}")


def make_config(path: Path, ask: Ask | None = None) -> tuple[str, list[str]]:
    """The text of a config for a data file, and what in it was guessed.

    Raises:
        InitError: no config can be made.
        SourceError: the file cannot be read.
    """
    kind = detect_ratings(path) if path.exists() else None
    if kind is not None:
        return write_ratings_config(kind, path), []
    if path.is_dir():
        raise InitError(f"{path}: is a folder; name one file in it (only folders of ratings are read whole)")
    plan = make_plan(read_sample(path), path, ask)
    return write_config(plan, path), plan.guessed


def make_plan(sample: Sample, path: Path, ask: Ask | None) -> Plan:
    """Decide about every column, asking where there is doubt.

    Raises:
        InitError: there is no label, or no feature.
    """
    guessed: list[str] = []
    time = _decide(ask_time(sample), "time", ask, guessed)
    question = ask_label(sample, time.column)
    if not question.answers:
        names = ", ".join(column.name for column in sample.columns)
        raise InitError(
            f"{path}: no column looks like a label: expected one of 0 and 1, a rating, or words such as view "
            f"and buy; the columns are {names}. Freshet learns from what was liked and what was not"
        )
    label = _decide(question, "label", ask, guessed)
    _note_what_is_odd(sample, time, label, guessed)
    taken = [time.column, label.column]
    request = _decide(ask_request(sample, taken, time.column), "request", ask, guessed)
    features = find_features(sample, [*taken, request.column], request.column)
    features = [_settle(feature, ask, guessed) for feature in features]
    if not any(feature.kind for feature in features):
        reasons = "".join(f"; {feature.column.name}: {feature.why}" for feature in features)
        raise InitError(
            f"{path}: no column is left that could be a feature{reasons}. More lines may help, or a config "
            "written by hand"
        )
    over = [feature.column.name for feature in features if feature.why.startswith(TOO_MANY)]
    if over:
        guessed.append(f"data.features: {len(over)} columns are left out, from {over[0]} on: {TOO_MANY}")
    return Plan(sample, time, label, request, features, guessed)


def _note_what_is_odd(sample: Sample, time: Answer, label: Answer, guessed: list[str]) -> None:
    """Tell of what makes a config that runs and learns little."""
    if time.column is None:
        named = [column for column in sample.columns if column.words & TIME_WORDS and column.filled]
        like = f"; {named[0].name}, as {shown(named[0].filled[0])}, may need time_format" if named else ""
        guessed.append(f"data.time: no column looks like a time, so lines count as a second apart{like}")
    values = label.column.counts if label.column is not None else {}
    if len(values) == 1:
        guessed.append(f"data.label: always {next(iter(values))} in the sample: nothing can be told apart")
    if not sample.marks_sure:
        guessed.append(f"data.decimal: a guess; {sample.why['decimal']}")


def check_config(text: str, path: Path, source: str) -> Config:
    """Read the file's first lines as the config says.

    Raises:
        FreshetError: a line does not fit; the message says which.
    """
    config = parse_config(tomllib.loads(text), source)
    examples = list(islice(read_lines(path, config.data), CHECKED_LINES))
    if not examples:
        raise InitError(f"{path}: there is no line in it that can be used as {source} says")
    try:
        Encoder(config.features, config.learner.pairs_max).encode(examples)
    except FreshetError as error:
        raise InitError(f"{path}: the first lines do not fit what {source} says: {error}") from None
    return config


def _decide(question: Question, key: str, ask: Ask | None, guessed: list[str]) -> Answer:
    """The best answer; of several in doubt the one that is chosen, or the best with a note."""
    best = question.answers[0]
    if question.sure:
        return best
    if ask is not None:
        offered = question.answers[:ASKED_MAX]
        return offered[ask(question.text, [_told(answer) for answer in offered])]
    others = [answer.column.name for answer in question.answers[1:4] if answer.column is not None]
    also = f" (also possible: {', '.join(others)})" if others else ""
    guessed.append(f"data.{key}: a guess{also}")
    return best._replace(why={**best.why, "": f"{best.why['']}; a guess{also}"})


def _told(answer: Answer) -> str:
    name = "none" if answer.column is None else answer.column.name
    return f"{name}: {answer.why['']}"


def _settle(feature: Feature, ask: Ask | None, guessed: list[str]) -> Feature:
    """A feature without doubt: as asked for, or as it is with a note."""
    if feature.sure or feature.kind not in ("id", "number"):
        return feature
    name = feature.column.name
    if ask is None:
        guessed.append(f"features.{name}: a guess, {feature.kind}")
        return feature._replace(why=f"{feature.why}; a guess")
    other = other_kind(feature)
    chosen = ask(
        f"Does {name} (as {', '.join(map(str, feature.column.filled[:4]))}) name something, or count it?",
        [f"{feature.kind}: {feature.why}", other.kind],
    )
    return [feature._replace(sure=True), other][chosen]


def _ask_on_terminal(question: str, answers: Sequence[str]) -> int:
    """Ask until there is an answer; an empty one is the first."""
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
