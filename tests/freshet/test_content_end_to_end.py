"""Vectors, texts, places on Earth and shown places on their way: events, examples, learner, scores, files."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from freshet import Model
from freshet.config import parse_config
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from ground import FreshetError
from learner.features.columns import declared_by
from learner.features.encoder import Encoder
from stream.errors import RecordError
from stream.files.columns import DataSettings
from stream.files.record_columns import Survey
from stream.files.record_files import RecordWriter, read_records
from stream.files.sources import read_examples
from stream.join.joiner import Joiner
from stream.join.settings import JoinSettings
from stream.limits import LONG_TEXT_MAX, VECTOR_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.log.open import open_log
from stream.produce.producer import Producer
from stream.records.decoding import Decoder
from stream.records.fast_decoding import EventDecoder
from stream.records.types import DeadLetter, Example, Impression, encode
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

CONFIG = parse_config(
    {
        "features": {
            "user": {"kind": "id"},
            "item": {"kind": "id"},
            "tags": {"kind": "ids"},
            "look": {"kind": "vector", "length": 3, "of": "item"},
            "title": {"kind": "text", "of": "item"},
            "where": {"kind": "geo", "latitude": "lat", "longitude": "lon"},
        }
    },
    "here",
)
DECLARED = declared_by(CONFIG.features)
LONG = "слово " * 10_000


def event(**candidate: Any) -> dict[str, Any]:
    return {
        "type": "impression", "request_id": "r", "time": 1e9, "labels": [1],
        "context": {"user": "ann", "lat": 52.5, "lon": 13.4}, "candidates": [{"item": 1, **candidate}],
    }  # fmt: skip


GOOD = [
    {"look": [0.5, 1, -2.0], "title": "Été à Paris"},
    {"look": [0, 1, 2], "title": "", "tags": ["a", 2]},
    {"title": LONG},
    {"look": [1.5, 0.0, 2.5], "other": [0.5], "more": "x" * 5_000, "deeper": {"a": 1}},
]
BAD = [
    ({"tags": [0.5]}, "tags is a list that holds 0.5 of type float"),
    ({"item": "x" * 1_025}, "item has 1025 characters, more than 1024"),
    ({"title": "x" * (LONG_TEXT_MAX + 1)}, "title has 131073 characters, more than 131072"),
    ({"look": [0.5] * (VECTOR_MAX + 1)}, "look has 4097 numbers, more than 4096"),
    ({"look": [0.5, 1 << 70, 1.0]}, "look is a list that holds an integer beyond 64 bits"),
    ({"look": [0.5, "a", 1.0]}, "look is a list that holds"),
    ({"tags": list(range(1_025))}, "tags has 1025 values, more than 1024"),
]


@pytest.mark.parametrize("form", [msgspec.json.encode, msgspec.msgpack.encode])
@pytest.mark.parametrize("candidate", GOOD, ids=range(len(GOOD)))
def test_content_is_decoded_as_it_was_said(candidate: dict[str, Any], form: Any) -> None:
    data = form(event(**candidate))
    for decode in (EventDecoder(DECLARED).decode, Decoder(Impression, declared=DECLARED).decode):
        found = decode(data)
        assert isinstance(found, Impression)
        for name in ("look", "title", "tags"):
            assert found.candidates[0].get(name) == candidate.get(name)
        assert "deeper" not in found.candidates[0]
    assert (
        Decoder(Example)
        .decode(encode(Example("r", 1e9, 1e9, found.candidates, [1.0], found.context)))
        .candidates
        == found.candidates
    )


@pytest.mark.parametrize("form", [msgspec.json.encode, msgspec.msgpack.encode])
@pytest.mark.parametrize(("candidate", "why"), BAD, ids=range(len(BAD)))
def test_content_that_is_none_is_named(candidate: dict[str, Any], why: str, form: Any) -> None:
    if form is msgspec.msgpack.encode and 1 << 70 in candidate.get("look", []):
        pytest.skip("MessagePack has no such integer")
    for decode in (EventDecoder(DECLARED).decode, Decoder(Impression, declared=DECLARED).decode):
        with pytest.raises(RecordError, match=why):
            decode(form(event(**candidate)))


def test_nan_is_no_number_of_a_vector() -> None:
    data = msgspec.msgpack.encode(event(look=[0.5, math.nan, 1.0]))
    for decode in (EventDecoder(DECLARED).decode, Decoder(Impression, declared=DECLARED).decode):
        with pytest.raises(RecordError, match="holds nan; expected finite numbers"):
            decode(data)


@pytest.mark.slow
def test_from_events_to_examples_to_a_file_and_back(tmp_path: Path) -> None:
    log = open_log(f"sqlite:{tmp_path}/log.db")
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
        log.create_topic(topic, 1)
    context = {"user": "ann", "lat": 52.5, "lon": 13.4}
    look: Any = np.array([0.5, 1.0, 2.0])
    with Producer(log, features=CONFIG.features) as producer:
        first: list[Any] = [{"item": 1, "look": look, "title": LONG}]
        producer.impression(first, context=context, request_id="first", labels=[1.0], time_s=1e9)
        with pytest.raises(RecordError, match="tags is a list that holds"):
            producer.impression([{"item": 1, "tags": [0.5]}], labels=[1.0])
    for i, candidate in enumerate((GOOD[0], {"look": [1.0, 2.0]}, {"tags": [0.5]})):
        said = event(**candidate) | {"request_id": f"r{i}"}
        log.append(EVENTS, [Outgoing(b"r", json.dumps(said).encode())])
    with RoleState(tmp_path / "join", "joiner", {}) as state:
        joiner = Joiner(state, JoinSettings(dead_letter_share_max=1.0), declared=DECLARED)
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        while runner.step():
            pass
        runner.commit()
    examples = [Decoder(Example).decode(record.value) for record in log.read(EXAMPLES, 0, 0)]
    letters = [Decoder(DeadLetter).decode(record.value) for record in log.read(DEAD_LETTERS, 0, 0)]
    assert [e.request_id for e in examples] == ["first", "r0", "r1"]  # the length is the encoder's to check
    assert len(letters) == 1 and "tags is a list that holds 0.5" in letters[0].reason
    log.close()
    survey = Survey("examples")
    for example in examples:
        survey.add(example)
    kinds = {column.feature: column.kind for column in survey.layout().features}
    assert kinds["title"] == "text" and kinds["lat"] == "number"
    with RecordWriter(tmp_path / "e.parquet", survey.layout()) as writer:
        for example in examples:
            writer.add(example)
    again = list(read_records(tmp_path / "e.parquet"))
    assert [encode(e) for e in again] == [encode(e) for e in examples]
    encoder = Encoder(CONFIG.features)
    assert encoder.encode(examples[:2]).rows.n == 2 and not encoder.fits(examples[2])


def test_files_say_content_in_every_format(tmp_path: Path) -> None:
    """A CSV column in brackets or with the list's separator is a vector or a text if the config says so."""
    (tmp_path / "a.csv").write_text(
        "time,label,user,item,look,title,lat,lon\n"
        '1e9,1,ann,1,"[0.5, 1, -2]",one|two,52.5,13.4\n'
        '1e9,0,bob,2,1|0|3,"1.5",52.5,13.5\n'
    )
    ann = {"user": "ann", "item": 1, "look": [0.5, 1.0, -2.0], "title": "one|two", "lat": 52.5, "lon": 13.4}
    bob = {"user": "bob", "item": 2, "look": [1.0, 0.0, 3.0], "title": "1.5", "lat": 52.5, "lon": 13.5}
    rows = [{"time": 1e9, "label": 1, **ann}, {"time": 1e9, "label": 0, **bob}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = [
        [e.candidates[0] for e in read_examples(tmp_path / name, DataSettings(), declared=DECLARED)]
        for name in ("a.csv", "a.jsonl")
    ]
    assert (
        read[0] == read[1] == [{k: v for k, v in row.items() if k not in ("time", "label")} for row in rows]
    )


def test_model_in_python_takes_content() -> None:
    model = Model(CONFIG.features, learner={"deep": "none"})
    same = {"user": "ann", "title": LONG, "lat": 52.5, "lon": 13.4, "time": 1e9}
    rows: list[dict[str, Any]] = [{"item": i, "look": np.array([0.5, 1.0, i])} | same for i in range(4)]
    model.learn(rows, [1, 0, 1, 0])
    assert len(model.predict(rows)) == 4
    with pytest.raises(FreshetError, match="has 2 numbers; expected 3"):
        model.predict([rows[0] | {"look": [0.5, 1.0]}])


def test_replay_learns_content_the_same_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lines = []
    for i in range(300):
        item = int(rng.integers(0, 50))
        lines.append({"time": 1e9 + i, "label": int(rng.random() < 0.4), "user": int(rng.integers(0, 9)),
                      "item": item, "look": np.random.default_rng(item).normal(size=3).tolist(),
                      "title": f"w{item % 5} w{item % 7}", "lat": 20.0 + item, "lon": 8.0})  # fmt: skip
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reports = [replay(CONFIG, ReplayOptions(data=str(file))) for _ in range(2)]
    assert reports[0]["state_hash"] == reports[1]["state_hash"] and reports[0]["events"] == 300
