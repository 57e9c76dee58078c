"""The rules for Prometheus, by its own checker: each alert fires when it should, and only then."""

import os
import re
import subprocess

import pytest
from paths import ROOT

from freshet.roles import metrics_page

FOLDER = ROOT / "deploy" / "prometheus"
RULES = (FOLDER / "rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)


def run(*command: str) -> None:
    # without Go's garbage collector and threads a short run takes half of the time
    environment = {**os.environ, "GOGC": "800", "GOMAXPROCS": "1"}
    done = subprocess.run(
        command, cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_config_are_valid(promtool: str) -> None:
    run(promtool, "check", "rules", "rules.yml")
    run(promtool, "check", "config", "--syntax-only", "prometheus.yml")  # the token's file is a container's


@pytest.mark.process
def test_alerts_fire_and_stay_quiet(promtool: str) -> None:
    run(promtool, "test", "rules", "tests.yml")


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", (FOLDER / "tests.yml").read_text())
    assert len(ALERTS) > 10
    assert {name for name, quiet in cases if not quiet} == set(ALERTS)
    assert {name for name, quiet in cases if quiet} == set(ALERTS)


def test_rules_ask_only_for_metrics_that_exist() -> None:
    known = {
        name for role in ("ingest", "joiner", "learner", "server") for name in metrics_page.families(role)
    }
    asked = set(re.findall(r"\bfreshet_[a-z_]+", re.sub(r"record: .*|job=\"\w+\"", "", RULES)))
    assert len(asked) > 10
    assert {re.sub(r"_bucket$", "", name) for name in asked} <= known


def test_operations_page_says_what_to_do_about_every_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    told = re.findall(r"^### (Freshet\w+)$", page, re.MULTILINE)
    assert told == ALERTS
