"""Faults that files from the wild have shown, one test for each kind: what `freshet init` makes of them."""

import json
import random
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from freshet.errors import InitError
from freshet.init.command import make_config, run_init
from freshet.init.text import find_layout
from stream.files.columns import DataSettings
from stream.files.sources import LeftOut, read_examples

pytestmark = pytest.mark.slow

BEGIN_S = 1_767_225_600
RNG = random.Random(5)
QUOTE = '"'


def table(path: Path, names: str, row: Callable[[int], str], lines: int = 300, end: str = "\n") -> Path:
    """A file of a line of names (none if empty) and lines that `row` makes."""
    body = [row(i) for i in range(lines)]
    path.write_text(end.join([names, *body] if names else body) + end, encoding="utf-8")
    return path


def made(path: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """The config's table and what init asks to look at; the config reads the whole file."""
    text, notes = make_config(path, **options)
    found = tomllib.loads(text)
    left_out = LeftOut()
    settings = DataSettings(**{k: v for k, v in found["data"].items() if k != "label_positive"})
    read = sum(1 for _ in read_examples(path, settings, left_out, found["features"]))
    found["read"], found["left_out"] = read, left_out.lines
    return found, notes


def y(i: int) -> int:
    """A label without a rhythm."""
    return (i * 7919 >> 3) % 3 == 0


# Leaks


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("nonclk", lambda i: 1 - y(i)),
        ("afterwards", lambda i: 5.5 + i % 50 if y(i) else 1.5),
        ("basket", lambda i: f"b{i % 9}" if y(i) else ""),
        ("phase", lambda i: "ab"[y(i)]),
        ("copy", lambda i: f"{y(i)}.0"),
        ("conversion_nr", lambda i: 7_000_000 + i if y(i) else -1),
    ],
)
def test_what_tells_the_label_by_itself_is_no_feature(
    tmp_path: Path, name: str, cell: Callable[[int], object]
) -> None:
    path = table(
        tmp_path / "a.csv", f"time,user,item,{name},clk",
        lambda i: f"{BEGIN_S + i},u{i % 7},{i % 11},{cell(i)},{int(y(i))}",
    )  # fmt: skip
    found, notes = made(path)
    assert found["data"]["label"] == "clk" and set(found["features"]) == {"user", "item", "hour"}
    assert any(name in note for note in notes)
    text, _ = make_config(path)
    assert f"# {name}: left out: " in text and "one-column AUC" in text


def test_what_helps_without_telling_stays(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", "time,user,hint,clk",
        lambda i: f"{BEGIN_S + i},u{i % 7},{int(y(i)) if i % 8 else 1 - int(y(i))},{int(y(i))}",
    )  # fmt: skip
    assert set(made(path)[0]["features"]) == {"user", "hint", "hour"}


# What a column is


@pytest.mark.parametrize(
    ("name", "cell", "kind", "type_"),
    [
        (
            "mmh3",
            lambda i: (-1) ** (i % 20) * (922337203685477 * (1 + i % 20) % 18446744073709551),
            "id",
            "id",
        ),
        ("crc", lambda i: (i % 40) * 2654435761 % 2**32 - 2**31, "id", "id"),
        ("用户", lambda i: f"{float(17 * (i % 25)):.1f}", "id", "int"),
        ("列", lambda i: f"{i % 6}.0", "id", "int"),
        ("big", lambda i: 2**63 + 977 * (i % 20), "id", "text"),
        ("c", lambda i: min(int(RNG.expovariate(0.03)), 300), "number", "number"),
        ("价格", lambda i: f"{i % 37 / 4:.2f}", "number", "number"),
    ],
)
def test_a_column_is_what_its_values_are(
    tmp_path: Path, name: str, cell: Callable[[int], object], kind: str, type_: str
) -> None:
    path = table(
        tmp_path / "a.csv", f"time,{name},label", lambda i: f"{BEGIN_S + i},{cell(i)},{int(y(i))}", 600
    )
    found, _ = made(path)
    assert found["features"][name]["kind"] == kind and found["data"]["types"][name] == type_


@pytest.mark.slow
def test_column_that_is_filled_late_is_seen(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", "time,user,campaign,label",
        lambda i: f"{BEGIN_S + i},u{i % 50},{f'k{i % 7}' if i > 6_000 else ''},{int(y(i))}", 9_000,
    )  # fmt: skip
    found, _ = made(path)
    assert found["features"]["campaign"]["kind"] == "id"


# Names, titles, quotes


@pytest.mark.parametrize(
    ("before", "names", "expected"),
    [
        ("", "click,purchase,101,121", ["101", "121"]),
        ("sep=,\n", "click,purchase,a,b", ["a", "b"]),
        ("Clicks of May\n", "click,purchase,a,b", ["a", "b"]),
        ("", "0,1,2,3", ["1", "2", "3"]),
        ("", "", ["c2", "c3", "c4"]),
    ],
)
def test_names_are_told_from_data(tmp_path: Path, before: str, names: str, expected: list[str]) -> None:
    path = table(tmp_path / "a.csv", names, lambda i: f"{int(y(i))},{i % 4},{i % 9},{i % 5}", 120)
    path.write_text(before + path.read_text())
    found, _ = made(path, label=None if names[:1] != "0" else "0")
    assert [n for n in found["features"] if n != "hour"] == expected[-len(found["features"]) :]
    assert found["read"] == 120 and found["left_out"] == 0


@pytest.mark.parametrize("quotes", [(4,), (4, 54), (4, 6)])
def test_stray_quotes_are_turned_off(tmp_path: Path, quotes: tuple[int, ...]) -> None:
    path = table(
        tmp_path / "a.tsv", "time\tuser\titem\tclicked\ttitle",
        lambda i: f"{BEGIN_S + i}\tu{i % 4}\t{i % 5}\t{int(y(i))}\t{QUOTE * (i in quotes)}title {i % 5}", 60,
    )  # fmt: skip
    found, _ = made(path)
    assert (found["data"]["quote"], found["read"], found["left_out"]) == ("", 60, 0)


def test_backslash_escapes_are_found(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", "time,user,title,clicked",
        lambda i: f'{BEGIN_S + i},u{i % 4},"say \\"{i % 5}, please\\"",{int(y(i))}',
    )  # fmt: skip
    found, _ = made(path)
    assert (found["data"]["escape"], found["read"]) == ("\\", 300)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_no_more_than_a_share_may_be_left_out(tmp_path: Path, form: str) -> None:
    def row(i: int, every: int) -> str:
        if i % every == 5:
            return "broken {"
        if form == "csv":
            return f"{BEGIN_S + i},u{i % 4},{i % 5},{int(y(i))}"
        return json.dumps({"time": BEGIN_S + i, "user": f"u{i % 4}", "item": i % 5, "clicked": int(y(i))})

    names = "time,user,item,clicked" if form == "csv" else ""
    few = table(tmp_path / f"a.{form}", names, lambda i: row(i, 100))
    found, notes = made(few)
    assert found["data"]["skip_bad"] is True and found["left_out"] == 3
    assert any("3 of 300 lines cannot be used" in note and f"{few}:" in note for note in notes)
    with pytest.raises(InitError, match=r"100 of 300 lines cannot be used, more than 5%; the first: .*:"):
        make_config(table(tmp_path / f"b.{form}", names, lambda i: "broken {" if i % 3 == 2 else row(i, 999)))


@pytest.mark.parametrize(
    "cell", [[0.1, 0.2], [{"id": 1}], {"id": 1}, [[1, 2]], "x" * 1_500, [True, None, "a"], [1, None]]
)
def test_whatever_a_cell_holds_the_config_plays(tmp_path: Path, cell: object) -> None:
    path = table(
        tmp_path / "a.jsonl", "",
        lambda i: json.dumps(
            {"time": BEGIN_S + i, "user": f"u{i % 7}", "x": cell if i % 2 else None, "price": float("nan"),
             "clicked": int(y(i))}
        ), 60,
    )  # fmt: skip
    found, _ = made(path)
    assert (found["read"], found["left_out"]) == (60, 0) and "user" in found["features"]


# Labels


@pytest.mark.parametrize(
    ("name", "cell", "settings", "read"),
    [
        ("label", lambda i: f"{int(y(i))}.000", {}, 300),
        ("label", lambda i: f"{int(y(i)):.1e}", {}, 300),
        ("label_cost", lambda i: -int(y(i)), {"positive": ["-1"]}, 300),
        ("label", lambda i: 2 * int(y(i)) - 1, {"positive_from": 1.0}, 300),
        ("rating", lambda i: (-1, 1, 5)[i % 3], {"positive_from": 5.0, "unlabelled": ["-1"]}, 200),
        ("rating", lambda i: (0, 0, 3, 8, 9)[i % 5], {"positive_from": 8.0, "unlabelled": ["0"]}, 180),
        ("rating", lambda i: (0, 3, 4, 5, 5)[i % 5], {"positive_from": 4.0, "unlabelled": None}, 300),
        ("rating", lambda i: ("", 2, 4, 5)[i % 4], {"positive_from": 4.0, "unlabelled": [""]}, 225),
    ],
)
def test_labels_are_read_as_they_are_written(
    tmp_path: Path, name: str, cell: Callable[[int], object], settings: dict[str, object], read: int
) -> None:
    path = table(
        tmp_path / "a.csv", f"time,user,item,{name}",
        lambda i: f"{BEGIN_S + i},u{i * 7 % 13},{i * 5 % 11},{cell(i)}",
    )  # fmt: skip
    found, _ = made(path)
    assert found["data"]["label"] == name
    assert {key: found["data"].get(key) for key in settings} == settings
    assert (found["read"], found["left_out"]) == (read, 300 - read)


@pytest.mark.parametrize(
    ("name", "cell", "bar"),
    [("rating", lambda i: 1 + i * 7 % 9 / 2, 4.0), ("label", lambda i: float(y(i)), None)],
)
def test_labels_have_the_marks_of_the_files_numbers(
    tmp_path: Path, name: str, cell: Callable[[int], float], bar: float | None
) -> None:
    path = table(
        tmp_path / "a.csv", f"time;user;price;{name}",
        lambda i: f"{BEGIN_S + i};u{i * 7 % 13};{i % 90 / 4};{cell(i)}".replace(".", ","),
    )  # fmt: skip
    found, _ = made(path)
    assert (found["data"]["decimal"], found["data"].get("positive_from")) == (",", bar)
    assert (found["read"], found["left_out"]) == (300, 0)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (lambda i: (2, 4, 5)[i % 3], "4 or more of 5 (67% of the lines) counts as liked"),
        (lambda i: (0, 0, 3, 8, 9)[i % 5], "8 or more of 9 (67% of the lines) counts as liked"),
    ],
)
def test_what_counts_as_liked_is_said_with_its_share(
    tmp_path: Path, cell: Callable[[int], int], says: str
) -> None:
    path = table(
        tmp_path / "a.csv", "time,user,item,rating",
        lambda i: f"{BEGIN_S + i},u{i * 7 % 13},{i * 5 % 11},{cell(i)}",
    )  # fmt: skip
    text, _ = make_config(path)
    assert says in text


@pytest.mark.parametrize("none", ["null", '""'])
def test_labels_that_are_missing_in_lines_of_json_are_no_labels(tmp_path: Path, none: str) -> None:
    path = tmp_path / "a.jsonl"
    lines = (
        f'"time": {BEGIN_S + i}, "user": "u{i * 7 % 13}", "item": {i * 5 % 11}, '
        f'"rating": {(none, 2, 4, 5)[i % 4]}'
        for i in range(300)
    )
    path.write_text("".join(f"{{{line}}}\n" for line in lines))
    found, _ = made(path)
    assert found["data"]["unlabelled"] == [""] and found["data"]["positive_from"] == 4.0
    assert (found["read"], found["left_out"]) == (225, 75)


def test_unknown_words_are_asked_about_or_told(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", "time,user,event",
        lambda i: f"{BEGIN_S + i},u{i % 7},{('view', 'click', 'zapped')[i % 3]}",
    )  # fmt: skip
    found, notes = made(path)
    assert found["data"]["positive"] == ["click"]
    assert any("zapped counts as 0" in note for note in notes)
    asked: list[str] = []

    def yes(question: str, answers: Sequence[str]) -> int:
        asked.append(question)
        return len(answers) - 1

    assert made(path, ask=yes)[0]["data"]["positive"] == ["click", "zapped"]
    assert asked == ["Does zapped in event (33% of the lines) count as 1?"]


def plays(folder: Path) -> Path:
    return table(
        folder / "a.csv", "time,user,item,seconds",
        lambda i: f"{BEGIN_S + i},u{i % 7},{i % 11},{(i * 37 % 400) + 0.5}",
    )  # fmt: skip


def test_no_label_is_no_dead_end(tmp_path: Path) -> None:
    path = plays(tmp_path)
    with pytest.raises(InitError, match=r"--label seconds --positive-from 320\.5   \(20% of the lines"):
        make_config(path)
    found, _ = made(path, label="seconds", positive_from=320.5)
    assert (found["data"]["label"], found["data"]["positive_from"]) == ("seconds", 320.5)
    asked: list[Sequence[str]] = []

    def first(question: str, answers: Sequence[str]) -> int:
        asked.append(answers)
        return 0

    assert made(path, ask=first)[0]["data"]["label"] == "seconds"
    assert asked[0][0] == "seconds: 320.5 or more (20% of the lines)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": "secnds"}, "--label names 'secnds'; the columns are time, user, item, seconds"),
        ({"label": "seconds", "positive_from": 1e6}, "none of the lines of seconds reach it"),
        ({"label": "user", "positive_from": 1.0}, 'user has other values, such as "u0"'),
    ],
)
def test_label_that_cannot_be_one_is_said(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InitError, match=words):
        make_config(plays(tmp_path), **options)


def test_bar_without_a_column_is_said(tmp_path: Path) -> None:
    with pytest.raises(InitError, match="--positive-from needs --label"):
        run_init(str(plays(tmp_path)), str(tmp_path / "out.toml"), positive_from=1.0)


def test_ratings_without_names_are_a_guess_that_is_told(tmp_path: Path) -> None:
    path = table(tmp_path / "a.txt", "", lambda i: f"{i % 20} {i % 31} {i * 7 % 5 + 1}")
    found, notes = made(path)
    assert (found["data"]["label"], found["data"]["positive_from"]) == ("label", 4.0)
    assert any(note.startswith("data.label: a guess") for note in notes)


def test_hours_as_digits_are_times(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", "id,click,hour,site_id",
        lambda i: f"{i * 7919},{int(y(i))},141021{i // 13 % 24:02},s{i % 9}",
    )  # fmt: skip
    assert made(path)[0]["data"]["time_format"] == "%y%m%d%H"


def test_finest_of_several_times_is_the_time_and_the_others_are_no_features(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.csv", "user,date,time_ms,click",
        lambda i: f"u{i % 9},202601{1 + i // 100:02},{BEGIN_S + 700 * i}000,{int(y(i))}",
    )  # fmt: skip
    found, _ = made(path)
    assert found["data"]["time"] == "time_ms" and set(found["features"]) == {"user", "hour"}


# Formats of others


@pytest.mark.parametrize(
    ("name", "row", "kind"),
    [
        ("a.svm", lambda i: f"{int(y(i))} 3:1 {5 + i % 9}:1 20:0.{i % 10}", "libsvm"),
        ("a.txt", lambda i: f"{2 * int(y(i)) - 1} 1:{i % 9}:1 2:{i % 5}:1", "libffm"),
        ("a.vw", lambda i: f"{2 * int(y(i)) - 1} |user u{i % 9} |item i{i % 5} red", "Vowpal Wabbit"),
        ("a.dat", lambda i: f"{i % 9}::{i % 11}::{int(y(i))}::{BEGIN_S + i}", "between two colons"),
        ("a.tsv", lambda i: f"{i}\tu{i % 9}\tN{i % 5}-1 N{i % 7 + 9}-0", "slates in one cell"),
    ],
)
def test_formats_of_others_are_named_with_a_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, row: Callable[[int], str], kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = table(tmp_path / name, "", row)
    with pytest.raises(InitError) as error:
        make_config(path)
    text, command = str(error.value).split(":\n  ")
    assert kind in text
    before = set(tmp_path.iterdir())
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path)
    (result,) = set(tmp_path.iterdir()) - before
    found, _ = made(result)
    assert found["read"] == (600 if "slates" in kind else 300) and len(found["features"]) >= 1


def test_lines_that_are_events_are_told_of_and_requests_with_outcomes_are_not(tmp_path: Path) -> None:
    def event(i: int) -> str:
        shown, kind = i // 3, ("view", "click", "view")[i % 3]
        return f"{BEGIN_S + i},r{shown}-{i % 3 // 2},u{shown % 7},{shown % 11},{kind},"

    _, notes = made(table(tmp_path / "events.csv", "time,request,user,item,event,minutes", event))
    (note,) = (note for note in notes if "each line seems to be an event" in note)
    assert "100% of the lines that count as 1" in note and "freshet produce --source" in note

    def outcome(i: int) -> str:
        return f"{BEGIN_S + i},u{i % 7},{i % 11},{('view', 'click')[i % 3 == 0]}"

    _, notes = made(table(tmp_path / "requests.csv", "time,user,item,event", outcome))
    assert not any("seems to be an event" in note for note in notes)


def test_a_single_line_that_only_quotes_without_meaning_can_read_is_read_so() -> None:
    layout = find_layout(["sep=;\n", f"{QUOTE}7 inch;3;1\n"])
    assert layout is not None and (layout.dialect.quote, layout.width) == ("", 3)
    assert layout.why["quote"] == "quotes mean nothing: so more lines can be read"
