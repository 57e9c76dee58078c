"""Load and abuse over HTTP: nothing is lost, nothing leaks, and no client is told of a defect.

FRESHET_LOAD_S says for how many seconds; by default 25. FRESHET_ARTEFACTS names a folder in which the
samples and the plot of memory are left. Memory is judged strictly by the long run.
"""

import json
import os
from pathlib import Path

import pytest
import starting
from copies import ORIGINAL
from load_callers import EACH_MIN, STATUSES
from paths import ROOT


def run(seconds: float, tmp_path: Path) -> None:
    kept = os.environ.get("FRESHET_ARTEFACTS")
    out = Path(kept) / f"load-{seconds:g}s" if kept else tmp_path
    done = starting.run(
        "--seconds", f"{seconds:g}", "--out", str(out),
        program=str(ROOT / "tests" / "chaos" / "load.py"),
        env=starting.environment(**{ORIGINAL: starting.original()}),
        timeout=seconds + 380.0,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = json.loads((out / "memory.json").read_text())
    assert told["learner_kills"] >= 1 and told["impressions"] > 10
    assert set(map(str, STATUSES)) <= set(told["statuses"])
    assert told["deeds"]["leave"] >= EACH_MIN and told["deeds"]["dawdle"] >= EACH_MIN
    assert "Resident memory" in (out / "memory.html").read_text()


@pytest.mark.process
@pytest.mark.timeout(450)
def test_mixed_load_and_abuse(tmp_path: Path) -> None:
    run(float(os.environ.get("FRESHET_LOAD_S", "25")), tmp_path)


@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(2400)
def test_half_an_hour_of_mixed_load_and_abuse(tmp_path: Path) -> None:
    run(1800.0, tmp_path)
