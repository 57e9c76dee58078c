"""Sweep: every configuration tried once, whatever kills it; halving keeps the best."""

import json
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest
import starting
from clicks import write_clicks

from freshet.cli.main import main
from freshet.config import Config, load_config
from freshet.decide import sweep as sweeping
from freshet.decide.sweep import Sweep, run_sweep
from freshet.decide.trials import Trial, make_trials
from freshet.errors import ConfigError, SweepError
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions


def test_grid_is_all_combinations_and_the_config_as_it_is() -> None:
    trials = make_trials(["a.b=1,2", "c=[1.0,0.9],[1.0],'x,y'"], [], None, 0)
    assert len(set(trials)) == 1 + 2 * 3
    assert trials[0] == Trial()
    assert trials[1].overrides() == ["a.b=1", "c=[1.0,0.9]"]


def test_random_trials_are_different_within_range_and_the_same_for_a_seed() -> None:
    trials = make_trials(["a=x,y"], ["rate=0.001..0.1", "group=8..64"], 30, 3)
    assert len(trials) == len(set(trials)) == 31
    assert trials == make_trials(["a=x,y"], ["rate=0.001..0.1", "group=8..64"], 30, 3)
    drawn = [dict(trial.values) for trial in trials[1:]]
    assert all(0.001 <= float(d["rate"]) <= 0.1 and 8 <= int(d["group"]) <= 64 for d in drawn)
    assert {d["a"] for d in drawn} == {"x", "y"}
    assert 8 <= sum(float(d["rate"]) < 0.01 for d in drawn) <= 22  # the middle of the logarithm's scale
    assert len(make_trials(["a=x,y"], [], 30, 3)) == 3  # there are no more


@pytest.mark.parametrize(
    ("grids", "ranges", "count", "words"),
    [
        ([], [], None, "nothing to try"),
        (["a"], [], None, "KEY=VALUE"),
        (["a=1,,2"], [], None, None),
        ([], ["a=1..2"], None, "--random"),
        ([], ["a=2..1"], 3, "LOW < HIGH"),
        ([], ["a=x..y"], 3, "LOW < HIGH"),
        ([f"k{i}=1,2,3,4,5,6,7,8,9,10" for i in range(5)], [], None, "100,000 points"),
    ],
)
def test_what_cannot_be_tried_is_told(
    grids: list[str], ranges: list[str], count: int | None, words: str | None
) -> None:
    if words is None:
        assert len(make_trials(grids, ranges, count, 0)) == 3
        return
    with pytest.raises(SweepError, match=words):
        make_trials(grids, ranges, count, 0)


def test_wrong_key_is_told_before_anything_runs(tmp_path: Path) -> None:
    write_clicks(tmp_path, 20)
    with pytest.raises(ConfigError, match=r"learner\.groop"):
        run_sweep(a_sweep(tmp_path), make_trials(["learner.groop=1,2"], [], None, 0))
    assert not (tmp_path / "out").exists()


def a_sweep(folder: Path, halving: bool = False) -> Sweep:
    options = ReplayOptions(data=str(folder / "clicks.csv"))
    return Sweep(
        config_file=str(folder / "freshet.toml"),
        overrides=["learner.deep=none", "memory.kind=none"],
        options=options,
        folder=folder / "out",
        jobs=2,
        halving=halving,
    )


@pytest.mark.process
def test_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    write_clicks(tmp_path, 150)
    sweep = a_sweep(tmp_path)
    command = ["sweep", "--config", str(sweep.config_file), "--data", str(sweep.options.data)]
    command += ["--set", "learner.deep=none", "--set", "memory.kind=none", "--jobs", "1"]
    command += ["--grid", "learner.count_tau=0.5", "--out", str(sweep.folder)]
    process = starting.start(*command)
    deadline = time.monotonic() + 60.0
    while not (played := list(sweep.folder.glob("*-all.json"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in played}
    assert len(before) >= 1
    done = starting.run(*command)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "learner.count_tau=0.5" in done.stdout and "(as it is)" in done.stdout
    reports = [json.loads(path.read_text()) for path in sweep.folder.glob("*-all.json")]
    assert len({report["config_hash"] for report in reports}) == len(reports) == 2
    config = load_config(tmp_path / "freshet.toml", sweep.overrides)
    (as_it_is,) = [report for report in reports if report["config_hash"] == config.digest()]
    assert as_it_is["state_hash"] == replay(config, sweep.options)["state_hash"]
    with pytest.raises(SweepError, match="other data"):
        run_sweep(
            Sweep(
                config_file=sweep.config_file,
                overrides=sweep.overrides,
                options=ReplayOptions(data=sweep.options.data, limit=9),
                folder=sweep.folder,
            ),
            [Trial()],
        )


@pytest.mark.slow
def test_halving_plays_the_whole_stream_with_the_best_and_the_config_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clicks(tmp_path, 180)
    sweep = a_sweep(tmp_path, halving=True)
    monkeypatch.setattr(sweeping, "PREFIX_MIN", 20)

    said: list[tuple[str, int | None]] = []

    def run_here(
        of: Sweep, trials: list[tuple[Trial, Config]], limit: int | None, doing: str
    ) -> list[sweeping.Result]:
        results = []
        said.append((doing, limit))
        for trial, config in trials:
            report = replay(config, ReplayOptions(data=of.options.data, limit=limit))
            figures = report["corrected"]["last_half"]
            results.append(sweeping.Result(trial, report["events"], figures, 1.0, None))
        return results

    # priors so wide that predictions are wild; one of them twice, which is tried once
    trials = make_trials(["learner.count_tau=0.02,300.0,400.0,400.00"], [], None, 0)
    results = run_sweep(sweep, trials, run_here)
    assert sorted(result.requests for result in results) in ([20, 20, 180, 180], [20, 20, 60, 180])
    played = {result.trial: result.requests for result in results}
    assert played[Trial()] == 180
    assert played[Trial((("learner.count_tau", "400.0"),))] == 20
    assert [result.requests for result in results] == sorted(played.values(), reverse=True)
    assert said in (
        [("rung 1 of 2", 20), ("rung 2 of 2", None)],
        [("rung 1 of 3", 20), ("rung 2 of 3", 60), ("rung 3 of 3", None)],
    ), said
    said.clear()
    whole = msgspec.structs.replace(sweep, halving=False, folder=tmp_path / "whole")
    assert {result.requests for result in run_sweep(whole, trials[:2], run_here)} == {180}
    assert said == [("trials", None)]


@pytest.mark.process
def test_sweep_ranks_by_any_target_from_the_same_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(
        "[features]\nitem = { kind = 'id' }\n[targets.click]\n[targets.buy]\nof = 'click'\n"
        "[targets.minutes]\nkind = 'value'\nof = 'click'\n[data]\nlabel = 'click'\n[data.labels.buy]\n"
        "[data.labels.minutes]\n[learner]\ndeep = 'none'\n[memory]\nkind = 'none'\n"
    )
    lines = [f"{1e9 + i},{i % 5},1,{int(i % 5 + i % 2 == 3)},{i % 5 + i % 3 / 4}" for i in range(600)]
    (tmp_path / "shop.csv").write_text("time,item,click,buy,minutes\n" + "\n".join(lines) + "\n")
    command = ["sweep", "--config", str(tmp_path / "c.toml"), "--data", str(tmp_path / "shop.csv")]
    command += ["--grid", "learner.count_tau=0.5", "--jobs", "1", "--out", str(tmp_path / "out")]
    done = starting.run(*command, "--target", "minutes")
    assert done.returncode == 0, done.stderr
    assert "MAE" in done.stdout and "by mae of the last half (minutes, corrected)" in done.stdout
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*-all.json")}
    assert main([*command, "--target", "buy", "--by", "auc"]) == 0
    out = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made} == made and len(made) == 2
    aucs = [json.loads(path.read_text())["targets"]["buy"]["corrected"]["last_half"]["auc"] for path in made]
    first = next(line for line in out.splitlines() if line.startswith("  1 "))
    assert f"{max(aucs):.5f}" in first
    for wrong, words in (
        (["--target", "sale"], "the config has no such target; it has click, buy, minutes"),
        (["--target", "minutes", "--by", "auc"], "of kind value; expected one of mae, rmse, loglik"),
        (["--by", "mae"], "target click is of kind event"),
    ):
        assert main([*command, *wrong]) == 2
        assert words in capsys.readouterr().err
