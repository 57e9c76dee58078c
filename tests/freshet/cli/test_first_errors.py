"""The errors of the first ten minutes: each is one line that says what to do, and exit status 2."""

import os
import socket
import sqlite3
from pathlib import Path

import pytest
from rocksdict import Options, Rdict, WriteBatch

from freshet.cli.main import main
from stream.log.base import ROLES
from stream.log.open import open_log
from stream.state.folder_lock import FolderLock
from stream.state.meta import FORMAT_VERSION
from stream.state.role_state import RoleState

CONFIG = "[features.user]\n[features.item]\n[learner]\ndeep = 'none'\n[server]\nport = 0\n"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("freshet.toml").write_text(CONFIG)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that fails says at its end, in one line."""
    assert main(list(arguments)) == 2
    whole = capsys.readouterr().err
    line = whole.splitlines()[-1]
    assert line.startswith("freshet: ") and "Traceback" not in whole
    return line


@pytest.mark.parametrize("command", ["up", "serve"])
def test_port_in_use_names_the_key_and_another_port(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = told(capsys, command, "--set", f"server.port={port}")
    assert f"port {port}: Address already in use" in line and "--set server.port=" in line


@pytest.mark.parametrize(
    "command",
    ["replay --config freshet.toml --data no.csv", "produce no.csv", "init --data no.csv --out x.toml"],
)
def test_no_such_file_is_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = told(capsys, *command.split())
    assert "no.csv" in line and "no such file" in line.lower()


def test_missing_config_leads_to_init(capsys: pytest.CaptureFixture[str]) -> None:
    assert "freshet init --data FILE" in told(capsys, "up", "--config", "no.toml")
    Path("clicks.csv").write_text("time,user,label\n1,2,1\n")
    Path("freshet.toml").unlink()
    assert "freshet init --data clicks.csv" in told(capsys, "replay", "--data", "clicks.csv")


@pytest.mark.parametrize(
    ("table", "settings", "words"),
    [
        ("timestamp,label,user\n1,0,3\n", (), "no column 'time'; did you mean 'timestamp'? the columns are"),
        ("time,Clicked,user\n1,0,3\n", ("data.label=clicked",), "did you mean 'Clicked'?"),
        ("time,label,user\n1,4,3\n", (), "c.csv:2: label: '4' is no label; expected 0 or 1"),
        ("time,label,user\n5,0,3\n1,1,3\n", (), "set sort = true in [data]"),
        ("time,label,user\n1717171200000,0,3\n", (), 'set time_unit = "ms"'),
        ("time;label;user\n1;0;3\n", (), "the columns are 'time;label;user'"),
    ],
)
@pytest.mark.parametrize("command", ["replay --config freshet.toml --data c.csv", "produce c.csv"])
def test_table_that_does_not_fit_names_line_and_remedy(
    command: str, table: str, settings: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.csv").write_text(table)
    options = [part for setting in settings for part in ("--set", setting)]
    assert words in told(capsys, *command.split(), *options)


@pytest.mark.parametrize(
    "command",
    ["produce c.csv", "replay --config freshet.toml --data kafka://127.0.0.1:1", "dead-letters list"],
)
def test_kafka_that_is_not_there_says_so_at_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.csv").write_text("time,label,user\n1,0,3\n")
    options = ["--set", "log=kafka://127.0.0.1:1", "--set", "stream.log.kafka.away_after_s=0.1"]
    line = told(capsys, *command.split(), *options)
    assert "kafka://127.0.0.1:1 does not answer" in line and "start the broker" in line


def test_state_of_another_version_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(".freshet/join")
    RoleState(folder, "joiner", {"partitions": "1"}).close()
    database = Rdict(str(folder / "db"), Options(raw_mode=True))
    now = f'"format":{FORMAT_VERSION}'.encode()
    key = next(key for key, value in database.items() if now in value)
    batch = WriteBatch(raw_mode=True)
    batch.put(key, database[key].replace(now, b'"format":99'))
    database.write(batch)
    database.close()
    line = told(capsys, "join")
    assert "has format 99; this Freshet reads" in line and "use the Freshet that wrote it, or another" in line


def test_log_of_another_version_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".freshet").mkdir()
    with sqlite3.connect(".freshet/log.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    Path("c.csv").write_text("time,label,user\n1,0,3\n")
    assert "has format 99; this Freshet reads format" in told(capsys, "produce", "c.csv")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("replay", "there is no log"),
        ("replay --data sqlite:log.db", "there is no log log.db"),
        ("replay --config freshet.toml --data freshet.toml", "let it end in .csv, .tsv, .jsonl or .parquet"),
        ("serve --set features.user.kind=idd", "'idd' is none of id, ids, number, hour, sequence"),
    ],
)
def test_what_was_left_out_or_misspelt_is_named_with_what_there_is(
    command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in told(capsys, *command.split())


def test_replay_without_any_config_says_whose_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("freshet.toml").unlink()
    assert "there is no --data: name the config that its roles run with by --config" in told(capsys, "replay")
    line = told(capsys, "replay", "--data", "sqlite:log.db")
    assert "there is no freshet.toml here, and sqlite:log.db is a log" in line


@pytest.mark.parametrize("command", ["forget user=ann", "dead-letters list", "dead-letters retry --all"])
def test_who_looks_into_a_log_that_is_not_there_is_told_and_makes_none(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = told(capsys, *command.split())
    assert "there is no log" in line and "name the config of the roles" in line
    assert not Path(".freshet").exists()


@pytest.mark.parametrize(
    "command", ["demo --html", "replay --config freshet.toml --data c.csv --limit 9 --report"]
)
def test_report_that_cannot_be_written_is_told_before_the_work(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    Path("c.csv").write_text("time,label,user\n1,0,3\n")
    assert "file/r.json: cannot be written" in told(capsys, *command.split(), "file/r.json")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("time,user,label\n1700000000,1,0\n1700000001,2,1\n".encode("utf-16"), "`iconv -f utf-16 -t utf-8`"),
        (b"time,name,label\n1700000000,M\xfcller,0\n", "`iconv -f latin1 -t utf-8`"),
    ],
)
def test_file_of_which_no_config_can_be_made_says_why(
    data: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.csv").write_bytes(data)
    assert words in told(capsys, "init", "--data", "c.csv", "--out", "new.toml", "--yes")


def test_no_command_shows_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "play a click stream against the whole system" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["up", "learn"])
def test_state_in_use_is_told_before_the_one_who_uses_it_hears_of_another(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".freshet/learn").mkdir(parents=True)
    held = FolderLock(Path(".freshet/learn"))
    line = told(capsys, command)
    held.release()
    assert f"is in use by process {os.getpid()}; stop that process" in line
    log = Path(".freshet/log.db")
    if log.exists():
        opened = open_log("sqlite:.freshet/log.db")
        assert opened.ends(ROLES) == [(0, 0)]
        opened.close()


def test_config_without_features_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("freshet.toml").write_text("")
    assert "add a section [features.NAME]" in told(capsys, "up")
    assert not Path(".freshet").exists()
