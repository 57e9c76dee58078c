"""Labels as the world spells them: each is learned rightly, or refused with a sentence."""

import csv
import tomllib
from pathlib import Path

import pytest

from freshet.config import parse_config
from freshet.errors import InitError
from freshet.init.command import make_config, make_plan
from freshet.init.labels.first import read_labels
from freshet.init.sample import read_sample
from stream.files.sources import read_examples

LINES = 600


def write(path: Path, one: str, zero: str, unknown: str | None = None) -> tuple[int, int]:
    """A file of labels, mostly ones; returns how many lines have a label, and how many of these are 1."""
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        rows = csv.writer(file)
        rows.writerow(["time", "user", "item", "label"])
        labelled = ones = 0
        for k in range(LINES):
            label = one if k * 7 % 10 < 6 else zero
            if unknown is not None and k % 10 == 3:
                label = unknown
            else:
                labelled, ones = labelled + 1, ones + (label == one)
            rows.writerow([1_700_000_000 + 60 * k, f"u{k % 31}", k % 17, label])
    return labelled, ones


def counted(path: Path, label: str | None = None) -> tuple[int, float]:
    plan = make_plan(read_sample(path), path, None, label)
    found = [one for one in read_labels(plan.label) if one is not None]
    return len(found), sum(found)


@pytest.mark.parametrize(
    ("one", "zero"),
    [
        ("y", "n"), ("Yes", "No"), ("TRUE", "FALSE"), ("t", "f"), ("1.0", "0.0"), ("1", "-1"), ("on", "off"),
        ("clicked", "not clicked"), ("ja", "nein"), ("Oui", "Non"), ("sí", "no"), ("SI\u0301", "NO"),
        (" 1 ", " 0 "), ("EVET", "HAYIR"), ("Evet", "Hayır"), ("نعم", "لا"), ("예", "아니오"), ("ano", "nei"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("unknown", [None, "", "NaN", "NULL", "None", "NA", "-"])
def test_each_spelling_is_read_as_it_is_meant(
    tmp_path: Path, one: str, zero: str, unknown: str | None
) -> None:
    path = tmp_path / "visits.csv"
    expected = write(path, one, zero, unknown)
    assert counted(path) == counted(path, "label") == expected


def test_a_replay_reads_them_as_the_config_says(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    expected = write(path, "ja", "nein", "NULL")
    config = parse_config(tomllib.loads(make_config(path)[0]), "test")
    examples = list(read_examples(path, config.data, targets=config.known_targets()))
    assert (len(examples), sum(sum(example.labels) for example in examples)) == expected


@pytest.mark.parametrize("label", [None, "label"])
def test_ones_and_empty_cells_are_refused(tmp_path: Path, label: str | None) -> None:
    path = tmp_path / "visits.csv"
    for one in ("1", "true", *(["yes"] if label else [])):  # yes alone is no label without a name
        write(path, one, "")
        with pytest.raises(InitError, match=f"label is {one} or nothing.*if nothing means 0, write 0"):
            make_plan(read_sample(path), path, None, label)


def test_unknown_words_of_a_column_that_was_named_are_told(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    write(path, "tiptop", "pah")
    plan = make_plan(read_sample(path), path, None, "label")
    assert any(guess.startswith("data.positive: tiptop counts as 0") for guess in plan.guessed)
    with pytest.raises(InitError, match="no column looks like a label"):
        make_plan(read_sample(path), path, None)
