"""A server that draws its orders, people who click, and what `freshet evaluate` makes of the log.

The truth is the simulator's, and the order that is judged is another model's than the one that was shown by.
The server's model stands still while it is played, so that the same seeds give the same log.
"""

import heapq
import json
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet
import pytest
from scraping import free_port, running
from waiting import wait_until

from freshet.cli.main import main
from freshet.config import Config, load_config
from freshet.decide.compare import read_runs
from freshet.decide.evaluate import read_logged
from freshet.decide.offpolicy import greedy_places
from freshet.errors import CompareError
from freshet.roles.opening import open_topics
from freshet.roles.roles import run_join, run_learn, run_serve
from stream.files.record_files import write_records
from stream.log.base import EVENTS, EXAMPLES, Outgoing
from stream.records.types import Action, Example, Features, Impression, encode, encode_json
from stream.world.simulator import World, WorldSettings

HISTORY, REQUESTS, SLATE, SEED = 300, 900, 4, 11
CONFIG = """
log = "sqlite:log.db"
state = "state"
[stream.log]
sync = false
[join]
window_s = 60.0
[features.user]
[features.item]
[features.category]
[learner]
deep = "none"
[memory]
kind = "none"
[server]
port = {port}
explore = "thompson"
freeze_after_examples = {examples}
"""


def play(url: str, world: World) -> dict[str, np.ndarray]:
    """Ask for scores, click as the order shown has it; returns the truth of each request."""
    truth: dict[str, np.ndarray] = {}
    coming: list[tuple[float, int, Action]] = []
    clicks = 0
    with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as client:

        def tell(until: float) -> None:
            while coming and coming[0][0] <= until:
                action = heapq.heappop(coming)[2]
                body = {"request_id": action.request_id, "candidate": action.candidate, "time": action.time}
                client.post("/v1/feedback", json=body).raise_for_status()

        for _ in range(REQUESTS):
            shown = world.request()
            tell(shown.time)
            body = {"request_id": shown.request_id, "time": shown.time, "context": shown.context}
            answer = client.post("/v1/score", json={**body, "candidates": shown.candidates})
            answered = answer.raise_for_status().json()
            assert answered["explore"] == "thompson" and answered["logged"]
            truth[shown.request_id] = world.truth(shown)
            for action in world.react(shown, answered["order"]):
                clicks += 1
                heapq.heappush(coming, (action.time, clicks, action))
        tell(float("inf"))
        # nobody waits for the windows any longer
        end = Impression("end", shown.time + 1000.0, [{"item": 0}], {"user": "nobody"}, labels=[0.0])
        client.post("/v1/events", content=encode_json(end)).raise_for_status()
    return truth


@pytest.mark.process
def test_an_order_is_worth_what_the_simulator_says_judged_by_a_live_log(tmp_path: Path) -> None:
    file = tmp_path / "freshet.toml"
    file.write_text(CONFIG.format(port=free_port(), examples=HISTORY * SLATE))
    config: Config = load_config(file)
    world = World(
        WorldSettings(
            seed=SEED, slate=SLATE, click_rate=0.25, shift_every_s=0, requests_per_s=20.0, label_delay_s=2.0
        )
    )
    log = open_topics(config)
    for example in world.examples(HISTORY):
        shown = Impression(
            example.request_id, example.time, example.candidates, example.context, labels=example.labels
        )
        log.append(EVENTS, [Outgoing(b"k", encode(shown), 0)])
    url = f"http://127.0.0.1:{config.server.port}"
    with running(config, run_join, run_learn, run_serve):
        wait_until(lambda: _learnt(url) == HISTORY * SLATE, "the history to be learnt")
        truth = play(url, world)
        total = HISTORY + REQUESTS + 1
        wait_until(lambda: log.committed("learn", EXAMPLES).get(0, 0) == total, "the log to be learnt")
    log.close()
    report, told = tmp_path / "a.json", tmp_path / "value.json"
    command = ["replay", "--config", str(file), "--data", config.log, "--report", str(report)]
    assert main([*command, "--predictions"]) == 0
    assert main(["evaluate", str(report), "--report", str(told)]) == 0

    (run,) = read_runs([report])
    logged, rows = read_logged(run.predicted.path)
    assert logged.requests == REQUESTS
    names = pyarrow.parquet.read_table(run.predicted.path, columns=["request_id"])["request_id"].to_pylist()
    chances = np.concatenate([truth[name] for name in dict.fromkeys(names[row] for row in rows)])
    place = greedy_places(logged, np.asarray(run.predicted.corrected)[rows])
    worth = float((chances / np.log2(place + 2.0)).sum() / REQUESTS)
    shown_worth = float((chances / np.log2(logged.place + 2.0)).sum() / REQUESTS)
    found = json.loads(told.read_text())
    (value,) = found["values"]
    assert found["shown"]["low"] < shown_worth < found["shown"]["high"]
    for name in ("ips", "snips", "dr"):
        assert value[name]["low"] < worth < value[name]["high"], (name, value, worth)
    assert value["dr"]["high"] - value["dr"]["low"] < 0.4 * worth


def test_requests_shown_in_part_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def example(number: int, count: int) -> Example:
        time = 1e9 + number
        items: list[Features] = [{"item": 1}, {"item": 2}]
        return Example(
            f"r{number}", time, time, items, [0.0, 1.0],
            place=[1, 0], propensity=[0.5, 0.5], candidate_count=count,
        )  # fmt: skip

    path = tmp_path / "r.parquet"
    write_records(path, "examples", [example(0, 0), example(1, 20), example(2, 2)])
    logged, rows = read_logged(path)
    assert rows.tolist() == [0, 1, 4, 5] and logged.request.tolist() == [0, 0, 1, 1]
    assert "1 requests are left out of which only some candidates were shown" in capsys.readouterr().err
    write_records(path, "examples", [example(1, 20)])
    with pytest.raises(CompareError, match="of no request with a drawn order all candidates were shown"):
        read_logged(path)


def _learnt(url: str) -> int:
    try:
        return int(httpx.get(f"{url}/v1/model", trust_env=False).json()["examples_learnt"])
    except (httpx.TransportError, KeyError):
        return -1
