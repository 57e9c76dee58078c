"""Following a learner: what a follower takes, and what it refuses."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embeddings.save.delta import Changes, pieces
from learner.features.encoder import FeatureSpec
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.updates.follower import Follower
from learner.updates.format import Update, encode_update
from stream.log.base import SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog

FEATURES = {"item": FeatureSpec(dim=2)}
SETTINGS = LearnerSettings(deep="none")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log with the learner's topics."""
    log = SqliteLog(tmp_path / "log.db", LogSettings(sync=False))
    for topic in (UPDATES, SNAPSHOTS):
        log.create_topic(topic, 1)
    yield log
    log.close()


def update(term: int, epoch: int, seq: int) -> Update:
    """An update, or a snapshot, without rows."""
    arrays = {name: array.tobytes() for name, array in Model(FEATURES, SETTINGS).arrays().items()}
    return Update(
        epoch=epoch,
        seq=seq,
        part=0,
        parts=1,
        watermark={0: seq},
        examples=seq,
        event_time=0.0,
        ingest_ms=0,
        tables=[],
        arrays=arrays,
        term=term,
    )


def write(log: Log, topic: str, *updates: Update) -> None:
    """Append them."""
    log.append(topic, [Outgoing(b"", encode_update(one)) for one in updates])


def test_after_a_gap_an_older_terms_snapshot_is_refused_and_a_newer_one_taken(log: Log) -> None:
    follower = Follower(Model(FEATURES, SETTINGS))
    follower.start(log)
    write(log, UPDATES, update(5, 7, 1), update(5, 7, 2), update(5, 7, 4))
    follower.poll(log)
    assert follower.behind and follower.seq == 2
    # a deposed learner's, whose state was made later: an epoch alone would say that it is newer
    write(log, SNAPSHOTS, update(4, 9, 50))
    follower.poll(log)
    assert follower.behind and (follower.model.epoch, follower.seq) == (7, 2)
    write(log, SNAPSHOTS, update(5, 7, 2))
    follower.poll(log)
    assert follower.behind, "one of what it has already does not help"
    write(log, SNAPSHOTS, msgspec.structs.replace(update(5, 7, 4), watermark={0: 40}))
    follower.poll(log)
    assert not follower.behind and follower.seq == 4 and follower.watermark == {0: 40}


def test_snapshot_of_a_later_term_replaces_an_update_that_was_made_again(log: Log) -> None:
    """The record of update 2 was damaged, and its snapshot was not: the next leader could not know of it."""
    follower = Follower(Model(FEATURES, SETTINGS))
    follower.start(log)
    write(log, UPDATES, update(5, 7, 1))
    log.append(UPDATES, [Outgoing(b"", b"damaged")])
    follower.poll(log)
    write(log, SNAPSHOTS, update(5, 7, 2))
    follower.poll(log)
    assert follower.seq == 2, "from the snapshot"
    again = msgspec.structs.replace(update(6, 7, 2), watermark={0: 60})
    write(log, UPDATES, msgspec.structs.replace(update(6, 7, 0), parts=0), again)
    follower.poll(log)
    assert follower.behind and follower.watermark == {0: 2}, "what it has taken does not count"
    write(log, SNAPSHOTS, again)
    follower.poll(log)
    assert not follower.behind and follower.seq == 2 and follower.watermark == {0: 60}
    write(log, UPDATES, update(6, 7, 3))
    follower.poll(log)
    assert not follower.behind and follower.seq == 3


def with_rows(one: Update, *keys: int) -> Update:
    """The same with a row of each key in the first table."""
    model = Model(FEATURES, SETTINGS)
    table = model.tables[0]
    rows = np.ones((len(keys), table.width), dtype=np.float32)
    changes = Changes.of(table, keys=np.array(keys, dtype=np.uint64), rows=rows)
    return msgspec.structs.replace(one, tables=list(pieces(model.table_names[0], changes, 1 << 20)))


def test_snapshot_after_a_gap_leaves_no_row_that_it_does_not_hold(log: Log) -> None:
    """The updates that were missed may have deleted rows: evicted ones, and ids that were forgotten."""
    follower = Follower(Model(FEATURES, SETTINGS))
    follower.start(log)
    write(log, UPDATES, with_rows(update(5, 7, 1), 11, 12), update(5, 7, 3))
    follower.poll(log)
    assert follower.behind and sorted(follower.model.tables[0].items()[0].tolist()) == [11, 12]
    write(log, SNAPSHOTS, with_rows(update(5, 7, 3), 12, 13))
    follower.poll(log)
    assert not follower.behind and follower.seq == 3
    assert sorted(follower.model.tables[0].items()[0].tolist()) == [12, 13]


def of(features: dict[str, FeatureSpec], one: Update, *, older: bool = False) -> Update:
    """An update as a learner with these features publishes it; `older`: it does not say whose it is."""
    model = Model(features, SETTINGS)
    arrays = {name: array.tobytes() for name, array in model.arrays().items()}
    return msgspec.structs.replace(one, arrays=arrays, model="" if older else model.identity)


MORE = {**FEATURES, "device": FeatureSpec(dim=2)}
SAME_SHAPE = {"item": FeatureSpec(dim=2, optimizer="adam")}


@pytest.mark.parametrize(
    ("features", "older"), [(MORE, False), (MORE, True), (SAME_SHAPE, False)], ids=["more", "older", "shape"]
)
@pytest.mark.parametrize("topic", [UPDATES, SNAPSHOTS])
def test_another_models_weights_are_left_out_until_this_models_come(
    log: Log, features: dict[str, FeatureSpec], older: bool, topic: str
) -> None:
    write(log, topic, of(features, update(3, 7, 1), older=older))
    follower = Follower(Model(FEATURES, SETTINGS))
    follower.start(log)
    assert follower.poll(log) == []
    assert follower.seq == 0 and "freshet learn --anew" in follower.other
    write(log, UPDATES, of(features, update(3, 7, 2), older=older))
    assert follower.poll(log) == [] and follower.other
    write(log, UPDATES, of(FEATURES, update(4, 9, 1)))
    assert [one.seq for one in follower.poll(log)] == [1]
    assert (follower.model.epoch, follower.seq, follower.other) == (9, 1, "")


def test_model_that_was_followed_answers_on_when_another_takes_its_place(log: Log) -> None:
    follower = Follower(Model(FEATURES, SETTINGS))
    follower.start(log)
    write(log, UPDATES, of(FEATURES, update(3, 7, 1)), of(MORE, update(4, 9, 1)))
    write(log, SNAPSHOTS, of(MORE, update(4, 9, 1)))
    follower.poll(log)
    assert (follower.model.epoch, follower.seq) == (7, 1) and follower.other


def test_updates_that_do_not_say_whose_they_are_are_followed_as_before(log: Log) -> None:
    follower = Follower(Model(FEATURES, SETTINGS))
    write(log, SNAPSHOTS, of(FEATURES, update(3, 7, 4), older=True))
    write(log, UPDATES, of(FEATURES, update(3, 7, 5), older=True))
    follower.start(log)
    follower.poll(log)
    assert follower.seq == 5 and not follower.other
