"""Every helper thread of every role: a defect in one ends its role, with the defect's own traceback."""

import ast
import os
import re
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from scraping import free_port

from freshet.config import Config, parse_config, resolve
from freshet.roles import process
from freshet.roles.metrics_port import MetricsPort
from freshet.roles.opening import open_topics
from freshet.roles.process import Stop
from freshet.roles.roles import run_ingest, run_join, run_serve
from freshet.roles.voice import Voice
from freshet.sections.stream_and_metrics import MetricsSettings
from serving.app.writer import EventWriter
from serving.replica.replica import Replica
from serving.watch.overview import Overview
from stream.errors import ProducerError, StateFullError
from stream.group.membership import Member
from stream.ingest.share import ShareWork
from stream.log.lag import LagMeter
from stream.log.open import open_log
from stream.produce.producer import Producer

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("ground", "stream", "embeddings", "error_memory", "learner", "serving", "freshet")


class DefectError(Exception):
    """What no code expects."""


def fail(*_: object, **__: object) -> None:
    raise DefectError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    table = {
        "stream": {"log": {"sync": False}},
        "features": {"item": {"kind": "id"}},
        "learner": {"deep": "none"},
        "server": {"port": 0},
        "metrics": {"join_port": free_port(), "ingest_port": free_port()},
    }
    resolved = resolve(parse_config(table, "test"), tmp_path)
    open_topics(resolved).close()
    return resolved


def with_source(config: Config) -> Config:
    """With a source, whose topic is there."""
    shown = {
        "kind": "impression", "topic": "shop", "request_id": "r", "time": {"field": "at", "unit": "s"},
        "candidates": "items", "features": {"item": "sku"},
    }  # fmt: skip
    sources = parse_config({"features": {"item": {}}, "sources": {"shown": shown}}, "test").sources
    with closing(open_log(config.log)) as log:
        log.create_topic("shop", 1)
    return msgspec.structs.replace(config, sources=sources)


def ended(run: Callable[[Config, threading.Event], None], config: Config) -> None:
    """The role ends by itself, with the defect and where it is."""
    stop = threading.Event()
    late = threading.Timer(60.0, stop.set)
    late.start()
    try:
        with pytest.raises(DefectError) as caught:
            run(config, stop)
        assert late.is_alive(), "it ended by itself, not because it was told to"
    finally:
        late.cancel()
    assert "in fail" in "".join(traceback.format_tb(caught.value.__traceback__))


in_each_helper = pytest.mark.parametrize(
    ("owner", "method"),
    [(LagMeter, "measure"), (Member, "pulse"), (MetricsPort, "_serve")],
    ids=["lag", "heartbeats", "metrics"],
)


@in_each_helper
def test_defect_in_a_thread_ends_the_joiner(
    owner: type, method: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, method, fail)
    ended(run_join, config)


@in_each_helper
def test_defect_in_a_thread_ends_ingest(
    owner: type, method: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, method, fail)
    ended(run_ingest, with_source(config))


def test_ingest_starts_again_once_a_full_disk_has_ended_one_of_its_threads(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, lives = threading.Event(), iter(["full", "well"])

    def run(_: ShareWork, stopping: threading.Event) -> None:
        if next(lives) == "full":
            raise StateFullError("no room")
        stop.set()
        assert stopping.wait(60.0), "what stops the role stops its threads"

    monkeypatch.setattr(ShareWork, "run", run)
    run_ingest(msgspec.structs.replace(with_source(config), metrics=MetricsSettings()), stop)
    assert not [*lives]


@pytest.mark.parametrize(
    ("owner", "method"),
    [(Replica, "step"), (LagMeter, "measure"), (EventWriter, "_run"), (Overview, "_run"), (Voice, "ready")],
    ids=["replica", "lag", "writer", "overview", "watch"],
)
def test_defect_in_a_thread_ends_the_server(
    owner: type, method: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, method, fail)
    ended(run_serve, config)


def test_defect_in_the_watch_over_the_parent_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PARENT_EVERY_S", 0.01)
    monkeypatch.setattr(os, "getppid", fail)
    with pytest.raises(DefectError), Stop(parent=1) as stop:
        assert stop.event.wait(60.0), "the role is told to stop"


def test_defect_in_a_producers_thread_is_raised_in_the_caller(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(config.log)
    with pytest.raises(ProducerError, match="ended with an error") as caught, Producer(log) as producer:
        monkeypatch.setattr(log, "append", fail)
        producer.impression([{"item": 1}])
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            producer.flush(1.0)
    assert isinstance(caught.value.__cause__, DefectError)
    log.close()


def calls_of(*names: str) -> dict[str, list[tuple[str, ast.Call]]]:
    """The calls of functions or classes in the packages, each with its file, by name."""
    found: dict[str, list[tuple[str, ast.Call]]] = {name: [] for name in names}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        text = path.read_text()
        if not any(name in text for name in names):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
                if called in found:
                    found[called].append((str(path.relative_to(ROOT)), node))
    return found


@pytest.mark.slow
def test_threads_are_helper_threads_and_all_of_them_are_in_the_list() -> None:
    calls = calls_of("Thread", "Timer", "start_new_thread", "HelperThread")
    assert {file for file, _ in calls["Thread"]} == {"ground/clock.py"}
    assert not calls["Timer"] and not calls["start_new_thread"]
    helpers = {
        ast.unparse(call.args[0]).strip("f'\"").split(" ")[0].split("{")[0]
        for _, call in calls["HelperThread"]
    }
    listed = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "threads.md").read_text(), re.MULTILINE)
    assert {name.split(" ")[0] for name in listed} == helpers | {"deep", "restore"}
