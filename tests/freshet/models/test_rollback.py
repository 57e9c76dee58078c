"""Going back: the learner and its servers at one place in the log, under load, and what is refused."""

from pathlib import Path

import httpx
import pytest
from loaded import loaded, ready
from scraping import free_port, running
from waiting import wait_until

from freshet.cli.main import main
from freshet.config import Config, load_config
from freshet.errors import OrderError
from freshet.models.snapshots import choose, print_resume, roll_back, snapshots_of
from freshet.roles.roles import run_join, run_learn, run_serve
from learner.role.shared_snapshots import ListedSnapshot

CONFIG = """
log = "sqlite:log.db"
[stream.log]
sync = false
[group]
snapshot_every_s = 0.5
snapshots_kept = 50
[join]
window_s = 1.0
[features.user]
[features.item]
[features.brand]
of = "item"
[learner]
deep = "none"
publish_every_s = 0.1
[server]
port = PORT
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "freshet.toml").write_text(CONFIG.replace("PORT", str(free_port())))
    return str(tmp_path / "freshet.toml")


@pytest.fixture
def config(file: str) -> Config:
    return load_config(file)


def brand(url: str) -> object:
    """What the server knows of item 1, as it would fill it in."""
    request = {"context": {"user": 1}, "candidates": [{"item": 1}]}
    answer = httpx.post(f"{url}/v1/explain", json=request, timeout=60.0).json()
    return answer["candidates"][0].get("filled", {}).get("brand")


@pytest.mark.process
@pytest.mark.timeout(300)
def test_learner_and_server_go_back_and_on_under_load(
    config: Config, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{config.server.port}"
    snapshots = snapshots_of(config)

    def told() -> dict:
        found: dict = httpx.get(f"{url}/v1/model", timeout=60.0).json()
        return found

    with running(config, run_join, run_learn, run_serve):
        ready(url)
        with pytest.raises(OrderError, match="no snapshot so old is kept"):
            roll_back(config, "2001-01-01")
        with loaded(url, per_s=120.0) as load:
            wait_until(lambda: any(one.examples > 100 for one in snapshots.listed()), "a snapshot")
            good = next(one for one in reversed(snapshots.listed()) if one.examples > 100)
            assert main(["snapshots", "--config", file, "--pin", f"{good.path.name}=good"]) == 0
            assert capsys.readouterr().out.count("  good\n") == 1
            wait_until(lambda: told()["examples_learnt"] > good.examples + 200, "it to learn")
            epoch = told()["version"].split("-")[0]
            fact = {"feature": "item", "id": 1, "set": {"brand": "acme"}}
            assert httpx.post(f"{url}/v1/entities", json=[fact], timeout=60.0).status_code == 202
            wait_until(lambda: brand(url) == "acme", "the entity to be known")
            # while it is held, nothing is learned
            offset, found = roll_back(config, "good", hold=True, why="a test")
            assert found.path == good.path and offset == 0
            wait_until(lambda: told()["version"].split("-")[0] != epoch, "the server to go back")
            wait_until(lambda: told()["held"], "it to hold")
            held = told()
            assert brand(url) == "acme"  # though the snapshot is older than what was told of it
            # the copy may be a commit older than what is noted of it, never newer
            assert 0 < held["examples_learnt"] <= good.examples and held["memory"]["evidence"] == 0
            wait_until(lambda: told()["version"] != held["version"], "an update that comes while it holds")
            later = told()
            assert later["examples_learnt"] == held["examples_learnt"]
            assert later["memory"]["evidence"] == 0
            print_resume(config, "", as_json=False)
            wait_until(lambda: told()["examples_learnt"] > good.examples + 50, "it to go on")
            assert not told()["held"]
        load.check()
    # one answer is of one version, and versions never go back but once
    versions = [kept.body["model_version"] for kept in sorted(load.answers, key=lambda kept: kept.answered_s)]
    epochs = list(dict.fromkeys(version.split("-")[0] for version in versions if version != "0-0"))
    assert len(epochs) == 2
    other = load_config(file, ["features.item.dim=4"])
    with pytest.raises(OrderError, match=r"was made with features\.item\.dim = 16, and cannot go on with 4"):
        roll_back(other, "good")
    with pytest.raises(OrderError, match=r"no learner of model main runs, .* start `freshet learn`"):
        roll_back(config, "good")
    assert main(["snapshots", "--config", file, "--unpin", "good"]) == 0
    assert "  good" not in capsys.readouterr().out


def test_without_kept_snapshots_or_learner_it_is_refused(tmp_path: Path, config: Config, file: str) -> None:
    (tmp_path / "plain.toml").write_text("[features.user]\n")
    with pytest.raises(OrderError, match=r"keeps no snapshots to go back to: set group\.snapshots_kept"):
        snapshots_of(load_config(tmp_path / "plain.toml"))
    with pytest.raises(OrderError, match="no snapshot of this model has that name: there is none"):
        roll_back(config, "yesterday")


def test_the_newest_snapshot_before_a_time_is_chosen() -> None:
    listed = [ListedSnapshot(Path(f"learn-1-{n}"), n * 1000, n, "kept" if n == 2 else "") for n in (3, 2, 1)]
    assert choose(listed, "1970-01-01T00:00:02.5Z").path.name == "learn-1-2"
    assert choose(listed, "kept") == choose(listed, "learn-1-2") == listed[1]
    with pytest.raises(OrderError, match="the oldest is of 1970-01-01 00:00:01 UTC"):
        choose(listed, "1970-01-01")
    with pytest.raises(
        OrderError, match="no snapshot of this model has that name: learn-1-3, kept, learn-1-1"
    ):
        choose(listed, "other")
