"""How fast events go through the log and the joiner, and examples into the learner, on both logs.

    .venv/bin/python benchmarks/streaming.py [--log sqlite|kafka|both] [--events N] [--json OUT]

A stream of impressions (four candidates, five features) of which every fourth is clicked, as JSON and as
MessagePack, one event per message and many. The measure to compare with, in the same run and on the
same messages, is a bare consumer loop that reads and counts: of kafka-python where the log is Kafka, of
SQLite else. "End to end" is the time to append the messages and to join them, one after the other.

Each case is run once unmeasured and then `--repeats` times, bare loop and joiner in turn; the figures are
the medians. The learner is measured with kernels compiled and torch imported, on the same examples each
time, from an empty state, with its deep part and without.

Kafka is a broker of its own (`deploy/kafka`), or that of FRESHET_KAFKA.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from kafka import KafkaConsumer, TopicPartition

from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.kafka.log import parse_url
from stream.log.open import open_log
from stream.log.settings import LogSettings
from stream.log.testing.memory import MemoryLog
from stream.records.fast_decoding import EventDecoder
from stream.records.targets import UNDECLARED, Target, Targets
from stream.records.types import Action, Impression, encode, encode_json, join_batch
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.disk import ROCKS_DISK, Disk
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

Row = dict[str, Any]

APPEND_BYTES = 512 << 10
WINDOW_S = 5.0
THREE = Targets(
    {
        "click": Target(window_s=WINDOW_S),
        "buy": Target(of="click", observe_s=4 * WINDOW_S, window_s=12 * WINDOW_S),
        "minutes": Target(kind="value", of="click", window_s=4 * WINDOW_S),
    }
)
LEARNT = 5_000  # examples that the learner takes


def make_events(count: int) -> list[Impression | Action]:
    """The stream; 100 requests a second of event time."""
    draw = random.Random(1)
    events: list[Impression | Action] = []
    at = 1_700_000_000.0
    for i in range(int(count / 1.25)):
        at += 0.01
        candidates: list[Any] = [
            {"item": draw.randrange(10_000), "category": draw.randrange(50), "price": round(draw.random(), 3)}
            for _ in range(4)
        ]
        context: dict[str, Any] = {"user": draw.randrange(5_000), "device": "phone"}
        events.append(Impression(f"request-{i}", at, candidates, context=context))
        if i % 4 == 3:
            events.append(Action(f"request-{i - draw.randrange(3)}", at, draw.randrange(4)))
    return events


def pack(events: Sequence[Impression | Action], form: str, batch: int) -> list[bytes]:
    """The messages: each event alone, or `batch` of them together."""
    one = [encode_json(event) if form == "json" else encode(event) for event in events]
    if batch == 1:
        return one
    groups = [one[i : i + batch] for i in range(0, len(one), batch)]
    if form == "json":
        return [b"[" + b",".join(group) + b"]" for group in groups]
    return [join_batch(group) for group in groups]


def open_fresh(url: str, name: str) -> Log:
    """A log with empty topics."""
    log = open_log(
        f"{url}/{name}" if url.startswith("kafka") else f"{url}/{name}.db", LogSettings(sync=False)
    )
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS, UPDATES, SNAPSHOTS):
        log.create_topic(topic, 1)
    return log


def append_all(log: Log, messages: Sequence[bytes]) -> float:
    """Append in pieces of half a MiB, as a producer would; seconds."""
    pieces: list[list[Outgoing]] = [[]]
    size = 0
    for i, message in enumerate(messages):
        if size + len(message) > APPEND_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(Outgoing(b"", message, 0, "bench", i))
        size += len(message)
    began = time.perf_counter()
    for piece in pieces:
        log.append(EVENTS, piece)
    return time.perf_counter() - began


def bare_loop(log: Log, url: str, name: str, topic: str, count: int) -> float:
    """Read and count `count` messages with nothing done to them; seconds."""
    if not url.startswith("kafka"):
        began, offset = time.perf_counter(), 0
        while records := log.read(topic, 0, offset, 2_000):
            offset = records[-1].offset + 1
        assert offset == count
        return time.perf_counter() - began
    consumer = KafkaConsumer(
        bootstrap_servers=parse_url(url)[0], auto_offset_reset="earliest", enable_auto_commit=False,
        max_poll_records=2_000,
    )  # fmt: skip
    consumer.assign([TopicPartition(f"{name}.{topic}", 0)])
    first = seen = 0
    began = 0.0
    while seen < count:
        for records in consumer.poll(1_000).values():
            seen += len(records)
        if not first and seen:  # connecting is not counted, nor what it brought
            first, began = seen, time.perf_counter()
    took = time.perf_counter() - began
    consumer.close()
    return took * count / (count - first) if count > first else took


def log_loop(log: Log, topic: str, count: int) -> float:
    """The same, through our own reader; seconds."""
    log.read(topic, 0, 0, 1)  # connects
    began, seen = time.perf_counter(), 0
    while seen < count:
        seen += len(log.read(topic, 0, seen, 2_000, wait_s=1.0))
    return time.perf_counter() - began


def join_all(log: Log, folder: Path, messages: int) -> tuple[float, int]:
    """Seconds to join everything, and how many examples came of it."""
    with RoleState(folder, "joiner", {}) as state:
        joiner = Joiner(state, JoinSettings(window_s=WINDOW_S))
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        began = time.perf_counter()
        while runner.progress.records < messages:
            runner.step(0.1)
        runner.commit()  # and what came of it is sent
        return time.perf_counter() - began, joiner.counts.examples


def learn_some(log: Log, folder: Path, count: int, deep: Literal["dcn", "none"]) -> float:
    """Seconds in which a learner, ready and with an empty state, takes the first `count` examples."""
    features = {name: FeatureSpec() for name in ("user", "item", "category", "device")}
    settings = LearnerSettings(deep=deep)
    with RoleState(folder, "learner", Learner.fingerprint(features, settings)) as state:
        learner = Learner(features, settings, state, beside=True)
        limits = RunnerSettings(read_max=min(count, 500), commit_every_s=0.5)
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn"), limits).open()
        began = time.perf_counter()
        while runner.progress.records < count:
            runner.step(0.1)
        runner.commit()
        took = time.perf_counter() - began
        learner.close()
        return took


def learn_all(log: Log, folder: Path, examples: int, repeats: int) -> Row:
    """Requests a second of the learner, its deep part in a thread of its own as in the role, and without."""
    count = min(LEARNT, examples)
    row: Row = {}
    for deep, name in (("none", "learn_fast_per_s"), ("dcn", "learn_deep_per_s")):
        took = [learn_some(log, folder / f"{deep}{i}", count, deep) for i in range(repeats + 1)][1:]
        row[name] = count / statistics.median(took)
        row[name.replace("per_s", "spread")] = [round(count / t) for t in sorted(took, reverse=True)]
    return row


def measure_case(
    url: str,
    events: Sequence[Impression | Action],
    messages: Sequence[bytes],
    folder: Path,
    repeats: int,
    learn: bool,
) -> Row:
    """Medians of one form of the stream, and with `learn` of the learner on what came of it."""
    took: dict[str, list[float]] = {name: [] for name in ("append", "bare", "read", "join")}
    learnt: Row = {}
    for i in range(repeats + 1):
        name = f"bench-{uuid.uuid4().hex[:8]}"
        log = open_fresh(url, name)
        try:
            append_s = append_all(log, messages)
            bare_s = bare_loop(log, url, name, EVENTS, len(messages))
            read_s = log_loop(log, EVENTS, len(messages))
            join_s, examples = join_all(log, folder / name, len(messages))
            for what, seconds in zip(took, (append_s, bare_s, read_s, join_s), strict=True):
                took[what] += [seconds] if i else []
            if i == repeats and learn:
                learnt = learn_all(log, folder / f"{name}-l", examples, repeats)
                learnt["bare_examples_per_s"] = examples / bare_loop(log, url, name, EXAMPLES, examples)
        finally:
            log.close()
    median = {what: statistics.median(seconds) for what, seconds in took.items()}
    megabytes = sum(map(len, messages)) / 1e6
    count = len(events)
    row: Row = {f"{what}_per_s": count / seconds for what, seconds in median.items()}
    row |= {
        "events": count, "messages": len(messages), "bytes_per_event": megabytes * 1e6 / count,
        "bare_mb_per_s": megabytes / median["bare"], "join_mb_per_s": megabytes / median["join"],
        # the share of each pair, measured one after the other: what disturbs one, disturbs both
        "join_share": statistics.median(b / j for b, j in zip(took["bare"], took["join"], strict=True)),
        "end_to_end_per_s": count / (median["append"] + median["join"]),
        "transport_per_s": count / (median["append"] + median["read"]),
    }  # fmt: skip
    return row | learnt


def measure(
    url: str, kind: str, events: Sequence[Impression | Action], batch: int, folder: Path, repeats: int
) -> list[Row]:
    """All forms of the stream on one log."""
    rows = []
    for form in ("json", "msgpack"):
        for per_message in (1, batch):
            case: Row = {"log": kind, "form": form, "events_per_message": per_message}
            learn = form == "msgpack" and per_message == 1
            messages = pack(events, form, per_message)
            row = case | measure_case(url, events, messages, folder, repeats, learn)
            rows.append(row)
            print(
                f"{kind:<7}{form:<8}{per_message:>4} a message: append {row['append_per_s']:>9,.0f}/s   "
                f"bare loop {row['bare_per_s']:>10,.0f}/s {row['bare_mb_per_s']:>6.1f} MB/s   our reader "
                f"{row['read_per_s']:>10,.0f}/s   joiner {row['join_per_s']:>8,.0f}/s "
                f"{row['join_mb_per_s']:>5.1f} MB/s, {row['join_share']:.2f} of the bare loop",
                flush=True,
            )
            if learn:
                print(
                    f"{'':<7}learner {row['learn_fast_per_s']:>8,.0f} requests/s of its fast part alone, "
                    f"{row['learn_deep_per_s']:,.0f} with the deep part; a bare loop over its topic "
                    f"{row['bare_examples_per_s']:,.0f}/s",
                    flush=True,
                )
    for form in ("json", "msgpack"):
        one, many = (row for row in rows if row["form"] == form)
        transport_s = 1e6 / one["append_per_s"] + 1e6 / one["read_per_s"]
        whole_s = 1e6 / one["end_to_end_per_s"]
        print(
            f"{kind:<7}{form:<8}{batch} in a message instead of one: append and read "
            f"{many['transport_per_s'] / one['transport_per_s']:.1f} times as fast, append and join "
            f"{many['end_to_end_per_s'] / one['end_to_end_per_s']:.1f} times; of {whole_s:.1f} µs an event "
            f"{transport_s:.1f} are append and read; were they nothing, "
            f"{whole_s / (whole_s - transport_s):.1f} times"
        )
    return rows


def join_cpu_us(log: Log, folder: Path, events: int, disk: Disk, targets: Targets = UNDECLARED) -> float:
    """Microseconds of a processor that a joiner takes for each of the events in a log."""
    with RoleState(folder, "joiner", {}, disk=disk) as state:
        joiner = Joiner(state, JoinSettings(window_s=WINDOW_S), targets=targets)
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        began = time.process_time()
        while runner.progress.records < events:
            runner.step(0.1)
        runner.commit()
        return (time.process_time() - began) / events * 1e6


def with_further(events: Sequence[Impression | Action]) -> list[Impression | Action]:
    """The same stream, in which something happens with every candidate that is clicked."""
    found: list[Impression | Action] = []
    for i, event in enumerate(events):
        found.append(event)
        if isinstance(event, Action):
            further = {"name": "buy"} if i % 2 else {"name": "minutes", "value": float(i % 9)}
            found.append(msgspec.structs.replace(event, **further))
    return found


def measure_targets(events: Sequence[Impression | Action], folder: Path, repeats: int) -> list[Row]:
    """A joiner with one target and with three, on the same stream, in turn."""
    messages = pack(with_further(events), "msgpack", 1)
    took: dict[str, list[float]] = {"one": [], "three": []}
    for i in range(repeats + 1):
        for name, targets in (("one", UNDECLARED), ("three", THREE)):
            log = MemoryLog()
            for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
                log.create_topic(topic, 1)
            append_all(log, messages)
            at = folder / f"targets-{name}-{i}"
            took[name].append(join_cpu_us(log, at, len(messages), ROCKS_DISK, targets))
    one, three = (statistics.median(took[name][1:]) for name in ("one", "three"))
    ratio = statistics.median(a / b for a, b in zip(took["one"][1:], took["three"][1:], strict=True))
    print(
        f"targets: {one:.1f} µs of a processor an event with one, {three:.1f} with three: "
        f"{ratio:.2f} of the speed"
    )
    return [{"targets": True, "one_us": one, "three_us": three, "ratio": ratio}]


def measure_parts(events: Sequence[Impression | Action], folder: Path, repeats: int) -> list[Row]:
    """Where a joiner's time goes: without a disk, with its state on disk, and with the log there too."""
    rows = []
    for form in ("json", "msgpack"):
        messages = pack(events, form, 1)
        took: dict[str, list[float]] = {}
        for i in range(repeats + 1):
            decode = EventDecoder(None).decode
            began = time.process_time()
            for message in messages:
                decode(message)
            took.setdefault("decode", []).append((time.process_time() - began) / len(events) * 1e6)
            for name, disk in (("memory", MemoryDisk()), ("state", ROCKS_DISK), ("log", ROCKS_DISK)):
                log = open_fresh(f"sqlite:{folder}", f"parts-{form}-{i}") if name == "log" else MemoryLog()
                if name != "log":
                    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
                        log.create_topic(topic, 1)
                append_all(log, messages)
                at = folder / f"parts-{form}-{name}-{i}"
                took.setdefault(name, []).append(join_cpu_us(log, at, len(events), disk))
                log.close()
        median = {name: statistics.median(each[1:]) for name, each in took.items()}
        rows.append({"form": form, "part": True, **{f"{name}_us": each for name, each in median.items()}})
        print(
            f"parts  {form:<8} of {median['log']:.1f} µs an event: decoding {median['decode']:.1f}, pairing "
            f"and the loop {median['memory'] - median['decode']:.1f}, the state in RocksDB "
            f"{median['state'] - median['memory']:.1f}, reading and appending in SQLite "
            f"{median['log'] - median['state']:.1f}",
            flush=True,
        )
    return rows


@contextlib.contextmanager
def kafka_url(folder: Path) -> Iterator[str]:
    """A broker's URL."""
    if os.environ.get("FRESHET_KAFKA"):
        yield f"kafka://{os.environ['FRESHET_KAFKA']}"
        return
    sys.path.append(str(Path(__file__).resolve().parents[1] / "deploy" / "kafka"))
    from broker import Broker

    with Broker(folder / "broker", heap="512m") as broker:
        print(broker.version())
        yield f"kafka://{broker.address}"


def main() -> None:
    """Run, print one line a case, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", choices=["sqlite", "kafka", "both"], default="both")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=100, help="events per message where there are many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", action="store_true", help="only where a joiner's processor time goes")
    parser.add_argument("--targets", action="store_true", help="only a joiner of one target and of three")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    events = make_events(options.events)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.parts:
            rows += measure_parts(events, folder, options.repeats)
        elif options.targets:
            rows += measure_targets(events, folder, options.repeats)
        elif options.log in ("sqlite", "both"):
            rows += measure(f"sqlite:{folder}", "sqlite", events, options.batch, folder, options.repeats)
        if not (options.parts or options.targets) and options.log in ("kafka", "both"):
            with kafka_url(folder) as url:
                rows += measure(url, "kafka", events, options.batch, folder, options.repeats)
    print(json.dumps(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
