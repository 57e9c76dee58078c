"""`rank.by`: arithmetic that is parsed, checked and computed for all candidates at once."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freshet.config import parse_config
from freshet.errors import ConfigError
from serving.errors import RankError
from serving.replica.ranking import CHARACTERS_MAX, Ranking, numbers_in
from stream.records.types import Impression

TARGETS, NUMBERS = ("click", "buy", "minutes"), ("price",)
VALUES = {
    "click": np.array([0.5, 0.25, 0.0]),
    "buy": np.array([0.1, 0.0, 0.3]),
    "minutes": np.array([3.0, 0.0, 8.0]),
    "price": np.array([2.0, 0.0, 4.0]),
}


def expressions() -> st.SearchStrategy[str]:
    leaf = st.sampled_from(["click", "buy", "minutes", "price", "2", "0.5", "1e2"])

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        two = st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"{t[0]} {t[1]} {t[2]}")
        return two | inner.map(lambda one: f"({one})") | inner.map(lambda one: f"-({one})")

    return st.recursive(leaf, grow, max_leaves=12)


@settings(deadline=None)
@given(expressions())
def test_expression_means_what_python_means_by_it(by: str) -> None:
    ranking = Ranking(f"click + ({by})", TARGETS, NUMBERS)
    assert ranking(VALUES) == pytest.approx(eval(f"click + ({by})", {}, dict(VALUES)))


def test_division_by_zero_is_zero_and_what_overflows_is_finite() -> None:
    assert Ranking("click / price", TARGETS, NUMBERS)(VALUES).tolist() == [0.25, 0.0, 0.0]
    assert Ranking("click / 0 - 1 / 0", TARGETS, NUMBERS)(VALUES).tolist() == [0.0, 0.0, 0.0]
    in_one_request = Ranking("click / (price - 2) + buy / (price * 0)", TARGETS, NUMBERS)(VALUES)
    assert in_one_request.tolist() == [0.0, -0.125, 0.0]
    assert Ranking(".5e1 * click", TARGETS, NUMBERS)(VALUES).tolist() == [2.5, 1.25, 0.0]
    named = Ranking("click * preis_größe", TARGETS, ["preis_größe"])(
        {**VALUES, "preis_größe": VALUES["price"]}
    )
    assert named.tolist() == [1.0, 0.0, 0.0]
    huge = Ranking("click * 1e300 * 1e300 - 1e300 * 1e300 * minutes", TARGETS, NUMBERS)(VALUES)
    assert np.isfinite(huge).all()


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("click * margin", "'margin' is neither a target nor a feature of kind number: click, buy"),
        ("log(click)", "expected an operator"),
        ("(click)(buy)", "there are no functions"),
        ("__import__('os')", "expected"),
        ("click.__class__", "expected"),
        ("click ** 2", "expected a number"),
        ("click and buy", "expected an operator"),
        ("click +", "ends where"),
        ("", "ends where"),
        ("(click", "not closed"),
        ("click)", "no opening one"),
        ("click + )", "closing bracket"),
        ("+click", "expected a number"),
        ("3 * price", "names no target"),
        ("(" * 10_000 + "click" + ")" * 10_000, f"at most {CHARACTERS_MAX:,}"),
        ("(" * 100 + "click" + ")" * 100, "inside each other"),
        ("-" * 900 + "click", "inside each other"),
        ("click" + "+1" * 400, "200 steps"),
        ("click\x00", "expected"),
        ("-" * 10_000 + "click", f"10,005 characters; expected at most {CHARACTERS_MAX:,}"),
        ("9**9**9 * click", "expected a number"),
        ("1e400 * click", "1e400 at character 1: expected at most 1.8e+308"),
        ("click * " + "9" * 900, "expected at most 1.8e+308"),
        ("nan * click", "'nan' is neither"),
        ("inf", "'inf' is neither"),
        ("cl\u0456ck", "'cl\u0456ck' is neither"),  # a Cyrillic letter
        ("\u043a\u043b\u0438\u043a", "'\u043a\u043b\u0438\u043a' is neither"),
        ("click * \u0663", "expected a number"),  # an Arabic digit
        ("click\u2212buy", "expected"),  # a minus sign that is none
        ("click if buy else 0", "expected an operator"),
        ("lambda: click", "expected"),
        ("0x10 * click", "expected an operator"),
        ("click; buy", "expected"),
    ],
)
def test_what_is_no_such_arithmetic_is_refused_in_a_sentence(by: str, message: str) -> None:
    with pytest.raises(RankError, match=re.escape(message)):
        Ranking(by, TARGETS, NUMBERS)


@pytest.mark.parametrize("by", ["click * margin", "price", "open('x')", "click /"])
def test_config_is_checked_when_it_is_read(by: str) -> None:
    table = {
        "features": {"item": {}, "price": {"kind": "number"}},
        "targets": {"click": {}, "buy": {"of": "click"}},
    }
    assert parse_config({**table, "rank": {"by": "click * (1 + buy) / price"}}, "c.toml").rank.by
    with pytest.raises(ConfigError, match=r"rank\.by"):
        parse_config({**table, "rank": {"by": by}}, "c.toml")
    assert parse_config(table, "c.toml").rank.by == ""


def test_target_may_be_called_like_a_word_of_the_config() -> None:
    targets = {"targets": {}, "kind": {"of": "targets"}, "features": {"of": "kind"}, "by": {"kind": "value"}}
    config = parse_config({"targets": targets, "rank": {"by": "targets * kind + by * features"}}, "c.toml")
    assert config.known_targets().ordered == ("targets", "by", "kind", "features")


def test_number_comes_from_the_candidate_or_the_context_and_must_be_there() -> None:
    request = Impression("r", 1e9, [{"price": 2}, {}], {"price": 5.0})
    assert numbers_in(request, ["price"])["price"].tolist() == [2.0, 5.0]
    with pytest.raises(RankError, match="candidate 1 has none"):
        numbers_in(Impression("r", 1e9, [{"price": 2}, {"price": "9"}]), ["price"])
