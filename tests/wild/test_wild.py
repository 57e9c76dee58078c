"""What `freshet init` writes plays the file that it was made for: no error, no lost line, the right roles."""

import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from depth import many
from generator import Truth, make_file
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from freshet.config import parse_config
from freshet.init.command import make_config
from ground import FreshetError
from learner.features.encoder import Encoder
from stream.files.sources import LeftOut, read_examples

FILES = many(100)
ROLES_RIGHT = 0.95


class Figures:
    """What came of all files."""

    def __init__(self) -> None:
        self.files = self.columns = self.right = self.lines = 0
        self.wrong: list[str] = []
        self.failed: list[str] = []


FIGURES = Figures()


def play(truth: Truth) -> dict[str, Any]:
    """Make a config for a file and play it; returns the config's table."""
    text, _ = make_config(truth.path)
    table = tomllib.loads(text)
    config = parse_config(table, "freshet.toml")
    left_out = LeftOut()
    targets = config.known_targets()
    examples = list(read_examples(truth.path, config.data, left_out, config.features, targets))
    assert sum(not example.target for example in examples) == truth.lines - truth.unlabelled, text
    assert left_out.lines == truth.unlabelled, left_out.first
    Encoder(config.features, config.learner.pairs_max).encode(examples)
    return table


@settings(
    max_examples=FILES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(st.data())
def _every_file_plays(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        truth = make_file(data.draw, Path(folder))
        FIGURES.files += 1
        FIGURES.lines += truth.lines
        try:
            table = play(truth)
        except (AssertionError, FreshetError) as error:
            FIGURES.failed.append(f"{truth}: {error}")
            return
    found = {name: part["kind"] for name, part in table["features"].items()}
    said = (table["data"]["label"], table["data"]["time"])
    if said != (truth.label, truth.time):
        FIGURES.failed.append(f"{truth}: label and time are {said}")
        return
    for name, role in truth.roles.items():
        FIGURES.columns += 1
        right = found.get(name) is None if role in ("left out", "leak") else found.get(name) == role
        if role == "leak" and not right:
            FIGURES.failed.append(f"{truth}: {name} tells the label and is a feature")
        FIGURES.right += right
        if not right:
            FIGURES.wrong.append(f"{name}: {role}, found {found.get(name)}")


@pytest.mark.slow
def test_config_of_any_file_plays_it_and_its_roles_are_right() -> None:
    _every_file_plays()
    share = FIGURES.right / FIGURES.columns
    print(f"{FIGURES.files} files, {FIGURES.lines:,} lines, {FIGURES.columns} columns, {share:.1%} right")
    assert not FIGURES.failed, "\n\n".join(FIGURES.failed)
    assert share >= ROLES_RIGHT, "\n".join(FIGURES.wrong)
