"""A data file with labels of several targets: an example of each, and impressions that say them all."""

import csv
import json
from pathlib import Path

import pytest

from stream.errors import SourceError
from stream.files.columns import DataSettings, LabelColumn
from stream.files.sources import read_examples, read_labelled
from stream.records.targets import Target, Targets

TARGETS = Targets(
    {"click": Target(), "buy": Target(of="click"), "minutes": Target(kind="value", of="click", scale="log1p")}
)
LABELS = {"buy": LabelColumn(column="bought"), "minutes": LabelColumn(column="watched")}
SETTINGS = DataSettings(label="clicked", request="visit", labels=LABELS)
ROWS = [
    {"time": 10, "visit": "a", "item": 1, "clicked": 1, "bought": 0, "watched": 2.5},
    {"time": 10, "visit": "a", "item": 2, "clicked": 0, "bought": "", "watched": ""},
    {"time": 10, "visit": "a", "item": 3, "clicked": 1, "bought": 1, "watched": 0},
    {"time": 11, "visit": "b", "item": 4, "clicked": 0, "bought": "", "watched": ""},
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        plain = [{name: None if cell == "" else cell for name, cell in row.items()} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain), path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_each_target_has_an_example_of_its_own_sample(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"visits.{suffix}", ROWS)
    found = [
        (e.request_id, e.target, [c["item"] for c in e.candidates], e.labels)
        for e in read_examples(path, SETTINGS, targets=TARGETS)
    ]
    assert found == [
        ("a", "", [1, 2, 3], [1, 0, 1]),
        ("a", "buy", [1, 3], [0, 1]),
        ("a", "minutes", [1, 3], [2.5, 0]),
        ("b", "", [4], [0]),
    ]
    outcomes = [said for _, said in read_labelled(path, SETTINGS, targets=TARGETS)]
    assert outcomes[0][1] == {"buy": None, "minutes": None} and outcomes[1] == outcomes[0][1:2]


@pytest.mark.parametrize(
    ("changed", "settings", "why"),
    [
        (
            {"watched": -1},
            SETTINGS,
            "csv:2: labels: column 'watched': '-1' is no value; expected a finite number",
        ),
        ({"watched": "inf"}, SETTINGS, "'inf' is no value"),
        ({"watched": "long"}, SETTINGS, "'long' is no value"),
        ({"bought": 2}, SETTINGS, "column 'bought': '2' is no label; expected 0 or 1"),
        ({"bought": ""}, SETTINGS, "column 'bought': an empty cell is no label"),
        (
            {},
            DataSettings(label="clicked", labels={"like": LabelColumn(column="bought")}),
            "no further target",
        ),
        (
            {},
            DataSettings(labels={"click": LabelColumn(column="clicked")}),
            "'click', the first target, whose column is data.label",
        ),
        ({}, DataSettings(label="clicked", labels={"buy": LabelColumn(column="sold")}), "no column 'sold'"),
    ],
)
def test_labels_that_cannot_be_used_name_line_and_column(
    tmp_path: Path, changed: dict[str, object], settings: DataSettings, why: str
) -> None:
    path = write(tmp_path / "visits.csv", [ROWS[0] | changed, *ROWS[1:]])
    with pytest.raises(SourceError, match=why):
        list(read_examples(path, settings, targets=TARGETS))


def test_ratings_have_targets_of_several_thresholds(tmp_path: Path) -> None:
    folder = tmp_path / "movies"
    folder.mkdir()
    (folder / "ratings.dat").write_text("1::2::9::1000\n1::3::8::1001\n2::2::5::1002\n")
    (folder / "movies.dat").write_text("2::A (1999)::Drama\n3::B (1999)::Comedy\n")
    targets = Targets({"good": Target(), "best": Target(of="good")})
    settings = DataSettings(
        format="movietweetings", labels={"best": LabelColumn(column="rating", positive_from=9.0)}
    )
    found = [(e.request_id, e.target, e.labels) for e in read_examples(folder, settings, targets=targets)]
    assert found == [("1", "", [1]), ("1", "best", [1]), ("2", "", [1]), ("2", "best", [0]), ("3", "", [0])]
