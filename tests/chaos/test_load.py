"""Load and abuse over HTTP: nothing is lost, nothing leaks, and no client is told of a defect.

FRESHET_LOAD_S says for how many seconds; by default 40. FRESHET_ARTEFACTS names a folder in which the
samples and the plot of memory are left. Memory is judged strictly by the long run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT


def run(seconds: float, tmp_path: Path) -> None:
    kept = os.environ.get("FRESHET_ARTEFACTS")
    out = Path(kept) / f"load-{seconds:g}s" if kept else tmp_path
    command = [
        sys.executable,
        str(ROOT / "tests" / "chaos" / "load.py"),
        "--seconds",
        f"{seconds:g}",
        "--out",
        str(out),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 280.0)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = json.loads((out / "memory.json").read_text())
    assert told["learner_kills"] >= 1 and told["impressions"] > 10 * seconds
    assert {"200", "202", "207", "400", "404", "405", "413", "431"} <= set(told["statuses"])
    assert told["deeds"]["leave"] > 10 and told["deeds"]["dawdle"] > 1
    assert "Resident memory" in (out / "memory.html").read_text()


@pytest.mark.process
@pytest.mark.timeout(450)
def test_mixed_load_and_abuse(tmp_path: Path) -> None:
    run(float(os.environ.get("FRESHET_LOAD_S", "40")), tmp_path)


@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(2400)
def test_half_an_hour_of_mixed_load_and_abuse(tmp_path: Path) -> None:
    run(1800.0, tmp_path)
