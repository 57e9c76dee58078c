"""Ids are checked against the `type` of their features before they are sent."""

import json
from pathlib import Path
from typing import Any

import pytest

from freshet.config import Config, parse_config
from freshet.errors import ProduceError
from freshet.tools.produce import produce
from learner.errors import FeatureError
from learner.features.encoder import Encoder
from stream import Impression, Producer
from stream.errors import RecordError
from stream.log.base import EVENTS
from stream.log.open import open_log
from stream.records.decoding import Decoder, split_batch
from stream.records.id_types import check_id_types

FEATURES: dict[str, Any] = {
    "item": {"type": "int"},
    "user": {"type": "text"},
    "tags": {"kind": "ids", "type": "int"},
    "clicked": {"kind": "sequence", "of": "item"},
    "shop": {},
}


def config_in(folder: Path, **data: Any) -> Config:
    return parse_config({"log": f"sqlite:{folder}/log.db", "features": FEATURES, "data": data}, "test")


def request(**features: Any) -> Impression:
    return Impression("r", 1e9, [{name: v for name, v in features.items() if name != "user"}])


@pytest.mark.parametrize(
    ("features", "wrong"),
    [
        ({"item": 3, "tags": [1, "2"], "clicked": ["4", 5], "shop": "x"}, ""),
        ({"item": "3", "shop": 1}, ""),
        ({"item": "abc"}, "item"),
        ({"item": "007"}, "item"),
        ({"item": 3.5}, "item"),
        ({"tags": [1, "red"]}, "tags"),
        ({"clicked": ["abc"]}, "clicked"),
    ],
)
def test_producer_and_encoder_agree(tmp_path: Path, features: dict[str, Any], wrong: str) -> None:
    specs = config_in(tmp_path).features
    event = request(**features)
    with Producer(f"sqlite:{tmp_path}/log.db", partitions=1, features=specs) as producer:
        if not wrong:
            check_id_types(specs, event)
            Encoder(specs).check_types(event)
            producer.send(event)
            return
        with pytest.raises(RecordError, match=f"feature {wrong} .*type = "):
            producer.send(event)
        with pytest.raises(FeatureError, match=f"feature {wrong} .*type = "):
            Encoder(specs).check_types(event)


def test_names_alone_leave_types_unchecked(tmp_path: Path) -> None:
    with Producer(f"sqlite:{tmp_path}/log.db", partitions=1, features=["item"]) as producer:
        producer.send(request(item="abc"))


@pytest.mark.parametrize("as_events", [False, True])
def test_produce_refuses_or_leaves_out_ids_of_another_type(
    tmp_path: Path, as_events: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "clicks.jsonl"
    lines: list[dict[str, Any]] = []
    for i, item in enumerate([1, "2", "abc", 4]):
        at = {"time": 1e9 + i}
        event = {"type": "impression", "request_id": f"r{i}", "candidates": [{"item": item}], "labels": [1]}
        lines.append(at | (event if as_events else {"item": item, "label": 1}))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    holds: Any = "events" if as_events else "requests"
    with pytest.raises(ProduceError, match=r"feature item .*'abc'.*data\.skip_bad = true"):
        produce(config_in(tmp_path), file, holds=holds)
    assert produce(config_in(tmp_path, skip_bad=True), file, holds=holds) == 3
    assert "abc" in capsys.readouterr().err
    log = open_log(f"sqlite:{tmp_path}/log.db")
    decode = Decoder(Impression).decode
    sent = [decode(part) for record in log.read(EVENTS, 0, 0) for part in split_batch(record.value)]
    log.close()
    assert [impression.candidates[0]["item"] for impression in sent[-3:]] == [1, "2", 4]
