"""What is gone is never found: items forgotten or expired, while the index is built anew or asked."""

import random
from pathlib import Path

import numpy as np
import pytest
from item_world import ItemWorld, T
from two_models import new_log
from waiting import wait_until

from learner.features.encoder import Request
from serving.nearest import entries
from stream.log.base import EXAMPLES
from stream.records.forgetting import append_forget
from stream.records.types import Forget

TTL_S = 5_000.0  # of items
TICK_S = TTL_S / 8  # by which a row may stay longer
K = 64


class Ledger:
    """When each item was last shown, and which are forgotten for good."""

    def __init__(self, world: ItemWorld, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.shown: dict[int, float] = {}
        self.gone: set[int] = set()
        self.new = 0
        self.now = 0.0

    def show(self) -> None:
        """An example of items old and new, a while after the one before."""
        self.now += self.rng.choice([1.0, 1.0, 50.0, 2_000.0])
        known = [n for n in self.shown if n not in self.gone]
        items = self.rng.sample(known, min(len(known), 4)) + list(range(self.new, self.new + 4))
        self.new += 4
        self.world.show(items, self.rng.randrange(30), self.now)
        self.shown |= dict.fromkeys(items, self.now)

    def forget(self) -> None:
        """A request to forget some items."""
        ids = self.rng.sample(range(self.new), 3)
        entity = {"item": [f"i{n}" for n in ids]}
        append_forget(self.world.log, EXAMPLES, Forget(f"f{self.now}", T + self.now, entity))
        self.gone |= set(ids)

    def alive(self, at_s: float, longer_s: float = 0.0) -> set[str]:
        """What is neither forgotten nor, for so long, expired."""
        there = (n for n, shown in self.shown.items() if shown + TTL_S + longer_s >= at_s)
        return {f"i{n}" for n in there if n not in self.gone}

    def find(self, at_s: float) -> set[int | str]:
        """What is found, which must be alive."""
        request = Request(T + at_s, {"user": self.rng.randrange(30)}, [])
        found = self.world.index.find(request, K).items
        assert len(set(found)) == len(found) and set(found) <= self.alive(at_s, TICK_S), at_s
        return set(found)


def wait_until_read(world: ItemWorld) -> None:
    """Until the index's thread has taken what the log holds now."""
    sent = sum(end for _, end in world.log.ends(EXAMPLES))

    def read() -> bool:
        world.index.check()
        return world.index.status().examples_read >= sent

    wait_until(read, every_s=0.002)


@pytest.fixture
def small_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for few more entries than there are items, so that the index is often built anew."""
    monkeypatch.setattr(entries, "SPARE", 16)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_what_is_gone_is_never_found(tmp_path: Path, small_columns: None, seed: int) -> None:
    world = ItemWorld(new_log(), tmp_path / "learn", most=96)
    ledger = Ledger(world, random.Random(seed))
    for _ in range(20):
        ledger.show()
    world.turn()
    built = [world.index.entries]  # kept: one that is gone leaves its id to the next
    for _ in range(40):
        act = ledger.rng.choice(["show", "show", "show", "forget", "learn", "replica", "index", "turn"])
        if act == "show":
            ledger.show()
        elif act == "forget":
            ledger.forget()
            while world.index.step():  # from here on nobody finds it, whatever the model holds
                pass
        elif act == "turn":
            world.turn()
        else:
            {"learn": world.learn, "replica": world.replica, "index": world.index}[act].step()
        built.append(world.index.entries)
        for ahead in (0.0, 3_000.0, 2 * TTL_S):
            ledger.find(ledger.now + ahead)
    assert len(set(map(id, built))) > 2
    ledger.now += 2 * TTL_S
    for _ in range(6):
        ledger.show()
    ledger.forget()
    world.turn()
    assert len(ledger.alive(ledger.now)) < K  # asked for more than there is: all that there is
    assert ledger.find(ledger.now) >= ledger.alive(ledger.now) > set()
    world.state.close()


@pytest.mark.slow
def test_what_is_gone_is_never_found_while_the_index_changes(tmp_path: Path, small_columns: None) -> None:
    world = ItemWorld(new_log(), tmp_path / "learn", most=96)
    ledger = Ledger(world, random.Random(9))
    for _ in range(20):
        ledger.show()
    world.turn()
    built = []
    with world.index:
        for turn in range(24):
            ledger.show()
            if turn % 3 == 0:
                ledger.forget()
                wait_until_read(world)
            while world.learn.step() or world.replica.step():
                for _ in range(3):
                    ledger.find(ledger.now)
            built.append(world.index.entries)
            ledger.find(ledger.now)
        world.index.check()
    assert len(set(map(id, built))) > 2 and np.isfinite(world.index.entries.base).all()
    world.state.close()
