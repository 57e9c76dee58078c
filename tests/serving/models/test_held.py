"""Several models in one server: who answers, what is logged, and what orders change."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from duelled import duelled
from two_models import (
    CHALLENGER,
    FEATURES,
    SETTINGS,
    OneLearner,
    add,
    asked,
    catch_up,
    examples_of,
    held,
    new_log,
)

from error_memory import MemorySettings
from ground.sealed import seal
from learner.errors import UpdateError
from learner.features.encoder import FeatureSpec
from serving.app.app import App
from serving.app.server import run_app
from serving.errors import UnavailableError
from serving.models.held import FROM_CONFIG, HeldModels
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from serving.watch.pulse import Pulse, model_rows
from serving.watch.telemetry import Telemetry
from stream.log.base import EVENTS, SNAPSHOTS, UPDATES, Outgoing
from stream.log.testing import MemoryLog
from stream.orders.names import MAIN, own_name
from stream.orders.orders import MODELS, OrderReader, Traffic, give_order
from stream.orders.view import log_of
from stream.records.decoding import Decoder
from stream.records.targets import Target, Targets
from stream.records.types import Impression, ServedTarget

pytestmark = pytest.mark.slow

HALF = {MAIN: 0.5, CHALLENGER: 0.5}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[MemoryLog]:
    """A log with examples that both models have learned."""
    opened = new_log()
    add(opened, examples_of(200))
    for model in HALF:
        one = OneLearner(opened, model, tmp_path / model)
        one.learn()
        one.learner.close()
        one.state.close()
    yield opened


@pytest.fixture
def models(log: MemoryLog) -> HeldModels:
    made = held(log, HALF)
    catch_up(made)
    return made


def test_models_have_their_own_updates_and_share_the_examples(log: MemoryLog) -> None:
    first, other = (log.ends(own_name(UPDATES, model))[0][1] for model in HALF)
    assert first > 0 and other > 0
    view = log_of(log, CHALLENGER)
    assert view.ends(UPDATES) == log.ends("updates.challenger") and view.ends(EVENTS) == log.ends(EVENTS)
    assert {record.topic for record in view.read(UPDATES, 0, 0)} == {UPDATES}
    assert view.committed("learn", "examples") == log.committed("learn.challenger", "examples") == {0: 200}
    assert log_of(log, MAIN) is log and view.partitions(SNAPSHOTS) == 1


def test_every_answer_is_whole_and_of_the_model_that_it_names(models: HeldModels) -> None:
    seen = set()
    for number in range(30):
        request = asked(f"u{number}", number)
        (scored,) = models.score([request])
        for name, predicted in (scored.models or {}).items():
            (alone,) = models.replicas[name].score([request])
            assert (predicted.base, predicted.corrected) == (alone.base, alone.corrected)
        (alone,) = models.replicas[scored.model].score([request])
        assert (scored.corrected, scored.order, scored.version) == (
            alone.corrected, alone.order, alone.version,
        )  # fmt: skip
        assert scored.served.by == scored.model and set(scored.served.models) == set(HALF)
        assert models.explain(request).model == scored.model
        assert models.explore(request, 1, 16).model == scored.model
        seen.add(scored.model)
        # by the person, not by the request
        assert models.score([asked(f"u{number}", number + 1000)])[0].model == scored.model
    assert seen == set(HALF)


def test_a_shadow_is_scored_and_never_shown(models: HeldModels, log: MemoryLog) -> None:
    offset = give_order(log, Traffic({MAIN: 1.0}, 0.0))
    models.look()
    for number in range(20):
        (scored,) = models.score([asked(f"u{number}", number)])
        assert scored.model == MAIN and CHALLENGER in scored.served.models
    status = models.status()
    assert status.shares_from == offset
    assert status.several[CHALLENGER].share == 0.0 and status.several[CHALLENGER].answered == 0
    assert status.several[CHALLENGER].corrected.recent["examples"] == 0.0  # all examples were in the weights


def test_a_thread_of_any_model_that_fails_ends_the_server_with_its_reason(log: MemoryLog) -> None:
    with held(log, HALF) as models:
        assert models.wait_ready(60.0) and models.failure is None
        models.check()
        update = {"epoch": 1, "seq": 1, "part": 0, "parts": 1, "watermark": {}, "examples": 0, "tables": []}
        strange = msgspec.msgpack.encode({**update, "event_time": 0.0, "ingest_ms": 0, "v": 99})
        log.append(own_name(UPDATES, CHALLENGER), [Outgoing(b"x", seal(strange), 0)])
        deadline = time.monotonic() + 60.0
        while models.failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "version 99" in models.unready() and not models.wait_ready(3600.0)
    with pytest.raises(UpdateError, match="version 99"):
        models.check()


def test_order_counts_once_its_models_are_ready(log: MemoryLog) -> None:
    give_order(log, Traffic(HALF, 0.0))
    models = held(log, {MAIN: 1.0, CHALLENGER: 0.0})
    with pytest.raises(UnavailableError, match="which model answers"):
        models.score([asked()])
    first, other = models.replicas.values()
    first.step()
    models.look()
    assert "challenger: the model is still loading" in models.unready()
    other.step()
    assert models.unready() == "" and models.status().shares_from == 0

    late = held(log, HALF)  # here the challenger loads while the server answers
    late.replicas[MAIN].step()
    late.look()
    give_order(log, Traffic({CHALLENGER: 1.0}, 0.0))
    late.replicas[CHALLENGER] = held(log, HALF).replicas[CHALLENGER]
    before = late.status().shares_from
    late.look()
    assert late.status().shares_from == before == 0
    late.replicas[CHALLENGER].step()
    late.look()
    assert late.status().shares_from == 1 and late.leading == CHALLENGER


def test_orders_that_cannot_be_followed_change_nothing(models: HeldModels, log: MemoryLog) -> None:
    give_order(log, Traffic({"stranger": 1.0}, 0.0))
    log.append(MODELS, [Outgoing(b"", b"no order", 0)])
    give_order(log, Traffic({MAIN: 1.0}, 0.0, v=2))
    models.look()
    assert models.status().shares_from == FROM_CONFIG and models.status().several[CHALLENGER].share == 0.5
    assert len(OrderReader(log).read()) == 1


@pytest.mark.parametrize(("kind", "compared"), [("event", 5), ("value", None)])
def test_log_losses_of_values_are_not_compared(kind: str, compared: int | None) -> None:
    log, targets = new_log(), Targets({"first": Target(kind=kind)})
    replicas = {
        name: Replica(log_of(log, name), FEATURES, one, MemorySettings(), ServerSettings(), targets)
        for name, one in SETTINGS.items()
    }
    models = HeldModels(log, replicas, HALF, "user")
    models.look()
    add(log, list(duelled(5, first_name=MAIN, other_name=CHALLENGER)))
    models.look()
    duel = models.status().several[CHALLENGER].duel
    assert (duel.requests if duel is not None else None) == compared


def test_metrics_and_page_tell_of_each_model(models: HeldModels, log: MemoryLog) -> None:
    add(log, examples_of(50, 1))
    catch_up(models)
    for number in range(20):
        models.score([asked(f"u{number}", number)])
    held_models = models.status().several
    assert sum(one.answered for one in held_models.values()) == 20
    assert all(one.corrected.recent["examples"] == 100.0 for one in held_models.values())

    class Unwritten:
        records = batches = failures = waiting = 0

    telemetry = Telemetry(models, Unwritten())
    text = telemetry.render().decode()
    for line in (
        'freshet_model_share{model="challenger"} 0.5',
        'freshet_model_ready{model="main"} 1.0',
        f'freshet_model_answered_total{{model="main"}} {held_models[MAIN].answered:.1f}',
        'freshet_model_quality{metric="logloss",model="challenger",prediction="corrected",span="recent"}',
    ):
        assert line in text
    rows = {row.model: row for row in model_rows(Pulse(models, telemetry).take().status.numbers)}
    assert set(rows) == set(HALF) and rows[MAIN].share == 0.5 and rows[MAIN].logloss is not None


def test_server_says_and_logs_which_model_answered(running, log: MemoryLog) -> None:
    models = held(log, HALF)
    settings = ServerSettings(port=0, stop_s=1.0)

    def serve(stop, on_listening) -> None:
        with models:
            run_app(App(models, log, settings), settings, stop.is_set, on_listening)

    with running(serve) as url, httpx.Client(base_url=url, timeout=60.0) as client:
        assert models.wait_ready(60.0)
        body = {"request_id": "r1", "context": {"user": "u5"}, "candidates": [{"item": 1}, {"item": 2}]}
        answer = client.post("/v1/score", json=body).json()
        assert answer["model"] == models.score([asked("u5")])[0].model
        assert client.post("/v1/explain", json=body).json()["model"] == answer["model"]
        inputs = [
            {"name": "user", "shape": [1], "datatype": "BYTES", "data": ["u5"]},
            {"name": "item", "shape": [2], "datatype": "INT64", "data": [1, 2]},
        ]
        inferred = client.post("/v2/models/freshet/infer", json={"inputs": inputs, "id": "r2"}).json()
        assert inferred["parameters"]["model"] == answer["model"]
        for name in HALF:  # whom its share would not answer too
            path, expected = f"/v2/models/{name}", models.replicas[name].score([asked("u5")])[0]
            assert client.get(f"{path}/ready").json() == {"name": name, "ready": True}
            assert client.get(path).json()["name"] == name
            body = {"inputs": [inputs[0], {**inputs[1], "shape": [4], "data": [0, 1, 2, 3]}]}
            found = client.post(f"{path}/infer", json={**body, "parameters": {"time": 1e9}}).json()
            assert found["model_name"] == name and found["parameters"] == {"logged": False}
            assert found["outputs"][0]["data"] == list(expected.corrected)
            refused = client.post(f"{path}/infer", json={**body, "parameters": {"log": True}})
            assert refused.status_code == 400 and "the shares have chosen" in refused.json()["error"]
        told = client.get("/v1/model").json()
        assert told["models"][answer["model"]]["answered"] >= 2 and told["shares_from"] == FROM_CONFIG
    logged = Decoder[Impression](Impression).decode(log.read(EVENTS, 0, 0)[0].value)
    assert logged.served is not None and logged.served.by == answer["model"]
    assert logged.served.models[answer["model"]].corrected == answer["corrected"]
    assert set(logged.served.models) == set(HALF)


@pytest.mark.parametrize("otherwise", [{"item": FeatureSpec(dim=2)}, {"user": FeatureSpec(pairs=False)}])
def test_what_a_shadow_predicts_is_what_it_would_answer(otherwise: dict[str, FeatureSpec]) -> None:
    log, settings = new_log(), ServerSettings(port=0)
    schemas = {MAIN: FEATURES, CHALLENGER: {**FEATURES, **otherwise}}
    replicas = {
        name: Replica(log_of(log, name), schema, SETTINGS[name], MemorySettings(), settings)
        for name, schema in schemas.items()
    }
    rng = np.random.default_rng(0)
    for replica in replicas.values():
        for table in replica.model.tables:
            slots = table.upsert(np.arange(20, dtype=np.uint64), 1)
            table.set_extras(slots, rng.normal(0, 1, (20, table.spec.extra)) ** 2)
    models = HeldModels(log, replicas, {MAIN: 1.0}, "user")
    catch_up(models)
    request = Impression("q", 1e9, [{"item": item} for item in range(9)], {"user": 5})
    alone = {name: replica.score([request])[0] for name, replica in replicas.items()}
    assert len(set(alone[CHALLENGER].corrected)) > 1
    for answer in (models.score([request])[0], models.explore(request, 1, 3)):
        assert answer.models is not None and answer.base == alone[MAIN].base
        for name, scored in alone.items():
            assert answer.models[name] == ServedTarget(scored.base, scored.corrected)
