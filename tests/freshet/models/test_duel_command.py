"""`freshet duel` on a log: what it says, as text and as JSON."""

import contextlib
import json
from pathlib import Path

import pytest
from duelled import duelled

from freshet.cli.main import main
from freshet.config import load_config
from freshet.roles.opening import open_topics
from stream.log.base import EXAMPLES, Outgoing
from stream.orders.orders import Traffic, give_order
from stream.records.types import encode

CONFIG = 'log = "sqlite:log.db"\n[features.user]\n[features.item]\n[models.challenger]\nshare = 0.5\n'


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "freshet.toml").write_text(CONFIG)
    with contextlib.closing(open_topics(load_config(tmp_path / "freshet.toml"))) as log:
        found = duelled(3000, other_sees=0.3, first_name="main", other_name="challenger")
        log.append(EXAMPLES, [Outgoing(b"", encode(example), 0) for example in found])
    return str(tmp_path / "freshet.toml")


@pytest.mark.slow
def test_duel_says_which_model_to_take(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["duel", "main", "challenger", "--config", file]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("3,000 requests that main and challenger both predicted before")
    assert any(line.startswith("  log loss") and line.endswith("at any time") for line in told)
    assert any(line.startswith("  AUC") and line.endswith("at one look") for line in told)
    assert any(line.startswith("  clicks") for line in told)
    assert told[-1].startswith("Take challenger: its log loss is ") and "promote challenger" in told[-1]

    assert main(["duel", "challenger", "main", "--config", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "worse" and found["logloss_difference"][1] > 0.0
    assert found["requests"] == 3000 and sum(found["answered"]) == 3000
    assert found["usual_intervals"]["auc"][0] < 0.0


@pytest.mark.slow
def test_clicks_are_those_since_the_shares_changed(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(open_topics(load_config(file))) as log:
        give_order(log, Traffic({"main": 0.5, "challenger": 0.5}, 1e9 + 2000.0))
    assert main(["duel", "main", "challenger", "--config", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == sum(found["answered"]) == 1000 and found["clicks_since_order"] == 0
    assert main(["duel", "main", "challenger", "--config", file, "--from", "1e9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == 3000 and sum(found["answered"]) == 1000


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("main", "other"), "there is no model 'other'; the config has main, challenger"),
        (("main", "main"), "model main cannot be compared with itself"),
    ],
)
def test_names_that_cannot_be_compared(
    file: str, names: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["duel", *names, "--config", file]) == 2
    assert said in capsys.readouterr().err


def test_models_whose_first_target_is_a_value_are_not_compared_by_log_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "freshet.toml"
    file.write_text(CONFIG + '[targets.minutes]\nkind = "value"\n')
    assert main(["duel", "main", "challenger", "--config", str(file)]) == 2
    assert "the first target, minutes, is a value" in capsys.readouterr().err
