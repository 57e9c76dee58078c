"""docs/protocol.md, attacked: replicas on one log agree, and heal from what is lost, doubled or damaged."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from error_memory import MemorySettings
from learner.errors import UpdateError
from learner.features.encoder import FeatureSpec, Request
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.updates.format import decode_update, encode_update
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.types import Example, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

FEATURES = {"user": FeatureSpec(dim=4, ttl_s=150.0), "item": FeatureSpec(dim=16)}
ASKED = [Request(1e9 + 1000, {"user": f"u{u}"}, [{"item": i} for i in range(15)]) for u in range(20)]


def examples(first: int, n: int) -> list[Outgoing]:
    rng = np.random.default_rng(first)
    return [
        Outgoing(
            b"%d" % i,
            encode(
                Example(
                    f"r{i}", 1e9 + i, 1e9 + i, [{"item": int(j)} for j in rng.choice(12, 3)],
                    rng.integers(2, size=3).astype(float).tolist(), {"user": f"u{rng.integers(18)}"},
                )
            ),
            0,
        )
        for i in range(first, first + n)
    ]  # fmt: skip


class World:
    """A log, a learner that publishes an update for every 10 examples and a snapshot now and then."""

    def __init__(self, folder: Path, **learner: Any) -> None:
        self.settings = LearnerSettings(**({"deep": "none", "snapshot_bytes_min": 1 << 30} | learner))
        self.log = SqliteLog(folder / "log.db", LogSettings(sync=False))
        for topic in (EXAMPLES, UPDATES, SNAPSHOTS):
            self.log.create_topic(topic, 1)
        self.state = RoleState(folder / "state", "learner", {}, sync=False)
        self.learner = Learner(FEATURES, self.settings, self.state)
        eager = RunnerSettings(commit_every_s=0.0, read_max=10, wait_s=0.0)
        self.runner = Runner(
            self.log, self.state, self.learner, Subscription(EXAMPLES, "learn"), eager
        ).open()
        self.learnt = 0

    def learn(self, updates: int, *, snapshot: bool = False) -> None:
        """Learn 10 examples an update; the last of them with a snapshot behind it."""
        self.log.append(EXAMPLES, examples(self.learnt, 10 * updates))
        self.learnt += 10 * updates
        if snapshot:
            self.learner.meta.update_bytes = 1 << 40  # as if so much had gone out since the last one
        while self.runner.step():
            pass

    def replica(self, **server: Any) -> Replica:
        return Replica(self.log, FEATURES, self.settings, MemorySettings(), ServerSettings(**server))

    def close(self) -> None:
        self.state.close()
        self.log.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def catch_up(replica: Replica) -> None:
    while replica.step() or replica.step():  # the step after a gap looks for a snapshot
        pass


def base(replica: Replica) -> list[list[float]]:
    return [scored.base for scored in replica.score(ASKED)]


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "deep"), [("float32", "dcn"), ("float16", "none"), ("int8", "none")])
def test_replicas_agree_bit_for_bit_however_they_came_to_a_sequence_number(
    folder: Path, rows: str, deep: str
) -> None:
    world = World(folder, update_rows=rows, deep=deep)
    followed, late = world.replica(), world.replica()
    catch_up(followed)
    for at in range(4):
        world.learn(12, snapshot=at in (1, 3))
        catch_up(followed)
        if at == 1:
            catch_up(late)
    catch_up(late)
    newest = world.replica()  # by the snapshot and what came behind it
    catch_up(newest)
    assert newest.status().updates_applied < late.status().updates_applied < followed.status().updates_applied
    assert newest.status().version == late.status().version == followed.status().version
    assert base(newest) == base(late) == base(followed)
    corrected = [[scored.corrected for scored in r.score(ASKED)] for r in (newest, late, followed)]
    assert corrected[0] == corrected[1] == corrected[2]  # all learnt: nothing to correct
    learner = [world.learner.model.score_requests([asked]).p for asked in ASKED]
    np.testing.assert_allclose(base(followed), learner, atol={"float32": 1e-9}.get(rows, 0.005))
    assert (rows == "float32") == np.allclose(base(followed), learner, rtol=0.0, atol=1e-9)
    world.close()


@pytest.mark.slow
def test_packed_updates_take_fewer_bytes(tmp_path: Path) -> None:
    sizes = {}
    for rows in ("float32", "float16", "int8"):
        world = World(tmp_path / rows, update_rows=rows)
        world.learn(20)
        records = world.log.read(UPDATES, 0, 0, 1000)
        sizes[rows] = sum(len(p.rows) for r in records for p in decode_update(r.value).tables)
        world.close()
    assert sizes["int8"] < sizes["float16"] < 0.75 * sizes["float32"]


def test_rows_of_an_unknown_kind_are_refused(folder: Path) -> None:
    world = World(folder, update_rows="int8")
    world.learn(1)
    replica = world.replica()
    catch_up(replica)
    update = decode_update(world.log.read(UPDATES, 0, 0, 1)[0].value)
    strange = msgspec.structs.replace(update, seq=update.seq + 1, rows="int4")
    world.log.append(UPDATES, [Outgoing(b"", encode_update(strange), 0)])
    with pytest.raises(UpdateError, match="'int4' rows, which this Freshet does not know"):
        replica.step()
    world.close()


HARMS = ["as it is", "lost", "twice", "damaged", "damaged copy behind"]


def harmed(value: bytes, harm: str) -> list[bytes]:
    """What becomes of a record."""
    damaged = value[:-1] + bytes([value[-1] ^ 1])
    return {
        "as it is": [value],
        "lost": [],
        "twice": [value, value],
        "damaged": [damaged],
        "damaged copy behind": [value, damaged[:-2]],
    }[harm]


class Told(NamedTuple):
    """What a sound learner has told, in three stages: 8 updates, one more with a snapshot, 3 more."""

    settings: LearnerSettings
    updates: list[list[bytes]]  # of each stage
    snapshots: list[list[bytes]]
    base: list[list[list[float]]]  # of a sound replica after each stage


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    world = World(tmp_path_factory.mktemp("sound"))
    sound = world.replica()
    found = Told(world.settings, [], [], [])
    taken = {UPDATES: 0, SNAPSHOTS: 0}
    for updates, snapshot in ((8, False), (1, True), (3, False)):
        world.learn(updates, snapshot=snapshot)
        for topic, into in ((UPDATES, found.updates), (SNAPSHOTS, found.snapshots)):
            records = world.log.read(topic, 0, taken[topic], 100) if world.log.ends(topic)[0][1] else []
            into.append([record.value for record in records])
            taken[topic] += len(records)
        catch_up(sound)
        found.base.append(base(sound))
    world.close()
    return found


class Listener:
    """A replica whose log is told what a sound learner told, some of it harmed."""

    def __init__(self, folder: Path, told: Told, **server: Any) -> None:
        self.told = told
        self.log = SqliteLog(folder / "harmed.db", LogSettings(sync=False))
        for topic in (EXAMPLES, UPDATES, SNAPSHOTS):
            self.log.create_topic(topic, 1)
        self.replica = Replica(self.log, FEATURES, told.settings, MemorySettings(), ServerSettings(**server))

    def hear(self, stage: int, harms: Sequence[str] = ()) -> None:
        """One stage; its n-th update as the n-th harm says."""
        updates = self.told.updates[stage]
        wrong = [*harms, *(["as it is"] * len(updates))]
        came = [one for value, harm in zip(updates, wrong, strict=False) for one in harmed(value, harm)]
        for topic, values in ((UPDATES, came), (SNAPSHOTS, self.told.snapshots[stage])):
            if values:
                self.log.append(topic, [Outgoing(b"", value, 0) for value in values])
        catch_up(self.replica)


@pytest.mark.slow
@given(st.lists(st.sampled_from(HARMS), max_size=8), st.sampled_from(HARMS))
@settings(deadline=None, max_examples=many(8))
def test_whatever_happens_to_updates_the_next_snapshot_heals(
    told: Told, tmp_path_factory: pytest.TempPathFactory, before: list[str], last: str
) -> None:
    listener = Listener(tmp_path_factory.mktemp("harmed"), told, ready_age_s_max=1e-9)
    replica = listener.replica
    listener.hear(0, before)
    whole = not {"lost", "damaged"} & set(before)
    assert (base(replica) == told.base[0]) == whole  # else it goes on answering with what it has
    assert (replica.unready() == "") == whole or before[-1:] in (["lost"], ["damaged copy behind"])
    listener.hear(1, [last])
    listener.hear(2)
    assert base(replica) == told.base[2]
    assert replica.unready() == ""
    listener.log.close()


@pytest.mark.parametrize("harm", ["lost", "damaged"])
def test_replica_that_misses_an_update_says_so_and_goes_on_answering(
    told: Told, folder: Path, harm: str
) -> None:
    listener = Listener(folder, told, ready_age_s_max=600.0)
    replica = listener.replica
    listener.hear(0, ["as it is"] * 6 + [harm])
    known = base(replica)
    assert replica.unready() == "" and known != told.base[0]  # not yet
    replica.settings = msgspec.structs.replace(replica.settings, ready_age_s_max=1e-9)
    catch_up(replica)
    assert "waits for a snapshot, as updates are missing" in replica.unready()
    assert base(replica) == known and not replica.status().ready
    assert replica.status().update_gaps == 1
    listener.hear(1)
    assert replica.unready() == "" and base(replica) == told.base[1]
    listener.log.close()


def test_damaged_snapshot_is_left_out_and_the_one_before_it_serves(told: Told, folder: Path) -> None:
    (snapshot,) = told.snapshots[1]
    listener = Listener(folder, told)
    listener.log.append(SNAPSHOTS, [Outgoing(b"", value, 0) for value in (snapshot, snapshot[:-3])])
    values = [value for stage in told.updates for value in stage]
    listener.log.append(UPDATES, [Outgoing(b"", value, 0) for value in values])
    catch_up(listener.replica)
    assert listener.replica.status().updates_applied == 3  # those behind the snapshot
    assert base(listener.replica) == told.base[2]
    listener.log.close()


def test_updates_of_one_who_led_no_more_are_found_out_although_the_record_that_says_so_is_damaged(
    told: Told, folder: Path
) -> None:
    listener = Listener(folder, told)
    first, second, third = (decode_update(value) for value in told.updates[0][:3])
    stray = msgspec.structs.replace(third, tables=[], arrays=second.arrays, seq=3)
    lead = {"term": 1}
    records = [first, second, "damaged", stray, *(msgspec.structs.replace(u, **lead) for u in (third,))]
    values = [b"damaged" if isinstance(r, str) else encode_update(r) for r in records]
    listener.log.append(UPDATES, [Outgoing(b"", value, 0) for value in values])
    catch_up(listener.replica)
    assert listener.replica.status().update_gaps == 1
    healing = decode_update(told.snapshots[1][0])
    listener.log.append(
        SNAPSHOTS, [Outgoing(b"", encode_update(msgspec.structs.replace(healing, **lead)), 0)]
    )
    catch_up(listener.replica)
    assert base(listener.replica) == told.base[1]
    listener.log.close()
