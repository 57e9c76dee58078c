"""A network of the user's from a config file: replay, a model in Python, and changed code."""

import sys
from pathlib import Path

import pytest

from freshet import Model, ModelError
from freshet.config import load_config
from freshet.python.saving import decode, encode
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from learner import NetworkError

pytestmark = pytest.mark.slow

NETWORK = """
import torch
from torch import nn

class Sums(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(widths["means"]))

    def forward(self, inputs):
        return inputs["means"] @ self.weight
"""
CONFIG = """
[features.user]
kind = "id"
[features.item]
kind = "id"
[learner]
deep = "shop_network:Sums"
[data]
format = "csv"
label = "click"
"""


@pytest.mark.slow
def test_config_finds_its_module_beside_it_and_changed_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "shop_network.py"
    file.write_text(NETWORK)
    (tmp_path / "freshet.toml").write_text(CONFIG)
    lines = "".join(f"{i},{i % 5},{i % 3},{int(i % 3 == 0)}\n" for i in range(600))
    (tmp_path / "clicks.csv").write_text("time,user,item,click\n" + lines)
    config = load_config(tmp_path / "freshet.toml")
    assert config.learner.deep_path == str(tmp_path)
    try:
        report = replay(config, ReplayOptions(data=str(tmp_path / "clicks.csv")))
        assert str(report["network"]).startswith("shop_network:Sums, version ")
        assert str(tmp_path) not in str(report["config"]) and report["quarantined"] == 0
        assert report["base"]["last_half"]["auc"] > 0.99

        model = Model.from_config(tmp_path / "freshet.toml")
        rows = [{"user": i % 5, "item": i % 3} for i in range(600)]
        model.learn(rows, [int(i % 3 == 0) for i in range(600)])
        model.save(tmp_path / "model")
        again = Model.load(tmp_path / "model")
        assert again.state_hash() == model.state_hash()
        assert (again.predict(rows) == model.predict(rows)).all()

        saved = decode(model.to_bytes(), "bytes")
        version = report["network"].split("version ")[1][:12]
        saved.network = saved.network.replace(version, "0123456789ab")
        with pytest.raises(ModelError, match=f"version 0123456789ab.*now its code is.*{version}"):
            Model.from_bytes(encode(saved))
    finally:
        sys.modules.pop("shop_network", None)
    digest = config.digest()
    file.write_text(NETWORK + "# a comment\n")
    assert config.digest() != digest  # a sweep does not take an older code's report for this one's
    with pytest.raises(NetworkError, match="changed since this process imported it"):
        Model.load(tmp_path / "model")
