"""What Freshet knows, from the log to a score and back: what a server used is learned and replayed."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from error_memory import MemorySettings
from freshet.config import Config, load_config
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions, open_tape
from freshet.roles.opening import open_topics
from learner.entities.filling import filled
from learner.features.columns import declared_by
from learner.model.model import Model
from learner.role.learner import Learner
from learner.updates.follower import Follower
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.join.joiner import Joiner
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, SNAPSHOTS, Outgoing
from stream.records.decoding import Decoder
from stream.records.entities.record import AnyEvent, EntityEvent, key_of_event
from stream.records.forgetting import append_forget
from stream.records.types import Action, DeadLetter, Example, Forget, Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

CONFIG = """
log = "sqlite:log.db"
state = "state"
[stream]
partitions = 2
[stream.log]
sync = false
[join]
window_s = 5.0
[learner]
snapshot_bytes_min = 50000
[features]
user = {dim = 4}
item = {dim = 4, type = "int"}
category = {dim = 4, of = "item"}
tags = {kind = "ids", dim = 4, of = "item"}
price = {kind = "number", dim = 4, of = "item"}
group = {dim = 4, of = "user"}
title = {kind = "text", dim = 4, of = "item"}
look = {kind = "vector", length = 4, dim = 4, of = "item"}
seen = {kind = "history", by = "user", of = "item", length = 5, dim = 4}
groups = {kind = "history", by = "user", of = "category", length = 3, dim = 4}
lately = {kind = "rate", of = "item", window_s = 120.0}
together = {kind = "rate", of = ["item", "user"], window_s = 3600.0, measure = "count"}
"""
# commits are made by hand: a role that begins anew has lost what it did since the last one
FAST = RunnerSettings(commit_every_s=1e6, read_max=20, wait_s=0.0)


class World:
    """A joiner, a learner and a server's replica over one log, moved by hand, restarted on their states."""

    def __init__(self, folder: Path) -> None:
        (folder / "freshet.toml").write_text(CONFIG)
        self.config: Config = load_config(folder / "freshet.toml")
        self.log = open_topics(self.config)
        self.states: list[RoleState] = []
        self.begin()
        self.replica = Replica(
            self.log, self.config.features, self.config.learner, MemorySettings(), ServerSettings(window=500)
        )
        self.now = self.log_time()

    def log_time(self) -> float:
        return time.time() - 1000.0

    def begin(self) -> None:
        """Begin the joiner and the learner from their states, as after a kill."""
        for state in self.states:
            state.close()
        config = self.config
        join = RoleState(config.state_of("join"), "joiner", {}, sync=False)
        learn = RoleState(
            config.state_of("learn"),
            "learner",
            Learner.fingerprint(config.features, config.learner),
            sync=False,
        )
        self.states = [join, learn]
        self.joiner = Joiner(join, config.join, declared=declared_by(config.features), partitions=2)
        self.learner = Learner(config.features, config.learner, learn)
        self.runners = [
            Runner(self.log, join, self.joiner, Subscription(EVENTS, "join"), FAST).open(),
            Runner(self.log, learn, self.learner, Subscription(EXAMPLES, "learn"), FAST).open(),
        ]

    def turn(self) -> None:
        for runner in self.runners:
            while runner.step():
                pass
            runner.commit()
        while self.replica.step():
            pass

    def kill(self, rng: random.Random) -> None:
        """Let each role take some of what has come, and begin anew before it commits."""
        for runner in self.runners:
            for _ in range(rng.randrange(4)):
                runner.step()
        self.begin()

    def send(self, *events: AnyEvent) -> None:
        self.log.append(EVENTS, [Outgoing(key_of_event(e), encode(e)) for e in events])

    def score(self, request: Impression, rng: random.Random) -> Impression:
        """Score as the server does; sends what it logs, and a click, in any order."""
        request = self.replica.filled(request)
        (scored,) = self.replica.score([request])
        served = msgspec.structs.replace(scored.served, filled=self.replica.attributes)
        made = msgspec.structs.replace(request, served=served)
        # what is logged says all that was used
        assert self.replica.score([made])[0].served.base == served.base
        self.send(*shuffled(rng, made, Action(request.request_id, request.time + 1.0, scored.order[0])))
        return made

    def examples(self) -> list[Example]:
        """What a replay learns, along the learner's journal."""
        options = ReplayOptions(journal=str(self.config.state_of("learn")))
        tape = open_tape(self.config, options)
        try:
            return list(tape)
        finally:
            tape.close()

    def close(self) -> None:
        for state in self.states:
            state.close()
        self.states = []
        self.log.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def shuffled(rng: random.Random, *events: AnyEvent) -> list[AnyEvent]:
    return rng.sample(events, len(events))


def told(rng: random.Random, item: int, time: float) -> EntityEvent:
    return EntityEvent(
        "item",
        rng.choice([item, str(item)]),  # both are the id: its type is "int"
        time,
        {
            "category": f"c{rng.randrange(4)}",
            "price": rng.choice([None, rng.random()]),
            "tags": [item % 3, "t"],
            "title": rng.choice([None, f"word{item} of {rng.randrange(5)}"]),
            "look": [rng.gauss(item, 1.0) for _ in range(4)],
        },
    )


@pytest.mark.slow
def test_live_scores_and_replay_use_the_same_values_to_the_bit(world: World) -> None:
    rng = random.Random(1)
    served: dict[str, Impression] = {}
    for turn in range(12):
        begin = world.now + 20.0 * turn
        events = [told(rng, rng.randrange(8), begin + rng.uniform(-60.0, 20.0)) for _ in range(10)]
        events.append(EntityEvent("user", f"u{turn % 3}", begin, {"group": turn}))
        rng.shuffle(events)  # late, early, and out of order
        world.send(*events, events[0])
        if turn % 3 == 1:
            world.kill(rng)
        world.turn()
        for i in range(6):
            name = f"r{turn}-{i}"
            request = Impression(
                name, begin + i, [{"item": rng.randrange(10)} for _ in range(3)], {"user": f"u{i % 3}"}
            )
            if i % 2:
                served[name] = world.score(request, rng)
            else:  # by a producer that knows nothing of attributes
                world.send(*shuffled(rng, request, Action(name, begin + i + 1.0, i % 3)))
        if turn % 3 == 2:
            world.kill(rng)
        world.turn()
    # a server that begins now, from a snapshot, knows the same
    assert world.log.ends(SNAPSHOTS)[0][1] > 0
    late = Follower(Model(world.config.features, world.config.learner))
    late.start(world.log)
    while late.poll(world.log):
        pass
    assert late.model.entities.digest() == world.replica.model.entities.digest() != b""
    assert late.model.entities.digest() == world.learner.model.entities.digest()
    live = world.learner.digest()
    world.close()
    learned = {example.request_id: example for example in world.examples()}
    assert len(learned) > 60 and len(served.keys() & learned.keys()) > 30
    for name in served.keys() & learned.keys():  # of a server: as it was scored
        assert learned[name].candidates == served[name].candidates
        assert learned[name].context == served[name].context
    last = [request for name, request in served.items() if name.startswith("r11-")]
    assert all("seen.keys" in r.context and "groups.at" in r.context for r in last)
    assert all({"lately", "together"} <= c.keys() for r in last for c in r.candidates)
    assert any({"title", "look"} <= c.keys() for r in last for c in r.candidates)
    filled_in = [c for e in learned.values() if e.request_id not in served for c in e.candidates]
    assert sum("category" in c for c in filled_in) > len(filled_in) // 2
    report = replay(world.config, ReplayOptions(journal=str(world.config.state_of("learn"))))
    assert report["equals_live_state"] and report["state_hash"] == live


def test_bad_entity_events_become_dead_letters_and_the_rest_is_taken(world: World) -> None:
    now = world.log_time() + 1000.0
    good = EntityEvent("item", 1, now - 5.0, {"category": "shoes"})
    before_the_last = EntityEvent("item", 1, now - 9.0, {"category": "boots"})
    world.send(
        good,
        before_the_last,
        EntityEvent("item", 1, now + 86_400.0, {"category": "tomorrow"}),
        EntityEvent("itm", 1, now, {"category": "shoes"}),
        EntityEvent("item", 1, now, {"category": 59.9}),  # it was text until now
    )
    big = json.dumps(
        {"type": "entity", "feature": "item", "id": 1, "time": now, "set": {"tags": "a" * (1 << 20)}}
    )
    world.log.append(EVENTS, [Outgoing(b"item/1", big.encode())])
    world.turn()
    decode = Decoder(DeadLetter, bytes_max=4 << 20).decode
    letters = [decode(record.value) for record in world.log.read(DEAD_LETTERS, 0, 0)]
    reasons = sorted((letter.stage, letter.reason) for letter in letters)
    assert [stage for stage, _ in reasons] == ["joiner", "joiner", "joiner", "learner"]
    text = " ".join(reason for _, reason in reasons)
    for why in (
        "86,400 s ahead",
        "feature 'itm' is not declared",
        "more than the 1,048,576 allowed",
        "'59.9'",
    ):
        assert why in text
    store = world.replica.model.entities
    assert store.read("item", 1, now) == {"category": "shoes"}
    assert store.read("item", 1, now - 6.0) == {"category": "boots"}
    assert world.joiner.counts.entities == 3


def test_forgotten_entity_leaves_every_copy(world: World) -> None:
    now = world.now
    world.send(
        EntityEvent("user", "ann-7f3a9c1e5b", now, {"group": 3}),
        EntityEvent("user", "bob", now, {"group": 4}),
    )
    world.turn()
    forget = Forget("f", now + 1.0, {"user": ["ann-7f3a9c1e5b"]}, refuse_s=1000.0)
    append_forget(world.log, EVENTS, forget)
    world.turn()
    world.send(EntityEvent("user", "ann-7f3a9c1e5b", now + 2.0, {"group": 5}))  # refused now
    world.turn()
    world.begin()
    for store in (world.learner.model.entities, world.replica.model.entities):
        assert store.read("user", "ann-7f3a9c1e5b", now + 9.0) == {}
        assert store.read("user", "bob", now + 9.0) == {"group": 4}
        assert store.counts()["user"] == 1
    request = Impression("r", now + 9.0, [{"item": 1}], {"user": "bob"})
    assert filled(world.learner.model.entities, request).context == {"user": "bob", "group": 4}
