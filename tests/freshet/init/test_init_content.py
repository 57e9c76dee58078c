"""`freshet init` proposes texts, vectors, calendars and places on Earth if they gain on the sample."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from freshet.init.command import check_config, make_config

START = 1_717_171_200


def written(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = make_config(path)[0]
    check_config(text, path, "here")
    return tomllib.loads(text)["features"], text


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
