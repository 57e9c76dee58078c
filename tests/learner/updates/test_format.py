"""Bytes that are no update are refused as such, whatever they are."""

import msgspec
import numpy as np
import pytest
from depth import many
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ground.sealed import seal, unseal
from learner.errors import UpdateError
from learner.features.encoder import FeatureSpec
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.updates.format import Update, apply_update, decode_update, encode_update

FEATURES = {"user": FeatureSpec(dim=2)}
SETTINGS = LearnerSettings(deep="none")
WHOLE = Update(1, 1, 0, 1, {0: 1}, 1, 1e9, 1, [], taken=[(0, 0, 1)])

packed = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary()
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=6)
    ),
    max_leaves=12,
)


def decoded(value: bytes) -> None:
    """Decode; only an `UpdateError` may come of it."""
    try:
        decode_update(value)
    except UpdateError as error:
        assert str(error)


@given(st.binary(max_size=200))
@example(b"")
@example(seal(b""))
@example(seal(b"\x91" * 100_000))
@settings(max_examples=many(100), deadline=None)
def test_any_bytes_give_an_update_error(value: bytes) -> None:
    with pytest.raises(UpdateError):
        decode_update(value)
    with pytest.raises(UpdateError):
        decode_update(seal(value))


def test_text_that_is_no_utf8_gives_an_update_error() -> None:
    value = msgspec.msgpack.encode(msgspec.to_builtins(WHOLE) | {"rows": "ann"}).replace(b"ann", b"a\xff\xfe")
    with pytest.raises(UpdateError, match="cannot be read"):
        decode_update(seal(value))


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(list(Update.__struct_fields__)), packed), packed)
@settings(max_examples=many(100), deadline=None)
def test_any_fields_give_an_update_or_an_update_error(fields: dict[str, object], piece: object) -> None:
    whole = msgspec.to_builtins(WHOLE) | fields
    decoded(seal(msgspec.msgpack.encode(whole)))
    decoded(seal(msgspec.msgpack.encode(whole | {"tables": [piece]})))


@given(st.data())
@settings(max_examples=many(60), deadline=None)
def test_damaged_bytes_are_noticed(data: st.DataObject) -> None:
    value = bytearray(encode_update(WHOLE))
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UpdateError):
        decode_update(bytes(value))


@given(
    name=st.sampled_from(["user", "other"]),
    parts=st.lists(st.binary(max_size=64), min_size=5, max_size=5),
    counts=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(-4, 4)),
    arrays=st.dictionaries(st.text(max_size=4), st.binary(max_size=16), max_size=2),
    rows=st.sampled_from(["float32", "float16", "int8", "zip"]),
)
@settings(max_examples=many(60), deadline=None)
def test_any_tables_are_applied_or_give_an_update_error(
    name: str, parts: list[bytes], counts: tuple[int, int, int], arrays: dict[str, bytes], rows: str
) -> None:
    model = Model(FEATURES, SETTINGS)
    width = model.tables[0].width
    keys, values, more = counts
    fitting = [
        parts[0],
        np.arange(keys, dtype=np.uint64).tobytes(),
        np.zeros(max(keys * width + more, 0), dtype=np.float32).tobytes() + parts[1][: values % 2],
        b"",
        b"",
    ]
    for piece in (parts, fitting):
        whole = msgspec.to_builtins(WHOLE) | {"tables": [[name, *piece]], "arrays": arrays, "rows": rows}
        try:
            update = decode_update(seal(msgspec.msgpack.encode(whole)))
            apply_update(model, update)
        except UpdateError as error:
            assert str(error)


def test_update_of_an_older_freshet_is_of_one_process_and_a_model_unnamed() -> None:
    older = ["epoch", "seq", "part", "parts", "watermark", "examples", "event_time", "ingest_ms", "tables"]
    told = {name: value for name, value in msgspec.to_builtins(WHOLE).items() if name in older}
    assert msgspec.msgpack.decode(unseal(encode_update(WHOLE))) == told | {"taken": [[0, 0, 1]]}
    update = decode_update(seal(msgspec.msgpack.encode(told)))
    assert (update.shards, update.shard, update.term, update.updates_from) == (0, 0, 0, -1)
    assert (update.rows, update.model, update.learning) == ("float32", "", "")
    assert not (update.arrays or update.taken or update.entities or update.held)
