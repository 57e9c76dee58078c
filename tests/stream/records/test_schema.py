"""The documents for other languages say what the decoder does, and are the ones in docs/schema."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import ROOT

from stream.errors import RecordError
from stream.limits import BATCH_EVENTS_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES
from stream.records.decoding import Decoder, split_batch
from stream.records.entities.record import EntityEvent
from stream.records.schema import documents
from stream.records.types import Action, DeadLetter, Example, Exposure, Impression, encode_json

FOLDER = ROOT / "docs" / "schema"
DOCUMENTS = {name: json.loads(text) for name, text in documents().items()}
EVENT = jsonschema.Draft202012Validator(DOCUMENTS["event.schema.json"])
decode = Decoder(Impression, Action, Exposure, EntityEvent).decode

ACTION = {"type": "action", "request_id": "r", "time": 1e9, "candidate": 0}
IMPRESSION = {"type": "impression", "request_id": "r", "time": 1e9, "candidates": [{"item": 1}]}
ENTITY = {"type": "entity", "feature": "item", "id": 7, "time": 1e9, "set": {"category": "shoes"}}
EXPOSURE = {"type": "exposure", "request_id": "r", "time": 1e9, "shown": [1, 0]}


def accepted(event: Any) -> bool:
    """Whether the decoder takes an event, given as plain JSON values."""
    try:
        decode(json.dumps(event).encode())
    except RecordError:
        return False
    return True


def test_committed_documents_are_the_generated_ones() -> None:
    committed = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert committed == documents(), "run: freshet schema --write docs/schema"


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.endswith(".schema.json")])
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENTS[name])


@pytest.mark.parametrize(
    "event",
    [
        ACTION,
        ACTION | {"label": 0, "name": "buy", "v": 1, "of_our_own": {"x": None}},
        IMPRESSION,
        IMPRESSION | {"context": {"user": "ann", "tags": ["a", 2], "age": 3.5, "id": (1 << 63) - 1}},
        IMPRESSION | {"labels": [1], "served": {"base": [0.5], "corrected": [0.25]}},
        IMPRESSION | {"labels": None, "served": None},
        IMPRESSION | {"candidates": [{}, {}], "place": [3, 1], "propensity": [0.25, 1]},
        IMPRESSION | {"candidates": [{}, {}], "shown": [1]},
        IMPRESSION | {"shown": []},
        ENTITY,
        ENTITY | {"set": {"price": 59.9, "tags": ["a", 1], "near": [0.5, 2], "old": None, "new": True}},
        ENTITY | {"id": "a7", "time": 0},
        IMPRESSION | {"shown": None},
        IMPRESSION | {"weight": 0},
        IMPRESSION | {"weight": [2.5]},
        ACTION | {"value": 3.5},
        EXPOSURE,
        EXPOSURE | {"shown": None, "examined": 0},
        EXPOSURE | {"shown": [], "examined": 2000},
        IMPRESSION | {"candidates": [{}] * 2000},
        IMPRESSION | {"candidates": [{"x": None}]},
        IMPRESSION | {"candidates": [{"x": True}]},
        IMPRESSION | {"candidates": [{"x": [True, None, 2, "a"]}]},
        IMPRESSION | {"candidates": [{"x": {"y": 1}}]},
        IMPRESSION | {"candidates": [{"x": [[1]]}]},
        IMPRESSION | {"context": {"x": [1.5]}},
    ],
)
def test_event_of_use_is_valid_and_taken(event: dict[str, Any]) -> None:
    EVENT.validate(event)
    assert accepted(event)


@pytest.mark.parametrize(
    "event",
    [
        {},
        [],
        ACTION | {"type": "click"},
        {k: v for k, v in ACTION.items() if k != "time"},
        ACTION | {"request_id": ""},
        ACTION | {"request_id": "r" * 129},
        ACTION | {"request_id": 1},
        ACTION | {"time": 1.7e12},
        ACTION | {"time": "1e9"},
        ACTION | {"candidate": 2000},
        ACTION | {"candidate": -1},
        ACTION | {"candidate": 0.5},
        ACTION | {"label": 0.5},
        ACTION | {"v": 2},
        IMPRESSION | {"candidates": []},
        IMPRESSION | {"candidates": [{}] * 2001},
        IMPRESSION | {"candidates": [{"x": "a" * 1025}]},
        IMPRESSION | {"candidates": [{"x": ["a" * 1025]}]},
        IMPRESSION | {"candidates": [{"x": [1] * 1025}]},
        IMPRESSION | {"context": {str(i): i for i in range(257)}},
        IMPRESSION | {"context": None},
        IMPRESSION | {"labels": [-1]},
        IMPRESSION | {"weight": [-1]},
        IMPRESSION | {"weight": -0.5},
        IMPRESSION | {"weight": "heavy"},
        ACTION | {"value": -1},
        ACTION | {"value": "12 minutes"},
        IMPRESSION | {"served": {"base": [1.5], "corrected": [0.5]}},
        IMPRESSION | {"served": {"base": [0.5]}},
        IMPRESSION | {"place": [-1]},
        IMPRESSION | {"candidates": [{}, {}], "place": [1, 1]},
        IMPRESSION | {"propensity": [0]},
        IMPRESSION | {"shown": [0, 0]},
        IMPRESSION | {"shown": [2000]},
        IMPRESSION | {"shown": 1},
        EXPOSURE | {"shown": None},
        EXPOSURE | {"shown": [-1]},
        EXPOSURE | {"shown": [1, 1]},
        EXPOSURE | {"shown": ["a"]},
        EXPOSURE | {"examined": -1},
        EXPOSURE | {"examined": 2001},
        EXPOSURE | {"time": 1e12},
        {k: v for k, v in EXPOSURE.items() if k != "shown"},
        IMPRESSION | {"propensity": [1.5]},
        ENTITY | {"set": {}},
        ENTITY | {"set": None},
        ENTITY | {"set": {"category": {"name": "shoes"}}},
        ENTITY | {"set": {"tags": ["a", None]}},
        ENTITY | {"set": {"title": "a" * (128 * 1024 + 1)}},
        ENTITY | {"id": None},
        ENTITY | {"id": 0.5},
        ENTITY | {"id": "a" * 1025},
        ENTITY | {"time": 1.7e12},
        ENTITY | {"time": -1},
        ENTITY | {"v": 2},
        {k: v for k, v in ENTITY.items() if k != "feature"},
    ],
)
def test_event_of_no_use_is_invalid_and_refused(event: Any) -> None:
    assert not EVENT.is_valid(event)
    assert not accepted(event)


@pytest.mark.parametrize(
    "event",
    [
        IMPRESSION | {"shown": [1]},  # candidates that must be there
        IMPRESSION | {"labels": [1, 0]},  # lists that must be of one length
        IMPRESSION | {"labels": [2]},  # whether the first target is a value
        IMPRESSION | {"weight": [1, 1]},
        IMPRESSION | {"context": {"x": 1 << 64}},  # JSON Schema's integers are numbers too
        ACTION | {"candidate": 1.0},  # and 1.0 is one
    ],
)
def test_what_the_schema_cannot_say_is_refused_all_the_same(event: Any) -> None:
    EVENT.validate(event)
    assert not accepted(event)


scalar = st.sampled_from([None, True, -1, 0, 1, 2, 2000, 0.5, 1.5e9, 1.7e12, "", "a", "action", "exposure"])
pair = st.sampled_from(["type", "x"])
anything = scalar | st.lists(scalar | st.dictionaries(pair, scalar, max_size=2), max_size=2)
fields = st.sampled_from(
    ["type", "request_id", "time", "candidate", "candidates", "context", "label", "v", "examined", "set"]
)


@pytest.mark.slow
@given(st.sampled_from([ACTION, IMPRESSION, EXPOSURE, ENTITY]), st.dictionaries(fields, anything, max_size=2))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of the machine, not of the test
def test_schema_and_decoder_agree_on_whatever_comes(event: dict[str, Any], changes: dict[str, Any]) -> None:
    changed = event | changes
    assert EVENT.is_valid(changed) == accepted(changed)


def test_outputs_fit_their_schemas() -> None:
    example = Example(request_id="r", time=1e9, decided=2e9, candidates=[{"item": 1}], labels=[1.0])
    letter = DeadLetter("why", "joiner", "events", 0, 7, b"\x00\xff")
    for name, record in (("example", example), ("dead_letter", letter)):
        validator = jsonschema.Draft202012Validator(DOCUMENTS[f"{name}.schema.json"])
        validator.validate(json.loads(encode_json(record)))
        assert not validator.is_valid({})


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if "$ref" in part else []
        return own + [ref for inner in part.values() for ref in references(inner)]
    return [ref for inner in part for ref in references(inner)] if isinstance(part, list) else []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_references_lead_somewhere(name: str) -> None:
    found = references(DOCUMENTS[name])
    assert found
    for ref in found:
        part: Any = DOCUMENTS[name]
        for step in ref.removeprefix("#/").split("/"):
            part = part[step]


def test_asyncapi_names_topics_and_its_examples_are_taken() -> None:
    document = DOCUMENTS["asyncapi.json"]
    assert set(document["channels"]) == {EVENTS, EXAMPLES, DEAD_LETTERS}
    assert {entry["channel"]["$ref"] for entry in document["operations"].values()} == {
        f"#/channels/{name}" for name in document["channels"]
    }
    payloads = [
        example["payload"]
        for message in document["components"]["messages"].values()
        for example in message.get("examples", [])
    ]
    assert len(payloads) == 5
    for payload in payloads:
        for event in payload if isinstance(payload, list) else [payload]:
            EVENT.validate(event)
            assert accepted(event)
        assert len(split_batch(json.dumps(payload).encode())) == (
            len(payload) if isinstance(payload, list) else 1
        )


def test_batch_schema_says_what_a_batch_may_be() -> None:
    parts = DOCUMENTS["asyncapi.json"]["components"]
    whole = {**parts["schemas"]["Batch"], "components": parts}
    validator = jsonschema.Draft202012Validator(whole)
    lengths = jsonschema.Draft202012Validator({**whole, "items": True})  # ten thousand items take seconds
    for count in (0, 1, 2, BATCH_EVENTS_MAX, BATCH_EVENTS_MAX + 1):
        batch = [ACTION] * count
        try:
            taken = len(split_batch(json.dumps(batch).encode())) == count
        except RecordError:
            taken = False
        said = (validator if count < 3 else lengths).is_valid(batch)
        assert said == taken == (1 <= count <= BATCH_EVENTS_MAX)
    assert not validator.is_valid([{}])
