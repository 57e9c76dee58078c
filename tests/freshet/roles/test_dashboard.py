"""The dashboard: every query returns data from a real Prometheus that scrapes running roles."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from loaded import ready
from paths import ROOT
from scraping import free_port, running

from freshet.config import Config, parse_config, resolve
from freshet.roles import metrics_page
from freshet.roles.roles import run_join, run_learn, run_serve

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "freshet.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
UNKNOWN_AT_FIRST = "freshet_shown_young_ratio"  # says something from the second day of event time on
WAIT_S = 240.0  # a busy machine that compiles kernels first


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_dashboard_asks_only_for_metrics_that_exist() -> None:
    known = {
        name for role in ("ingest", "joiner", "learner", "server") for name in metrics_page.families(role)
    }
    asked = {name for _, expr in QUERIES for name in re.findall(r"\bfreshet_[a-z_]+", expr)}
    assert len(asked) > 15
    assert {name.removesuffix("_bucket") for name in asked} <= known


@pytest.fixture
def config(tmp_path: Path) -> Config:
    table = {
        "stream": {"log": {"sync": False}},
        "join": {"window_s": 1.0},
        "targets": {"click": {}, "buy": {"of": "click"}, "minutes": {"kind": "value", "of": "click"}},
        "features": {"user": {"kind": "id"}, "item": {"kind": "id"}},
        "learner": {"deep": "none"},
        "models": {"challenger": {"share": 0.3}},
        "server": {"port": free_port()},
        "metrics": {"join_port": free_port(), "learn_port": free_port()},
    }
    return resolve(parse_config(table, "test"), tmp_path)


@pytest.fixture
def prometheus(tmp_path: Path, config: Config, promtool: str) -> Iterator[str]:
    """URL of a Prometheus, from the package that promtool is of, that scrapes all three roles."""
    program = shutil.which("prometheus", path=str(Path(promtool).parent))
    assert program is not None, "promtool is here, and prometheus, of the same package, is not"
    ports = (config.server.port, config.metrics.join_port, config.metrics.learn_port)
    targets = [f"127.0.0.1:{port}" for port in ports]
    job = {"job_name": "freshet", "static_configs": [{"targets": targets}]}
    scrape = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}
    file = tmp_path / "prometheus.yml"
    file.write_text(json.dumps(scrape))  # JSON is YAML too
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={address}"], stdout=log, stderr=subprocess.STDOUT
        )
    yield f"http://{address}"
    process.terminate()
    process.wait(60)


def play(url: str, stop: threading.Event, errors: list[Exception]) -> None:
    """Ask for scores and click, some twenty times a second; now and then send something useless."""
    try:
        with httpx.Client(base_url=url, timeout=60.0) as client:
            n = 0
            while not stop.wait(0.05):
                n += 1
                body = {"context": {"user": n % 5}, "candidates": [{"item": n % 7}, {"item": n % 3}]}
                shown = client.post("/v1/score", json=body).raise_for_status().json()
                feedback = {"request_id": shown["request_id"], "candidate": n % 2}
                client.post("/v1/feedback", json=feedback).raise_for_status()
                if n % 3 == 0:
                    client.post("/v1/feedback", json={**feedback, "name": "buy"}).raise_for_status()
                watched = {**feedback, "name": "minutes", "value": 1.0 + n % 4}
                client.post("/v1/feedback", json=watched).raise_for_status()
    except Exception as error:
        errors.append(error)


def ask(url: str, expr: str) -> list[Any]:
    """What Prometheus answers, for one value of each of the dashboard's variables."""
    for name, value in (("$job", "freshet"), ("$__rate_interval", "1m")):
        expr = expr.replace(name, value)
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expr}, timeout=60.0)
    assert answer.status_code == 200, (expr, answer.text)
    found: list[Any] = answer.json()["data"]["result"]
    return [entry for entry in found if entry["value"][1] != "NaN"]


@pytest.mark.process
@pytest.mark.timeout(600)
def test_every_query_returns_data_from_running_roles(config: Config, prometheus: str) -> None:
    server = f"http://127.0.0.1:{config.server.port}"
    stop = threading.Event()
    errors: list[Exception] = []
    with running(config, run_join, run_learn, run_serve):
        ready(server)
        player = threading.Thread(target=play, args=(server, stop, errors))
        player.start()
        try:
            empty = [
                *(query for query in QUERIES if UNKNOWN_AT_FIRST not in query[1]),
                ("the learner's", 'freshet_learn_target_quality{job=~"$job",target="minutes"}'),
            ]
            deadline = time.monotonic() + WAIT_S
            while empty and not errors:
                assert time.monotonic() < deadline, f"no data for {empty}"
                time.sleep(1.0)
                try:
                    empty = [(title, expr) for title, expr in empty if not ask(prometheus, expr)]
                except httpx.TransportError:
                    continue  # it is starting
        finally:
            stop.set()
            player.join()
    assert not errors, errors
