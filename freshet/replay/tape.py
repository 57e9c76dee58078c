"""The tape of a replay: the same examples in the same order every time, from a file, a log, or a journal.

A log of several partitions has no total order. Without a journal its records are merged by the event time of
their decision; with a live learner's journal they come in the order in which that learner read them.
"""

import heapq
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from freshet.config import DEFAULT_FILE, Config, default_config, load_config, override_config
from freshet.errors import ConfigError, ReplayError
from freshet.replay.tapes.entities import entities_of
from freshet.replay.tapes.known import KnownEntities
from freshet.replay.tapes.reading import log_records, read_time, targets_in
from ground import FreshetError
from ground.short_repr import ShortRepr
from learner.entities.store import Change
from learner.features.columns import declared_by
from learner.ranking import TOP
from learner.role.boundary import KEY, Boundary
from stream.files.sources import DataSettings, count_examples, detect_format, read_examples
from stream.log.base import EXAMPLES, Log, Record
from stream.log.open import missing_log, open_log
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.id_types import owners_of
from stream.records.targets import Targets
from stream.records.types import Example, Forget
from stream.state.journal import JournalStretch, read_journal
from stream.state.repeats import PRODUCERS_MAX, Repeats
from stream.state.role_state import RoleState

_SQLITE = b"SQLite format 3\0"
_OFFSET = "offset:"


class ReplayOptions(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The range to replay, and how, as on the command line."""

    data: str | None = None  # a file, a folder, or a log's URL; None: the config's log
    begin: str | None = None  # event time, or offset:N[,N...], inclusive
    end: str | None = None  # event time, or offset:N[,N...], exclusive
    limit: int | None = None  # requests
    shuffle_labels: int | None = None  # seed
    freeze_after: int | None = None  # requests
    top: int = TOP  # places that NDCG and recall count
    journal: str | None = None  # a learner's state folder
    from_snapshot: str | None = None  # of a learner's state, which `begin` continues
    shards: int | None = None  # learn as so many learners that share their work would
    turn: int = 1024  # requests of a turn, at all shards together
    entities: str | None = None  # a file of entities
    known: list[Change] = []  # the entities that the snapshot knows
    processes: bool = False  # each shard is a process
    last: dict[str, int] = {}  # "partition/producer" -> last number that the snapshot has trained on
    through_rollbacks: bool = False  # learn what a live model passed over too
    boundary: bytes = b""  # of a snapshot that began with history in files: skip examples of the history


class Tape:
    """Examples that can be played more than once. Close it when done.

    Attributes:
        total: approximate number, for a progress bar; None: not known.
        skipped: unusable records in the last play.
        first_bad: the error of the first one, if the data is a file.
        strict: an example that does not fit the schema is an error, not skipped.
    """

    def __init__(
        self,
        play: Callable[["Tape"], Iterator[Example]],
        total: int | None,
        strict: bool,
        close: Callable[[], None] = lambda: None,
        known: Callable[[], KnownEntities] | None = None,
    ) -> None:
        self.total = total
        self.skipped = 0
        self.first_bad = ""
        self.strict = strict
        # called with each forget request and entity event of a log, before the example after it
        self.on_other: Callable[[Forget | EntityEvent], None] = lambda _: None
        self.entities = b""  # a hash of what is known of entities at the end of a play
        self._play = play
        self.close = close
        self._new_known = known  # None: no feature is an attribute
        self._known: KnownEntities | None = None

    def __iter__(self) -> Iterator[Example]:
        self.skipped = 0
        if self._new_known is None:
            yield from self._play(self)
            return
        known = self._known = self._new_known()
        yield from known.filled(self._play(self))
        self.skipped += known.skipped
        self.entities = known.digest()

    def take(self, found: Forget | EntityEvent) -> None:
        """Take a record of the log that is no example."""
        if self._known is not None:
            self._known.take(found)
        self.on_other(found)


def replay_config(file: str | None, overrides: Sequence[str], options: ReplayOptions) -> Config:
    """The config of a replay: the named file, a built-in one for known data, or this folder's `freshet.toml`.

    Raises:
        SourceError: there is no such data.
        ConfigError: the data needs a config, none is named, and this folder has none.
    """
    if file is not None:
        return load_config(file, overrides)
    kind = None
    if options.data is not None and not is_log(options.data):
        kind = detect_format(Path(options.data), DataSettings())
        if kind in ("movietweetings", "movielens"):
            return override_config(default_config(kind), overrides)
    if Path(DEFAULT_FILE).exists():
        return load_config(DEFAULT_FILE, overrides)
    if kind is not None:
        raise ConfigError(
            f"there is no {DEFAULT_FILE} here, and this data needs a config that says which columns are "
            f"features: name one with --config FILE; {_where_from(kind, options)} (only MovieTweetings and "
            "MovieLens need none)"
        )
    what = f"{options.data} is a log" if options.data is not None else "there is no --data"
    raise ConfigError(
        f"there is no {DEFAULT_FILE} here, and {what}: name the config that its roles run with by "
        "--config FILE; to replay a file, name it with --data FILE"
    )


def _where_from(kind: str, options: ReplayOptions) -> str:
    if kind == "examples":
        return "the one that it was exported with fits"
    return f"`freshet init --data {options.data}` writes one"


class Window:
    """A range of a topic, from `--from`, `--to` and `--limit`.

    Attributes:
        offsets: [first, end) of each partition, of the records in the log now.
        begin, end: seconds; the reader skips records before `begin` and from `end` on.
        total: upper limit of the number of records.
    """

    def __init__(self, log: Log, topic: str, options: ReplayOptions) -> None:
        self.topic = topic
        self.offsets = _range(log.ends(topic), options)
        self.begin, self.end = _between(options)
        self.limit = options.limit
        self.total = _least(sum(max(end - first, 0) for first, end in self.offsets), options.limit)

    def records(self, log: Log) -> Iterator[Record]:
        """The records of the range without duplicates, one partition after the other."""
        for partition, (first, end) in enumerate(self.offsets):
            yield from log_records(log, self.topic, partition, first, end, Repeats(PRODUCERS_MAX))


def open_tape(config: Config, options: ReplayOptions) -> Tape:
    """The examples of the options' range.

    Raises:
        ReplayError: there is no such log, or options contradict each other.
        SourceError: there is no such file, or its format is not recognised.
    """
    between = _between(options)
    known = _known(config, options)
    if options.data is not None and not is_log(options.data):
        if options.journal is not None:
            raise ReplayError("--journal follows a log: give its URL as --data, or leave --data out")
        if any(text is not None and text.startswith(_OFFSET) for text in (options.begin, options.end)):
            raise ReplayError("a file has no offsets: give --from and --to as event times")
        path = Path(options.data)
        total = count_examples(path, config.data)

        def play_file(tape: Tape) -> Iterator[Example]:
            def on_bad(error: FreshetError) -> None:
                tape.skipped += 1
                tape.first_bad = tape.first_bad or str(error)

            return _cut(
                read_examples(
                    path, config.data, on_bad, declared_by(config.features), config.known_targets()
                ),
                between,
                options.limit,
            )

        return Tape(play_file, _least(total, options.limit), not config.data.skip_bad, known=known)
    log = open_existing(config.log if options.data is None else options.data, config)
    try:
        if options.journal is not None:
            return _follow(log, config, options, known)
        window = Window(log, EXAMPLES, options)
        producers_max, targets = config.stream.runner.producers_max, targets_in(config)

        def play_log(tape: Tape) -> Iterator[Example]:
            last: dict[int, dict[str, int]] = {}
            for name, number in options.last.items():
                partition, _, producer = name.partition("/")
                last.setdefault(int(partition), {})[producer] = number
            learnt = Boundary.decode(options.boundary).learnt if options.boundary else None
            parts = [
                _read(log, tape, targets, p, first, end, Repeats(producers_max, last.get(p)))
                for p, (first, end) in enumerate(window.offsets)
            ]
            if len(parts) == 1:
                merged = parts[0]
            else:
                merged = heapq.merge(*parts, key=lambda example: example.decided)
            if learnt is not None:
                merged = (example for example in merged if not learnt(example))
            return _cut(merged, between, options.limit)

        return Tape(play_log, window.total, strict=False, close=log.close, known=known)
    except BaseException:
        log.close()
        raise


def open_played(config: Config, options: ReplayOptions) -> Tape:
    """The examples of `open_tape`, with shuffled labels if the options say so."""
    tape = open_tape(config, options)
    return tape if options.shuffle_labels is None else shuffle_labels(tape, options.shuffle_labels)


def shuffle_labels(tape: Tape, seed: int) -> Tape:
    """The tape with its labels permuted, without corrections: a model can learn only their mean."""
    labels = np.array([label for example in tape if example.before is None for label in example.labels])
    names = np.array([example.target for example in tape if example.before is None for _ in example.labels])
    for mine in (names == name for name in np.unique(names)):  # each target's among its own candidates
        labels[mine] = np.random.default_rng(seed).permutation(labels[mine])

    def play(shuffled: Tape) -> Iterator[Example]:
        at = 0
        for example in (example for example in tape if example.before is None):
            n = len(example.labels)
            yield msgspec.structs.replace(example, labels=labels[at : at + n].tolist())
            at += n
        shuffled.skipped, shuffled.first_bad = tape.skipped, tape.first_bad
        shuffled.entities = tape.entities

    return Tape(play, tape.total, tape.strict, tape.close)


def is_log(data: str) -> bool:
    """Whether `data` is a log's URL, or the file of an embedded log."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", data):
        return True
    path = Path(data)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def open_existing(url: str, config: Config) -> Log:
    """Open an existing log.

    Raises:
        ReplayError: it does not exist.
        LogError: it cannot be opened.
    """
    if (path := missing_log(url)) is not None:
        raise ReplayError(f"there is no log {path}; start the roles first, or replay a file with --data FILE")
    return open_log(url, config.stream.log)


def _known(config: Config, options: ReplayOptions) -> Callable[[], KnownEntities] | None:
    """What makes the knowledge of one play; None: no feature is an attribute."""
    events = entities_of(config, options.entities)
    if not owners_of(config.features):
        return None
    return lambda: KnownEntities(config, options.known, events)


def _follow(
    log: Log, config: Config, options: ReplayOptions, known: Callable[[], KnownEntities] | None
) -> Tape:
    from learner.role.learner import Learner

    ranged = options.begin or options.end or options.limit or options.freeze_after
    if ranged or options.shuffle_labels is not None:
        raise ReplayError("--journal has its own range; leave out --from, --to, --limit and the rest")
    state = Path(options.journal or "")
    if not state.is_dir():
        raise ReplayError(f"there is no state {state}")
    made = Learner.fingerprint(config.features, config.learner, config.known_targets())
    with RoleState(state, "learner", made) as saved:
        if saved.get(KEY) is not None:
            raise ReplayError(
                f"{state}: this learner began with history in files, which is not in the log; continue from "
                "one of its snapshots with --from-snapshot"
            )
        journal = [taken for commit in read_journal(saved) for taken in commit]

    targets = config.known_targets()

    def play(tape: Tape) -> Iterator[Example]:
        repeats: dict[int, Repeats] = {}
        for taken in journal:
            seen = repeats.setdefault(taken.partition, Repeats(config.stream.runner.producers_max))
            yield from _read(log, tape, targets, taken.partition, taken.start, taken.end, seen, taken)

    return Tape(
        play, sum(taken.end - taken.start for taken in journal), strict=False, close=log.close, known=known
    )


def _read(
    log: Log,
    tape: Tape,
    targets: Targets,
    partition: int,
    first: int,
    end: int,
    repeats: Repeats,
    named: JournalStretch | None = None,
) -> Iterator[Example]:
    """Examples [first, end) of one partition; counts unusable records."""
    decode = Decoder[Example | Forget | EntityEvent](Example, Forget, EntityEvent, targets=targets).decode
    for record in log_records(log, EXAMPLES, partition, first, end, repeats, named):
        try:
            found = decode(record.value)
            if not isinstance(found, Example):
                tape.take(found)
                continue
        except FreshetError:
            tape.skipped += 1
            continue
        yield found


def _range(ends: list[tuple[int, int]], options: ReplayOptions) -> list[tuple[int, int]]:
    """The range to read of each partition, whose records are [first, end)."""
    begins = _offsets("--from", options.begin, len(ends))
    stops = _offsets("--to", options.end, len(ends))
    for partition, ((first, end), begin) in enumerate(zip(ends, begins or [], strict=False)):
        if not first <= begin <= end:
            raise ReplayError(
                f"--from: partition {partition} holds offsets {first} to {end - 1}, and {begin} is not among "
                "them; only what the log still holds can be replayed (retain_s, retain_bytes)"
            )
    return [
        (begins[p] if begins else first, min(end, stops[p]) if stops else end)
        for p, (first, end) in enumerate(ends)
    ]


def _offsets(name: str, text: str | None, partitions: int) -> list[int] | None:
    """The offsets in an option, one per partition; None: it is not offset:N."""
    if text is None or not text.startswith(_OFFSET):
        return None
    try:
        found = [int(part) for part in text.removeprefix(_OFFSET).split(",")]
    except ValueError:
        found = []
    if len(found) != partitions or any(offset < 0 for offset in found):
        raise ReplayError(
            f"{name} {text}: expected {_OFFSET}N, or {_OFFSET}N,N,... with one number per partition, of "
            f"which there are {partitions}"
        )
    return found


def _between(options: ReplayOptions) -> tuple[float, float]:
    begin, end = (
        None if text is not None and text.startswith(_OFFSET) else text
        for text in (options.begin, options.end)
    )
    return (
        float("-inf") if begin is None else read_time("--from", begin),
        float("inf") if end is None else read_time("--to", end),
    )


def _cut(examples: Iterator[Example], between: tuple[float, float], limit: int | None) -> Iterator[Example]:
    begin, end = between
    if between != (float("-inf"), float("inf")):
        examples = (example for example in examples if begin <= example.time < end)
    return islice(examples, limit)


def _least(total: int | None, limit: int | None) -> int | None:
    return min((n for n in (total, limit) if n is not None), default=None)
