"""`freshet init` proposes texts, vectors, calendars, ages, places, histories and rates if they gain."""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freshet.init.command import check_config, make_config, make_plan
from freshet.init.sample import read_sample
from freshet.init.trials.offers import history_offers, keepers_of, rate_offers

START = 1_717_171_200


def write(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    path = write(tmp_path, rows)
    text = make_config(path)[0]
    check_config(text, path, "here")
    return tomllib.loads(text)["features"], text


@pytest.mark.slow
def test_content_that_tells_is_proposed_with_what_it_gains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(2000):
        good = rng.random() < 0.5
        look = rng.normal(size=6) + (1.0 if good else -1.0)
        words = " ".join(f"{'fine' if good else 'poor'}{w}" for w in rng.integers(0, 30, size=9))
        label = int(rng.random() < (0.8 if good else 0.2))
        rows.append({"time": START + i, "clicked": label, "user": int(rng.integers(0, 50)), "item": i // 2,
                     "title": words, "look": [round(float(x), 3) for x in look]})  # fmt: skip
    features, text = written(tmp_path, rows)
    assert features["title"] == {"kind": "text"} and "AUC on the sample" in text
    # after the title says it all, the vector gains nothing more, and the reason is beside it
    assert "look" not in features or features["look"] == {"kind": "vector", "length": 6}
    for row in rows:
        del row["title"]
    features, text = written(tmp_path, rows)
    assert features["look"] == {"kind": "vector", "length": 6} and "lists of 6 numbers: +0." in text


@pytest.mark.slow
def test_content_that_says_nothing_is_left_out_with_the_reason(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = []
    for i in range(1500):
        rows.append({"time": START + 1800 * i, "clicked": int(rng.random() < 0.3),
                     "user": int(rng.integers(0, 50)), "item": int(rng.integers(0, 40)),
                     "lat": round(float(rng.uniform(40, 50)), 4),
                     "lon": round(float(rng.uniform(0, 9)), 4),
                     "title": " ".join(f"word{w}" for w in rng.integers(0, 60, size=9))})  # fmt: skip
    features, text = written(tmp_path, rows)
    assert not {"title", "week", "cell"} & set(features)
    assert "# title: left out: words, 9 in a cell: " in text and "no more than chance" in text


@pytest.mark.slow
def test_weekends_and_towns_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = []
    towns = rng.uniform(30, 60, size=(12, 2))
    for i in range(3000):
        time = START + 1000 * i
        weekend = (time // 86_400 + 3) % 7 >= 5
        town = int(rng.integers(0, 12))
        p = 0.1 + 0.4 * weekend + 0.4 * (town % 2)
        rows.append({"time": time, "clicked": int(rng.random() < p), "user": int(rng.integers(0, 50)),
                     "latitude": round(float(towns[town, 0] + 0.01 * rng.normal()), 4),
                     "longitude": round(float(towns[town, 1] + 0.01 * rng.normal()), 4)})  # fmt: skip
    features, _ = written(tmp_path, rows)
    assert features["week"] == {"kind": "calendar"}
    assert "latitude" in features and features.get("cell", {"kind": "geo"})["kind"] == "geo"


@pytest.mark.slow
def test_places_in_one_column_of_text_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = []
    towns = rng.uniform(30, 60, size=(12, 2))
    for i in range(3000):
        town = int(rng.integers(0, 12))
        north, east = towns[town] + 0.01 * rng.normal(size=2)
        rows.append({"time": START + 1000 * i, "clicked": int(rng.random() < 0.1 + 0.5 * (town % 2)),
                     "user": int(rng.integers(0, 50)), "where": f"{north:.4f}, {east:.4f}"})  # fmt: skip
    features, _ = written(tmp_path, rows)
    assert features["where"] == {"kind": "geo"}


def shop_of(lines: int, sessions: bool, moves: bool, seed: int) -> list[dict[str, Any]]:
    """Who takes one of 200 things of 20 shelves. In sessions: what lies on the shelf taken from last. If it
    moves: what is liked changes within hours."""
    rng = np.random.default_rng(seed)
    last: dict[int, int] = {}
    rows = []
    items = 30 if moves else 200
    phase = rng.uniform(0, 2 * np.pi, size=items)
    for i in range(lines):
        user, item = int(rng.integers(40)), int(rng.integers(items))
        logit = -1.0
        if sessions and user in last:
            logit += 2.5 if item % 20 == last[user] else -0.5
        if moves:
            logit += 2.0 * np.sin(i * 60 / 14_400 + phase[item])
        label = int(rng.random() < 1 / (1 + np.exp(-logit)))
        if label:
            last[user] = item % 20
        rows.append({"ts": START + 60 * i, "clicked": label, "user_id": user, "item_id": item,
                     "category": f"c{item % 20}"})  # fmt: skip
    return rows


def test_histories_on_offer_are_of_the_items_and_their_groups_by_the_person(tmp_path: Path) -> None:
    path = write(tmp_path, shop_of(800, sessions=True, moves=False, seed=3))
    keepers = keepers_of(make_plan(read_sample(path), path, None))
    assert keepers == ("user_id", "item_id", "category")
    offers = {offer.name: offer.lines for offer in history_offers(keepers)}
    assert set(offers) == {"item_id_history", "category_history"}
    assert all('by = "user_id"' in lines for lines in offers.values())


def test_windows_on_offer_hold_enough_lines_of_an_item_and_fit_into_the_time() -> None:
    def windows(lines: int, every_s: float, items: int) -> list[float]:
        times = [every_s * i for i in range(lines)]
        offers = rate_offers("item", times, Counter(str(i % items) for i in range(lines)))
        return [tomllib.loads("\n".join(offer.lines))["window_s"] for offer in offers]

    assert windows(6_000, 1.0, 20) == [300.0, 1200.0]  # of an hour there is only one
    assert windows(6_000, 60.0, 20) == [21_600.0, 86_400.0]  # an hour has three lines of an item
    assert windows(60_000, 60.0, 5) == [3600.0, 21_600.0, 86_400.0, 604_800.0]
    assert windows(6_000, 60.0, 6_000) == []


@pytest.mark.slow
def test_histories_and_rates_that_tell_are_proposed_with_what_they_gain(tmp_path: Path) -> None:
    features, text = written(tmp_path, shop_of(4_000, sessions=True, moves=False, seed=3))
    last = features["category_history"]
    assert last == {"kind": "history", "by": "user_id", "of": "category", "length": 5, "attention": "shared"}
    assert "item_id_rate" not in features
    assert re.search(
        r'kind = "history"  # the groups that the person took last: \+0\.[01]\d+ AUC on the sample', text
    )
    features, text = written(tmp_path, shop_of(4_000, sessions=False, moves=True, seed=4))
    assert features["item_id_rate"] == {"kind": "rate", "of": "item_id", "window_s": 21_600.0}
    assert re.search(r'kind = "rate"  # how the item did lately: \+0\.[01]\d+ AUC', text)
    assert "category_history" not in features


@pytest.mark.slow
def test_a_history_is_tried_with_the_deep_part_that_reads_it(tmp_path: Path) -> None:
    """People like odd or even items; one who comes is gone after 20 lines, so only what they took tells."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(3_000):
        user, item = i // 20, int(rng.integers(40))
        label = int(rng.random() < (0.9 if item % 2 == user * 7919 // 10 % 2 else 0.1))
        rows.append({"ts": START + 60 * i, "clicked": label, "user_id": user, "item_id": item})
    features, text = written(tmp_path, rows)
    assert features["item_id_history"]["attention"] == "shared"
    # by the fast part alone, which reads whether the very same item was taken, it would be .01
    assert re.search(r'kind = "history"  # what the person took before: \+0\.[12]\d+ AUC on the sample', text)


@pytest.mark.slow
def test_a_rate_has_the_window_that_gains_most(tmp_path: Path) -> None:
    """Popularity turns round every half hour; an hour says nothing of it."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 2 * np.pi, size=10)
    rows = []
    for i in range(6_000):
        item = int(rng.integers(10))
        logit = -1.0 + 2.0 * np.sin(2 * np.pi * i * 2 / 3600 + phase[item])
        label = int(rng.random() < 1 / (1 + np.exp(-logit)))
        rows.append({"ts": START + 2 * i, "clicked": label, "user_id": i % 40, "item_id": item})
    features, _ = written(tmp_path, rows)
    assert features["item_id_rate"] == {"kind": "rate", "of": "item_id", "window_s": 300.0}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, 6])
def test_histories_and_rates_that_say_nothing_are_not_proposed(tmp_path: Path, seed: int) -> None:
    rows = shop_of(3_000, sessions=False, moves=False, seed=seed)
    features, _ = written(tmp_path, rows)
    assert set(features) == {"user_id", "item_id", "category", "hour"}
    rows = [{name: value for name, value in row.items() if name != "ts"} for row in rows]
    features, _ = written(tmp_path, rows)  # nothing says how long ago anything was
    assert set(features) == {"user_id", "item_id", "category"}


def slates(requests: int, matters: bool, seed: int) -> list[dict[str, Any]]:
    """Four of 40 items, ordered by what somebody thinks of them by mistake. Where it matters, those on top
    and new ones are clicked more."""
    rng = np.random.default_rng(seed)
    good, thought = 0.5 * rng.normal(size=40), 3.0 * rng.normal(size=40)
    born = START - rng.uniform(0, 4 * 86_400, size=40)
    rows = []
    for q in range(requests):
        shown = rng.choice(40, size=4, replace=False)
        shown = shown[np.argsort(-thought[shown] - rng.gumbel(size=4))]
        at = START + 600 * q
        if q % 10 == 9:  # an item goes, another one comes in its place
            gone = int(rng.integers(40))
            born[gone], good[gone] = at, 0.5 * rng.normal()
        for place, item in enumerate(shown.tolist()):
            logit = good[item] - 1.0
            logit += (3.0 - 1.5 * place - 0.6 * (at - born[item]) / 86_400) * matters
            since = datetime.fromtimestamp(int(born[item]), UTC).isoformat()
            rows.append({"ts": at, "clicked": int(rng.random() < 1 / (1 + np.exp(-logit))), "request_id": q,
                         "user_id": int(rng.integers(40)), "item_id": f"{item}-{int(born[item])}",
                         "position": place + 1, "created": since})  # fmt: skip
    return rows


@pytest.mark.slow
def test_place_and_age_are_proposed_where_they_tell(tmp_path: Path) -> None:
    features, text = written(tmp_path, slates(1_500, matters=True, seed=7))
    data = tomllib.loads(text)["data"]
    assert features["position"] == {"kind": "place"}
    assert (data["place"], data["place_from"]) == ("position", 1) and "position" not in data["features"]
    assert re.search(r"left out of it: \+0\.\d+ AUC among candidates at the same place on the sample", text)
    assert features["created"] == {"kind": "age"} and data["types"]["created"] == "time"
    assert re.search(
        r"days from then to the request.*: \+0\.\d+ AUC among candidates at the same place", text
    )
    features, text = written(tmp_path, slates(1_000, matters=False, seed=8))
    assert not {"position", "created"} & features.keys()
    assert "# position: left out: the place where a candidate was shown" in text
    assert "# created: left out: days from then to the request" in text


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("created", lambda i: -1e5 * (1 + i % 7) if i != 17 else 60.0),
        ("created", lambda i: -1e5 * (1 + i % 7) if i % 3 else None),
        ("expires", lambda i: 1e5 * (1 + i % 7)),
    ],
)
def test_time_that_may_be_after_the_request_is_no_age(
    tmp_path: Path, name: str, then: Callable[[int], float | None]
) -> None:
    rows = []
    for i in range(300):
        at, after = START + 60 * i, then(i)
        told = None if after is None else datetime.fromtimestamp(at + after, UTC).isoformat()
        rows.append({"ts": at, "clicked": i % 2, "user_id": i % 20, "item_id": i % 50, name: told})
    features, text = written(tmp_path, rows)
    assert name not in features and f"# {name}: left out: another time" in text
