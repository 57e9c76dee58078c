"""`freshet init` writes a config that runs, says why it chose, and asks where it cannot know."""

import contextlib
import math
import os
import pty
import random
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from data_files import SHAPES, epoch_ms, no_header, wide
from paths import DATA
from starting import environment

from freshet.cli.main import main
from freshet.config import load_config
from freshet.errors import InitError
from freshet.init.command import check_config, make_config, run_init
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from stream.errors import SourceError
from stream.files.sources import DataSettings, read_examples

MOVIETWEETINGS = DATA / "movietweetings"
LINES = 1_800

EXPECTED = {
    "no_header": (
        {"c1": "id", "c2": "id"},
        {"time": "time", "time_unit": "s", "label": "label", "delimiter": " ", "format": "csv"},
    ),
    "iso_times": (
        {"product_id": "id", "price": "number", "user_id": "id"},
        {"time": "event_time", "time_unit": "iso", "label": "event_type", "positive": ["cart", "purchase"]},
    ),
    "epoch_ms": (
        {"visitorid": "id", "itemid": "id"},
        {"time": "timestamp", "time_unit": "ms", "label": "event", "positive": ["addtocart"], "sort": True},
    ),
    "quoted_lists": (
        {"userId": "id", "articleId": "id", "tags": "ids", "topics": "ids", "title": "id"},
        {"time": "when", "time_format": "%d/%m/%Y %H:%M", "list_separator": ",", "label": "liked"},
    ),
    "tabs_without_time": (
        {"c2": "number", "c3": "id", "c4": "id", "c5": "id"},
        {"time": "", "label": "label", "delimiter": "\t", "columns": ["label", "c2", "c3", "c4", "c5", "c6"]},
    ),
    "wide": (
        {"user_id": "id", "age": "number", "item_id": "id", "price": "number"}
        | {f"f{i}": "id" for i in range(20)},
        {"time": "ts", "label": "clicked", "request": "request_id", "context": ["user_id", "age"]},
    ),
    "gzipped_lines": (
        {"user": "id", "item": "id", "cats": "ids", "price": "number"},
        {"time": "ts", "time_unit": "us", "label": "clicked"},
    ),
    "parquet": (
        {"user": "id", "movie": "id", "tags": "ids"},
        {"time": "rated_at", "label": "rating", "positive_from": 4.0},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_told_and_its_config_replays(shape: str, tmp_path: Path) -> None:
    data = SHAPES[shape](tmp_path, LINES)
    out = tmp_path / "freshet.toml"
    run_init(str(data), str(out))
    table = tomllib.loads(out.read_text())
    features, settings = EXPECTED[shape]
    hour = {} if shape == "tabs_without_time" else {"hour": "hour"}
    assert {name: part["kind"] for name, part in table["features"].items()} == features | hour
    assert {key: table["data"].get(key) for key in settings} == settings
    report = replay(load_config(out, ["learner.deep=none"]), ReplayOptions(data=str(data)))
    assert report["candidates"] == LINES and report["skipped"] == 0
    auc = report["corrected"]["last_half"]["auc"]
    assert math.isfinite(auc) and auc > 0.6, f"what there is to learn is not learnt: AUC {auc:.3f}"


def test_every_choice_has_its_reason_beside_it(tmp_path: Path) -> None:
    text, guessed = make_config(wide(tmp_path, 300))
    for line in text.splitlines():
        if line.startswith(
            ("kind =", "time =", "label =", "request =", "context =", "sort =", "delimiter =", "of =")
        ):
            assert "  # " in line, line
    assert [note.partition(";")[0] for note in guessed] == ["targets.purchased: a further target of clicked"]
    assert "# row: left out: counts the lines" in text


@pytest.mark.slow
def test_movietweetings_folder_has_its_own_config(tmp_path: Path) -> None:
    if not MOVIETWEETINGS.is_dir():
        pytest.skip("NO DATA: MovieTweetings is not here")
    out = tmp_path / "freshet.toml"
    run_init(str(MOVIETWEETINGS), str(out))
    config = load_config(out, ["learner.deep=none"])
    assert list(config.features) == ["user", "movie", "genres", "hour"]
    report = replay(config, ReplayOptions(data=str(MOVIETWEETINGS), limit=3000))
    assert math.isfinite(report["corrected"]["overall"]["auc"])


def test_doubt_is_asked_and_the_answer_taken(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    lines = ["ts,seen,opened,amt"] + [f"{1717171200 + i},{i % 2},{i % 3 % 2},{i % 61}" for i in range(600)]
    path.write_text("\n".join(lines))
    asked: list[tuple[str, Sequence[str]]] = []

    def second(question: str, answers: Sequence[str]) -> int:
        asked.append((question, answers))
        return 1

    text, guessed = make_config(path, second)
    first_label = tomllib.loads(make_config(path)[0])["data"]["label"]
    assert [question for question, _ in asked] == [
        "Which column says whether it was liked (the label)?",
        "Does amt (as 0, 1, 2, 3) name something, or count it?",
    ]
    assert tomllib.loads(text)["data"]["label"] != first_label and not guessed
    assert tomllib.loads(text)["features"]["amt"]["kind"] == "number"
    unasked, guessed = make_config(path)
    assert "a guess (also possible: " in unasked and len(guessed) == 2


@pytest.mark.process
def test_terminal_is_asked_until_it_answers(tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text(
        "\n".join(
            ["ts,seen,opened,item"] + [f"{1717171200 + i},{i % 2},{i % 3 % 2},{i % 9}" for i in range(600)]
        )
    )
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb+", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "freshet", "init", "--data", "two.csv"],
            cwd=tmp_path, stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL,
            env=environment(),
        )  # fmt: skip
        os.close(theirs)
        terminal.write(b"7\n2\n")
        said = ""
        with contextlib.suppress(OSError):  # nobody holds the other end any more
            while part := terminal.read(4000):
                said += part.decode()
        assert process.wait(60.0) == 0
    assert "Which column says whether it was liked" in said and said.count("1 to 2 [1]: ") == 2
    assert tomllib.loads((tmp_path / "freshet.toml").read_text())["data"]["label"] == "opened"


def test_config_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = no_header(tmp_path, 90)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--data", str(data), "--yes"]) == 0
    assert main(["init", "--data", str(data), "--yes"]) == 2
    assert main(["init", "--data", str(data), "--yes", "--force"]) == 0


def test_init_prints_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--data", str(epoch_ms(tmp_path, 90)), "--out", "-"]) == 0
    assert "visitorid" in tomllib.loads(capsys.readouterr().out)["features"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"time,label\n", "a header line and nothing else"),
        ("a.csv", b"one\ntwo\nthree\n", "looks like a single column"),
        ("a.csv", b"time,user\n1717171200,5\n1717171201,6\n", "no column looks like a label"),
        ("a.csv", b"time,user,user,label\n1717171200,5,1,0\n", "two columns have the name 'user'"),
        ("a.csv", b"time,label\n1717171200,0\n1717171201,1\n", "no column is left as a feature"),
        ("a.csv", "Z\xfcrich,1\n".encode("latin-1") * 9, "not UTF-8 text"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00", "gzip file is damaged"),
        ("a.jsonl", b'{"request_id": "r", "time": 1, "candidates": [{}]}\n', "produce --events"),
        ("a.parquet", b"no", "cannot be read as Parquet"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_said(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((InitError, SourceError), match=words):
        make_config(tmp_path / name)


def table_of(path: Path, price: str, names: str = "time;user;price;clicked", label: str = "01") -> Path:
    """600 lines, of which every 7th has an odd cell."""
    lines = [
        f"{1717171200 + i};u{i % 9};{price if i % 7 == 0 else 10 + i % 5};{label[i % 2]}" for i in range(600)
    ]
    path.write_text("\n".join([names, *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("price", "settings"),
    [
        ("NULL", {"missing": ["NULL"]}),
        ("NaN", {"missing": ["NaN"]}),
        ("12,75", {"decimal": ",", "thousands": ""}),
        ("1.234,5", {"decimal": ",", "thousands": "."}),
        ("1,234.5", {"decimal": ".", "thousands": ","}),
    ],
)
def test_numbers_are_told_as_they_are_written(
    tmp_path: Path, price: str, settings: dict[str, object]
) -> None:
    data = table_of(tmp_path / "a.csv", price)
    text, guessed = make_config(data)
    table = tomllib.loads(text)
    assert table["features"]["price"]["kind"] == "number" and not guessed
    assert {key: table["data"].get(key) for key in ("missing", "decimal", "thousands")} == {
        "missing": None, "decimal": None, "thousands": None
    } | settings  # fmt: skip
    examples = list(read_examples(data, msgspec.convert(table["data"], DataSettings)))
    values = {example.candidates[0].get("price") for example in examples}
    odd = {"NULL": None, "NaN": None, "12,75": 12.75}.get(price, 1234.5)
    assert values == {odd, 10.0, 11.0, 12.0, 13.0, 14.0}


def test_marks_that_may_be_either_are_told_as_a_guess(tmp_path: Path) -> None:
    _, guessed = make_config(table_of(tmp_path / "a.csv", "1,250"))
    assert guessed == ['data.decimal: a guess; numbers as "1,250" in price']


@pytest.mark.parametrize(
    ("label", "settings"),
    [("tf", {"positive": ["t"]}), ("yn", {"positive": ["y"]}), ("03", {"positive_from": 1.0})],
)
def test_labels_of_databases_are_told(tmp_path: Path, label: str, settings: dict[str, object]) -> None:
    table = tomllib.loads(make_config(table_of(tmp_path / "a.csv", "2.5", label=label))[0])["data"]
    assert table["label"] == "clicked"
    assert {key: table.get(key) for key in settings} == settings


@pytest.mark.parametrize(
    ("names", "label", "words"),
    [
        ("id;user;time;clicked", "01", "no column looks like a time.*; time, as .*, may need time_format"),
        ("time;user;price;clicked", "00", "always 0 in the sample, so there is nothing to learn"),
        (";user;price;clicked", "01", "no column looks like a time"),
    ],
)
def test_config_that_learns_little_is_told(tmp_path: Path, names: str, label: str, words: str) -> None:
    data = table_of(tmp_path / "a.csv", "Tuesday", names, label)
    if names.startswith("id"):
        data.write_text(data.read_text().replace("\n17", "\nx17"))  # no time either
    _, guessed = make_config(data)
    assert re.search(words, "\n".join(guessed)), guessed


@pytest.mark.slow
def test_columns_beyond_what_a_candidate_holds_are_left_out(tmp_path: Path) -> None:
    names = [f"f{i}" for i in range(300)]
    lines = [",".join([str(i % 2), *(str((i + k) % 5) for k in range(300))]) for i in range(60)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join([",".join(["label", *names]), *lines]))
    text, guessed = make_config(path)
    assert len(tomllib.loads(text)["features"]) == 256
    assert "44 columns are left out, from f256 on" in guessed[-1]
    assert check_config(text, path, "freshet.toml").features


def test_bars_win_over_commas_within_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{1717171200 + i}|u{i % 9}|item, {i % 5}|{i % 2}" for i in range(60)]
    path.write_text("\n".join(["time|user|item|clicked", *lines]))
    assert tomllib.loads(make_config(path)[0])["data"]["delimiter"] == "|"


def test_strange_names_and_cells_make_a_config_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    names = 'time,"a ""b"".c","line\nbreak",\x01x,label'
    lines = [f'{1717171200 + i},"é\t{i % 5}","p\nq {i % 3}",{i % 7}#,{i % 2}' for i in range(60)]
    path.write_text("\n".join([names, *lines]) + "\n")
    out = tmp_path / "freshet.toml"
    run_init(str(path), str(out))
    assert list(load_config(out).features)[:3] == ['a "b".c', "line\nbreak", "\x01x"]


def exposure_file(tmp_path: Path, header: str, line: Callable[[int, int, int], str]) -> Path:
    """200 requests of four candidates, of which the first two are shown."""
    rng = random.Random(3)
    rows = [header]
    for request in range(200):
        for place in range(4):
            clicked = int(place < 2 and rng.random() < 0.4)
            asked = f"{1767225600 + request},s{request},u{request % 20}"
            rows.append(f"{asked},{rng.randrange(30)},{line(request, place, clicked)}")
    path = tmp_path / "slates.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("name", ["position", "rank", "display_pos"])
def test_place_where_it_was_shown_is_no_feature(tmp_path: Path, name: str) -> None:
    path = exposure_file(
        tmp_path,
        f"time,session,user,item,{name},clicked",
        lambda request, place, clicked: f"{place + 1},{clicked}",
    )
    text, _ = make_config(path)
    assert f"# {name}: left out: the place where a candidate was shown: not known when" in text
    assert name not in check_config(text, path, "it").features


@pytest.mark.parametrize(("name", "most"), [("propensity", 1), ("pscore", 1), ("propensity", 3)])
def test_propensity_of_a_candidates_place_is_no_feature(tmp_path: Path, name: str, most: int) -> None:
    path = exposure_file(
        tmp_path,
        f"time,session,user,item,{name},clicked",
        lambda request, place, clicked: f"{most * (1 + (request + place) % 4) / 4},{clicked}",
    )
    text, _ = make_config(path)
    config = check_config(text, path, "it")
    assert name not in config.features and config.data.propensity == (name if most == 1 else "")


def test_names_in_other_languages_are_understood(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = [
        f"{i // 12 + 1:02}.01.2026 08:00;u{rng.randrange(9)};{i % 13};{rng.choice(['ja', 'nein', 'nein'])}"
        for i in range(300)
    ]
    path = tmp_path / "klicks.csv"
    path.write_text("\n".join(["Zeitpunkt;Benutzer;Artikel;Gekauft", *rows]) + "\n")
    text, _ = make_config(path)
    config = check_config(text, path, "it")
    assert config.data.context == ["Benutzer"] and config.learner.group_by == "Benutzer"
    assert config.data.label == "Gekauft"


@pytest.mark.parametrize("name", ["avg_position", "rank"])
def test_number_that_is_known_before_stays_a_feature(tmp_path: Path, name: str) -> None:
    path = exposure_file(
        tmp_path,
        f"time,session,user,item,{name},clicked",
        lambda request, place, clicked: f"{(request * 7 + place // 2) % 40},{clicked}",
    )
    text, _ = make_config(path)
    assert name in check_config(text, path, "it").features


def test_column_that_says_what_was_shown_leaves_the_others_out(tmp_path: Path) -> None:
    path = exposure_file(
        tmp_path,
        "time,session,user,item,shown,clicked",
        lambda request, place, clicked: f"{int(place < 2)},{clicked}",
    )
    text, _ = make_config(path)
    config = check_config(text, path, "it")
    assert config.data.shown == "shown" and set(config.features) == {"user", "item", "hour"}
    examples = list(read_examples(path, config.data, declared=config.features))
    assert len(examples) == 200 and all(len(example.candidates) == 2 for example in examples)


def test_column_of_that_name_with_clicks_on_its_zeros_says_something_else(tmp_path: Path) -> None:
    path = exposure_file(
        tmp_path,
        "time,session,user,item,visible,clicked",
        lambda request, place, clicked: f"{place % 2},{clicked}",
    )
    text, _ = make_config(path)
    assert check_config(text, path, "it").data.shown == ""
