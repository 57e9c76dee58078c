"""The examples in docstrings give what they show. Files are imported when tests run, not when collected."""

import doctest
import importlib
from pathlib import Path

import pytest
from paths import ROOT

PACKAGES = ("ground", "stream", "embeddings", "error_memory", "learner", "serving", "freshet")
NEED_MORE = {"freshet/river.py"}
"""Needs River, which tests do not depend on: tests/freshet/python runs it in an environment of its own."""

WITH_EXAMPLES = [
    name
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text() and (name := path.relative_to(ROOT).as_posix()) not in NEED_MORE
]


SLOW = "embeddings/torch/"
"""Importing PyTorch takes seconds."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n.startswith(SLOW) else n for n in WITH_EXAMPLES],
)
def test_examples_give_what_they_show(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(".".join(Path(name).with_suffix("").parts).removesuffix(".__init__"))
    failed, tried = doctest.testmod(module)
    assert not failed, capsys.readouterr().out
    assert tried


def test_files_with_examples_are_found() -> None:
    assert len(WITH_EXAMPLES) > 50
