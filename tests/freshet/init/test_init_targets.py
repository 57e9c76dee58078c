"""`freshet init` proposes further targets for further outcomes, and makes no feature of them."""

import json
import random
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from paths import DATA

from freshet.cli.main import main
from freshet.errors import InitError
from freshet.init.command import make_config

pytestmark = pytest.mark.slow

BEGIN_S = 1_767_225_600
LINES = 600
RNG = random.Random(9)
CLICKS = [RNG.random() < 0.3 for _ in range(LINES)]
BUYS = [click and RNG.random() < 0.4 for click in CLICKS]
CHANCE = [RNG.random() for _ in range(LINES)]
Row = dict[str, Any]


def click_and_purchase(i: int) -> Row:
    return {"click": int(CLICKS[i]), "purchase": int(BUYS[i])}


def with_seconds(i: int) -> Row:
    seconds = round(0.5 + 20.0 * CHANCE[i] ** 6 * 30, 2) if CLICKS[i] else 0.0
    return click_and_purchase(i) | {"watch_seconds": seconds}


def with_revenue(i: int) -> Row:
    """Missing where nothing was bought, and about the same amounts."""
    return click_and_purchase(i) | {"revenue": round(5.0 + CHANCE[i], 2) if BUYS[i] else None}


def two_likes(i: int) -> Row:
    return {"like_song": int(CHANCE[i] < 0.4), "like_video": int(i * 7919 % 31 < 9)}


def missing_where_not_clicked(i: int) -> Row:
    return {"click": int(CLICKS[i]), "purchase": int(BUYS[i]) if CLICKS[i] else None}


def purchase_without_click(i: int) -> Row:
    return {"click": int(CLICKS[i]), "purchase": int(BUYS[i] or i % 9 == 0)}


def one_without_click(i: int) -> Row:
    return {"click": int(CLICKS[i]), "purchase": int((CLICKS[i] and i % 7 > 0) or i == CLICKS.index(False))}


def funnel(i: int) -> Row:
    """Carts under a name that says nothing."""
    cart = CLICKS[i] and CHANCE[i] < 0.7
    bought = cart and CHANCE[i] < 0.4
    return {"clicked": CLICKS[i], "stage_two": int(cart), "ordered": bought}


def nested_likes(i: int) -> Row:
    """Of outcomes alike by name, the one in which the others lie is the first target."""
    return {"followed": int(BUYS[i]), "liked": int(CLICKS[i]), "shared": int(BUYS[i] and CHANCE[i] < 0.5)}


def in_chinese(i: int) -> Row:
    return {"点击": int(CLICKS[i]), "购买": int(BUYS[i])}


def in_words(i: int) -> Row:
    return funnel(i) | {"ordered": "yes" if funnel(i)["ordered"] else "no"}


CASES: dict[str, tuple[Callable[[int], Row], dict[str, dict[str, str]]]] = {
    "click and purchase": (click_and_purchase, {"click": {}, "purchase": {"of": "click"}}),
    "watch time": (
        with_seconds,
        {
            "click": {},
            "purchase": {"of": "click"},
            "watch_seconds": {"kind": "value", "of": "click", "scale": "log1p"},
        },
    ),
    "revenue": (
        with_revenue,
        {"click": {}, "purchase": {"of": "click"}, "revenue": {"kind": "value", "of": "purchase"}},
    ),
    "two likes": (two_likes, {"like_video": {}, "like_song": {}}),
    "nested likes": (
        nested_likes,
        {"liked": {}, "followed": {"of": "liked"}, "shared": {"of": "followed"}},
    ),
    "missing": (missing_where_not_clicked, {"click": {}, "purchase": {"of": "click"}}),
    "without click": (purchase_without_click, {"click": {}, "purchase": {}}),
    "one in a hundred": (one_without_click, {"click": {}, "purchase": {"of": "click"}}),
    "funnel": (funnel, {"clicked": {}, "stage_two": {"of": "clicked"}, "ordered": {"of": "stage_two"}}),
}


def write(path: Path, row: Callable[[int], Row]) -> Path:
    """A file with a time, two features and what `row` says, in the format of its name."""
    rows = [{"time": BEGIN_S + i, "user": f"u{i % 13}", "item": i % 17} | row(i) for i in range(LINES)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def played(data: Path, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config's table and the report of its replay, by the commands that people type."""
    out, report = data.with_name("freshet.toml"), data.with_name("report.json")
    assert main(["init", "--data", str(data), "--yes", "--out", str(out), *options]) == 0
    play = ["replay", "--config", str(out), "--data", str(data), "--report", str(report)]
    assert main([*play, "--set", "learner.deep=none"]) == 0
    return tomllib.loads(out.read_text()), json.loads(report.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix", ["csv", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in ("jsonl", "parquet"))]
)
@pytest.mark.parametrize("case", CASES)
def test_outcomes_become_targets_whose_config_replays(case: str, suffix: str, tmp_path: Path) -> None:
    row, targets = CASES[case]
    found, report = played(write(tmp_path / f"a.{suffix}", row))
    assert found["targets"] == targets and list(found["targets"]) == list(targets)
    assert found["data"]["label"] == next(iter(targets))
    assert [labels["column"] for labels in found["data"]["labels"].values()] == list(targets)[1:]
    assert set(found["features"]) == {"user", "item", "hour"}
    assert set(report["targets"]) == set(targets) and report["skipped"] == 0


@pytest.mark.slow
def test_label_option_chooses_the_first(tmp_path: Path) -> None:
    found, _ = played(write(tmp_path / "a.csv", click_and_purchase), "--label", "purchase")
    assert found["targets"] == {"purchase": {}, "click": {}}
    found, _ = played(write(tmp_path / "b.csv", in_words), "--label", "clicked", "--force")
    assert found["targets"] == CASES["funnel"][1] and found["data"]["labels"]["ordered"]["positive"] == [
        "yes"
    ]


@pytest.mark.parametrize(
    ("name", "cell", "why"),
    [
        ("purchase", lambda i: None if i % 40 == 0 else int(BUYS[i]), "empty on"),
        ("purchase", lambda i: int(CLICKS[i]), "says the same as click"),
        ("skipped", lambda i: int(not CLICKS[i]), "says the same as click"),
        ("dwell", lambda i: CHANCE[i] if CLICKS[i] and i % 20 else None, "empty on"),
        ("seconds", lambda i: CHANCE[i] if CLICKS[i] and i % 20 else None, "empty on"),
        ("stage", lambda i: None if i % 20 == 0 else int(BUYS[i]), "empty on"),
        ("liked", lambda i: 1 + i * 7919 % 5, "named like an outcome"),
        ("revenue", lambda i: -CHANCE[i] if CLICKS[i] else 0.0, "named like an outcome"),
        ("nonclk", lambda i: int(not CLICKS[i]), "named like an outcome"),
    ],
)
def test_in_doubt_an_outcome_is_left_out(
    name: str, cell: Callable[[int], object], why: str, tmp_path: Path
) -> None:
    data = write(tmp_path / "a.jsonl", lambda i: {"click": int(CLICKS[i]), name: cell(i)})
    text, notes = make_config(data)
    found = tomllib.loads(text)
    assert "targets" not in found and "labels" not in found["data"]
    assert set(found["features"]) == {"user", "item", "hour"}
    assert re.search(f"# {name}: left out: .*{why}", text), text
    assert why == "named like an outcome" or any(name in note and why in note for note in notes)


@pytest.mark.parametrize("name", ["duration", "hint", "amount"])
def test_what_is_no_outcome_stays_a_feature(name: str, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", lambda i: {"click": int(CLICKS[i]), name: int(i * 7919 % 31 < 9)})
    text, notes = make_config(data)
    assert name in tomllib.loads(text)["features"] and "targets" not in text and not notes


def test_what_tells_a_further_target_is_no_feature(tmp_path: Path) -> None:
    data = write(
        tmp_path / "a.jsonl",
        lambda i: (
            click_and_purchase(i) | {"carrier": f"c{i % 5}" if BUYS[i] else None, "duration": i * 7919 % 301}
        ),
    )
    text, notes = make_config(data)
    assert set(tomllib.loads(text)["features"]) == {"user", "item", "hour", "duration"}
    assert (
        any("carrier is left out: of purchase: " in note for note in notes) or "# carrier: left out" in text
    )


def test_targets_of_columns_in_other_letters_have_names(tmp_path: Path) -> None:
    found, _ = played(write(tmp_path / "a.csv", in_chinese))
    assert found["targets"] == {"click": {}, "purchase": {"of": "click"}}
    assert found["data"]["labels"] == {"purchase": {"column": "购买"}}


def test_reasons_are_counts(tmp_path: Path) -> None:
    text, notes = make_config(write(tmp_path / "a.csv", click_and_purchase))
    counted = f"{sum(BUYS) / LINES:.1%} of the lines are 1, and 100.0% of them lie among those of click"
    assert (
        f'of = "click"  # {counted}' in text
        and f"targets.purchase: a further target of click; {counted}" in notes
    )


@pytest.mark.parametrize("path", sorted((DATA / "inputs").glob("*.[cjt]s*")), ids=lambda path: path.name)
def test_small_files_of_the_wild_replay(path: Path, tmp_path: Path) -> None:
    data = tmp_path / path.name
    data.write_bytes(path.read_bytes())
    found, report = played(data)
    assert set(report.get("targets", {})) == set(found.get("targets", {}))
    if path.name.startswith("01"):
        assert "purchase" in found["targets"] and "purchase" not in found["features"]


def of_a_film(i: int) -> Row:
    """As apps for short films log it: what was opened, for how long, and what was done then."""
    click, length = CLICKS[i], 5_000 + 1_733 * (i % 17)
    played = int(min(2.0, CHANCE[i] + 0.05) * length) if click else 0
    return {
        "is_click": int(click), "is_like": int(BUYS[i] and i % 3 == 0), "is_hate": int(i % 131 == 0),
        "long_view": int(played > 0.6 * length), "play_time_ms": played, "duration_ms": length,
    }  # fmt: skip


def test_log_of_films_has_targets_of_the_click(tmp_path: Path) -> None:
    found, report = played(write(tmp_path / "a.csv", of_a_film))
    assert found["targets"]["play_time_ms"] == {"kind": "value", "of": "is_click"}
    assert found["targets"]["long_view"] == {"of": "is_click"} and next(iter(found["targets"])) == "is_click"
    assert (
        found["targets"]["is_like"]["of"] in ("is_click", "long_view")
        and "of" not in found["targets"]["is_hate"]
    )
    assert set(found["features"]) == {"user", "item", "hour", "duration_ms"}
    assert set(report["targets"]) == set(found["targets"])


@pytest.mark.parametrize("name", ["watch_ratio", "minutes", "label"])
def test_label_that_is_a_bare_number_is_a_value(name: str, tmp_path: Path) -> None:
    def row(i: int) -> Row:
        ratio = round(0.01 + 3.0 * CHANCE[i] ** 3, 3)
        length = 5_000 + 1_733 * (i % 17)
        return {
            name: ratio,
            "play_duration": int(ratio * length),
            "video_duration": length,
            "liked": int(BUYS[i]),
        }

    found, report = played(write(tmp_path / "a.csv", row), "--label", name)
    assert found["targets"] == {name: {"kind": "value", "scale": "log1p"}, "liked": {}}
    assert found["data"]["label"] == name and "positive_from" not in found["data"]
    assert set(found["features"]) == {"user", "item", "hour", "video_duration"}
    assert report["base"]["overall"]["mae"] > 0.0


def test_numbers_below_zero_need_a_bar(tmp_path: Path) -> None:
    data = write(tmp_path / "a.csv", lambda i: {"balance": CHANCE[i] - 0.5})
    with pytest.raises(InitError, match="--label balance --positive-from"):
        make_config(data, label="balance")
    found, _ = played(data, "--label", "balance", "--positive-from", "0.1")
    assert found["data"]["positive_from"] == 0.1 and "targets" not in found


def test_what_two_columns_say_is_taken_from_the_first(tmp_path: Path) -> None:
    def row(i: int) -> Row:
        weight, drawn = 0.5 + (i % 4) / 2, (1 + i % 5) / 5
        twice = {"sample_weight": weight, "row_weight": weight, "pscore": drawn, "propensity": drawn}
        return click_and_purchase(i) | twice | {"position": i % 3, "pos": i % 3}

    config, _ = make_config(write(tmp_path / "a.csv", row))
    found = tomllib.loads(config)
    assert found["data"]["weight"] == "sample_weight" and found["data"]["propensity"] == "pscore"
    assert not {"row_weight", "propensity", "pos"} & {*found["features"], *found["data"]["features"]}
    assert "# row_weight: left out: by how much a line counts; column 'sample_weight' says it" in config


@pytest.mark.parametrize("name", ["sample_weight", "instance weight", "WeightOfExample"])
def test_weights_of_examples_are_read_as_such_and_other_weights_stay_features(
    name: str, tmp_path: Path
) -> None:
    data = write(
        tmp_path / "a.csv",
        lambda i: click_and_purchase(i) | {name: 0.5 + (i % 4) / 2, "weight": round(1.0 + CHANCE[i], 3)},
    )
    found, report = played(data)
    assert found["data"]["weight"] == name and "weight" in found["features"]
    assert name not in found["features"] and report["skipped"] == 0
