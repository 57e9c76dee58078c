"""`freshet check --data` and `freshet produce`: lines that the config leaves out are counted, and named."""

from pathlib import Path

import pytest

from freshet.config import load_config
from freshet.errors import ProduceError
from freshet.tools.check import run_checks
from freshet.tools.produce import produce

CONFIG = """
log = "sqlite:log.db"
[features.item]
[features.price]
kind = "number"
of = "item"
"""


def data_check(folder: Path, *overrides: str) -> tuple[bool, str]:
    checks = run_checks(str(folder / "c.toml"), list(overrides), folder / "a.csv")
    return next((check.ok, check.found) for check in checks if check.what == "data")


def test_lines_that_the_config_leaves_out_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    (tmp_path / "a.csv").write_text("time,label,item\n1,0,7\n2,1,8\n3,1\n")
    fine, found = data_check(tmp_path, "data.skip_bad=true")
    assert fine and "first 2 requests can be used; 1 left out" in found and "a.csv:4: 2 cells" in found
    fine, found = data_check(tmp_path)
    assert not fine and "a.csv:4: 2 cells" in found


def test_a_file_of_which_every_line_is_left_out_says_why(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    (tmp_path / "items.csv").write_text('item,price\n1,"1,5"\n2,"2,5"\n')
    config = load_config(tmp_path / "c.toml", ["data.skip_bad=true"])
    with pytest.raises(ProduceError, match=r"no events in it; 2 left out .*items\.csv:2: price: '1,5' is no"):
        produce(config, tmp_path / "items.csv", holds="entities")
