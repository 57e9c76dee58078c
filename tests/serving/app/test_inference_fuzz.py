"""The Open Inference Protocol and requests that lie: each is answered or refused, in bounded memory."""

import asyncio
import json
import struct
import tracemalloc
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from two_models import new_log

from error_memory import MemorySettings
from ground.errors import FreshetError
from learner.features.encoder import FeatureSpec
from learner.settings import LearnerSettings
from serving.app.inference import Inference
from serving.app.tensors import KINDS
from serving.http.frame import Call, Response, error_response
from serving.replica.replica import Replica
from serving.settings import ServerSettings

FEATURES = {
    "user": FeatureSpec(),
    "item": FeatureSpec(type="int"),
    "tags": FeatureSpec(kind="ids"),
    "price": FeatureSpec(kind="number"),
    "look": FeatureSpec(kind="vector", length=3),
}
SETTINGS = ServerSettings(candidates_max=8)
BYTES_A_BYTE_MAX, BYTES_MAX = 200, 1_000_000
"""Memory for each byte of a body, as Python objects, and beside it."""

counts = st.integers(0, 4)
lying_sizes = st.one_of(counts, st.sampled_from([-1, 1 << 31, 1 << 32, 1 << 63, 1 << 80]), st.floats())
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(max_size=6)
)
nested = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
datatypes = st.sampled_from(["BYTES", *KINDS, "BF16", "", "fp32"])


@st.composite
def tensors(draw: st.DrawFn) -> tuple[dict[str, object], bytes]:
    """A tensor and the bytes behind the JSON; most tell the truth in all but one thing."""
    name, datatype = draw(st.sampled_from([*FEATURES, "stranger", ""])), draw(datatypes)
    shape = draw(st.lists(counts, min_size=1, max_size=2))
    if draw(st.booleans()):
        shape = draw(st.sampled_from([[2], [2], [2, 1], [2, 3], [1]]))
    found: dict[str, object] = {"name": name, "datatype": datatype, "shape": shape}
    n = prod(shape)
    raw = b""
    if draw(st.booleans()):
        if datatype in KINDS:
            size = np.dtype(KINDS[datatype]).itemsize
            raw = draw(st.binary(min_size=n * size, max_size=n * size))
        else:
            texts = [
                draw(st.one_of(st.text(max_size=4).map(str.encode), st.binary(max_size=4))) for _ in range(n)
            ]
            raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        found["parameters"] = {"binary_data_size": len(raw)}
    elif datatype == "BYTES":
        found["data"] = [draw(st.text(max_size=4)) for _ in range(n)]
    else:
        found["data"] = [draw(st.integers(0, 1)) for _ in range(n)]
    lie = draw(st.sampled_from(["", "", "shape", "data", "size", "raw", "parameters", "none"]))
    if lie == "shape":
        found["shape"] = draw(st.one_of(st.lists(lying_sizes, max_size=4), nested))
    elif lie == "data":
        found["data"] = draw(nested)
    elif lie == "size":
        found["parameters"] = {"binary_data_size": draw(st.one_of(lying_sizes, scalars))}
    elif lie == "raw":
        raw = draw(st.one_of(st.binary(max_size=40), st.just(b"\xff\xff\xff\xff" * 2)))
    elif lie == "parameters":
        found["parameters"] = draw(st.dictionaries(st.sampled_from(["pad", "binary_data_size"]), nested))
    elif lie == "none":
        found.pop(draw(st.sampled_from(sorted(found))))
    return found, raw


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A request: its JSON, the binary tensors behind it, and what the header says of both."""
    drawn = draw(st.lists(tensors(), max_size=4))
    head: dict[str, object] = {"inputs": [tensor for tensor, _ in drawn]}
    if draw(st.booleans()):
        known = ["log", "time", "binary_data_output", "other"]
        head["parameters"] = draw(st.dictionaries(st.sampled_from(known), scalars, max_size=3))
        head["outputs"] = draw(
            st.lists(st.fixed_dictionaries({"name": st.sampled_from(["base", "order", "x"])}), max_size=3)
        )
    text = json.dumps(head).encode()  # NaN and Infinity too, which are no JSON
    tail = b"".join(raw for _, raw in drawn)
    length = draw(st.sampled_from([len(text)] * 6 + [len(text) - 1, 0, -1, 1 << 40, "x", None]))
    headers = {} if length is None else {b"inference-header-content-length": str(length).encode()}
    return Call(text + tail, headers, "r", "")


def answered(inference: Inference, call: Call) -> Response:
    try:
        return asyncio.run(inference.infer(call))
    except FreshetError as error:
        return error_response(error)


@pytest.mark.slow
def test_any_request_is_answered_or_refused_in_bounded_memory() -> None:
    replica = Replica(new_log(), FEATURES, LearnerSettings(deep="none"), MemorySettings(), SETTINGS)
    while replica.step():
        pass
    inference = Inference(replica, SETTINGS, None)
    statuses = set()

    @given_settings(max_examples=200, deadline=None)
    @given(calls())
    def check(call: Call) -> None:
        tracemalloc.start()
        try:
            response = answered(inference, call)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        statuses.add(response.status)
        assert response.status in (200, 400, 413), response.body
        assert peak < BYTES_MAX + BYTES_A_BYTE_MAX * len(call.body)
        if response.status == 200:
            length = dict(response.headers).get(b"inference-header-content-length")
            json.loads(response.body[: int(length)] if length else response.body)
        else:
            assert len(json.loads(response.body)["error"]) > 10

    check()
    assert {200, 400} <= statuses


def test_shapes_and_sizes_of_exabytes_take_no_memory() -> None:
    tensor = {"name": "item", "datatype": "BOOL", "shape": [1 << 31, 1 << 31]}
    replica = Replica(new_log(), FEATURES, LearnerSettings(deep="none"), MemorySettings(), SETTINGS)
    inference = Inference(replica, SETTINGS, None)
    for more in ({"data": []}, {"data": [[]] * 9}, {"parameters": {"binary_data_size": 1 << 62}}):
        body = json.dumps({"inputs": [{**tensor, **more}]}).encode()
        tracemalloc.start()
        response = answered(inference, Call(body, {}, "r", ""))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert response.status == 400 and peak < BYTES_MAX
