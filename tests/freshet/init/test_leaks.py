"""What is known only afterwards is no feature, by its effect or name; strong columns known before stay."""

import json
import math
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from freshet.init.column import Column
from freshet.init.command import make_config
from freshet.init.leaks import why_leak

pytestmark = pytest.mark.slow

LINES = 300
SEEDS = range(4)


class Seen(NamedTuple):
    """What is true of a line before its cells are made."""

    liked: bool
    rating: int  # -1: none
    taste: float  # of the item
    item: int
    rng: random.Random


Cell = Callable[[Seen], object]


def lines_of(seed: int) -> list[Seen]:
    rng = random.Random(seed)
    tastes = [rng.gauss(0.0, 1.5) for _ in range(30)]
    found = []
    for _ in range(LINES):
        item = rng.randrange(30)
        liked = rng.random() < 1.0 / (1.0 + math.exp(0.6 - tastes[item]))
        rating = -1 if rng.random() < 0.2 else rng.choice((4, 5) if liked else (1, 2, 3))
        found.append(Seen(liked, rating, tastes[item], item, rng))
    return found


LEAKS: dict[str, tuple[Cell, str]] = {
    "c7": (lambda s: 30 + s.item if s.liked else s.rng.randrange(9), "by itself"),  # with a gap
    "c8": (lambda s: s.rng.uniform(5.0, 60.0) if s.liked else s.rng.uniform(0.0, 5.0), "by itself"),
    "c9": (lambda s: s.rng.gauss(-40.0 if s.liked else 9.0, 3.0), "by itself"),  # downwards
    "c10": (lambda s: s.rng.choice((0, 90) if not s.liked else (40,)) + s.rng.random(), "by itself"),
    "c11": (lambda s: round(s.rng.expovariate(0.1), 2) + 0.01 if s.liked and s.item % 2 else 0, "not zero"),
    "c12": (lambda s: f"v{s.item}" if s.liked and s.item % 2 else "", "not zero or empty"),
    "c13": (lambda s: s.liked and s.item % 2 == 1, "not zero or empty"),
    "answer": (lambda s: None if s.rating == -1 else s.rng.choice("abc"), "without a label"),
    "c14": (lambda s: s.rating + s.rng.gauss(0.0, 0.6), "rises with rating"),
    "c15": (lambda s: -10.0 * s.rating + s.rng.gauss(0.0, 6.0), "falls with rating"),
    "watch_time": (lambda s: s.rng.lognormvariate(2.0 + 2.0 * s.liked, 0.8), "named for what comes later"),
    "viewMinutes": (lambda s: s.rng.expovariate(0.1) + 15.0 * s.liked, "named for what comes later"),
    "play_time_ms": (lambda s: int(1000 * s.rng.expovariate(0.1 if s.liked else 0.9)), "named for what"),
}

HONEST: dict[str, Cell] = {
    "price": lambda s: round(math.exp(3.0 - s.taste), 2),
    "position": lambda s: min(int(s.rng.expovariate(0.2 + 0.1 * s.liked)), 40),
    "item_ctr": lambda s: 1.0 / (1.0 + math.exp(0.6 - s.taste)),
    "clicks_7d": lambda s: int(400.0 / (1.0 + math.exp(0.6 - s.taste))),
    "historical_dwell_seconds": lambda s: 20.0 + 10.0 * s.taste,
    "duration_ms": lambda s: 5_000 + 1_733 * s.item,
    "seconds": lambda s: s.rng.randrange(60),
    "amount": lambda s: s.rng.expovariate(0.1),
    "stock": lambda s: 0 if s.taste < -1.0 else 7 + s.item,
    "sold_out": lambda s: int(s.taste < -0.8 and not s.liked),  # what cannot be had is not taken
    "discount": lambda s: 5.0 * (s.rng.random() < 0.1 + 0.5 * s.liked),
    "brand": lambda s: f"b{s.item % 7}" if s.item % 3 else None,
    "is_new": lambda s: s.item % 4 == 0,
    "x1": lambda s: s.taste + s.rng.gauss(0.0, 0.3),
}


def reason(name: str, cell: Cell, seed: int) -> str:
    lines = lines_of(seed)
    labels = [None if line.rating == -1 else float(line.liked) for line in lines]
    rating = Column("rating", [line.rating for line in lines])
    column = Column(name, [cell(line) for line in lines])
    return why_leak(column, labels, column.numbers is None, rating)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", LEAKS)
def test_what_is_known_only_afterwards_is_told(name: str, seed: int) -> None:
    cell, why = LEAKS[name]
    assert why in reason(name, cell, seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", HONEST)
def test_strong_column_that_is_known_before_may_be_a_feature(name: str, seed: int) -> None:
    assert reason(name, HONEST[name], seed) == ""


def test_file_with_leaks_and_honest_columns_keeps_the_honest_ones(tmp_path: Path) -> None:
    leaks = {name: cell for name, (cell, _) in LEAKS.items() if name != "c13"}  # a further target, that one
    cells = leaks | HONEST
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {"ts": 1_767_225_600 + i, "rating": line.rating} | {k: c(line) for k, c in cells.items()}
            )
            + "\n"
            for i, line in enumerate(lines_of(1))
        )
    )
    text, _ = make_config(path)
    found = tomllib.loads(text)
    assert found["data"]["label"] == "rating"
    # the place where it was shown is left out as such
    assert set(found["features"]) - {"hour"} >= HONEST.keys() - {"position"}
    assert not leaks.keys() & found["features"].keys()
    assert all(f"# {name}: left out: " in text for name in leaks)
    # what may be predicted too is proposed, and the proposal can be used as it stands
    proposed = "\n".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith(PROPOSED))
    targets = tomllib.loads(proposed)
    assert {"rating": {}, "play_time_ms": {"kind": "value", "scale": "log1p"}}.items() <= targets[
        "targets"
    ].items()
    assert targets["data"]["labels"]["play_time_ms"] == {"column": "play_time_ms"}


PROPOSED = ("# [targets.", "# kind =", "# scale =", "# [data.labels.", "# column =")
