"""How fast ingest makes events of others' records, and how much later they are in `events`.

    .venv/bin/python benchmarks/ingest.py [--log sqlite|kafka] [--events N] [--json OUT]

The stream of benchmarks/streaming.py as a company has it: impressions in one topic and clicks in another, in
JSON, Avro and Protobuf, with other names, keyed by user. The measure to compare with, in the same run and on
the same records, is a bare consumer loop that decodes each with the same library. "And joined" is the time of
ingest and of a joiner behind it, one after the other, on one core.

Each case is run once unmeasured and then `--repeats` times, bare loop, ingest and joiner in turn; what is
told are the medians. The hop is the time from the end of an append to the source until the event can be read:
of a click that names its place, by the role's loop alone; and through the whole role, which keeps two sources
together, of an impression, and of a click that must be matched with it.
Rates of a processor's seconds, beside those of the clock, do not depend on what else the machine does.
"""

import argparse
import io
import json
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fastavro
import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from streaming import join_all, kafka_url, make_events

from freshet.config import parse_config
from freshet.roles.roles import run_ingest
from stream.ingest.ingestor import Ingestor
from stream.ingest.two_logs import TwoLogs
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Log, Outgoing
from stream.log.open import open_log
from stream.log.settings import LogSettings
from stream.records.types import Action, Impression
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.sources.formats import Format
from stream.sources.opening import open_format
from stream.sources.settings import IngestSettings, RegistrySettings, SourceSettings
from stream.state.role_state import RoleState

Row = dict[str, Any]
Encode = Callable[[dict[str, Any]], bytes]

ITEM = {"type": "record", "name": "Item", "fields": [
    {"name": "sku", "type": "long"}, {"name": "category", "type": "int"}, {"name": "price", "type": "double"},
]}  # fmt: skip
SHOWN = {"type": "record", "name": "Shown", "fields": [
    {"name": "shown_at", "type": "long"}, {"name": "request", "type": "string"},
    {"name": "user", "type": "long"}, {"name": "device", "type": "string"},
    {"name": "items", "type": {"type": "array", "items": ITEM}},
]}  # fmt: skip
CLICK = {"type": "record", "name": "Click", "fields": [
    {"name": "at", "type": "long"}, {"name": "request", "type": "string"},
    {"name": "position", "type": "int"},
]}  # fmt: skip
HOPS = 200
HOPS_FIRST = 10  # that do not count
HOP_EVERY_S = 0.02


def records(events: Sequence[Impression | Action]) -> dict[str, list[dict[str, Any]]]:
    """The events as the company's records, by topic."""
    shown, clicks = [], []
    for event in events:
        at = int(event.time * 1e3)
        if isinstance(event, Impression):
            items = [
                {"sku": c["item"], "category": c["category"], "price": c["price"]} for c in event.candidates
            ]
            shown.append({
                "shown_at": at, "request": event.request_id, "user": event.context["user"],
                "device": event.context["device"], "items": items,
            })  # fmt: skip
        else:
            clicks.append({"at": at, "request": event.request_id, "position": event.candidate})
    return {"shown": shown, "clicks": clicks}


def proto_file() -> descriptor_pb2.FileDescriptorProto:
    """The same three types in Protobuf."""
    kinds = {"long": 3, "int": 5, "double": 1, "string": 9}
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    for schema in (ITEM, SHOWN, CLICK):
        message = file.message_type.add(name=schema["name"])
        fields: Any = schema["fields"]
        for number, field in enumerate(fields, 1):
            if isinstance(field["type"], dict):
                message.field.add(name=field["name"], number=number, type=11, type_name=".shop.Item", label=3)
            else:
                message.field.add(name=field["name"], number=number, type=kinds[field["type"]], label=1)
    return file


def encoders(form: str, folder: Path) -> dict[str, tuple[Encode, dict[str, str]]]:
    """topic -> (what encodes its records, what a source says of their format)."""
    if form == "json":
        return {topic: (msgspec.json.encode, {}) for topic in ("shown", "clicks")}
    found: dict[str, tuple[Encode, dict[str, str]]] = {}
    if form == "avro":
        for topic, schema in (("shown", SHOWN), ("clicks", CLICK)):
            parsed = fastavro.parse_schema(schema)
            file = folder / f"{topic}.avsc"
            file.write_text(json.dumps(schema))

            def write(record: dict[str, Any], parsed: Any = parsed) -> bytes:
                out = io.BytesIO()
                fastavro.schemaless_writer(out, parsed, record)
                return out.getvalue()

            found[topic] = write, {"schema": str(file)}
        return found
    file = folder / "shop.desc"
    file.write_bytes(descriptor_pb2.FileDescriptorSet(file=[proto_file()]).SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(proto_file().SerializeToString())
    for topic, name in (("shown", "shop.Shown"), ("clicks", "shop.Click")):
        kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

        def serialize(record: dict[str, Any], kind: Any = kind) -> bytes:
            return bytes(kind(**record).SerializeToString())

        found[topic] = serialize, {"schema": str(file), "message": name}
    return found


def source_of(topic: str, form: str, more: dict[str, str]) -> SourceSettings:
    """The section that a user would write."""
    table: dict[str, Any] = {"topic": topic, "format": form, "request_id": "request", **more}
    if topic == "shown":
        table |= {
            "kind": "impression", "time": {"field": "shown_at", "unit": "ms"}, "candidates": "items",
            "context": {"user": "user", "device": "device"},
            "features": {"item": "sku", "category": "category", "price": "price"},
        }  # fmt: skip
    else:
        table |= {"kind": "action", "time": {"field": "at", "unit": "ms"}, "candidate": "position"}
    return msgspec.convert(table, SourceSettings)


def open_fresh(url: str, name: str) -> Log:
    """A log with empty topics."""
    log = open_log(
        f"{url}/{name}" if url.startswith("kafka") else f"{url}/{name}.db", LogSettings(sync=False)
    )
    for topic in ("shown", "clicks", EVENTS, EXAMPLES, DEAD_LETTERS):
        log.create_topic(topic, 1)
    return log


def bare_loop(log: Log, formats: dict[str, Format], counts: dict[str, int]) -> float:
    """Read and decode all records with the same library; seconds."""
    began = time.perf_counter()
    for topic, count in counts.items():
        decode, offset = formats[topic].decode, 0
        while offset < count:
            found = log.read(topic, 0, offset, 2_000, wait_s=1.0)
            for record in found:
                decode(record.value)
            offset = found[-1].offset + 1
    return time.perf_counter() - began


def ingest_all(
    log: Log,
    folder: Path,
    sources: dict[str, SourceSettings],
    formats: dict[str, Format],
    counts: dict[str, int],
) -> float:
    """Seconds to make events of all records."""
    took = 0.0
    for topic, source in sources.items():
        with RoleState(folder / topic, "ingest", {}) as state:
            ingestor = Ingestor(state, topic, source, formats[topic], IngestSettings())
            subscription = Subscription(topic, topic, commits_offsets=False)
            runner = Runner(TwoLogs(log, log), state, ingestor, subscription, RunnerSettings()).open()
            began = time.perf_counter()
            while runner.progress.records < counts[topic]:
                runner.step(0.1)
            runner.commit()
            took += time.perf_counter() - began
            assert ingestor.counts.dead_letters == 0
    return took


def measure_hop(log: Log, folder: Path, source: SourceSettings, form: Format, value: bytes) -> float:
    """The median of seconds from an append to the source until its event can be read."""
    stop = threading.Event()
    hops: list[float] = []
    with RoleState(folder, "ingest", {}) as state:
        ingestor = Ingestor(state, "hop", source, form, IngestSettings())
        subscription = Subscription(source.topic, "hop", commits_offsets=False)
        settings = RunnerSettings(commit_every_s=IngestSettings().commit_every_s)
        runner = Runner(TwoLogs(log, log), state, ingestor, subscription, settings).open()

        def work() -> None:  # as the role does
            while not stop.is_set():
                runner.turn(stop)
                runner.commit()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            while runner.position(0) < log.ends(source.topic)[0][1]:
                time.sleep(0.05)
            for _ in range(HOPS):
                offset = log.ends(EVENTS)[0][1]
                log.append(source.topic, [Outgoing(b"k", value, 0)])
                began = time.perf_counter()
                while not log.read(EVENTS, 0, offset, 1, wait_s=1.0):
                    pass
                hops.append(time.perf_counter() - began)
                time.sleep(HOP_EVERY_S)
        finally:
            stop.set()
            thread.join()
    return statistics.median(hops)


def role_hops(url: str, folder: Path) -> tuple[float, float]:
    """The medians of seconds until an impression, and a click that is matched with it, are in `events`."""
    hops: tuple[list[float], list[float]] = [], []
    name = f"bench-{uuid.uuid4().hex[:8]}"
    own = f"{url}/{name}" if url.startswith("kafka") else f"{url}/{name}.db"
    theirs = open_fresh(url, name)
    prefix = f"{name}." if url.startswith("kafka") else ""
    shown = {
        "topic": f"{prefix}shown", "kind": "impression", "request_id": "request", "candidates": "items",
        "time": {"field": "at", "unit": "ms"}, "context": {"user": "user"}, "features": {"item": "sku"},
    }  # fmt: skip
    clicks = {
        "topic": f"{prefix}clicks", "kind": "action", "time": {"field": "at", "unit": "ms"},
        "match": {"item": "sku"}, "by": {"user": "user"},
    }  # fmt: skip
    table = {
        "log": own, "state": str(folder / name), "stream": {"partitions": 1},
        "features": {"user": {"kind": "id"}, "item": {"kind": "id"}},
        "sources": {"shown": shown, "clicks": clicks},
    }  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=run_ingest, args=(parse_config(table, "bench"), stop))
    thread.start()
    try:
        for i in range(HOPS + HOPS_FIRST):
            at = int(time.time() * 1e3)
            rows: tuple[tuple[str, Row], ...] = (
                ("shown", {"request": f"r{i}", "at": at, "user": i, "items": [{"sku": i}]}),
                ("clicks", {"at": at + 1, "user": i, "sku": i}),
            )
            for (topic, row), found in zip(rows, hops, strict=True):
                offset = theirs.ends(EVENTS)[0][1]
                theirs.append(topic, [Outgoing(b"%d" % i, msgspec.json.encode(row), 0)])
                began = time.perf_counter()
                while not theirs.read(EVENTS, 0, offset, 1, wait_s=1.0):
                    pass
                found.append(time.perf_counter() - began)
            time.sleep(HOP_EVERY_S)
    finally:
        stop.set()
        thread.join()
        theirs.close()
    return statistics.median(hops[0][HOPS_FIRST:]), statistics.median(hops[1][HOPS_FIRST:])


def measure(
    url: str, kind: str, events: Sequence[Impression | Action], folder: Path, repeats: int
) -> list[Row]:
    """All formats on one log."""
    rows = []
    for form in ("json", "avro", "protobuf"):
        encode = encoders(form, folder)
        values = {topic: [encode[topic][0](r) for r in found] for topic, found in records(events).items()}
        counts = {topic: len(found) for topic, found in values.items()}
        sources = {topic: source_of(topic, form, encode[topic][1]) for topic in values}
        formats = {topic: open_format(source, RegistrySettings()) for topic, source in sources.items()}
        took: dict[str, list[float]] = {
            name: [] for name in ("bare", "ingest", "joined", "bare_cpu", "ingest_cpu")
        }
        hop_s = 0.0
        for i in range(repeats + 1):
            name = f"bench-{uuid.uuid4().hex[:8]}"
            log = open_fresh(url, name)
            try:
                for topic, found in values.items():
                    for first in range(0, len(found), 2_000):
                        log.append(
                            topic,
                            [
                                Outgoing(b"%d" % (k % 97), v, 0)
                                for k, v in enumerate(found[first : first + 2_000])
                            ],
                        )
                cpu_s = [time.process_time()]
                bare_s = bare_loop(log, formats, counts)
                cpu_s.append(time.process_time())
                ingest_s = ingest_all(log, folder / name, sources, formats, counts)
                cpu_s.append(time.process_time())
                join_s, _ = join_all(log, folder / f"{name}-join", len(events))
                seconds = (bare_s, ingest_s, ingest_s + join_s, cpu_s[1] - cpu_s[0], cpu_s[2] - cpu_s[1])
                for what, each in zip(took, seconds, strict=True):
                    took[what] += [each] if i else []
                if i == repeats:
                    hop_s = measure_hop(
                        log, folder / f"{name}-hop", sources["clicks"], formats["clicks"], values["clicks"][0]
                    )
            finally:
                log.close()
        row: Row = {"log": kind, "form": form, "events": len(events), "hop_ms": hop_s * 1e3}
        row |= {f"{what}_per_s": len(events) / statistics.median(seconds) for what, seconds in took.items()}
        rows.append(row)
        print(
            f"{kind:<7}{form:<9} events/s: bare loop {row['bare_per_s']:>8,.0f}   ingest "
            f"{row['ingest_per_s']:>8,.0f}   and joined {row['joined_per_s']:>8,.0f}; by processor time bare "
            f"{row['bare_cpu_per_s']:>8,.0f}, ingest {row['ingest_cpu_per_s']:>7,.0f}; "
            f"the hop {row['hop_ms']:.1f} ms",
            flush=True,
        )
    return rows


def measure_role(url: str, kind: str, folder: Path) -> Row:
    """The hops through the whole role."""
    shown_s, matched_s = role_hops(url, folder)
    print(
        f"{kind:<7}through the role: impression {shown_s * 1e3:.1f} ms, "
        f"matched click {matched_s * 1e3:.1f} ms"
    )
    return {"log": kind, "role_hop_ms": shown_s * 1e3, "matched_hop_ms": matched_s * 1e3}


def main() -> None:
    """Run, print one line a case, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", choices=["sqlite", "kafka", "both"], default="both")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few events, once: does it run?")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    events = make_events(5_000 if options.quick else options.events)
    repeats = 1 if options.quick else options.repeats
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.log in ("sqlite", "both"):
            rows += measure(f"sqlite:{folder}", "sqlite", events, folder, repeats)
            rows.append(measure_role(f"sqlite:{folder}", "sqlite", folder))
        if options.log in ("kafka", "both"):
            with kafka_url(folder) as url:
                rows += measure(url, "kafka", events, folder, repeats)
                rows.append(measure_role(url, "kafka", folder))
    print(json.dumps(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
