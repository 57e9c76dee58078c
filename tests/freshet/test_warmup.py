"""Kernels that were compiled from other sources are not used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from freshet import warmup

# and what other processes are just writing, under a name that is gone when it is to be copied
COMPILED = shutil.ignore_patterns("*.nbi*", "*.nbc*", "*.pyc.*", f"{warmup.MARKER}*", f"{warmup.SOURCES}*")
PROBE = """
from freshet.warmup import drop_stale
drop_stale()
import learner.probe
print(learner.probe.result())
"""


def test_sources_of_kernels_are_those_with_kernels_and_what_is_built_into_them() -> None:
    names = set(map(warmup.name_of, warmup.kernel_sources()))
    assert {
        "ground/kernels/bayes.py", "embeddings/core/index.py", "embeddings/core/store.py",
        "learner/fast/kernels.py",
    } <= names  # fmt: skip
    assert "learner/role/learner.py" not in names  # editing it compiles nothing anew


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with a copy of the packages, without compiled kernels."""
    for package in (*warmup.PACKAGES, "freshet"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=COMPILED)
    return tmp_path


def probed(folder: Path) -> str:
    """What the probe prints in a new process."""
    printed = subprocess.run(
        [sys.executable, "-B", "-c", PROBE],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    return printed.stdout.strip()


@pytest.mark.process
def test_kernel_is_made_anew_when_a_constant_of_another_file_changes(copied: Path) -> None:
    (copied / "learner" / "probe.py").write_text(
        "from numba import njit\nfrom learner.probe_constants import STEP\n\n"
        "@njit(cache=True)\ndef result():\n    return STEP\n"
    )
    for step in (1, 1, 2):
        (copied / "learner" / "probe_constants.py").write_text(f"STEP = {step}\n")
        assert probed(copied) == str(step)
    assert len(list((copied / "ground").rglob(f"{warmup.SOURCES}*"))) == 1


# Long: it compiles a kernel as the test of a constant does.
@pytest.mark.long
@pytest.mark.process
def test_kernel_is_made_anew_when_a_tuple_that_it_takes_is_renamed(copied: Path) -> None:
    (copied / "learner" / "probe_kernel.py").write_text(
        "from numba import njit\n\n@njit(cache=True)\ndef first(pair):\n    return pair[0]\n"
    )
    for name in ("Pair", "Twins"):
        (copied / "learner" / "probe_tuple.py").write_text(
            f"from typing import NamedTuple\n\nclass {name}(NamedTuple):\n    one: int\n    other: int\n"
        )
        (copied / "learner" / "probe.py").write_text(
            "from learner.probe_kernel import first\n"
            f"from learner.probe_tuple import {name}\n\n"
            f"def result():\n    return first({name}(7, 8))\n"
        )
        assert probed(copied) == "7"


@pytest.mark.process
def test_kernels_of_a_first_request_and_of_seldom_calls_are_compiled_before() -> None:
    """In a process of its own: in this one, other tests may have called them."""
    program = (
        "from freshet import exercise; exercise.everything(all_kinds=True)\n"
        "from embeddings.kernels import contents, lookup\n"
        "from error_memory.residual import cells, kernels\n"
        "from learner.features import quick\n"
        "from learner.model import explore\n"
        "called = [quick.lay_out, contents.page, lookup.delete]\n"
        "called += [kernels.explain_rows, cells.erase, explore._disturb]\n"
        "print([kernel.__name__ for kernel in called if not kernel.signatures])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=280
    )
    assert done.stdout.strip() == "[]"
