"""`freshet produce`: append a file's events to the log.

Many events travel in one message, which carries the producer's name and the number of its last event in the
file. So a file can be sent again safely (after Ctrl-C, for example), packed in the same messages or others:
the joiner drops a message whose events it already has from that producer. If it has some of them, it drops
those requests.
"""

import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import xxhash

from freshet.config import Config, all_features
from freshet.errors import ProduceError
from freshet.roles.opening import open_topics
from freshet.tools.produce_order import InTime
from ground.retry import Backoff, Pauses
from stream.errors import LogAwayError, LogError, RecordError, SourceError
from stream.files.outcomes import Outcome
from stream.files.record_files import read_records
from stream.files.sources import LeftOut, read_examples, read_labelled
from stream.join.sharding.places import Places
from stream.limits import REQUEST_ID_MAX
from stream.log.base import EVENTS, EXAMPLES, Log, Outgoing
from stream.records.batching import pack
from stream.records.decoding import Decoder
from stream.records.entities.record import AnyEvent, EntityEvent, key_of_event
from stream.records.id_types import check_id_types, declared_of
from stream.records.types import Action, Event, Example, Exposure, Impression, encode

BATCH = 1000  # events per append
PACK = 100  # events per message
REPORT_EVERY_S = 2.0
AWAY_PAUSES = Pauses(first_s=0.25, longest_s=5.0, give_up_s=60.0)  # if the log goes away meanwhile


def produce(
    config: Config,
    file: Path,
    *,
    holds: Literal["requests", "events", "examples", "entities"] = "requests",
    rate: float | None = None,
    limit: int | None = None,
    producer: str | None = None,
    events_per_message: int = PACK,
) -> int:
    """Append a file's events to topic `events`, or its examples to topic `examples`; returns their number.

    Args:
        file: data in the format of [data], one labelled candidate a line; or an export, or JSON Lines of
            events.
        holds: "requests": send labelled impressions; "events": the file holds impressions, actions and
            exposures; "examples": the file holds decided examples; "entities": what is true of entities.
        rate: at most so many events per second.
        limit: stop after so many events.
        producer: name under which events are numbered; default: from the file's name and size.
        events_per_message: at most; examples always travel alone.

    Raises:
        FreshetError: the file or the log cannot be used.
    """
    name = producer_name(file) if producer is None else producer
    left_out = LeftOut()
    in_time: InTime | None = None
    source: Iterator[AnyEvent | Example]
    if holds == "entities":
        from freshet.replay.tapes.entities import read_checked  # it loads kernels

        source = read_checked(config, file, "", left_out if config.data.skip_bad else None)
    elif holds == "events":
        in_time = InTime(_read_events(file, config, left_out), config.known_targets())
        source = iter(in_time)
    elif holds == "examples":
        source = read_examples(
            file, config.data, left_out, declared_of(all_features(config)), config.known_targets()
        )
    else:
        source = _as_events(config, file, name, left_out)
    source = islice(_of_declared_types(source, config, file, left_out), limit)
    topic = EXAMPLES if holds == "examples" else EVENTS
    began = reported_s = time.monotonic()
    sent = 0
    log = open_topics(config)
    partitions, shard_by = log.partitions(topic), config.joining.shard_by
    places = Places(shard_by, partitions) if shard_by else None
    try:
        size = BATCH if rate is None else max(1, min(BATCH, int(rate / 20)))
        while batch := list(islice(source, size)):
            append_patiently(
                log,
                topic,
                [
                    Outgoing(m.key, m.value, m.partition, name, sent + m.events[-1])
                    for m in pack(
                        [Outgoing(_key(event, places), encode(event)) for event in batch],
                        partitions,
                        1 if topic == EXAMPLES else events_per_message,
                    )
                ],
            )
            sent += len(batch)
            now = time.monotonic()
            if now - reported_s >= REPORT_EVERY_S:
                reported_s = now
                print(f"{sent:,} {topic}, {sent / (now - began):,.0f}/s", file=sys.stderr, flush=True)
            if rate is not None:
                time.sleep(max(began + sent / rate - time.monotonic(), 0.0))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"at least {sent:,} events are in {config.log}; the same command sends the rest, and no event "
            "counts twice"
        ) from None
    except LogError as error:
        raise type(error)(
            f"{error}; {sent:,} {topic} are in it: the same command sends the rest, and none counts twice"
        ) from None
    finally:
        log.close()
    if sent == 0:
        raise ProduceError(f"{file}: there are no {topic} in it{left_out.phrase()}")
    seconds = max(time.monotonic() - began, 1e-9)
    print(
        f"sent {sent:,} {topic} to {config.log} in {seconds:.1f} s, as producer {name!r}{left_out.phrase()}",
        file=sys.stderr,
    )
    if in_time is not None and in_time.late:
        print(f"warning: {file}: {in_time.phrase()}", file=sys.stderr)
    return sent


def append_patiently(log: Log, topic: str, records: list[Outgoing]) -> None:
    """Append; retry while the log is away. Readers drop duplicates by their number."""
    backoff = Backoff(AWAY_PAUSES)
    while True:
        try:
            log.append(topic, records)
            return
        except LogAwayError as error:
            if not backoff.failed:
                print(f"waiting: {error}", file=sys.stderr, flush=True)
            if not backoff.sleep():
                raise


def _key(event: AnyEvent | Example, places: Places | None = None) -> bytes:
    if not isinstance(event, Example):
        return key_of_event(event)
    if places is None:
        return event.request_id.encode()
    return places.of_request(event.request_id, event.context, event.candidates).key


def producer_name(file: Path) -> str:
    """A name that depends on the file's path and size: the same file always gets the same name.

    Raises:
        ProduceError: there is no such file.
    """
    try:
        size = sum(part.stat().st_size for part in ([file] if file.is_file() else sorted(file.iterdir())))
    except OSError as error:
        raise ProduceError(f"{file}: cannot be read: {error.strerror}") from None
    mark = xxhash.xxh3_64_hexdigest(f"{file.resolve()} {size}".encode())[:8]
    return f"{file.name[:64]}-{mark}"


def _of_declared_types(
    source: Iterator[AnyEvent | Example], config: Config, file: Path, left_out: LeftOut
) -> Iterator[AnyEvent | Example]:
    """The same, with ids checked against the `type` of their features: topic `events` takes both forms."""
    for event in source:
        try:
            if isinstance(event, Impression | Example):
                check_id_types(config.features, event)
        except RecordError as error:
            wrong = f"{file}: request {_key(event).decode()!r}: {error}"
            if not config.data.skip_bad:
                raise ProduceError(
                    f"{wrong}; correct it, or set data.skip_bad = true to leave it out"
                ) from None
            left_out(SourceError(wrong))
            continue
        yield event


def _as_events(config: Config, file: Path, name: str, left_out: LeftOut) -> Iterator[Event]:
    targets = config.known_targets()
    for example, outcomes in read_labelled(
        file, config.data, left_out, declared_of(all_features(config)), targets
    ):
        yield _impression(example, outcomes, name)


def _impression(example: Example, outcomes: list[Outcome], name: str) -> Impression:
    # Ids are often line numbers: the name keeps the requests of two files apart.
    return Impression(
        request_id=f"{name}/{example.request_id}"[-REQUEST_ID_MAX:],
        time=example.time,
        candidates=example.candidates,
        context=example.context,
        labels=example.labels,
        weight=example.weight,
        outcomes={of: [said[of] for said in outcomes] for of in outcomes[0]} if outcomes else None,
    )


def _read_events(file: Path, config: Config, left_out: LeftOut) -> Iterator[AnyEvent]:
    if file.suffix == ".parquet":
        for record in read_records(file, targets=config.known_targets()):
            if isinstance(record, Example):
                raise ProduceError(f"{file}: holds examples, not events; send them with --examples")
            yield record
        return
    declared, targets = declared_of(all_features(config)), config.known_targets()
    kinds = (Impression, Action, Exposure, EntityEvent)
    decode = Decoder[AnyEvent](*kinds, declared=declared, targets=targets).decode
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    event: AnyEvent = decode(line.strip())
                except RecordError as error:
                    wrong = f"{file}:{number}: {error}"
                    if config.data.skip_bad:
                        left_out(SourceError(wrong))
                        continue
                    raise ProduceError(
                        f"{wrong}; correct it, or set data.skip_bad = true to leave it out"
                    ) from None
                yield event
    except OSError as error:
        raise ProduceError(f"{file}: cannot be read: {error.strerror}") from None
