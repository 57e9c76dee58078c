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
from ground import FreshetError
from ground.short_repr import ShortRepr
from learner.features.columns import declared_by
from learner.ranking import TOP
from learner.role.boundary import KEY, Boundary
from stream.files.sources import DataSettings, count_examples, detect_format, read_examples
from stream.files.times import time_reader
from stream.log.base import EXAMPLES, Log, Record
from stream.log.open import missing_log, open_log
from stream.records.decoding import Decoder
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
    last: dict[str, int] = {}  # "partition/producer" -> last number that the snapshot has trained on
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
    ) -> None:
        self.total = total
        self.skipped = 0
        self.first_bad = ""
        self.strict = strict
        # called with each forget request of a log, before the example after it
        self.on_forget: Callable[[Forget], None] = lambda _: None
        self._play = play
        self.close = close

    def __iter__(self) -> Iterator[Example]:
        self.skipped = 0
        return self._play(self)


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

        return Tape(play_file, _least(total, options.limit), strict=not config.data.skip_bad)
    log = open_existing(config.log if options.data is None else options.data, config)
    try:
        if options.journal is not None:
            return _follow(log, config, options)
        window = Window(log, EXAMPLES, options)
        producers_max = config.stream.runner.producers_max

        def play_log(tape: Tape) -> Iterator[Example]:
            last: dict[int, dict[str, int]] = {}
            for name, number in options.last.items():
                partition, _, producer = name.partition("/")
                last.setdefault(int(partition), {})[producer] = number
            known = Boundary.decode(options.boundary) if options.boundary else None
            parts = [
                _read(log, tape, p, first, end, Repeats(producers_max, last.get(p)))
                for p, (first, end) in enumerate(window.offsets)
            ]
            if len(parts) == 1:
                merged = parts[0]
            else:
                merged = heapq.merge(*parts, key=lambda example: example.decided)
            if known is not None:
                merged = (example for example in merged if not known.learnt(example))
            return _cut(merged, between, options.limit)

        return Tape(play_log, window.total, strict=False, close=log.close)
    except BaseException:
        log.close()
        raise


def open_played(config: Config, options: ReplayOptions) -> Tape:
    """The examples of `open_tape`, with shuffled labels if the options say so."""
    tape = open_tape(config, options)
    return tape if options.shuffle_labels is None else shuffle_labels(tape, options.shuffle_labels)


def shuffle_labels(tape: Tape, seed: int) -> Tape:
    """The tape with its labels permuted: a model can learn only their mean."""
    labels = np.array([label for example in tape for label in example.labels])
    names = np.array([example.target for example in tape for _ in example.labels])
    for mine in (names == name for name in np.unique(names)):  # each target's among its own candidates
        labels[mine] = np.random.default_rng(seed).permutation(labels[mine])

    def play(shuffled: Tape) -> Iterator[Example]:
        at = 0
        for example in tape:
            n = len(example.labels)
            yield msgspec.structs.replace(example, labels=labels[at : at + n].tolist())
            at += n
        shuffled.skipped, shuffled.first_bad = tape.skipped, tape.first_bad

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


def _follow(log: Log, config: Config, options: ReplayOptions) -> Tape:
    from learner.role.learner import Learner

    if (
        options.begin
        or options.end
        or options.limit
        or options.shuffle_labels is not None
        or options.freeze_after
    ):
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

    def play(tape: Tape) -> Iterator[Example]:
        repeats: dict[int, Repeats] = {}
        for taken in journal:
            known = repeats.setdefault(taken.partition, Repeats(config.stream.runner.producers_max))
            yield from _read(log, tape, taken.partition, taken.start, taken.end, known, taken)

    total = sum(taken.end - taken.start for taken in journal)
    return Tape(play, total, strict=False, close=log.close)


def _read(
    log: Log,
    tape: Tape,
    partition: int,
    first: int,
    end: int,
    repeats: Repeats,
    named: JournalStretch | None = None,
) -> Iterator[Example]:
    """Examples [first, end) of one partition; counts unusable records."""
    decode = Decoder[Example | Forget](Example, Forget).decode
    for record in log_records(log, EXAMPLES, partition, first, end, repeats, named):
        try:
            found: Example | Forget = decode(record.value)
        except FreshetError:
            tape.skipped += 1
            continue
        if isinstance(found, Forget):
            tape.on_forget(found)
        else:
            yield found


def log_records(
    log: Log,
    topic: str,
    partition: int,
    first: int,
    end: int,
    repeats: Repeats,
    named: JournalStretch | None = None,
) -> Iterator[Record]:
    """Records [first, end) of one partition, without duplicates.

    Args:
        repeats: the last numbers of the partition's producers; updated.
        named: the journal entry that names the records, for an error.

    Raises:
        ReplayError: the journal names records that the log has dropped.
    """
    offset = first
    while offset < end:
        records = log.read(topic, partition, offset)
        if named is not None and (not records or records[0].offset != offset):
            raise ReplayError(
                f"the log no longer holds offset {offset} of partition {partition}, which the journal names; "
                "only a journal whose records are all there can be followed (retain_s, retain_bytes)"
            )
        if not records:
            return
        offset = records[-1].offset + 1
        yield from repeats.leave_out([record for record in records if record.offset < end])


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


def read_time(name: str, text: str) -> float:
    """The event time in an option, Unix seconds.

    Raises:
        ReplayError: it is not a time.
    """
    try:
        return time_reader("auto")(text)
    except ValueError as error:
        raise ReplayError(f"{name}: {error}") from None


def _cut(examples: Iterator[Example], between: tuple[float, float], limit: int | None) -> Iterator[Example]:
    begin, end = between
    if between != (float("-inf"), float("inf")):
        examples = (example for example in examples if begin <= example.time < end)
    return islice(examples, limit)


def _least(total: int | None, limit: int | None) -> int | None:
    return min((n for n in (total, limit) if n is not None), default=None)
