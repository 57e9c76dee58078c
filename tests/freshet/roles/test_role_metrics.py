"""Each role's /metrics, scraped from running roles, in the format that Prometheus reads."""

import contextlib
import http.client
import socket
import threading
import time
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric
from scraping import free_port, running, scrape, scrape_until, total

from freshet.config import Config, parse_config, resolve
from freshet.errors import ConfigError
from freshet.roles.metrics_port import REQUESTS_MAX, MetricsPort
from freshet.roles.opening import open_topics
from freshet.roles.reporter import of_learner
from freshet.roles.role_metrics import JOIN, LEARN, RoleCollector
from freshet.roles.roles import run_join
from learner.role.learner import Learner
from stream.join.settings import JoinCounts
from stream.log.base import EVENTS, EXAMPLES, Outgoing
from stream.log.lag import LagMeter
from stream.log.testing import MemoryLog
from stream.records.targets import Target, Targets
from stream.records.types import Example, Impression, encode
from stream.run.contract import Progress


@pytest.fixture
def config(tmp_path: Path) -> Config:
    table = {
        "stream": {"partitions": 2, "log": {"sync": False}},
        "features": {"item": {"kind": "id"}, "tag": {"kind": "id", "admit_after": 2, "ttl_s": 60.0}},
        "learner": {"deep": "none"},
        "metrics": {"join_port": free_port(), "learn_port": free_port()},
    }
    return resolve(parse_config(table, "test"), tmp_path)


def values(found: dict[str, Metric], name: str) -> dict[tuple[str, ...], float]:
    """By label values, in the order of the labels' names."""
    return {tuple(v for _, v in sorted(s.labels.items())): s.value for s in found[name].samples}


def test_joiner_and_learner_tell_what_they_did_and_how_far_behind_they_are(config: Config) -> None:
    log = open_topics(config)
    now = time.time()
    with running(config):
        shown = [
            Impression(f"r{i}", now, [{"item": i}, {"item": i + 1}], labels=[1.0, 0.0]) for i in range(40)
        ]
        log.append(EVENTS, [Outgoing(e.request_id.encode(), encode(e)) for e in shown])
        log.append(EVENTS, [Outgoing(b"", b"bad", partition=1)])
        scrape_until(config.metrics.join_port, lambda m: total(m, "freshet_join_examples") == 40)
        found = scrape_until(config.metrics.join_port, lambda m: len(m["freshet_lag_records"].samples) == 2)
        assert values(found, "freshet_join_positives") == {(): 40.0}
        assert values(found, "freshet_dead_letters") == {("joiner",): 1.0}
        assert values(found, "freshet_records_taken") == {("joiner",): 41.0}
        assert set(values(found, "freshet_lag_records")) == {(p, "joiner", EVENTS) for p in "01"}
        clocks = values(found, "freshet_join_clock_timestamp_seconds")
        assert clocks == {("0",): pytest.approx(now), ("1",): pytest.approx(now)}
        assert values(found, "freshet_log_up") == {(): 1.0}
        found = scrape_until(config.metrics.learn_port, lambda m: total(m, "freshet_learn_examples") == 80)
        assert values(found, "freshet_learn_rows")[()] > 0
        found = scrape_until(config.metrics.learn_port, lambda m: bool(m["freshet_lag_seconds"].samples))
        assert values(found, "freshet_lag_seconds")[("0", "learner", "examples")] >= 0.0
    log.close()
    with pytest.raises(OSError, match="refused"):
        scrape(config.metrics.join_port)


@pytest.mark.process
def test_learner_counts_what_becomes_of_rows_by_feature(config: Config) -> None:
    log = open_topics(config)
    now = time.time()

    def show(first: int, count: int, at: float) -> None:
        shown = [
            Impression(f"r{first + i}", at, [{"item": i, "tag": i % 5}], labels=[1.0]) for i in range(count)
        ]
        log.append(EVENTS, [Outgoing(b"k", encode(e), partition=0) for e in shown])

    names = ("rows_admitted", "sightings_refused", "rows_expired", "rows_evicted")

    def counted(found: dict[str, Metric], table: str) -> tuple[float, ...]:
        return tuple(values(found, f"freshet_learn_{name}").get((table,), -1.0) for name in names)

    port = config.metrics.learn_port
    with running(config):
        show(0, 40, now - 3600.0)  # each tag is refused once, and then let in
        found = scrape_until(port, lambda m: total(m, "freshet_learn_examples") == 40)
        assert counted(found, "item") == (40.0, 0.0, 0.0, 0.0)
        assert counted(found, "tag") == (5.0, 5.0, 0.0, 0.0)
        show(40, 1, now)  # an hour later: what became of the tags is not known before
        found = scrape_until(port, lambda m: counted(m, "tag")[2] == 5.0)
    with running(config):  # rows that it starts with are not let in again
        show(41, 1, now)
        found = scrape_until(port, lambda m: total(m, "freshet_learn_examples") == 42)
        assert counted(found, "item") == (0.0, 0.0, 0.0, 0.0)
    log.close()


def test_port_in_use_is_an_error_that_names_the_key(config: Config) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", config.metrics.join_port))
        taken.listen()
        with pytest.raises(ConfigError, match=r"metrics\.join_port = \d+: cannot listen"):
            run_join(config, threading.Event())


def test_every_figure_of_a_role_has_its_metric(config: Config) -> None:
    beside_counts = {"undecided", "partitions", "joined_share", "waiting", "waiting_bytes"}
    beside_counts |= {"skew", "largest_entity"}  # of sharded examples
    assert set(JOIN) | {"dead_letters"} == {*JoinCounts.__struct_fields__} | beside_counts
    by_table = {"evicted"}
    of_shards = {"turns", "turn_s", "turn_bytes", "busiest_over_fair_share"}
    features = {n: msgspec.structs.replace(spec, memory_rows=1) for n, spec in config.features.items()}
    measured = Learner(features, config.learner).metric_values()
    assert set(LEARN) | {"dead_letters"} | by_table == set(measured) | of_shards


def test_learner_tells_further_targets_by_label_and_with_one_target_nothing_new(config: Config) -> None:
    targets = Targets(
        {"click": Target(), "buy": Target(of="click"), "minutes": Target(kind="value", of="click")}
    )
    learner = Learner(config.features, config.learner, targets=targets)
    examples = []
    for i in range(200):
        examples += [
            Example(f"{i}/{name}", 1e9 + i, 1e9 + i, [{"item": i % 5}], [label], target=name)
            for name, label in (
                ("", float(i % 3 == 0)),
                ("buy", float(i % 5 == 0)),
                ("minutes", 1.0 + i % 7),
            )
        ]
    learner.learn(examples)

    def families(learner: Learner) -> dict[str, Metric]:
        source = of_learner(learner)
        meter = LagMeter(MemoryLog(), EXAMPLES, dict)
        collector = RoleCollector("learn", Progress(), source.values(), meter, source.clocks, source.ahead)
        collector.targets = source.targets()
        return {family.name: family for family in collector.collect()}

    found = families(learner)
    told = values(found, "freshet_learn_target_quality")
    assert {target for _, target in told} == {"buy", "minutes"}
    by_name = learner.saved_metrics.by_name
    for metric, target in told:
        assert told[metric, target] == dict(by_name[target].recent())[metric]
    assert ("auc", "buy") in told and ("mae", "minutes") in told and ("auc", "minutes") not in told
    assert values(found, "freshet_learn_auc") == {(): by_name["click"].recent()["auc"]}
    alone = families(Learner(config.features, config.learner))
    assert found.keys() - alone.keys() == {"freshet_learn_target_quality"}


def test_no_web_page_reads_the_metrics_and_no_idle_client_holds_the_port() -> None:
    port = free_port()
    registry = CollectorRegistry()
    Gauge("freshet_known", "A number.", registry=registry).set(7.0)
    serving = MetricsPort("127.0.0.1", port, registry, wait_s=3.0)

    def ask(headers: dict[str, str]) -> tuple[int, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)) as peer:
            peer.request("GET", "/metrics", headers=headers)
            with peer.getresponse() as answer:
                return answer.status, answer.read()

    try:
        assert ask({})[1].endswith(b"freshet_known 7.0\n")
        assert ask({"Host": f"localhost:{port}"})[0] == 200
        assert ask({"Sec-Fetch-Site": "none"})[0] == 200
        for headers in (
            {"Host": "evil.test"},
            {"Host": f"evil.test:{port}"},
            {"Origin": "http://evil.test"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            status, body = ask(headers)
            assert (status, b"freshet_known" in body) == (403, False)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(REQUESTS_MAX)]
        refused = (http.client.RemoteDisconnected, ConnectionResetError)
        with pytest.raises(refused):
            for _ in range(100):  # until all of them are at work
                ask({})
        deadline = time.monotonic() + 60.0
        while True:  # until those that said nothing are let go
            with contextlib.suppress(*refused):
                assert ask({})[0] == 200
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for peer in idle:
            peer.close()
    finally:
        serving.close()


@pytest.mark.parametrize(("host", "status"), [("0.0.0.0", 200), ("localhost", 403)])
def test_metrics_beyond_loopback_are_asked_for_by_any_name(host: str, status: int) -> None:
    port = free_port()
    serving = MetricsPort(host, port, CollectorRegistry())
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)) as peer:
            peer.request("GET", "/metrics", headers={"Host": "join:8471"})
            with peer.getresponse() as answer:
                assert answer.status == status
    finally:
        serving.close()


def test_defect_beside_a_client_that_has_left_is_printed_and_the_client_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [ConnectionResetError("the client has left"), ValueError("a defect")]

    def fail(*_: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(WSGIServer, "finish_request", fail)
    port = free_port()
    serving = MetricsPort("127.0.0.1", port, CollectorRegistry())
    try:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port), timeout=60.0) as peer:
                assert peer.recv(1) == b""  # closed after the error was handled
    finally:
        serving.close()
    told = capsys.readouterr().err
    assert "ValueError: a defect" in told and "has left" not in told
