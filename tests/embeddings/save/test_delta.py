"""Deltas applied in order give the same table, bit for bit; a gap, a repeat and damage are noticed."""

import msgspec
import numpy as np
import pytest

from embeddings import Table, TableSpec
from embeddings.errors import DeltaError, DeltaGapError
from embeddings.save.delta import Changes, DeltaReader, DeltaWriter, apply, drain, pieces

SPEC = TableSpec(
    name="item",
    dim=3,
    init="normal",
    extra=1,
    ttl_s=4000,
    admit_after=2,
    admission_capacity=256,
    rows_max=5000,
)


def learn(table: Table, step: int) -> None:
    """One step of a made-up training: sightings, gradients, expiry, deletions."""
    rng = np.random.default_rng(step)
    keys = (rng.zipf(1.3, 300) % 2000).astype(np.uint64)
    slots = table.upsert(keys, 1000 * step)
    table.apply_gradients(slots, rng.normal(size=(300, 3)).astype(np.float32))
    table.touch(slots, 1000 * step)
    table.expire(1000 * step, 100)
    table.delete(keys[:20])


def test_deltas_in_order_give_the_same_table_bit_for_bit() -> None:
    table, copy, served = Table(SPEC), Table(SPEC), Table(SPEC.serving())
    writer, reader = DeltaWriter(table), DeltaReader(copy)
    for step in range(1, 40):
        learn(table, step)
        assert reader.apply(writer.take())
        assert copy.digest(0) == table.digest(0)
        assert copy.filter.state() == table.filter.state()
        assert len(copy) == len(table)
    serving = DeltaWriter(table, serving=True)
    keys, _ = table.items()
    table.mark(table.find(keys))
    assert DeltaReader(served).apply(serving.take())
    assert np.array_equal(served.export(keys)[0], table.export_serving(keys)[0])


def test_gap_and_repeat_are_detected_and_change_nothing() -> None:
    table, copy = Table(SPEC), Table(SPEC)
    writer, reader = DeltaWriter(table), DeltaReader(copy)
    taken = []
    for step in range(1, 5):
        learn(table, step)
        taken.append(writer.take())
    assert reader.apply(taken[0])
    before = copy.digest(0)
    assert not reader.apply(taken[0])
    with pytest.raises(DeltaGapError, match="delta 3 came where 2 was expected"):
        reader.apply(taken[2])
    assert copy.digest(0) == before
    for data in taken:
        reader.apply(data)
    assert copy.digest(0) == table.digest(0)
    assert reader.seq == writer.seq == 4


def test_damaged_and_foreign_deltas_are_refused() -> None:
    table = Table(SPEC)
    learn(table, 1)
    learn(table, 2)
    data = DeltaWriter(table).take()
    for at in range(0, len(data), 997):
        damaged = bytearray(data)
        damaged[at] ^= 4
        with pytest.raises(DeltaError, match="checksum"):
            DeltaReader(Table(SPEC)).apply(bytes(damaged))
    with pytest.raises(DeltaError, match="checksum"):
        DeltaReader(Table(SPEC)).apply(data[:5])
    with pytest.raises(DeltaError, match="another dim, optimizer or extra"):
        DeltaReader(Table(msgspec.structs.replace(SPEC, dim=4))).apply(data)
    with pytest.raises(DeltaError, match="table 'item' was given to table 'user'"):
        DeltaReader(Table(msgspec.structs.replace(SPEC, name="user"))).apply(data)
    with pytest.raises(DeltaError, match="admission"):
        DeltaReader(Table(msgspec.structs.replace(SPEC, admission_capacity=8))).apply(data)


@pytest.mark.parametrize("bytes_max", [1, 30, 200, 10_000_000])
def test_pieces_of_any_size_make_up_the_whole(bytes_max: int) -> None:
    table = Table(SPEC)
    for step in range(1, 4):
        learn(table, step)
    changes = drain(table)
    assert len(changes.deleted) and len(changes.keys) and len(changes.lines)
    cut = list(pieces("item", changes, bytes_max, first_max=0))
    assert len(cut) > 1
    # Deletions all come first: a key may be among the deleted and the rows.
    last_deletion = max(i for i, piece in enumerate(cut) if len(piece.deleted))
    assert not any(len(piece.keys) for piece in cut[:last_deletion])
    copy = Table(SPEC)
    for piece in cut:
        apply(copy, piece)
    assert copy.digest(0) == table.digest(0)
    assert copy.filter.state() == table.filter.state()
    # What was applied is a change of the copy, so a chain of copies works.
    again = Table(SPEC)
    apply(again, drain(copy).whole("item"))
    assert again.digest(0) == table.digest(0)
    assert again.filter.state() == table.filter.state()


def test_no_changes_are_no_pieces() -> None:
    table = Table(SPEC)
    assert not Changes.of(table)
    assert list(pieces("item", drain(table), 100)) == []
