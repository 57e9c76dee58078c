"""What metrics cost on the hot path, as a share of the work that they count, in the same run.

    .venv/bin/python benchmarks/metrics.py [--quick] [--json OUT]

A server counts each request as it ends: compared with scoring one of 50 candidates (JSON to scores to the
record for the log; without HTTP and the log, which only make the share smaller). A learner copies its
figures once a second: compared with that second. So is the server's overview for the live page, which is
made once a second however many look, with a full window of metrics; and what one who looks costs. Times
are of the processor, the least of five runs, so that a busy machine does not decide.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.metrics import Metrics
from learner.settings import LearnerSettings
from serving.app.bodies import ScoreRequest
from serving.app.writer import EventWriter
from serving.http.frame import Call
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from serving.watch.overview import Overview
from serving.watch.page import LivePage
from serving.watch.pulse import Pulse
from serving.watch.telemetry import Telemetry
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.decoding import check
from stream.records.types import Example, Impression, Served, encode

CANDIDATES = 50
SHARE_MAX = 0.01
FEATURES = {name: FeatureSpec(kind="id") for name in ("user", "item", "category")}


def processor_us(work: Callable[[], object], times: int) -> float:
    """Microseconds of one call."""
    work()
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(times):
            work()
        best = min(best, (time.process_time() - start) / times)
    return best * 1e6


def serving(times: int) -> dict[str, float]:
    """A request's metrics, and a request."""
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteLog(Path(folder) / "log.db", LogSettings(sync=False))
        for topic in (EVENTS, EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
            log.create_topic(topic, 1)
        replica = Replica(log, FEATURES, LearnerSettings(), MemorySettings(), ServerSettings())
        rng = np.random.default_rng(0)
        for first in range(0, ServerSettings().window, 500):
            log.append(
                EXAMPLES,
                [
                    Outgoing(
                        b"", encode(Example(f"r{i}", 1e9, 1e9, [{"item": i % 997, "user": i % 1009}], [y]))
                    )
                    for i, y in enumerate((rng.random(500) < 0.2).astype(float).tolist(), first)
                ],
            )
        while replica.step():
            pass
        telemetry = Telemetry(replica, EventWriter(log))
        candidates = [{"item": i, "category": i % 7} for i in range(CANDIDATES)]
        body = msgspec.json.encode({"context": {"user": 3}, "candidates": candidates})
        decode = msgspec.json.Decoder(ScoreRequest).decode

        def score() -> bytes:
            request = decode(body)
            shown = Impression("r", 1e9, request.candidates, request.context)
            check(shown)
            (scored,) = replica.score([shown])
            served = Served(scored.base, scored.corrected, scored.version)
            return encode(msgspec.structs.replace(shown, served=served))

        def count() -> None:
            telemetry.request_ended("/v1/score", 200, 0.001)
            telemetry.candidates.inc(CANDIDATES)

        overview = Overview(log, Pulse(replica, telemetry).take)
        overview.name = "benchmark"
        page = LivePage(overview)
        call = Call(b"", {}, "", "")

        def view() -> None:
            with contextlib.suppress(StopIteration):
                page.now(call).send(None)

        found = {
            "look_us": processor_us(overview.look, max(times // 10, 1)),
            "view_us": processor_us(view, times),
            "request_us": processor_us(score, times),
            "request_metrics_us": processor_us(count, 20 * times),
            "scrape_us": processor_us(telemetry.render, max(times // 10, 1)),
        }
        log.close()
    return found


def learning(times: int) -> float:
    """Microseconds to copy a learner's figures, its window full."""
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    metrics = Metrics(LearnerSettings().window)
    users = rng.integers(0, 1000, p.size).astype(np.uint64)
    metrics.add(p, (rng.random(p.size) < p).astype(float), users)
    return processor_us(metrics.recent, times)


def main() -> None:
    """Run, print a line each, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a run of seconds")
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    times = 100 if arguments.quick else 1000
    found: dict[str, Any] = serving(times)
    found["figures_us"] = learning(max(times // 20, 5))
    found["server_share"] = found["request_metrics_us"] / found["request_us"]
    found["learner_share"] = found["figures_us"] / 1e6
    print(
        f"server: {found['request_metrics_us']:.1f} µs of a score of {CANDIDATES} candidates' "
        f"{found['request_us']:.0f} µs: {found['server_share']:.2%} (limit {SHARE_MAX:.0%}); "
        f"a scrape: {found['scrape_us']:.0f} µs"
    )
    print(
        f"learner: {found['figures_us']:.0f} µs a second: {found['learner_share']:.2%} "
        f"(limit {SHARE_MAX:.0%})"
    )
    look_share = found["look_us"] / 1e6
    print(
        f"overview: {found['look_us']:.0f} µs a second: {look_share:.2%} (limit {SHARE_MAX:.0%}), "
        f"and for each who looks {found['view_us']:.1f} µs a second, besides HTTP"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
