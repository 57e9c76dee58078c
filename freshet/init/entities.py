"""A second file for `freshet init`: what it says of the items or people of the first, as attributes."""

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from freshet.config import Config, parse_config
from freshet.decide.gains import Gain, Gains, first_lines
from freshet.init.column import Column
from freshet.init.config import key_text, line_of, plain_text, value_text
from freshet.init.features import USER_WORDS, Feature, find_features
from freshet.init.messages import error, look_at
from freshet.init.sample import Sample, read_sample
from freshet.replay.tapes.entities import read_checked
from learner.entities.filling import fill
from learner.entities.store import EntityStore
from learner.features.columns import declared_by
from stream.files.entities import EntityColumns, is_movies
from stream.files.sources import read_lines
from stream.records.types import Example

LINES_MAX = 5_000  # of the first file, whose ids are looked for in the second
CHECKED_MAX = 1_000  # lines of the second that are read with the config
APART_SHARE = 0.9  # of the lines of a file of entities, that have an id of their own
SHARE_MIN = 0.2  # of the ids of the first file, that the second knows


class EntityTable(NamedTuple):
    """A file of entities."""

    of: str  # the feature whose entities they are
    share: float  # of its ids in the first file, that have a line
    settings: list[str]  # lines of [entities.NAME], beside the file's name
    features: list[Feature]  # its other columns
    ids: frozenset[str]  # of the first file


def check_entities(file: Path) -> None:
    """Check that a file of entities can be read, which takes less time than all else.

    Raises:
        InitError: [entities] cannot say how to read it.
        SourceError: there is no such file.
    """
    if not (file.is_file() and is_movies(file)):
        _check_plain(read_sample(file), file)


def with_entities(text: str, data: Path, file: Path, out: str) -> tuple[str, list[str]]:
    """A config's text with the columns of a second file as attributes, and what to look at.

    Texts and vectors are kept only if they gain something on the first lines of the data.

    Args:
        text: the config for `data`.
        file: has a line for each item or person.
        out: where the config will be; "-": it is printed.

    Raises:
        InitError: no column of the file has ids of the data, or [entities] cannot say how to read it.
        FreshetError: a line does not fit.
    """
    config = parse_config(tomllib.loads(text), "init")
    known = _ids_of(config, data)
    found = _movies(known) if file.is_file() and is_movies(file) else None
    found = found or _table(read_sample(file), data, file, known)
    features = [
        f._replace(kind="", why=f"a feature of {data.name} already")
        if f.column.name in config.features
        else f
        for f in found.features
    ]
    folder = Path.cwd() if out == "-" else Path(out).resolve().parent
    where = Path(os.path.relpath(file.resolve(), folder)).as_posix()

    def made(chosen: Sequence[Feature]) -> str:
        return _text(text, where, found, chosen)

    def config_of(chosen: Sequence[Feature]) -> Config:
        return parse_config(tomllib.loads(made(chosen)), "init")

    kept = [f._replace(kind="") if f.trial else f for f in features]
    gains = None if config.sources else Gains(lambda one: _examples(one, data, file, found))
    for at, trial in enumerate(features):
        if not (trial.trial and trial.kind):
            continue
        tried = [*kept[:at], trial, *kept[at + 1 :]]
        gain = None if gains is None else gains.of(config_of(kept), config_of(tried))
        if gain is not None and gain.sure:
            kept[at] = trial._replace(why=f"{trial.why}: {gain}")
        else:
            kept[at] = trial._replace(kind="", why=f"{trial.why}: {gain or _not_tried(trial)}")
    if not any(feature.kind for feature in kept):
        return made(kept), [look_at("no attribute", path=file, of=found.of)]
    checked = config_of(kept)
    for _ in islice(read_checked(checked, file, found.of), CHECKED_MAX):
        pass
    gain = None if gains is None else gains.of(config, checked)
    return _text(text, where, found, kept, gain), []


def _not_tried(feature: Feature) -> str:
    return f'too few lines to say what it gains; kind = "{feature.kind}" may be worth a try'


def _ids_of(config: Config, data: Path) -> dict[str, frozenset[str]]:
    """The ids of each feature in the first lines of the data, as text."""
    names = [name for name, spec in config.features.items() if spec.kind == "id" and not spec.describes]
    if config.sources:  # each line is an event
        columns = {column.name: column for column in read_sample(data).columns}
        return {name: frozenset(columns[name].counts) for name in names if name in columns}
    found: dict[str, set[str]] = {name: set() for name in names}
    for example in islice(read_lines(data, config.data, declared_by(config.features)), LINES_MAX):
        for values in (example.context, *example.candidates):
            for name in found.keys() & values.keys():
                found[name].add(str(values[name]))
    return {name: frozenset(ids) for name, ids in found.items()}


def _movies(known: Mapping[str, frozenset[str]]) -> EntityTable | None:
    """The movies of MovieTweetings or MovieLens, for ratings of theirs; None: the data has no movies."""
    if "movie" not in known:
        return None
    title, genres = Column("title", []), Column("genres", [])
    features = [
        Feature(title, "text", "text", "", "words, and the year", True, trial=True),
        Feature(genres, "ids", "list", "|", "a list of words", True),
    ]
    return EntityTable("movie", 1.0, [], features, known["movie"])


def _table(sample: Sample, data: Path, file: Path, known: Mapping[str, frozenset[str]]) -> EntityTable:
    """A table of entities: which column is the id of which feature, and what the others are."""
    _check_plain(sample, file)
    time = next((c for c in sample.columns if c.name == EntityColumns().time), None)
    ways = [
        (share, alike, of, column)
        for column in sample.columns
        if column is not time and _names_lines(column, time is not None)
        for of, ids in known.items()
        if (share := len(ids & column.counts.keys()) / max(len(ids), 1)) >= SHARE_MIN
        if (alike := _alike(_words_of(column, file), Column(of, []).words)) or column.numbers is None
    ]
    if not ways:
        raise error("no entities", path=file, names=", ".join(known), data=data.name)
    share, _, of, column = max(ways, key=lambda way: way[:2])
    features = find_features(sample, [column, time], None)
    usual = "\t" if ".tsv" in file.suffixes else ","
    lines = _settings(sample, usual, of, column, features)
    return EntityTable(of, share, lines, features, known[of])


def _check_plain(sample: Sample, file: Path) -> None:
    """Check that [entities] can say how to read a file."""
    dialect = sample.dialect
    for is_so, what in (
        (sample.unnamed, "its name does not end in .csv, .tsv, .jsonl or .parquet"),
        (bool(sample.skip), "it has lines before the names of its columns"),
        (sample.format == "csv" and dialect.quote != '"', "its quotes are not double ones"),
        (bool(dialect.escape), "it has escaped characters"),
        (bool(sample.bad), f"{sample.bad:,} lines cannot be used ({sample.first_bad})"),
    ):
        if is_so:
            raise error("entities as they are", path=file, what=what)


def _names_lines(column: Column, of_times: bool) -> bool:
    """Whether each line has a value of its own; of lines from a time on there may be several for one."""
    whole = bool(column.name) and len(column.filled) == len(column.cells)
    return whole and (of_times or len(column.counts) >= APART_SHARE * len(column.cells))


def _words_of(column: Column, file: Path) -> set[str]:
    """The words of a column's name and of its file's, since `items.csv` may call its ids `id`."""
    return {word.removesuffix("s") for word in column.words | Column(file.name.split(".")[0], []).words}


def _alike(these: set[str], those: set[str]) -> bool:
    """Whether names mean the same: numbers may be equal by chance."""
    return bool(these & those - {"id"}) or bool(these & USER_WORDS and those & USER_WORDS)


def _settings(sample: Sample, usual: str, of: str, column: Column, features: Sequence[Feature]) -> list[str]:
    """The lines of [entities.NAME], where they are not as usual.

    Args:
        usual: the delimiter, by the file's name.
    """
    used = [feature for feature in features if feature.kind]
    types = {f.column.name: f.type for f in used if f.kind == "id" and f.type in ("int", "text")}
    lists = {feature.separator for feature in used} - {""}
    settings: list[tuple[str, object]] = [
        ("id", column.name if column.name != of else ""),
        ("columns", [c.name for c in sample.columns] if sample.names_missing else []),
        ("delimiter", sample.dialect.delimiter if sample.dialect.delimiter != usual else ""),
        ("list_separator", next(iter(lists)) if lists - {"|"} else ""),
        ("missing", list(sample.missing)),
        ("decimal", sample.marks[0] if sample.marks[0] != "." else ""),
        ("thousands", sample.marks[1]),
        ("types", types),
    ]
    return [f"{key} = {value_text(value)}" for key, value in settings if value]


def _examples(config: Config, data: Path, file: Path, found: EntityTable) -> Iterator[Example]:
    """The first lines of the data, with the attributes of their entities where the config declares some."""
    examples: Iterable[Example] = first_lines(data)(config)
    store = EntityStore(config.features, config.learner)
    if config.entities:
        for event in read_checked(config, file, found.of):
            if str(event.id) in found.ids:
                store.tell(event)
        examples = fill(store, list(examples))
    yield from examples


def _text(
    text: str, where: str, found: EntityTable, features: Sequence[Feature], gain: Gain | None = None
) -> str:
    used = [feature for feature in features if feature.kind]
    left = [plain_text(f"# {f.column.name}: left out: {f.why}") for f in features if not f.kind]
    if not used:
        return text + "\n".join(["", f"# No attributes from {plain_text(where)}:", *left]) + "\n"
    why = f"knows {found.share:.0%} of the first file's {plain_text(found.of)}" + (
        f"; {gain}" if gain else ""
    )
    lines = ["", f"[entities.{key_text(found.of)}]", *line_of("file", where, why), *found.settings, *left]
    for feature in used:
        lines += [
            "",
            f"[features.{key_text(feature.column.name)}]",
            *line_of("kind", feature.kind, feature.why),
        ]
        lines += [f"of = {value_text(found.of)}"]
        lines += [f"length = {feature.length}"] if feature.length else []
    return text + "\n".join(lines) + "\n"
