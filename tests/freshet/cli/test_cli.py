"""The command line as a user meets it: in a process of its own."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import starting
from copies import Copy
from paths import ROOT
from starting import environment

from freshet.cli import main as main_module
from freshet.cli.main import main

READS = "(it reads the clicks)"  # what a command that says nothing before its end has begun with
COMMANDS = [command.name for command in main_module.COMMANDS]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "freshet", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=environment(),
        check=False,
    )


@pytest.mark.process
def test_help_answers_at_once_since_it_imports_nothing_that_it_has_no_use_for() -> None:
    code = "import sys; before = {*sys.modules}; from freshet.cli.main import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: print('loaded', *{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names = done.stdout.partition("\nloaded ")[2].split()
    roots = {name.partition(".")[0] for name in names}
    assert roots - sys.stdlib_module_names == {"freshet"}, "numpy alone would take as long as all the rest"
    assert not roots & {"asyncio", "ssl", "sqlite3", "multiprocessing"}


@pytest.mark.parametrize("command", [*COMMANDS, *(f"dead-letters {a}" for a in ("list", "show", "retry"))])
def test_every_command_teaches_by_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert "examples:\n  freshet " in told and f"\n  freshet {command}" in told


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


def test_history_without_files_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("[features.item]\n")
    assert main(["train", "--config", str(tmp_path / "c.toml"), "--until", "2026-01-01"]) == 2
    assert "name the history: --data FILE" in capsys.readouterr().err


def test_replay_of_unknown_data_asks_for_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clicks.csv").write_text("time,user,label\n1,2,1\n")
    assert main(["replay", "--data", str(tmp_path / "clicks.csv")]) == 2
    assert "--config" in capsys.readouterr().err


def test_inspect_of_empty_folder_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "no role's state" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("replay --limit 0", "0 is not a whole number over 0"),
        ("replay --limit 1.5", "invalid count value"),
        ("produce --rate 0", "0 is not a number over 0"),
        ("produce --rate inf", "inf is not a number over 0"),
        ("produce --rate nan", "nan is not a number over 0"),
    ],
)
def test_wrong_count_is_refused(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.process
def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert run("--version").stdout.split() == ["freshet", version("freshet")]


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of a million clicks, on a machine whose kernels are compiled."""
    folder = tmp_path_factory.mktemp("million")
    lines = ["time,user,item,label"] + [f"{i},{i % 50},{i % 70},{i % 2}" for i in range(1_000_000)]
    (folder / "clicks.csv").write_text("\n".join(lines))
    settings = "[features.user]\n[features.item]\n[learner]\ndeep = 'none'\n[server]\nport = 0\n"
    (folder / "c.toml").write_text(settings)
    assert starting.run("warmup", timeout=280.0).returncode == 0  # or the next ones compile
    return folder


@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "begun", "done"),
    [
        ("replay --config c.toml --data clicks.csv", READS, "requests were replayed; no report is written"),
        ("produce clicks.csv --config c.toml --rate 9000", "/s\n", "the same command sends the rest"),
        ("train --config c.toml --data clicks.csv --until 2000000000", READS, "nothing was written"),
        ("sweep --config c.toml --data clicks.csv --grid learner.group=8,9 --out s", READS, "0 of 3 trials"),
        ("up --config c.toml", "acquired partition", '"event": "stopped"'),
    ],
)
def test_interrupt_ends_with_130_says_what_was_done_and_has_no_traceback(
    million: Path, tmp_path: Path, command: str, begun: str, done: str
) -> None:
    import signal

    (tmp_path / "clicks.csv").symlink_to(million / "clicks.csv")
    shutil.copy(million / "c.toml", tmp_path)  # beside which the state comes
    err = tmp_path / "err"
    # a replay looks at its file before it begins: interrupted there it has done nothing, so once more
    for longer_s in (0.5, 2.0, 5.0, 10.0, 20.0):
        with err.open("wb") as file:
            process = starting.start(*command.split(), cwd=tmp_path, stdout=file, stderr=file)
        try:
            wait_for(begun, err, process)
            time.sleep(longer_s if begun == READS else 0.0)
            process.send_signal(signal.SIGINT)
            status = process.wait(60.0)
        finally:
            process.kill()
            process.wait()
        if status == -signal.SIGINT:
            continue  # it came before Python had begun
        told = err.read_text()
        assert status == 130 and "Traceback" not in told, told
        if done in told:
            return
    pytest.fail(err.read_text())


def has_read(name: str, pid: int) -> bool:
    """Whether a process, or a child of it, has read a megabyte of a file that it has open."""
    folder = Path(f"/proc/{pid}")
    try:
        for entry in (folder / "fd").iterdir():
            if entry.resolve().name == name:
                position = (folder / "fdinfo" / entry.name).read_text().split()[1]
                return int(position) > 1_000_000
        children = (folder / "task" / str(pid) / "children").read_text().split()
    except OSError:
        return False  # it has just ended, or closed the file
    return any(has_read(name, int(child)) for child in children)


def wait_for(text: str, file: Path, process: Copy, seconds: float = 100.0) -> None:
    """Wait until a process has written `text` into `file`; or READS, until it is well into the clicks."""
    deadline = time.monotonic() + seconds
    while not (has_read("clicks.csv", process.pid) if text == READS else text in file.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, file.read_text()
        time.sleep(0.05)


def test_schema_prints_one_document_and_writes_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", "asyncapi"]) == 0
    assert '"asyncapi": "3.0.0"' in capsys.readouterr().out
    assert main(["schema", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "asyncapi.json").read_text().startswith("{")
    (tmp_path / "file").touch()
    assert main(["schema", "--write", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
