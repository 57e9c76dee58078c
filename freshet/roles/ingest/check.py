"""`freshet ingest --check`: what the newest records of each source would become; nothing is written."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from freshet.config import Config
from freshet.files import Json
from freshet.roles.ingest.role import need_sources, open_source, source_of
from freshet.roles.voice import printable
from ground import FreshetError
from stream.errors import RecordError
from stream.ingest.lines import Lines
from stream.ingest.sampled import SampledImpressions
from stream.ingest.ways import Way, ways_of
from stream.log.base import Record
from stream.log.reading import newest
from stream.records.entities.record import EntityEvent
from stream.records.types import Action, Impression, Value, encode_json
from stream.sources.mapping import CandidateLine, Mapped, Mapper, One, Several, Skipped, Wanted
from stream.sources.opening import open_around, open_format
from stream.sources.settings import SourceSettings

RECORDS = 1_000
SHOWN_MAX = 5  # reasons
EVENT_MAX = 600  # characters of the event that is shown


class SourceSample(msgspec.Struct):
    """What the newest records of one source become."""

    source: str
    topic: str
    kind: str
    partitions: int = 0
    records: int = 0
    impressions: int = 0
    actions: int = 0
    entities: int = 0
    skipped: int = 0
    deletions: int = 0
    dead_letters: int = 0
    reasons: list[str] = []  # the most frequent, each with its count and where it occurred first
    becomes: str = ""  # the newest event, as JSON
    covered: int = 0  # actions within the time of the impressions that were read
    met: int = 0  # of these, those whose impression and candidate were among them
    hints: list[str] = []
    error: str = ""

    @property
    def fine(self) -> bool:
        """Whether there is nothing to mend."""
        return not (self.error or self.dead_letters or self.hints)


class _Sampled:
    """The events of one source."""

    def __init__(self, source: SourceSettings, sample: SourceSample) -> None:
        self.source = source
        self.sample = sample
        self.impressions: list[Impression] = []
        self.actions: list[Action | Wanted] = []
        self.entities: list[EntityEvent] = []


def check_ingest(config: Config, as_json: bool) -> bool:
    """Read the newest records of each source, and print what they become; returns whether all is well.

    Raises:
        ConfigError: there are no sources.
    """
    need_sources(config)
    found = []
    for name in config.sources:
        source = source_of(config, name)
        sampled = _Sampled(source, SourceSample(name, source.topic, source.kind))
        found.append(sampled)
        try:
            _sample(config, name, sampled)
        except FreshetError as error:
            sampled.sample.error = str(error)
    _meet(found, ways_of(config.sources))
    for sampled in found:
        sample = sampled.sample
        if as_json:
            plain: Json = msgspec.to_builtins(sample)
            sys.stdout.write(msgspec.json.encode({**plain, "ok": sample.fine}).decode() + "\n")
        else:
            print("\n".join(printable(line) for line in _lines(sample)))
    return all(sampled.sample.fine for sampled in found)


def _sample(config: Config, name: str, sampled: _Sampled) -> None:
    source, sample = sampled.source, sampled.sample
    decoder = open_format(source, config.ingest.registry)
    around = open_around(source, config.ingest.registry)
    mapper = Mapper(name, source, config.features)

    def mapped(record: Record) -> Mapped:
        message = decoder.decode(record.value)
        if around is not None:
            message = around.add(message, record)
        return mapper.map(message, f"{name}-{record.partition}-{record.offset}")

    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    log = open_source(config, source.log)
    try:
        by_partition = newest(log, source.topic, RECORDS)
        sample.partitions = len(by_partition)
        for partition, records in enumerate(by_partition):
            lines = Lines()
            for record in records:
                sample.records += 1
                try:
                    _take(record, mapped, lines, sampled)
                except RecordError as error:
                    sample.dead_letters += 1
                    reasons[str(error)] += 1
                    first.setdefault(str(error), f"partition {partition}, offset {record.offset}")
            if (complete := lines.close()) is not None:
                sampled.impressions.append(complete[0])
    finally:
        decoder.close()
        if around is not None:
            around.close()
        log.close()
    sample.impressions = len(sampled.impressions)
    sample.reasons = [f"{n:,} x {why} ({first[why]})" for why, n in reasons.most_common(SHOWN_MAX)]
    events = [*sampled.impressions, *sampled.actions, *sampled.entities]
    if events:
        last = events[-1]
        text = msgspec.json.encode(last) if isinstance(last, Wanted) else encode_json(last)
        sample.becomes = text.decode()[:EVENT_MAX]
    if not sample.records:
        sample.hints.append("the topic is empty")
    elif sample.deletions == sample.records:
        sample.hints.append("all records that were read are deletions")


def _take(record: Record, mapped: Callable[[Record], Mapped], lines: Lines, sampled: _Sampled) -> None:
    if not record.value:
        sampled.sample.deletions += 1
        return
    found = mapped(record)
    events = found.events if isinstance(found, Several) else [found]
    sampled.sample.skipped += not events
    for event in events:
        _count(event, record, lines, sampled)


def _count(event: One, record: Record, lines: Lines, sampled: _Sampled) -> None:
    sample = sampled.sample
    if isinstance(event, Skipped):
        sample.deletions += event.deleted
        sample.skipped += not event.deleted
    elif isinstance(event, Impression):
        sampled.impressions.append(event)
    elif isinstance(event, CandidateLine):
        complete = lines.take(event, record.offset)
        if complete is not None:
            sampled.impressions.append(complete[0])
    elif isinstance(event, EntityEvent):
        sample.entities += 1
        sampled.entities.append(event)
    else:
        sample.actions += 1
        sampled.actions.append(event)


def _meet(found: list[_Sampled], ways: list[Way]) -> None:
    """Count the actions whose impression was read too."""
    impressions = [impression for sampled in found for impression in sampled.impressions]
    shown = SampledImpressions(impressions, ways)
    times = [impression.time for impression in impressions]
    for sampled in found:
        sample, source = sampled.sample, sampled.source
        for action in sampled.actions:
            if times and min(times) <= action.time <= max(times) + source.within_s:
                sample.covered += 1
                sample.met += shown.find(source, action) is not None
        if sampled.actions:
            sample.hints += _hints(sampled, impressions)


def _hints(sampled: _Sampled, impressions: list[Impression]) -> Iterator[str]:
    """Why actions may not meet their impressions."""
    sample = sampled.sample
    if not sample.covered:
        yield "no action lies in the time of the impressions that were read: whether they meet is not known"
    elif not sample.met:
        yield "no action meets its impression"
    for key, table in (("match", sampled.source.match), ("by", sampled.source.by)):
        for index, feature in enumerate(sorted(table)):
            wanted = [
                action.match.get(feature) if key == "match" else action.entity[index]
                for action in sampled.actions
                if isinstance(action, Wanted) and (key == "match" or action.entity)
            ]
            there = [
                features.get(feature)
                for impression in impressions
                for features in (impression.candidates if key == "match" else [impression.context])
            ]
            ours, theirs = _kinds(wanted), _kinds(there)
            if ours and theirs and not ours & theirs:
                kinds = " or ".join(sorted(ours)), " or ".join(sorted(theirs))
                yield (
                    f"{key}.{feature} is {kinds[0]} in actions and {kinds[1]} in impressions: values of two "
                    "types are never equal"
                )


def _kinds(values: list[Value | None]) -> set[str]:
    names = {int: "an integer", float: "a number", str: "text", list: "a list"}
    return {names[type(value)] for value in values if value is not None}


def _lines(sample: SourceSample) -> Iterator[str]:
    yield f"{'ok' if sample.fine else 'not ok':<8}source {sample.source}: topic {sample.topic}"
    if sample.error:
        yield f"        {sample.error}"
        return
    counts = [
        f"{getattr(sample, name):,} {name.replace('_', ' ')}"
        for name in ("impressions", "actions", "entities", "skipped", "deletions", "dead_letters")
        if getattr(sample, name)
    ]
    where = f"{sample.records:,} records of {sample.partitions} partitions"
    yield f"        the newest {where}: {', '.join(counts) or 'nothing'}"
    if sample.becomes:
        yield f"        for example: {sample.becomes}"
    if sample.covered:
        yield f"        {sample.met:,} of {sample.covered:,} actions meet their impression among those read"
    for reason in sample.reasons:
        yield f"        dead letters: {reason}"
    for hint in sample.hints:
        yield f"        {hint}"
