"""Events from a client that is not ours, kcat, in JSON, over a real broker: joined and learnt."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from scraping import free_port, running, scrape_until, total

from freshet.config import Config, parse_config, resolve
from freshet.roles.opening import open_topics
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, partition_of
from stream.records.decoding import Decoder
from stream.records.types import Example

PARTITIONS = 4
REQUESTS = 60

pytestmark = pytest.mark.process


@pytest.fixture
def config(tmp_path: Path, kafka_broker: str, kafka_prefix: str) -> Config:
    table = {
        "log": f"kafka://{kafka_broker}/{kafka_prefix}",
        "stream": {"partitions": PARTITIONS, "log": {"kafka": {"away_after_s": 60.0}}},
        "join": {"decide": "first_action"},
        "features": {"user": {"kind": "id"}, "item": {"kind": "id"}},
        "learner": {"deep": "none"},
        "metrics": {"join_port": free_port(), "learn_port": free_port()},
    }
    return resolve(parse_config(table, "test"), tmp_path)


def pipe(kcat: str, broker: str, topic: str, lines: list[tuple[str, dict[str, object]]]) -> None:
    """Pipe keys and JSON lines into a topic, as docs/producers.md shows it."""
    text = "".join(f"{key}\t{json.dumps(event)}\n" for key, event in lines)
    command = [kcat, "-P", "-b", broker, "-t", topic, "-K", "\t"]
    command += ["-X", "partitioner=murmur2_random", "-X", "acks=all"]
    subprocess.run(command, input=text.encode(), check=True, timeout=60)


def test_json_lines_from_kcat_are_joined_and_learnt(
    kcat: str, kafka_broker: str, kafka_prefix: str, config: Config
) -> None:
    log = open_topics(config)
    now = time.time()
    shown = {f"r{i}": {"user": f"u{i % 7}"} for i in range(REQUESTS)}
    impressions: list[tuple[str, dict[str, object]]] = [
        (
            name,
            {
                "type": "impression",
                "request_id": name,
                "time": now,
                "context": context,
                "candidates": [{"item": 1}, {"item": 2}],
            },
        )
        for name, context in shown.items()
    ]
    actions: list[tuple[str, dict[str, object]]] = [
        (name, {"type": "action", "request_id": name, "time": now + 1.0, "candidate": 1}) for name in shown
    ]
    with running(config):
        # in runs of kcat of their own: what meets was not sent over one connection
        pipe(kcat, kafka_broker, f"{kafka_prefix}.{EVENTS}", impressions)
        pipe(kcat, kafka_broker, f"{kafka_prefix}.{EVENTS}", actions)
        scrape_until(config.metrics.learn_port, lambda m: total(m, "freshet_learn_examples") == 2 * REQUESTS)
        scrape_until(config.metrics.join_port, lambda m: len(m["freshet_lag_records"].samples) == PARTITIONS)
    decode = Decoder(Example).decode
    learnt = {}
    for partition in range(PARTITIONS):
        for record in log.read(EXAMPLES, partition, 0):
            example: Example = decode(record.value)
            learnt[example.request_id] = example.labels
            assert partition_of(example.request_id.encode(), PARTITIONS) == partition
    assert learnt == {name: [0.0, 1.0] for name in shown}
    assert log.ends(DEAD_LETTERS) == [(0, 0)]
    log.close()
