"""The command line as a user meets it: in a process of its own."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from freshet.cli import main

HELP_S_MAX = 0.3
COMMANDS = [
    "demo",
    "init",
    "up",
    "join",
    "learn",
    "serve",
    "produce",
    "replay",
    "inspect",
    "dead-letters",
    "schema",
    "warmup",
]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-m", "freshet", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )


@pytest.mark.process
def test_help_answers_at_once() -> None:
    def once() -> float:
        # processor time, so that a busy machine does not decide
        before = os.times()
        assert run("--help").returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(once() for _ in range(5)) < HELP_S_MAX


@pytest.mark.parametrize("command", [*COMMANDS, *(f"dead-letters {a}" for a in ("list", "show", "retry"))])
def test_every_command_teaches_by_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    assert f"examples:\n  freshet {command}" in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(re.search(rf"\n    {command}\s", told) for command in COMMANDS)


@pytest.mark.process
def test_missing_config_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = run("join", "--config", str(tmp_path / "no.toml"))
    assert done.returncode == 2
    assert done.stderr.startswith("freshet: ") and "no such config file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_config_without_features_says_what_to_add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "freshet.toml").write_text("")
    assert main(["learn", "--config", str(tmp_path / "freshet.toml")]) == 2
    assert "[features.NAME]" in capsys.readouterr().err


def test_replay_of_missing_file_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--data", str(tmp_path / "no.csv")]) == 2
    assert "no.csv" in capsys.readouterr().err


def test_replay_of_unknown_data_asks_for_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clicks.csv").write_text("time,user,label\n1,2,1\n")
    assert main(["replay", "--data", str(tmp_path / "clicks.csv")]) == 2
    assert "--config" in capsys.readouterr().err


def test_inspect_of_empty_folder_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "no role's state" in capsys.readouterr().err


def test_wrong_count_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["replay", "--limit", "0"])
    assert caught.value.code == 2
    assert "whole number over 0" in capsys.readouterr().err


@pytest.mark.process
def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert run("--version").stdout.split() == ["freshet", version("freshet")]


@pytest.mark.process
def test_interrupt_ends_replay_with_130_and_without_traceback(tmp_path: Path) -> None:
    import signal

    lines = ["time,user,item,label"] + [f"{i},{i % 50},{i % 70},{i % 2}" for i in range(1_000_000)]
    (tmp_path / "clicks.csv").write_text("\n".join(lines))
    (tmp_path / "c.toml").write_text("[features.user]\n[features.item]\n[learner]\ndeep = 'none'\n")
    command = [sys.executable, "-m", "freshet", "replay", "--config", "c.toml", "--data", "clicks.csv"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    ) as process:
        time.sleep(3.0)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told


def test_schema_prints_one_document_and_writes_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", "asyncapi"]) == 0
    assert '"asyncapi": "3.0.0"' in capsys.readouterr().out
    assert main(["schema", "--write", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "asyncapi.json").read_text().startswith("{")
    (tmp_path / "file").touch()
    assert main(["schema", "--write", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
