"""A log copied to where nobody can write is read as it lies there."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from freshet.cli.main import main
from stream.errors import LogError
from stream.log.base import EXAMPLES, Outgoing
from stream.log.open import open_log
from stream.log.sqlite.log import SqliteLog
from stream.records.types import Example, encode


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with the log of ten examples, mounted so that it cannot be written."""
    folder = tmp_path / "a folder?"
    log = SqliteLog(folder / "log.db")
    log.create_topic(EXAMPLES, 1)
    for i in range(10):
        at = 1e9 + i
        example = Example(
            request_id=str(i), time=at, decided=at, context={}, candidates=[{"item": i % 3}], labels=[i % 2]
        )
        log.append(EXAMPLES, [Outgoing(b"k", encode(example), 0)])
    log.close()
    (folder / "log.db").chmod(0o444)
    folder.chmod(0o555)
    mounted = False
    if os.geteuid() == 0:  # whom no mode keeps from writing
        done = [
            subprocess.run(["mount", *how, str(folder)], capture_output=True, check=False).returncode == 0
            for how in (("--bind", str(folder)), ("-o", "remount,bind,ro"))
        ]
        mounted = done[0]
        if not all(done):
            pytest.skip("no folder can be made read-only for root here")
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    folder.chmod(0o755)


def test_log_on_a_read_only_mount_is_read_and_refuses_to_be_written(read_only: Path) -> None:
    log = open_log(f"sqlite:{read_only / 'log.db'}")
    assert log.ends(EXAMPLES) == [(0, 10)] and len(log.read(EXAMPLES, 0, 0)) == 10
    with pytest.raises(LogError, match="can only be read"):
        log.append(EXAMPLES, [Outgoing(b"k", b"v", 0)])
    log.close()
    assert sorted(path.name for path in read_only.iterdir()) == ["log.db"]


@pytest.mark.slow
def test_log_on_a_read_only_mount_is_exported_and_checked(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:{read_only / 'log.db'}"
    Path("freshet.toml").write_text(f"log = {url!r}\n[features.item]\n[server]\nport = 0\n")
    assert main(["export", "--out", "e.parquet", "--data", url]) == 0
    assert "wrote 10 examples" in capsys.readouterr().err
    assert main(["check"]) == 1
    lines = {line[:16].split()[-1]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["log"].startswith("not ok") and "it can be replayed, exported and inspected" in lines["log"]
    assert lines["config"].startswith("ok") and lines["learner"].startswith("ok")


def test_read_only_copy_with_records_waiting_beside_it_says_what_to_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.close()
    (tmp_path / "log.db-wal").write_bytes(b"records")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(LogError, match="copy both files to a folder that can be written"):
        SqliteLog(tmp_path / "log.db")
