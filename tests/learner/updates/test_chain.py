"""Which updates count: whatever a reader jumps over, a deposed learner's are not taken."""

import pytest

from learner.errors import UpdateGapError
from learner.updates.chain import Chain, UpdatePosition
from learner.updates.format import Update, encode_update
from learner.updates.snapshots import SnapshotReader
from stream.log.base import SNAPSHOTS, Outgoing
from stream.log.testing import MemoryLog


def update(
    seq: int, term: int, part: int = 0, parts: int = 1, epoch: int = 5, shard: int = 0, shards: int = 0
) -> Update:
    """A part of an update that holds nothing."""
    return Update(
        epoch=epoch,
        seq=seq,
        part=part,
        parts=parts,
        watermark={shard: seq} if shards else {},
        examples=10 if shards else 0,
        event_time=float(shard),
        ingest_ms=shard,
        tables=[],
        term=term,
        shards=shards,
        shard=shard,
    )


def test_chain_takes_one_terms_updates_whole_and_once() -> None:
    chain = Chain(UpdatePosition())
    assert [u.seq for u in chain.take(update(1, 3)) or []] == [1]
    assert chain.take(update(2, 3, 0, 2)) is None
    assert chain.take(update(0, 7, 0, 0)) is None, "a term begins: the half update is void"
    assert chain.take(update(2, 3, 1, 2)) is None and chain.fenced == 1
    assert chain.take(update(2, 7, 0, 2)) is None
    assert [u.part for u in chain.take(update(2, 7, 1, 2)) or []] == [0, 1]
    assert chain.take(update(2, 7)) is None and chain.repeated == 1
    with pytest.raises(UpdateGapError):
        chain.take(update(4, 7))
    assert chain.take(update(1, 9, epoch=4)) is not None, "one begins anew in a higher term"
    assert chain.position(10) == UpdatePosition(10, 9, 4, 1, 9)


def test_behind_a_snapshot_of_a_term_an_update_of_a_lower_one_does_not_count() -> None:
    chain = Chain(UpdatePosition())
    chain.jump(epoch=5, seq=3, made_in=5)
    assert chain.take(update(4, term=4)) is None and chain.fenced == 1
    assert chain.take(update(4, term=5)) is not None


def test_term_that_has_begun_counts_on_after_a_jump_to_an_older_terms_snapshot() -> None:
    chain = Chain(UpdatePosition())
    assert chain.take(update(0, 7, 0, 0)) is None
    chain.jump(epoch=5, seq=3, made_in=5)
    assert chain.take(update(4, term=6)) is None and chain.fenced == 1
    assert chain.take(update(4, term=7)) is not None


def test_an_update_of_shards_is_complete_when_all_parts_of_all_are_there_in_any_order() -> None:
    chain = Chain(UpdatePosition())
    assert chain.take(update(1, 3, 0, 2, shard=1, shards=3)) is None
    assert chain.take(update(1, 3, shard=0, shards=3)) is None
    assert chain.take(update(1, 3, 1, 2, shard=1, shards=3)) is None
    assert chain.take(update(1, 3, shard=0, shards=3)) is None, "sent again after a crash"
    parts = chain.take(update(1, 3, 0, 1, shard=2, shards=3)) or []
    assert [(u.shard, u.part) for u in parts] == [(2, 0), (1, 0), (1, 1), (0, 0)]
    assert parts[-1].watermark == {0: 1, 1: 1, 2: 1} and parts[-1].examples == 30
    assert (parts[-1].event_time, parts[-1].ingest_ms) == (2.0, 2)
    assert chain.take(update(1, 3, shard=1, shards=3)) is None and chain.repeated == 1
    assert chain.take(update(2, 3, shard=0, shards=2)) is None, "as many as it says: their number has changed"
    assert chain.take(update(0, 7, 0, 0)) is None, "a term begins: the half update is void"
    assert chain.take(update(2, 7, shard=1, shards=2)) is None
    assert chain.take(update(2, 3, shard=0, shards=2)) is None and chain.fenced == 1
    assert chain.take(update(2, 7, shard=0, shards=2)) is not None
    with pytest.raises(UpdateGapError, match="update 4 came instead of 3"):
        chain.take(update(4, 7, shard=1, shards=2))


def test_a_deposed_learners_snapshot_does_not_count() -> None:
    log = MemoryLog()
    log.create_topic(SNAPSHOTS, 1)
    reader = SnapshotReader()

    def found(*parts: Update) -> list[tuple[int, int, int]]:
        log.append(SNAPSHOTS, [Outgoing(b"", encode_update(part), 0) for part in parts])
        return [snapshot.number for snapshot in reader.read(log)]

    assert found(update(3, 1, 0, 2), update(3, 1, 1, 2)) == [(1, 5, 3)]
    assert found(update(4, 1, 0, 2), update(0, 2, 0, 0), update(4, 1, 1, 2)) == []
    assert found(update(5, 1)) == [], "the term 2 has begun"
    assert found(update(4, 2, 0, 2), update(4, 2, 1, 2)) == [(2, 5, 4)]
