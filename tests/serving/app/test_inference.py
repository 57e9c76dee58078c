"""The Open Inference Protocol over a real server: both encodings, bad requests, and clients of others."""

import json
import os
import re
import struct
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.settings import LearnerSettings
from serving.app.server import serve
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import EVENTS, Log
from stream.records.decoding import Decoder
from stream.records.types import Impression

FEATURES = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "tags": FeatureSpec(kind="ids"),
    "price": FeatureSpec(kind="number"),
}
INFER = "/v2/models/freshet/infer"
FOREIGN = Path(__file__).parents[1] / "foreign"


@pytest.fixture
def replica(log: Log) -> Replica:
    settings = ServerSettings(port=0, stop_s=1.0, candidates_max=100)
    return Replica(log, FEATURES, LearnerSettings(deep="none"), MemorySettings(), settings)


@pytest.fixture
def client(running, log: Log, replica: Replica) -> Iterator[httpx.Client]:
    with running(lambda stop, listening: serve(replica, log, replica.settings, stop, listening)) as url:
        assert replica.wait_ready(120.0)
        with httpx.Client(base_url=url, timeout=60.0) as opened:
            yield opened


def t(name: str, datatype: str, shape: list[int], data: object = None, **more: object) -> dict[str, object]:
    """A tensor as JSON; `more`: its parameters."""
    found: dict[str, object] = {"name": name, "datatype": datatype, "shape": shape, "parameters": more}
    return found if data is None else {**found, "data": data}


SLATE = [
    t("user", "BYTES", [1], ["ann"]),
    t("item", "INT64", [3, 1], [[3], [17], [4]]),
    t("price", "FP32", [3], [9.5, 21.0, 1.0]),
    t("tags", "BYTES", [3, 2], ["a", "b", "c", "", "", ""]),
]
AS_SCORE = {
    "context": {"user": "ann"},
    "candidates": [
        {"item": 3, "price": 9.5, "tags": ["a", "b"]},
        {"item": 17, "price": 21.0, "tags": ["c"]},
        {"item": 4, "price": 1.0, "tags": []},
    ],
    "request_id": "visit-1",
    "time": 1e9,
}


def teach(replica: Replica) -> None:
    """Give the served model weights, so that scores differ."""
    model = replica.model
    for table in model.tables:
        keys = np.arange(50, dtype=np.uint64)
        if hasattr(table, "upsert"):
            slots = table.upsert(keys, 1)
            table.set_extras(slots, np.random.default_rng(0).normal(0, 1, (50, table.spec.extra)) ** 2)


def by_name(answer: dict) -> dict[str, list]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


def test_metadata_and_readiness(client: httpx.Client) -> None:
    assert "binary_tensor_data" in client.get("/v2").json()["extensions"]
    model = client.get("/v2/models/freshet").json()
    assert [(i["name"], i["datatype"], i["shape"]) for i in model["inputs"]] == [
        ("user", "BYTES", [-1]), ("item", "BYTES", [-1]), ("tags", "BYTES", [-1, -1]), ("price", "FP64", [-1])
    ]  # fmt: skip
    assert [o["name"] for o in model["outputs"]] == ["corrected", "base", "order"]
    assert client.get("/v2/models/freshet/ready").json() == {"name": "freshet", "ready": True}
    assert client.get("/v2/models/other/ready").status_code == 404


def test_scores_are_those_of_v1_in_both_encodings_and_logged_if_asked(
    client: httpx.Client, replica: Replica, log: Log
) -> None:
    teach(replica)
    expected = client.post("/v1/score", json={**AS_SCORE, "log": False}).json()
    assert len(set(expected["corrected"])) > 1
    body = {"id": "visit-1", "inputs": SLATE, "parameters": {"time": 1e9, "log": True}}
    answer = client.post(INFER, json=body).json()
    found = by_name(answer)
    assert answer["id"] == "visit-1" and answer["parameters"] == {"logged": True}
    assert all(found[name] == expected[name] for name in ("base", "corrected", "order"))
    decode = Decoder(Impression).decode
    logged = [decode(r.value) for p in range(2) for r in log.read(EVENTS, p, 0)]
    assert [(i.context, i.candidates) for i in logged] == [(AS_SCORE["context"], AS_SCORE["candidates"])]

    texts = b"".join(struct.pack("<I", len(t)) + t for t in (b"a", b"b", b"c", b"", b"", b""))
    parts = [
        b"\3\0\0\0ann",
        np.array([3, 17, 4], "<i8").tobytes(),
        np.array([9.5, 21.0, 1.0], "<f2").tobytes(),
        texts,
    ]
    kinds = ("BYTES", "INT64", "FP16", "BYTES")
    inputs = [
        t(str(one["name"]), kind, one["shape"], binary_data_size=len(part))
        for one, kind, part in zip(SLATE, kinds, parts, strict=True)
    ]
    head = json.dumps({
        "inputs": inputs,
        "parameters": {"time": 1e9},
        "outputs": [{"name": "order"}, {"name": "corrected", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    raw = client.post(
        INFER, content=head + b"".join(parts), headers={"Inference-Header-Content-Length": str(len(head))}
    )
    length = int(raw.headers["inference-header-content-length"])
    outputs = json.loads(raw.content[:length])["outputs"]
    assert outputs[0]["data"] == expected["order"]
    assert np.frombuffer(raw.content[length:], "<f8").tolist() == expected["corrected"]


def test_missing_values_are_missing_features(client: httpx.Client, replica: Replica) -> None:
    teach(replica)
    inputs = [
        t("item", "INT64", [2], [3, 0], pad=0),
        t("user", "BYTES", [2], ["", "u"]),
    ]
    found = by_name(client.post(INFER, json={"inputs": inputs, "parameters": {"time": 1e9}}).json())
    plain = {"candidates": [{"item": 3}, {"user": "u"}], "time": 1e9}
    assert found["base"] == client.post("/v1/score", json=plain).json()["base"]


def test_null_is_the_same_as_absent(client: httpx.Client, replica: Replica) -> None:
    teach(replica)
    item = {"name": "item", "datatype": "INT64", "shape": [1], "data": [3]}
    said = {"inputs": [item], "parameters": {"time": 1e9}, "outputs": [{"name": "base"}]}
    nulls = {
        "inputs": [{**item, "parameters": None}],
        "parameters": {"time": 1e9, "log": None, "binary_data_output": None},
        "outputs": [{"name": "base", "parameters": None}],
        "id": None,
    }
    answers = [client.post(INFER, json=body).json()["outputs"] for body in (said, nulls)]
    assert answers[0] == answers[1]
    everything = {**nulls, "outputs": None, "parameters": None}
    assert len(client.post(INFER, json=everything).json()["outputs"]) == 3


BAD_TENSORS = [
    ([t("nothing", "FP32", [1], [1.0])], "no declared feature; the model has: user, item"),
    ([], "expected|need one common number"),
    ([SLATE[1], SLATE[1]], "is there twice"),
    ([t("item", "INT64", [2], [1, 2]), t("price", "FP32", [3], [1.0, 2.0, 3.0])], "item 2, price 3"),
    ([t("item", "INT64", [3], [1, 2])], "has 2 values; its shape"),
    ([t("item", "INT64", [2, 2], [1, 2, 3, 4])], "expected shape"),
    ([t("item", "INT64", [2, 1], [[1, 2]])], "not of shape"),
    ([t("item", "INT64", [1, 1, 1], [1])], "has shape"),
    ([t("item", "INT64", [0], [])], "need one common number"),
    ([t("item", "INT64", [1], [1.5])], "no list of INT64"),
    ([t("item", "INT64", [1], ["x"])], "no list of INT64"),
    ([t("item", "BF16", [1], [1])], "datatype 'BF16'"),
    ([t("item", "UINT64", [1], [1 << 63])], "64 bits"),
    ([t("item", "INT64", [101], list(range(101)))], "candidates_max"),
    ([t("price", "BYTES", [1], ["much"])], "price"),
    ([t("item", "INT64", [1])], "neither data nor binary_data_size"),
    ([t("item", "INT64", [1], binary_data_size=8)], "0 bytes are left"),
]  # fmt: skip


def test_bad_tensors_are_refused_with_a_sentence(client: httpx.Client) -> None:
    for inputs, message in BAD_TENSORS:
        answer = client.post(INFER, json={"inputs": inputs})
        assert answer.status_code in (400, 413), answer.text
        assert re.search(message, answer.json()["error"]), answer.text


BAD_FRAMES = [
    ({"inputs": []}, b"xy", None, "belong to no input"),
    ({"inputs": []}, b"", "x", "expected the length of the JSON"),
    ({"inputs": []}, b"", "999", "expected the length of the JSON"),
    ({"inputs": [{**SLATE[0], "data": None}]}, b"", None, "no list of BYTES"),
    ({"inputs": [t("user", "BYTES", [1], binary_data_size=5)]}, b"\5\0\0\0a", None, "longer"),
    ({"inputs": [t("item", "INT64", [1], binary_data_size=7)]}, b"1234567", None, "8 each"),
    ({"inputs": SLATE, "parameters": {"log": 1}}, b"", None, "expected true or false"),
    ({"inputs": SLATE, "parameters": {"time": "now"}}, b"", None, "expected event time"),
    ({"inputs": SLATE, "outputs": [{"name": "p"}]}, b"", None, "the model has corrected, base, order"),
]  # fmt: skip


def test_bad_frames_are_refused_with_a_sentence(client: httpx.Client) -> None:
    for head, tail, length, message in BAD_FRAMES:
        text = json.dumps(head).encode()
        headers = {"Inference-Header-Content-Length": length or str(len(text))}
        answer = client.post(INFER, content=text + tail, headers=headers)
        assert answer.status_code == 400 and re.search(message, answer.json()["error"]), answer.text


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with tritonclient, KServe's SDK and nothing of ours."""
    if given := os.environ.get("FRESHET_CLIENTS_PYTHON"):
        return Path(given)
    folder = tmp_path_factory.mktemp("clients")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "tritonclient[http]>=2.60,<3", "kserve>=0.15,<1"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no package index can be reached: {done.stderr[-300:]}")
    return python


def asked_by(python: Path, script: str, *words: str) -> dict:
    done = subprocess.run(
        [python, FOREIGN / script, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict = json.loads(done.stdout)
    return found


@pytest.mark.long
def test_tritonclient_gets_the_same_scores(client: httpx.Client, replica: Replica, clients: Path) -> None:
    teach(replica)
    host = str(client.base_url).removeprefix("http://").rstrip("/")
    found = asked_by(clients, "infer_by_triton.py", host)
    assert found["server"]["name"] == "freshet" and len(found["model"]["inputs"]) == 4
    assert "no declared feature" in found["error"]
    expected = client.post("/v1/score", json={**AS_SCORE, "log": False}).json()
    assert found["binary False"]["order"] == expected["order"]
    assert np.allclose(found["binary False"]["corrected"], expected["corrected"])
    assert found["binary True"]["id"] == "visit-True"


@pytest.mark.long
def test_kserve_gets_the_same_scores(client: httpx.Client, replica: Replica, clients: Path) -> None:
    teach(replica)
    found = asked_by(clients, "infer_by_kserve.py", str(client.base_url), "freshet")
    expected = client.post("/v1/score", json={**AS_SCORE, "log": False}).json()
    for binary in (True, False):
        assert found[f"binary {binary}"] == {
            "model": "freshet", "id": f"visit-{binary}",
            "corrected": expected["corrected"], "order": expected["order"],
        }  # fmt: skip
