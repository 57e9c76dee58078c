"""Forgetting, from the log's events to the last copy: joiner, learner, error memory, files."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from error_memory import MemorySettings
from ground.keys import hash_string, key_of
from learner.errors import FeatureError
from learner.features.encoder import FeatureSpec, Request
from learner.features.known.given import as_signed
from learner.model.forgetting import widened
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import EVENTS, EXAMPLES, Log, Outgoing
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent, key_of_event
from stream.records.forgetting import Entity, append_forget, example_without
from stream.records.types import Action, Example, Features, Forget, Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

pytestmark = pytest.mark.slow

USER = "ann-7f3a9c1e5b"
ITEM = 0x5EC2E7C0FFEE1234
T = 1e9
FEATURES = {
    "user": FeatureSpec(dim=4),
    "item": FeatureSpec(dim=4, admit_after=2),
    "tags": FeatureSpec(kind="ids", dim=4),
    "history": FeatureSpec(kind="sequence", of="item", dim=4),
}
SETTINGS = LearnerSettings(window=200)
JOIN = JoinSettings(window_s=50.0, late="learn")
FAST = RunnerSettings(commit_every_s=0.0, read_max=40, wait_s=0.0)


def shown(n: int, user: str, items: list[int], labels: bool) -> Impression:
    return Impression(
        request_id=f"r{n}",
        time=T + n,
        context={"user": user, "history": items[:2]},
        candidates=[{"item": item, "tags": [f"t{item % 3}"]} for item in items],
        labels=[float(item % 2) for item in items] if labels else None,
    )


class World:
    """A joiner, a learner and a replica over one log, moved by hand."""

    def __init__(
        self,
        log: Log,
        folder: Path,
        memory: str = "residual",
        features: Mapping[str, FeatureSpec] = FEATURES,
    ) -> None:
        self.log, self.folder, self.memory, self.features = log, folder, memory, features
        self.sent = 0
        self.join_state = RoleState(folder / "join", "joiner", {}, sync=False)
        self.joiner = Joiner(self.join_state, JOIN)
        self.join = Runner(log, self.join_state, self.joiner, Subscription(EVENTS, "join"), FAST).open()
        self.open_learner()
        self.replica = self.new_replica()

    def open_learner(self) -> None:
        fingerprint = Learner.fingerprint(self.features, SETTINGS)
        self.learn_state = RoleState(self.folder / "learn", "learner", fingerprint, sync=False)
        self.learner = Learner(self.features, SETTINGS, self.learn_state)
        self.learn = Runner(
            self.log, self.learn_state, self.learner, Subscription(EXAMPLES, "learn"), FAST
        ).open()

    def new_replica(self) -> Replica:
        memory = MemorySettings(kind=self.memory)  # type: ignore[arg-type]
        return Replica(self.log, self.features, SETTINGS, memory, ServerSettings(window=500))

    def tell(self, feature: str, entity: int | str, told: Features) -> None:
        event = EntityEvent(feature, entity, T, dict(told))
        self.log.append(EVENTS, [Outgoing(key_of_event(event), encode(event))])

    def send(self, *events: Impression | Action) -> None:
        self.log.append(EVENTS, [Outgoing(e.request_id.encode(), encode(e)) for e in events])

    def play(self, n: int, user: str = USER, item: int = ITEM, labels: bool = True) -> None:
        """n requests of ten people, one of whom is `user`; `item` is among the candidates of every third."""
        for _ in range(n):
            i = self.sent
            self.sent += 1
            who = user if i % 10 == 0 else f"u{i % 10}"
            items = [item if i % 3 == 0 else i % 7, 10 + i % 5, 20 + i % 4]
            self.send(shown(i, who, items, labels))

    def turn(self) -> None:
        for runner in (self.join, self.learn):
            while runner.step():
                pass
        while self.replica.step():
            pass

    def forget(self, refuse_s: float = 0.0, **entity: list[int | str]) -> None:
        append_forget(self.log, EVENTS, Forget("f1", T + self.sent, widened(self.features, entity), refuse_s))
        self.turn()

    def close(self) -> None:
        self.join_state.close()
        self.learn_state.close()

    def files_with(self, *ids: int | str) -> dict[str, set[int | str]]:
        """The files of the state folders in which an id is: as text, or its key in either byte order."""
        found: dict[str, set[int | str]] = {}
        for file in self.folder.rglob("*"):
            data = file.read_bytes() if file.is_file() else b""
            for one in ids:
                key = key_of(one)
                forms = [key.to_bytes(8, "little"), key.to_bytes(8, "big"), str(one).encode()]
                if any(form in data for form in forms):
                    found.setdefault(str(file.relative_to(self.folder)), set()).add(one)
        return found


@pytest.fixture
def world(log: Log, tmp_path: Path) -> Iterator[World]:
    made = World(log, tmp_path / "state")
    yield made
    made.close()


@pytest.mark.slow
def test_an_entity_is_nowhere_after_it_is_forgotten(world: World) -> None:
    world.play(200)
    world.play(40, labels=False)  # those of the last 50 s wait for their window
    world.turn()
    before = world.files_with(USER, ITEM)
    assert {
        name for file, ids in before.items() for name in [(file.split("/")[0], *sorted(map(str, ids)))]
    } == {
        ("join", str(ITEM), USER),
        ("learn", str(ITEM), USER),
    }
    encoder = world.learner.model.encoder
    pairs = world.learner.model.tables[-1]
    users_pairs = encoder.pair_keys(
        encoder.pairs.index((0, 1)),
        np.array([hash_string(USER)], dtype=np.uint64),
        world.learner.model.tables[1].items()[0],
    )
    assert (pairs.find(users_pairs) >= 0).sum() > 5
    rows = world.learner.model.table_rows()

    world.forget(user=[USER], item=[ITEM])

    for model in (world.learner.model, world.replica.model):
        for name, one in (("user", USER), ("item", ITEM), ("history", ITEM)):
            table = model.tables[model.table_names.index(name)]
            assert table.find(np.array([key_of(one)], dtype=np.uint64))[0] == -1, name
        assert (model.tables[-1].find(users_pairs) < 0).all()
    assert world.learner.model.table_rows()["user"] == rows["user"] - 1
    assert world.replica.status().updates_applied == world.learner.meta.seq
    assert world.joiner.counts.forgotten > 10
    world.close()
    assert world.files_with(USER, ITEM) == {}
    hashes = world.learner.digest()
    world.open_learner()
    assert world.learner.digest() == hashes
    assert not world.learner.meta.purging


KNOWN = {
    "user": FeatureSpec(dim=4, memory_rows=4),  # the others rest on disk
    "item": FeatureSpec(dim=4, memory_rows=4),
    "history": FEATURES["history"],  # comes with each request
    "seller": FeatureSpec(dim=4, of="item"),
    "past": FeatureSpec(kind="history", by="user", of="item", length=6, dim=4, memory_rows=4),
    "viewers": FeatureSpec(kind="history", by="item", of="user", length=30, dim=4),
    "ctr": FeatureSpec(kind="rate", of="item", window_s=3600.0),
    "both": FeatureSpec(kind="rate", of=["item", "user"], window_s=3600.0),
}


def known_to(replica: Replica, user: str) -> bytes:
    """All that a server fills into a request of a person for many items, as text."""
    asked = Impression("q", T + 1000.5, [{"item": i} for i in (ITEM + 1, *range(25))], {"user": user})
    filled = replica.filled(asked)
    named = [filled.context, *filled.candidates]
    return msgspec.json.encode([{n: v for n, v in one.items() if n not in ("user", "item")} for one in named])


def test_histories_rates_and_attributes_of_others_forget_a_person_and_an_item(
    log: Log, tmp_path: Path
) -> None:
    world, item = World(log, tmp_path / "state", features=KNOWN), ITEM + 1
    for one in (item, 11, 13):
        world.tell("item", one, {"seller": USER if one == 11 else "bob"})
    world.play(200, item=item)
    world.turn()
    kept = [str(as_signed(key_of(one))).encode() for one in (USER, item)]
    before = known_to(world.replica, "u3")
    assert all(key in before for key in kept) and USER.encode() in before
    assert world.files_with(USER, item)
    rows = world.learner.model.table_rows()
    world.forget(user=[USER], item=[item], seller=[USER])
    fresh = world.new_replica()
    while fresh.step():
        pass
    for person in ("u3", USER):
        after = known_to(world.replica, person)
        assert not any(key in after for key in [*kept, USER.encode()]) and b"bob" in after
        assert after == known_to(fresh, person)
    left = world.learner.model.table_rows()
    assert rows["ctr.state"] - left["ctr.state"] == 1 and rows["both.state"] - left["both.state"] > 5
    deadline = time.monotonic() + 60.0
    while not (world.join_state.purges and world.learn_state.purges):
        assert time.monotonic() < deadline
        world.turn()
    world.close()
    assert world.files_with(USER, item) == {}


@pytest.mark.slow
def test_others_are_learnt_on_from_what_waited(world: World) -> None:
    world.play(60, labels=False)
    world.turn()
    world.forget(user=[USER], item=[ITEM])
    world.send(Action("r10", T + 60, 1), Action("r11", T + 60, 1), Action("r12", T + 60, 0))
    world.send(Action("r12", T + 60, 2), shown(300, "u1", [1, 2, 3], True), shown(301, "u1", [1, 2], True))
    for i in range(20):
        world.send(shown(400 + i, "u2", [4], True))  # moves the clock of both partitions
    world.turn()
    decode = Decoder(Example, Forget).decode
    examples = {}
    for partition in range(2):
        for record in world.log.read(EXAMPLES, partition, 0):
            found = decode(record.value)
            if isinstance(found, Example):
                examples[found.request_id] = found
    assert "r10" not in examples  # ann's own
    assert examples["r11"].labels == [0.0, 1.0, 0.0]
    assert examples["r12"].labels == [0.0, 1.0]  # the first of three is gone; what was said of it, too
    assert ITEM not in [c["item"] for c in examples["r12"].candidates]
    assert examples["r12"].context["history"] == [12]
    assert world.joiner.counts.orphans == 0
    assert world.joiner.counts.late >= 1


@pytest.mark.slow
def test_what_comes_later_is_refused_for_as_long_as_asked(world: World) -> None:
    world.play(100)
    world.turn()
    world.forget(user=[USER], item=[ITEM], refuse_s=100.0)
    learnt = world.learner.meta.examples
    world.play(90)
    world.turn()
    table = world.learner.model.tables[0]
    assert world.learner.meta.refused == 9 * 3 + 27  # whole requests; the item alone in the others
    assert world.learner.meta.examples == learnt + 90 * 3 - world.learner.meta.refused
    assert table.find(np.array([key_of(USER)], dtype=np.uint64))[0] == -1
    world.learn_state.close()
    world.open_learner()  # the refusal is part of the state
    world.play(8)
    world.turn()
    assert table.find(np.array([key_of(USER)], dtype=np.uint64))[0] == -1
    world.play(40)
    world.turn()
    table = world.learner.model.tables[0]
    assert table.find(np.array([key_of(USER)], dtype=np.uint64))[0] >= 0
    assert len(world.learner.refusals) == 0


@pytest.mark.parametrize("kind", ["residual", "sketch", "neighbours"])
def test_an_error_memory_beside_a_frozen_base_forgets(log: Log, tmp_path: Path, kind: str) -> None:
    world = World(log, tmp_path / "state", kind)
    world.play(20)
    world.turn()
    replica = world.replica
    replica.frozen = True  # the learner's updates drop nothing from here on
    world.play(100)
    world.turn()
    asked = [
        Request(T + 200, {"user": user}, [{"item": 10 + i} for i in range(5)])
        for user in (USER, "u1", "nobody")
    ]
    assert replica.status().memory.evidence > 0
    ann, other, nobody = (np.array(one.corrected) / np.array(one.base) for one in replica.score(asked))
    assert not np.array_equal(ann, nobody)
    world.forget(user=[USER])
    _, other2, nobody2 = (np.array(one.corrected) / np.array(one.base) for one in replica.score(asked))
    memory = replica.memory
    if kind == "residual":
        assert np.array_equal(other2, other)  # whoever is not named is corrected as before
        assert np.array_equal(nobody2, nobody)
        assert key_of(USER) not in memory.candidates(0)
    else:
        assert memory.evidence == 0
    world.close()


def test_ids_are_compared_by_feature_and_key() -> None:
    beyond = (1 << 64) - 5  # -5 in two's complement, and another id
    entity = Entity({"user": [-5, "7"], "tags": ["a"]})
    assert entity.named("user", -5) and not entity.named("user", beyond)
    assert not entity.named("user", 7) and not entity.named("item", -5)
    assert entity.within(msgspec.msgpack.encode({"user": -5}))
    assert not entity.within(msgspec.msgpack.encode({"user": 5}))
    for padded in (
        b"\xd3" + (-5).to_bytes(8, "big", signed=True),
        b"\xd0\xfb",
    ):
        assert msgspec.msgpack.decode(padded) == -5 and entity.within(b"\x81\xa4user" + padded)
    example = Example("r", T, T, [{"item": 1, "tags": ["a", "b"]}, {"item": 2}], [1.0, 0.0], {"user": "x"})
    left = example_without(example, ["user", "tags"], entity.named)
    assert left is not None and left.candidates == [{"item": 1, "tags": ["b"]}, {"item": 2}]
    assert example_without(example, ["user"], entity.named) is example
    said = {"weight": [2.0, 3.0], "before": [0.0, 1.0], "place": [1, 0], "propensity": [0.5, 0.25]}
    one_gone = msgspec.structs.replace(example, candidates=[{"user": "7"}, {"item": 2}], **said)
    left = example_without(one_gone, ["user"], entity.named)
    assert left is not None and {name: getattr(left, name) for name in said} == {
        name: values[1:] for name, values in said.items()
    }
    assert (
        example_without(msgspec.structs.replace(example, context={"user": "7"}), ["user"], entity.named)
        is None
    )


def test_what_cannot_be_forgotten_is_said() -> None:
    assert widened(FEATURES, {"item": [1]}) == {"item": [1], "history": [1]}
    with pytest.raises(
        FeatureError, match="'iten' is not declared; ids to forget may be of: user, item, tags"
    ):
        widened(FEATURES, {"iten": [1]})


class Guarded:
    """An error memory that must only be changed with the lock held under which answers read it."""

    def __init__(self, world: World) -> None:
        live = world.replica.live
        self._memory, self._lock = live.memory, live.lock
        self.changed: set[str] = set()
        live.memories[0] = self  # type: ignore[call-overload]

    def __getattr__(self, name: str) -> object:
        if name in ("observe", "forget", "advance", "set_priors", "load"):
            assert self._lock.locked(), f"{name} beside an answer"
            self.changed.add(name)
        return getattr(self._memory, name)


def test_error_memory_changes_under_the_lock_of_the_answers_alone(world: World) -> None:
    world.play(60)
    world.turn()
    memory = Guarded(world)
    world.play(60)
    world.turn()
    world.forget(user=[USER])
    world.play(20)
    world.turn()
    assert memory.changed == {"observe", "forget", "advance", "set_priors"}
