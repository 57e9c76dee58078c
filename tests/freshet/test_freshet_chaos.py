"""Roles killed at random and at the worst moments; the ledger says what must have been learnt."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.process
@pytest.mark.timeout(600)
def test_ledger_balances_after_twenty_kills(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    command = [sys.executable, str(ROOT / "tests" / "chaos.py"), "--seed", "5", "--kills", "20"]
    run = subprocess.run(
        [*command, "--json", str(told), "--keep", str(tmp_path / "kept")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500.0,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(told.read_text())
    assert result["kills"] >= 20 and len(result["killed_at"]) >= 4
    assert result["sent"]["late"] > 100 and result["sent"]["copies"] > 100
    assert not any(result["books"].values())
