"""Encoding a batch at once gives what a plain loop over its requests and features gives."""

import math
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.keys import key_of
from learner.errors import FeatureError
from learner.features.encoder import LEARNED, Encoder, FeatureSpec, Request
from learner.features.values import number_buckets

SCHEMA = {
    "user": FeatureSpec(),
    "clicked": FeatureSpec(kind="sequence", of="item", length=3),
    "hour": FeatureSpec(kind="hour"),
    "item": FeatureSpec(),
    "tags": FeatureSpec(kind="ids"),
    "price": FeatureSpec(kind="number"),
}

ids = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.text(max_size=5))
numbers = st.one_of(st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False))
values: dict[str, st.SearchStrategy[Any]] = {
    "user": ids,
    "clicked": st.lists(ids, max_size=5),
    "hour": st.integers(0, 23),
    "item": ids,
    "tags": st.lists(ids, max_size=4),
    "price": numbers,
    "unheard of": ids,
}
features = st.fixed_dictionaries({}, optional=values)
requests = st.lists(
    st.builds(Request, st.floats(0, 2e9), features, st.lists(features, min_size=1, max_size=3)),
    min_size=1,
    max_size=5,
)


def expected_rows(batch: list[Request]) -> list[list[tuple[int, int, float]]]:
    """(column, key, x) of each row, features only, one value at a time."""
    rows = []
    for request in batch:
        for candidate in request.candidates:
            says = {"hour": int(request.time // 3600) % 24, **request.context, **candidate}
            row = []
            for column, (name, spec) in enumerate(SCHEMA.items()):
                value: Any = says.get(name)
                if value is None:
                    continue
                if spec.kind == "sequence":
                    if value and "item" in says:
                        keys = [says["item"], *value[-spec.length :]]
                        row += [(column, key_of(key), 1.0) for key in keys]
                elif spec.kind == "ids":
                    distinct = dict.fromkeys(key_of(v) for v in value)
                    row += [(column, key, 1 / math.sqrt(len(distinct))) for key in distinct]
                elif spec.kind == "number":
                    keys = number_buckets(np.array([float(value)]))[0].tolist()
                    row += [(column, key, 1 / math.sqrt(len(keys))) for key in keys]
                else:
                    row.append((column, key_of(value), 1.0))
            rows.append(row)
    return rows


@pytest.mark.slow
@settings(max_examples=many(80), deadline=None)
@given(requests)
def test_batch_equals_row_by_row(batch: list[Request]) -> None:
    found = Encoder(SCHEMA, pairs_max=0).encode(batch)
    rows = found.rows
    expected = expected_rows(batch)
    assert rows.n == len(expected)
    for r, row in enumerate(expected):
        part = slice(rows.start[r], rows.start[r + 1])
        assert rows.column[part].tolist() == [column for column, _, _ in row]
        assert rows.key[part].tolist() == [key for _, key, _ in row]
        assert rows.x[part] == pytest.approx([x for _, _, x in row])
    says = [{**request.context, **candidate} for request in batch for candidate in request.candidates]
    squashed = [math.asinh(s["price"]) / 10 if "price" in s else 0.0 for s in says]
    assert found.numbers[:, 0] == pytest.approx(squashed, rel=1e-6)


@pytest.mark.slow
@settings(deadline=None)
@given(requests)
def test_users_are_the_keys_of_the_first_candidates(batch: list[Request]) -> None:
    encoder = Encoder(SCHEMA)
    users = encoder.users(encoder.encode(batch), "user").tolist()
    for request, user in zip(batch, users, strict=True):
        value = {**request.context, **request.candidates[0]}.get("user")
        assert user == (0 if value is None else key_of(value))


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_number_buckets_keep_the_order_within_a_sign(a: float, b: float) -> None:
    of_a, of_b = number_buckets(np.array([a, b])).tolist()
    assert len(set(of_a)) == len(of_a)
    for wider, key_a, key_b in zip((1.3, 1.07, 1.02), of_a, of_b, strict=True):
        if a > b >= 0:
            assert key_a >= key_b
        if 0 < wider * b < a:
            assert key_a > key_b


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("user", 1.5, "an integer or a string"),
        ("user", True, "an integer or a string"),
        ("user", [1], "an integer or a string"),
        ("user", 1 << 63, "is no signed integer of 64 bits; give larger ids as text"),
        ("tags", 3, "a list"),
        ("tags", [1, 2.5], "a list"),
        ("clicked", "a", "a list"),
        ("price", "cheap", "a number"),
        ("price", False, "a number"),
    ],
)
def test_value_of_another_kind_is_refused_by_name(name: str, value: Any, expected: str) -> None:
    good: dict[str, Any] = {"user": 1, "item": 2}
    with pytest.raises(FeatureError, match=f"{name}.*{expected}"):
        Encoder(SCHEMA).encode([Request(0.0, {}, [good, {**good, name: value}])])
    assert Encoder(SCHEMA).fits(Request(0.0, {}, [good]))
    assert not Encoder(SCHEMA).fits(Request(0.0, {}, [good, {**good, name: value}]))


NAMES = ("user", "item", "price", "hour", "tags", "title", "vector", "when", "clicked")
VALUES = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.booleans(),
)
TYPICAL = {
    "user": st.integers(0, 9),
    "item": st.text(max_size=3),
    "price": st.floats(-9, 9),
    "tags": st.lists(st.integers(0, 5), max_size=30) | st.lists(st.sampled_from("abc"), max_size=4),
    "title": st.text("ab é東京 ", max_size=12),
    "vector": st.lists(st.integers(-2, 2) | st.floats(-9, 9), min_size=3, max_size=3),
    "when": st.floats(0, 2e9),
    "clicked": st.lists(st.text(max_size=3), max_size=5) | st.lists(st.integers(0, 9), max_size=5),
}


@st.composite
def lone_requests(draw: st.DrawFn) -> Request:
    """Mostly such as the quick way takes: every candidate names the same, values of one type by name."""
    names = draw(st.lists(st.sampled_from((*NAMES, "other")), min_size=1, max_size=4, unique=True))
    unusual = draw(st.booleans())
    kinds = {name: VALUES if unusual else TYPICAL.get(name, st.integers(0, 23)) for name in (*NAMES, "other")}
    fixed = st.fixed_dictionaries({name: kinds[name] for name in names})
    own = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3) if unusual else fixed
    context = draw(st.fixed_dictionaries({}, optional=kinds))
    return Request(draw(st.floats(0, 2e9)), context, draw(st.lists(fixed | own, max_size=4)))


@pytest.mark.slow
@settings(deadline=None)
@given(lone_requests(), st.lists(st.sampled_from(NAMES), min_size=1, unique=True), st.booleans())
def test_one_request_is_encoded_as_many_are(request: Request, declared: list[str], shared: bool) -> None:
    """The quick way of one request beside the general way."""
    schema = {
        "user": FeatureSpec(),
        "item": FeatureSpec(),
        "price": FeatureSpec(kind="number"),
        "hour": FeatureSpec(kind="hour"),
        "tags": FeatureSpec(kind="ids"),
        "title": FeatureSpec(kind="text"),
        "vector": FeatureSpec(kind="vector", length=3, directions=2),
        "when": FeatureSpec(kind="calendar", zone="Asia/Kathmandu"),
        "clicked": FeatureSpec(kind="sequence", of="item", length=3),
    }
    declared += ["item"] * ("clicked" in declared and "item" not in declared)
    schema = {name: schema[name] for name in declared}
    encoder = Encoder(schema, pairs_max=8)
    try:
        many = encoder.encode([request, request], shared=shared)
    except FeatureError as error:
        with pytest.raises(FeatureError, match=re.escape(str(error))):
            encoder.encode([request], shared=shared)
        return
    one = encoder.encode([request], shared=shared)
    n = one.rows.n
    entries = many.rows.start[n]
    assert np.array_equal(one.rows.start, many.rows.start[: n + 1])
    for mine, theirs in zip(one.rows[1:], many.rows[1:], strict=True):
        assert np.array_equal(mine, theirs[:entries]) and mine.dtype == theirs.dtype
    assert np.array_equal(one.numbers, many.numbers[:n])
    assert np.array_equal(one.requests, many.requests[:2]) and one.times == many.times[:1]


OTHERWISE: dict[str, Any] = {
    "dim": 3, "attention": "shared", "counts": False, "ttl_s": 9.0, "admit_after": 2, "admit_share": 0.5,
    "rows_max": 64, "evict": "oldest", "optimizer": "sgd", "rate": 0.5, "memory_rows": 64,
}  # fmt: skip


@pytest.mark.slow
@given(requests, st.sampled_from(sorted(OTHERWISE)))
@settings(max_examples=many(40), deadline=None)
def test_encoders_that_differ_in_what_is_learned_make_the_same_batch(asked: list[Request], key: str) -> None:
    column = "clicked" if key == "attention" else "item"
    other = {**SCHEMA, column: msgspec.structs.replace(SCHEMA[column], **{key: OTHERWISE[key]})}
    one, two = Encoder(SCHEMA), Encoder(other)
    assert one.encodes_as(two) and set(OTHERWISE) == set(LEARNED)
    for mine, theirs in zip(one.encode(asked), two.encode(asked), strict=True):
        for a, b in zip(mine, theirs, strict=True) if isinstance(mine, tuple) else [(mine, theirs)]:
            assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "other",
    [
        Encoder({**SCHEMA, "clicked": FeatureSpec(kind="sequence", of="item", length=4)}),
        Encoder({**SCHEMA, "item": FeatureSpec(type="int")}),
        Encoder({**SCHEMA, "user": FeatureSpec(pairs=False)}),
        Encoder(dict(reversed(SCHEMA.items()))),
        Encoder({name: spec for name, spec in SCHEMA.items() if name != "price"}),
        Encoder(SCHEMA, pairs_max=1),
    ],
)
def test_encoders_that_read_otherwise_are_told_apart(other: Encoder) -> None:
    assert not Encoder(SCHEMA).encodes_as(other) and other.encodes_as(other)
