"""The ways in which a joiner of several targets decides emit the same bytes, and leave the same state."""

import random
from pathlib import Path
from typing import Any

import pytest
from joining import RestartableJoiner

from stream.join.settings import JoinSettings
from stream.join.targets.outcomes import TargetEntry
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.targets import Target, Targets
from stream.records.types import Action, Exposure, Forget, Impression, Served, ServedTarget, encode

SHOP = Targets(
    {
        "click": Target(window_s=60.0),
        "buy": Target(of="click", observe_s=300.0, window_s=900.0),
        "minutes": Target(kind="value", of="click", window_s=400.0),
    }
)
MANY = Targets(
    {
        "click": Target(observe_s=60.0, window_s=90.0),
        "refund": Target(of="buy", observe_s=130.0, window_s=220.0),
        "like": Target(observe_s=30.0, window_s=100.0),
        "buy": Target(of="click", observe_s=100.0, window_s=200.0),
        "minutes": Target(kind="value", of="click", window_s=120.0),
    }
)


def made_up(targets: Targets, seed: int, count: int = 600) -> list[bytes]:
    """A stream in which most of what may happen does: actions taken back, repeated and late, exposures."""
    draw = random.Random(seed)
    at, asked, events = 1.7e9, [("nobody", 1)], []
    for i in range(count):
        at += draw.choice([0.0, 0.1, 1.0, 5.0])
        name, size = asked[-1 - min(int(draw.expovariate(0.3)), len(asked) - 1)]
        what = draw.random()
        event: Impression | Action | Exposure | Forget
        if what < 0.4:
            name, size = f"r{i}", draw.choice([1, 2, 4, 12])
            more: dict[str, Any] = {}
            if draw.random() < 0.15:
                more["shown"] = draw.sample(range(size), draw.randint(0, size))
            if draw.random() < 0.2:
                more["weight"] = draw.choice([2.0, [draw.random() for _ in range(size)]])
            if draw.random() < 0.2:
                further = {t: ServedTarget([0.5] * size, [0.4] * size) for t in targets.names[1:]}
                more["served"] = Served([0.5] * size, [0.4] * size, "m", further)
            if draw.random() < 0.05:
                more["labels"] = [float(draw.random() < 0.5) for _ in range(size)]
            candidates: list[Any] = [{"item": draw.randrange(40)} for _ in range(size)]
            event = Impression(name, at, candidates, {"user": draw.randrange(30)}, **more)
            asked.append((name, size))
        elif what < 0.93:
            of = draw.choice(targets.names)
            value = draw.choice([0.0, 1.5, 7.0]) if targets[of].kind == "value" else None
            early, label = draw.choice([0.0, 0.0, 2.0, 50.0]), draw.choice([1.0, 1.0, 1.0, 0.0])
            event = Action(name, at - early, draw.randrange(size), label, of, value=value)
        elif what < 0.97:
            event = Exposure(name, at, draw.sample(range(size), draw.randint(1, size)))
        else:
            event = Forget(f"f{i}", at, {draw.choice(["item", "user"]): [draw.randrange(40)]})
        events += [encode(event)] * draw.choice([1, 1, 1, 2])
    return events


def joined(folder: Path, targets: Targets, events: list[bytes], settings: JoinSettings) -> list[object]:
    """All that leaves a joiner, and its state."""
    log = MemoryLog(notes_times=False)
    made = RestartableJoiner(log, folder, settings, targets=targets)
    log.append(EVENTS, [Outgoing(b"k", event) for event in events])
    made.take_all()
    found: list[object] = [made.joiner.counts, *made.state.scan(b"join/p")]
    for topic in (EXAMPLES, DEAD_LETTERS):
        found += [(r.key, r.value, r.producer, r.seq) for r in log.read(topic, 0, 0, 10_000)]
    made.state.close()
    return found


@pytest.mark.parametrize("targets", [SHOP, MANY], ids=["shop", "many"])
@pytest.mark.parametrize("options", [{}, {"late": "learn"}, {"decide": "first_action"}, {"pending_max": 20}])
def test_every_way_emits_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: Targets, options: dict[str, Any]
) -> None:
    settings = JoinSettings(dead_letter_share_max=1.0, **options)
    streams = [made_up(targets, seed) for seed in range(3)]
    fast = [joined(tmp_path / f"fast{i}", targets, events, settings) for i, events in enumerate(streams)]
    monkeypatch.setattr(TargetEntry, "is_plain", lambda self: False)
    monkeypatch.setattr(TargetEntry, "is_quiet", lambda self: False)
    slow = [joined(tmp_path / f"slow{i}", targets, events, settings) for i, events in enumerate(streams)]
    assert fast == slow
    assert all(len(found) > 300 for found in fast)
