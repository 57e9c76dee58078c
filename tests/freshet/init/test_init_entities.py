"""`freshet init --entities`: a second file of items becomes attributes, which a replay reads."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freshet.cli.main import main
from freshet.config import Config, load_config
from freshet.errors import InitError
from freshet.init.command import make_config, run_init
from freshet.init.entities import with_entities
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions

pytestmark = pytest.mark.slow

SHELVES = 12


def shop(folder: Path, lines: int = 1_200, items: int = 500) -> Path:
    """Who takes one of many things, of which each is seen a few times. What is liked is a shelf."""
    rng = np.random.default_rng(3)
    with (folder / "plays.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["time", "user_id", "item_id", "clicked"])
        for i in range(lines):
            item = int(rng.integers(items))
            liked = rng.random() < (0.85 if item % SHELVES < SHELVES // 2 else 0.15)
            out.writerow([1_700_000_000 + 60 * i, f"u{rng.integers(30)}", 1000 + item, int(liked)])
    return folder / "plays.csv"


def row(item: int) -> dict[str, Any]:
    good = "bright" if item % SHELVES < SHELVES // 2 else "dull"
    title = f"a {good} thing, number {item} of them all"
    return {"shelf": f"s{item % SHELVES}", "price": 0.5 + item % 7, "made_in": "here", "title": title}


def table(path: Path, id_name: str, delimiter: str = ",", items: int = 500) -> Path:
    rows = [{id_name: 1000 + item, **row(item)} for item in range(items)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
        return path
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        out.writeheader()
        out.writerows(rows)
    return path


def config_for(folder: Path, file: Path, deep: str = "none") -> Config:
    out = folder / "sub" / "freshet.toml"
    out.parent.mkdir()
    run_init(str(folder / "plays.csv"), str(out), yes=True, entities=str(file))
    return load_config(out, [f"learner.deep={deep}"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "id_name", "delimiter"),
    [("items.csv", "item_id", ";"), ("goods.tsv", "itemId", "\t"), ("items.jsonl", "id", "")],
)
def test_file_of_items_becomes_attributes(tmp_path: Path, name: str, id_name: str, delimiter: str) -> None:
    data, file = shop(tmp_path), table(tmp_path / name, id_name, delimiter)
    config = config_for(tmp_path, file)
    attributes = {name: spec.kind for name, spec in config.features.items() if spec.of == "item_id"}
    assert attributes["shelf"] == "id" and attributes["price"] == "number"
    assert attributes.get("title", "text") == "text" and "made_in" not in attributes
    assert Path(config.entities["item_id"].file).resolve() == file.resolve()
    auc = replay(config, ReplayOptions(data=str(data)))["base"]["overall"]["auc"]
    assert auc > 0.7  # by the ids alone most items are new
    text = (tmp_path / "sub" / "freshet.toml").read_text()
    assert "# made_in: left out: always" in text and "AUC on the sample" in text


def test_numbers_of_the_second_file_may_have_other_marks(tmp_path: Path) -> None:
    data, file = shop(tmp_path, lines=200, items=30), tmp_path / "artikel.csv"
    rows = [f"{1000 + item};{1 + item % 7}.{100 + item},{item % 10}5" for item in range(30)]
    file.write_text("\n".join(["item_id;price", *rows]) + "\n", encoding="utf-8-sig")
    config = config_for(tmp_path, file)
    assert config.features["price"].kind == "number"
    columns = config.entities["item_id"]
    assert (columns.delimiter, columns.decimal, columns.thousands) == (";", ",", ".")
    assert replay(config, ReplayOptions(data=str(data)))["events"] == 200


def test_a_second_file_that_cannot_be_read_is_refused_before_the_first_is_tried(tmp_path: Path) -> None:
    (tmp_path / "items.dat").write_text("item_id,shelf\n1001,a\n1002,b\n")
    with pytest.raises(InitError, match=r"does not end in \.csv"):
        run_init(str(tmp_path / "none.csv"), "-", yes=True, entities=str(tmp_path / "items.dat"))


def test_people_may_be_called_otherwise_there(tmp_path: Path) -> None:
    data, file = tmp_path / "log.csv", tmp_path / "customers.csv"
    rows = [f"{1_700_000_000 + 60 * i},{i * i % 90},{i % 7},{i % 2}" for i in range(150)]
    data.write_text("\n".join(["time,uid,sku,bought", *rows]) + "\n")
    people = [f"{u},{'abc'[u % 3]},{20 + u % 50}" for u in range(100)]
    file.write_text("\n".join(["customer,segment,age", *people]) + "\n")
    out = tmp_path / "f.toml"
    run_init(str(data), str(out), yes=True, entities=str(file))
    config = load_config(out)
    assert {config.features[name].of for name in ("segment", "age")} == {"uid"}
    assert config.entities["uid"].id == "customer"


def test_films_of_ratings_have_titles_if_they_gain(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    films = [f"{i:07d}::{'Good' if i % 2 else 'Poor'} Film {i} ({1900 + i % 100})::Drama" for i in range(400)]
    (tmp_path / "movies.dat").write_text("\n".join(films) + "\n")
    lines = []
    for i in range(1_500):
        film = int(rng.integers(400))
        stars = 9 if rng.random() < (0.8 if film % 2 else 0.2) else 4
        lines.append(f"{rng.integers(40)}::{film:07d}::{stars}::{1_700_000_000 + 9 * i}")
    (tmp_path / "ratings.dat").write_text("\n".join(lines) + "\n")
    text = make_config(tmp_path)[0]
    found, notes = with_entities(text, tmp_path, tmp_path / "movies.dat", str(tmp_path / "f.toml"))
    assert not notes
    (tmp_path / "f.toml").write_text(found)
    config = load_config(tmp_path / "f.toml", ["learner.deep=none"])
    assert config.features["title"].of == "movie" and "genres: left out: a feature" in found
    assert replay(config, ReplayOptions(data=str(tmp_path)))["events"] == 1_500


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("items.csv", "sku,shelf\n1,a\n2,b\n", "no column has the ids of user_id, item_id"),
        ("items.csv", "item_id,shelf\n" + "1001,a\n" * 40, "no column has the ids of"),
        ("items.dat", "item_id,shelf\n1001,a\n1002,b\n", "does not end in .csv"),
        ("items.csv", "shop list\n\nitem_id,price\n1001,1\n1002,2\n", "which [entities] cannot say"),
        ("items.csv", "", "is empty"),
        ("none.csv", None, "none.csv"),
    ],
)
def test_file_that_says_nothing_of_items_is_refused(
    tmp_path: Path, name: str, text: str | None, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shop(tmp_path, lines=60, items=20)
    if text is not None:
        (tmp_path / name).write_text(text)
    out = tmp_path / "f.toml"
    command = ["init", "--data", str(data), "--yes", "--out", str(out), "--entities", str(tmp_path / name)]
    assert main(command) == 2
    assert what in capsys.readouterr().err and not out.exists()


def test_file_of_entities_does_not_go_with_topics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--topic", "sqlite:log.db/events", "--entities", "items.csv"]) == 2
    assert "or at topics" in capsys.readouterr().err
