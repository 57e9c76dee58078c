"""Following a learner: what a follower takes, and what it refuses."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

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
