"""Targets as they are declared, and the events that name them: what is taken, and what is refused and why."""

import math
from typing import Any

import msgspec
import pytest

from stream.errors import RecordError
from stream.records.decoding import Decoder, check
from stream.records.fast_decoding import EventDecoder
from stream.records.targets import Target, Targets
from stream.records.types import Action, Example, Impression, canonical, encode, encode_json

CLICK, BUY = Target(), Target(of="click", actions=("buy", "order"), observe_s=1800.0, window_s=604_800.0)
MINUTES = Target(kind="value", of="click", scale="log1p", window_s=3600.0)
TARGETS = Targets({"click": CLICK, "buy": BUY, "minutes": MINUTES}, 60.0)
VALUES = Targets({"price": Target(kind="value")})


def test_declared_targets_have_every_default_filled_in() -> None:
    assert TARGETS.primary == "click" and TARGETS.children("click") == ("buy", "minutes")
    assert TARGETS["click"] == TARGETS[""] == Target(actions=("click",), window_s=60.0, observe_s=60.0)
    assert TARGETS["minutes"].observe_s == 3600.0 and TARGETS["minutes"].actions == ("minutes",)
    late = Targets({"click": CLICK, "refund": Target(of="buy"), "buy": Target(of="click")})
    assert late.names == ("click", "refund", "buy") and late.ordered == ("click", "buy", "refund")


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"click": Target(of="buy"), "buy": Target(of="click")}, "run in a circle: click of buy of click"),
        ({"a": CLICK, "b": Target(of="b")}, "run in a circle: b of b"),
        (
            {"a": CLICK, "b": Target(of="d"), "c": Target(of="b"), "d": Target(of="c")},
            "run in a circle: b of d of c of b",
        ),
        ({"click": CLICK, "buy": Target(of="klick")}, "'klick', which is not declared; declared: click, buy"),
        ({"buy": Target(of="click"), "click": CLICK}, "declare click before it"),
        ({"click": CLICK, "a": BUY, "b": Target(actions=("order",))}, "'order' is of two targets, a and b"),
        ({"m": Target(kind="value"), "buy": Target(of="m")}, "m, which is a value"),
        ({"click": CLICK, "buy": Target(of="click", window_s=5.0)}, "shorter than 60, that of click"),
        ({"click": Target(window_s=5.0, observe_s=6.0)}, "observe_s is 6, longer than its window_s, 5"),
        ({"two words": CLICK}, "a name of letters, digits and underscores"),
        ({f"t{i}": CLICK for i in range(17)}, "17 targets are declared; expected at most 16"),
    ],
)
def test_targets_that_do_not_fit_together_are_refused(declared: dict[str, Target], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Targets(declared)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "like"}, "action 'like' is of no target; known actions: click, buy, order, minutes"),
        ({"value": 3.0}, "value is 3.0 for click, which happens or not and takes no value"),
        ({"name": "minutes"}, "there is no value for minutes; expected a finite number of at least 0"),
        ({"name": "minutes", "value": -1.0}, "value is -1.0; expected a finite number of at least 0"),
        ({"name": "minutes", "value": math.inf}, "value is inf; expected a finite number of at least 0"),
        ({"name": "minutes", "value": math.nan}, "value is nan; expected a finite number of at least 0"),
        ({"name": "minutes", "value": "12"}, "float.*value"),
        ({"name": "minutes", "value": "1e400"}, "float.*value"),
        ({"name": "minutes", "value": True}, "float.*got `bool`.*value"),
        ({"name": "minutes", "value": [3.0]}, "float.*value"),
        ({"name": "minutes", "value": 1e308}, r"value is 1e\+308 for minutes; expected at most 1e\+15"),
        ({"name": "minutes", "value": 1 << 63}, "for minutes; expected at most"),
        ({"name": "buy", "value": 0.0}, "value is 0.0 for buy, which happens or not"),
        ({"name": "Minutes", "value": 1.0}, "action 'Minutes' is of no target"),
    ],
)
def test_action_that_fits_no_target_is_refused_by_every_decoder(changed: dict[str, Any], why: str) -> None:
    said = {"type": "action", "request_id": "r", "time": 1e9, "candidate": 0} | changed
    for decode in (EventDecoder(targets=TARGETS).decode, Decoder(Action, Impression, targets=TARGETS).decode):
        with pytest.raises(RecordError, match=why):
            decode(msgspec.msgpack.encode(said))


def test_actions_of_targets_are_taken() -> None:
    for action in (
        Action("r", 1e9, 0, name="order"),
        Action("r", 1e9, 0, name="minutes", value=0.0),
        Action("r", 1e9, 0, 0.0, name="minutes"),  # takes it back
    ):
        for data in (encode(action), encode_json(action)):
            assert encode(EventDecoder(targets=TARGETS).decode(data)) == encode(action)
    undeclared = Action("r", 1e9, 0, name="like", value=2.0)
    assert encode(EventDecoder().decode(encode(undeclared))) == encode(undeclared)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"weight": [1.0]}, "weight has 1 entries for 2 candidates"),
        ({"weight": [1.0, -1.0]}, "weight has -1.0; expected a finite number of at least 0"),
        ({"weight": math.inf}, "weight has inf; expected a finite number of at least 0"),
        ({"weight": [1.0, None]}, "weight"),
        ({"weight": []}, "weight has 0 entries for 2 candidates"),
        ({"weight": True}, "weight"),
        ({"weight": [1.0, math.nan]}, "weight has nan"),
        ({"weight": 1e308}, r"weight has 1e\+308; expected at most 1e\+06"),
        ({"labels": [0, 1], "outcomes": {"minutes": [None, 1e308]}}, "expected at most 1e.15"),
        ({"labels": [0.5, 1.0]}, "labels is 0.5; expected 0 or 1"),
        ({"outcomes": {"buy": [None, 1.0]}}, "outcomes without labels; expected labels of click too"),
        (
            {"labels": [0, 1], "outcomes": {"like": [0, 1]}},
            "'like', which is no further target; known: buy, m",
        ),
        ({"labels": [0, 1], "outcomes": {"click": [0, 1]}}, "no further target"),
        ({"labels": [0, 1], "outcomes": {"buy": [1.0]}}, "outcomes.buy has 1 entries for 2"),
        ({"labels": [0, 1], "outcomes": {"buy": [0.0, 1.0]}}, r"buy\[0\] is 0.0; .* null where it did not"),
        ({"labels": [0, 1], "outcomes": {"buy": [None, None]}}, r"buy\[1\] is None; expected a label where"),
        ({"labels": [0, 1], "outcomes": {"buy": [None, 2.0]}}, "outcomes.buy is 2.0; expected 0 or 1"),
        ({"labels": [0, 1], "outcomes": {"minutes": [None, -2.0]}}, "outcomes.minutes has -2.0"),
    ],
)
def test_impression_whose_lists_do_not_fit_is_refused_by_every_decoder(
    said: dict[str, Any], why: str
) -> None:
    whole = {"type": "impression", "request_id": "r", "time": 1e9, "candidates": [{}, {}], **said}
    for decode in (EventDecoder(targets=TARGETS).decode, Decoder(Action, Impression, targets=TARGETS).decode):
        with pytest.raises(RecordError, match=why):
            decode(msgspec.msgpack.encode(whole))


def test_labels_of_a_value_are_numbers() -> None:
    impression = Impression("r", 1e9, [{}, {}], labels=[0.0, 12.5], weight=[1.0, 0.0])
    assert encode(EventDecoder(targets=VALUES).decode(encode(impression))) == encode(impression)
    with pytest.raises(RecordError, match="labels has -1"):
        check(msgspec.structs.replace(impression, labels=[0.0, -1.0]), VALUES)
    with pytest.raises(RecordError, match="expected 0 or 1"):
        check(Example("r", 1e9, 1e9, [{}], [2.0], target="buy"), TARGETS)
    with pytest.raises(RecordError, match="before has 2 entries"):
        check(Example("r", 1e9, 1e9, [{}], [2.0], target="minutes", before=[1.0, 2.0]), TARGETS)


def test_canonical_bytes_are_those_of_records_without_the_newer_fields() -> None:
    for record, count in ((Example("r", 1e9, 2e9, [{}], [1.0]), 12), (Action("r", 1e9, 0), 6)):
        assert len(msgspec.msgpack.decode(canonical(record))) == count
    count_known = Example("r", 1e9, 2e9, [{}], [1.0], candidate_count=3)
    assert len(msgspec.msgpack.decode(canonical(count_known))) == 13
    assert canonical(msgspec.structs.replace(count_known, target="buy")) != canonical(count_known)
