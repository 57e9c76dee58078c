"""Kernels that were compiled from other sources are not used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from freshet import warmup

PROBE = """
from freshet.warmup import drop_stale
drop_stale()
import learner.probe
print(learner.probe.told())
"""


def test_sources_of_kernels_are_those_with_kernels_and_what_is_built_into_them() -> None:
    names = set(map(warmup.name_of, warmup.kernel_sources()))
    assert {
        "ground/kernels/bayes.py", "embeddings/core/index.py", "embeddings/core/store.py",
        "learner/fast/kernels.py",
    } <= names  # fmt: skip
    assert "learner/role/learner.py" not in names  # editing it compiles nothing anew


@pytest.mark.process
def test_kernel_is_made_anew_when_a_constant_of_another_file_changes(tmp_path: Path) -> None:
    for package in (*warmup.PACKAGES, "freshet"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    constants = tmp_path / "learner" / "probe_constants.py"
    (tmp_path / "learner" / "probe.py").write_text(
        "from numba import njit\nfrom learner.probe_constants import STEP\n\n"
        "@njit(cache=True)\ndef told():\n    return STEP\n"
    )
    for step in (1, 1, 2):
        constants.write_text(f"STEP = {step}\n")
        told = subprocess.run(
            [sys.executable, "-B", "-c", PROBE],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert told.stdout.split() == [str(step)]
    assert len(list((tmp_path / "ground").rglob(f"{warmup.SOURCES}*"))) == 1
