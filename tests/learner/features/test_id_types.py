"""`type` in a feature's settings: the integer 3 and the text "3" become one id, or one of them is refused."""

import logging
from typing import Any

import numpy as np
import pytest

from learner.errors import FeatureError
from learner.features.encoder import Encoder, FeatureSpec, Request
from learner.model.forgetting import widened
from learner.model.identity import fingerprint
from learner.settings import LearnerSettings


def schema(type_: Any = None) -> dict[str, FeatureSpec]:
    said = {} if type_ is None else {"type": type_}
    return {
        "user": FeatureSpec(**said),
        "item": FeatureSpec(**said),
        "tags": FeatureSpec(kind="ids", **said),
        "clicked": FeatureSpec(kind="sequence", of="item"),
        "price": FeatureSpec(kind="number"),
    }


def request(one: Any) -> Request:
    """A request that spells all its ids by `one`, 3 or 4 as int or str."""
    three, four = one(3), one(4)
    return Request(
        0.0, {"user": three, "clicked": [four]}, [{"item": three, "tags": [three, four], "price": 1}]
    )


def keys(encoder: Encoder, *requests: Request) -> list[list[int]]:
    rows = encoder.encode(requests).rows
    return [rows.key[rows.start[r] : rows.start[r + 1]].tolist() for r in range(rows.n)]


@pytest.mark.parametrize("type_", ["int", "text"])
@pytest.mark.parametrize("without", [(), ("tags", "clicked")])  # the second takes the quick way
def test_declared_type_makes_both_spellings_one_id(type_: str, without: tuple[str, ...]) -> None:
    features = {name: spec for name, spec in schema(type_).items() if name not in without}
    encoder = Encoder(features)
    (as_int,), (as_text,) = keys(encoder, request(int)), keys(encoder, request(str))
    assert as_int == as_text == keys(encoder, request(int), request(str))[1]
    plain = Encoder({name: spec for name, spec in schema().items() if name not in without})
    assert as_int == keys(plain, request(int if type_ == "int" else str))[0]  # the same bits as that spelling


def test_undeclared_type_leaves_two_ids() -> None:
    encoder = Encoder(schema())
    assert keys(encoder, request(int)) != keys(encoder, request(str))


@pytest.mark.parametrize("value", ["abc", "007", "+3", "3.0", " 3", "", "-0", "٣", str(1 << 63), 1 << 63])
@pytest.mark.parametrize("others", [[], [5]])
def test_int_refuses_what_is_no_plain_integer(value: Any, others: list[int]) -> None:
    encoder = Encoder({"item": FeatureSpec(type="int")})
    bad = Request(0.0, {}, [{"item": v} for v in [value, *others]])
    for refuse in (encoder.check_types, lambda r: encoder.encode([r])):
        with pytest.raises(
            FeatureError, match=r"feature item \(kind id\) has the value .*integer of 64 bits"
        ):
            refuse(bad)


def test_both_types_refuse_what_is_no_id() -> None:
    for type_ in ("int", "text"):
        with pytest.raises(FeatureError, match="feature item"):
            Encoder({"item": FeatureSpec(type=type_)}).encode([Request(0.0, {}, [{"item": 3.0}])])
    with pytest.raises(FeatureError, match="feature clicked"):
        Encoder(schema("int")).encode([Request(0.0, {"clicked": ["x"]}, [{"item": 1}])])
    with pytest.raises(ValueError, match="a sequence has that of `of`"):
        FeatureSpec(kind="sequence", of="item", type="int")


def test_type_counts_as_another_model_and_its_absence_as_none() -> None:
    said = [fingerprint(schema(t), LearnerSettings())["features"] for t in (None, "int", "text")]
    assert len(set(said)) == 3 and "type" not in said[0]  # states from before `type` are still known


def test_forgetting_names_both_spellings() -> None:
    assert widened(schema("int"), {"item": ["3"]}) == {"item": [3, "3"], "clicked": [3, "3"]}
    assert widened(schema("text"), {"user": [3, "x"]}) == {"user": ["3", "x", 3]}
    assert widened(schema(), {"user": ["3"]}) == {"user": ["3"]}
    with pytest.raises(FeatureError, match="feature item"):
        widened(schema("int"), {"item": ["x"]})


@pytest.mark.parametrize("together", [False, True])
def test_two_spellings_are_said_once(caplog: pytest.LogCaptureFixture, together: bool) -> None:
    encoder = Encoder({"item": FeatureSpec(), "user": FeatureSpec(type="int"), "name": FeatureSpec()})
    context = {"user": "3", "name": "x"}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            if together:
                encoder.encode([Request(0.0, context, [{"item": 3}, {"item": "3"}])])
            else:
                encoder.encode([Request(0.0, context, [{"item": 3}])])
                encoder.encode([Request(0.0, {"user": 3, "name": "y"}, [{"item": "3"}])])
    (said,) = caplog.messages
    assert "the ids of feature item come both as integers and as digits in text" in said
    assert 'type = "int" or type = "text" in [features.item]' in said


def test_one_spelling_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder({"item": FeatureSpec(), "name": FeatureSpec()})
    with caplog.at_level(logging.WARNING):
        for name in ("x", "7"):
            encoder.encode([Request(0.0, {"name": name}, [{"item": 3}])])
    assert not caplog.messages


def test_type_changes_no_bits_of_ids_that_have_it() -> None:
    requests = [request(int)]
    typed, plain = Encoder(schema("int")).encode(requests), Encoder(schema()).encode(requests)
    assert all(np.array_equal(a, b) for a, b in zip(typed.rows, plain.rows, strict=True))
