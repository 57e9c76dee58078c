"""One rule at every door: what is not declared is not looked at; the declared may be null or a boolean."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.errors import RecordError, SourceError
from stream.files.columns import DataSettings
from stream.files.sources import read_examples
from stream.join.joiner import Joiner
from stream.join.settings import JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Log, Outgoing
from stream.log.open import open_log
from stream.produce.producer import Producer
from stream.records.decoding import Decoder
from stream.records.types import DeadLetter, Example, Impression, encode
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

DECLARED = frozenset({"user", "item", "price", "tags"})
UNDECLARED: list[Any] = [
    True, None, {"a": 1}, {}, [1.5], [[1]], [None], ["a", {}], 1 << 70, "x" * 5_000, list(range(3_000)), 0.5,
]  # fmt: skip
WRONG = [
    ({"user": {"id": 1}}, "context.user is an object; expected an id, a number, a list of ids, or null"),
    ({"user": [0.5]}, "context.user is a list that holds 0.5 of type float"),
    (
        {"user": 1 << 70},
        "context.user is 1180591620717411303424; an integer id is a signed one",
    ),
    ({"user": (1 << 64) - 1}, "context.user is 18446744073709551615; an integer id is a signed one"),
    ({"user": "x" * 1_025}, "context.user has 1025 characters, more than 1024"),
    ({"tags": list(range(1_025))}, "context.tags has 1025 values, more than 1024"),
]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = open_log(f"sqlite:{tmp_path}/log.db")
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
        log.create_topic(topic, 1)
    yield log
    log.close()


def event(context: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "impression",
        "request_id": "r",
        "time": 1e9,
        "context": context,
        "candidates": [{"item": 1}],
        "labels": [1],
    }


def joined(log: Log, folder: Path) -> tuple[list[Example], list[DeadLetter]]:
    """What a joiner that knows the features makes of the events in a log."""
    with RoleState(folder, "joiner", {}) as state:
        joiner = Joiner(state, JoinSettings(dead_letter_share_max=1.0), declared=DECLARED)
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        while runner.step():
            pass
        runner.commit()
    examples = [Decoder(Example).decode(record.value) for record in log.read(EXAMPLES, 0, 0)]
    return examples, [Decoder(DeadLetter).decode(record.value) for record in log.read(DEAD_LETTERS, 0, 0)]


@pytest.mark.parametrize("form", [msgspec.json.encode, msgspec.msgpack.encode])
@pytest.mark.parametrize("value", UNDECLARED, ids=lambda value: repr(value)[:12])
def test_undeclared_value_stops_no_event_in_the_topic(
    log: Log, tmp_path: Path, value: Any, form: Any
) -> None:
    if form is msgspec.msgpack.encode and isinstance(value, int) and value > 1 << 64:
        pytest.skip("MessagePack has no such integer")
    said = event({"user": "u", "beta": value})
    said["candidates"] = [{"item": 1, "beta": value}]
    data = json.dumps(said).encode() if form is msgspec.json.encode else form(said)
    log.append(EVENTS, [Outgoing(b"r", data)])
    examples, letters = joined(log, tmp_path / "state")
    assert not letters and len(examples) == 1
    assert examples[0].context["user"] == "u" and examples[0].candidates[0]["item"] == 1


@pytest.mark.parametrize(("context", "why"), WRONG)
def test_declared_value_that_is_none_is_named_in_the_dead_letter(
    log: Log, tmp_path: Path, context: dict[str, Any], why: str
) -> None:
    log.append(EVENTS, [Outgoing(b"r", json.dumps(event(context)).encode())])
    examples, letters = joined(log, tmp_path / "state")
    assert not examples and [letter.reason[: len(why)] for letter in letters] == [why]


def test_null_is_absent_and_a_boolean_an_id(log: Log, tmp_path: Path) -> None:
    context = {"user": None, "price": True, "tags": [True, None, "a"]}
    log.append(EVENTS, [Outgoing(b"r", json.dumps(event(context)).encode())])
    examples, _ = joined(log, tmp_path / "state")
    assert examples[0].context == {"price": 1, "tags": [1, "a"]}
    assert type(examples[0].context["price"]) is int


@pytest.mark.parametrize("value", UNDECLARED, ids=lambda value: repr(value)[:12])
def test_undeclared_value_passes_a_producer_that_knows_the_features(
    log: Log, tmp_path: Path, value: Any
) -> None:
    if isinstance(value, int) and value > 1 << 64:
        pytest.skip("MessagePack has no such integer")
    with Producer(log, features=DECLARED) as producer:
        producer.impression([{"item": 1}], context={"user": "u", "beta": value}, time_s=1e9, labels=[1.0])
    examples, letters = joined(log, tmp_path / "state")
    assert len(examples) == 1 and not letters


def test_producer_names_what_is_declared_and_no_value(log: Log) -> None:
    with Producer(log, features=DECLARED) as producer:
        for context, why in WRONG:
            with pytest.raises(RecordError) as error:
                producer.impression([{"item": 1}], context=context)
            assert str(error.value).startswith(why)
        with pytest.raises(RecordError, match=r"context\.price is nan; expected a finite number, or null"):
            producer.impression([{"item": 1}], context={"price": math.nan})
        with pytest.raises(RecordError, match=r"cannot be sent.*expected plain Python values"):
            producer.impression([{"item": 1}], context={"beta": object()})  # type: ignore[dict-item]
    with Producer(log) as producer:  # nobody said what is declared
        producer.impression([{"item": 1}], context={"a": True, "b": None, "c": {"d": 1}})  # type: ignore[dict-item]
        with pytest.raises(RecordError, match=r"context\.price is nan"):
            producer.impression([{"item": 1}], context={"price": math.nan})


@pytest.mark.parametrize("value", UNDECLARED, ids=lambda value: repr(value)[:12])
def test_undeclared_column_stops_no_file(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"time": 1e9, "label": 1, "user": "u", "beta": value}) + "\n")
    (example,) = read_examples(path, declared=DECLARED)
    assert example.candidates[0]["user"] == "u"


@pytest.mark.parametrize(("context", "why"), WRONG)
def test_declared_column_is_named(tmp_path: Path, context: dict[str, Any], why: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"time": 1e9, "label": 1} | context) + "\n")
    name = why.removeprefix("context.").partition(" ")[0]
    with pytest.raises(SourceError) as error:
        list(read_examples(path, declared=DECLARED))
    assert str(error.value).startswith(f"{path}:1: {name}: ")


def test_not_a_number_is_missing_in_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"time": 1e9, "label": 1, "user": "u", "price": NaN, "flag": true, "old": null}\n')
    (example,) = read_examples(path)
    assert example.candidates == [{"user": "u", "flag": 1}]
    path.write_text('{"time": 1e9, "label": 1, "user": "u", "price": Infinity}\n')
    with pytest.raises(SourceError, match="price: inf is no finite number"):
        list(read_examples(path))
    (example,) = read_examples(path, DataSettings(missing=["inf"]))
    assert example.candidates == [{"user": "u"}]


def test_a_context_of_many_undeclared_names_keeps_the_declared() -> None:
    many: dict[str, Any] = {f"x{i}": i for i in range(300)} | {"user": "u"}
    record = Impression("r", 1e9, [{}], many)
    assert Decoder(Impression, declared=DECLARED).decode(encode(record)).context == {"user": "u"}
    with pytest.raises(RecordError, match="context has 301 features"):
        Decoder(Impression).decode(encode(record))
