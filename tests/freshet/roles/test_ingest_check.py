"""`freshet ingest --check` on a log of others: what it says, and that it writes nothing."""

import json
from pathlib import Path

import pytest

from freshet.cli.main import main
from stream.log.base import Outgoing
from stream.log.open import open_log
from stream.log.reading import newest

T_MS = 1_700_000_000_000
CONFIG = """
log = "sqlite:log.db"
[features.user]
kind = "id"
[sources.shown]
topic = "shown"
kind = "impression"
request_id = "request"
time = { field = "at", unit = "ms" }
candidates = "items"
context = { user = "user" }
features = { item = "sku" }
[sources.clicks]
topic = "clicks"
kind = "action"
time = { field = "at", unit = "ms" }
match = { item = "item" }
by = { user = "user" }
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "freshet.toml"
    file.write_text(CONFIG)
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create_topic("shown", 3)
    log.create_topic("clicks", 2)
    log.append("shown", [
        row(i, {"request": f"r{i}", "user": i, "at": T_MS + i, "items": [{"sku": i}, {"sku": -i}]})
        for i in range(1500)
    ])  # fmt: skip
    log.close()
    return str(file)


def row(key: int, value: object) -> Outgoing:
    return Outgoing(str(key).encode(), json.dumps(value).encode())


def clicks(config: str, *values: dict[str, object]) -> None:
    log = open_log(f"sqlite:{Path(config).parent / 'log.db'}")
    log.append("clicks", [row(i, value) for i, value in enumerate(values)])
    log.close()


def checked(config: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, object]]]:
    before = {p: p.stat().st_size for p in Path(config).parent.iterdir() if p.suffix == ".db"}
    status = main(["ingest", "--check", "--json", "--config", config])
    assert before == {p: p.stat().st_size for p in Path(config).parent.iterdir() if p.suffix == ".db"}
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return status, {line["source"]: line for line in found}


def test_check_counts_what_meets(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    newest = range(1400, 1500)
    clicks(config, *({"user": i, "item": -i, "at": T_MS + i + 5} for i in newest))
    clicks(config, *({"user": i, "item": 7, "at": T_MS + i + 5} for i in newest))
    status, found = checked(config, capsys)
    assert status == 0
    shown, clicked = found["shown"], found["clicks"]
    assert 1000 <= int(str(shown["records"])) <= 1002 and shown["records"] == shown["impressions"]
    assert (clicked["actions"], clicked["covered"], clicked["met"]) == (200, 200, 100)
    assert json.loads(str(shown["becomes"]))["type"] == "impression"
    assert main(["ingest", "--check", "--config", config]) == 0
    assert "100 of 200 actions meet their impression among those read" in capsys.readouterr().out


def test_check_counts_every_line_of_an_order(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    orders = CONFIG.replace('match = { item = "item" }', 'each = "lines"\nmatch = { item = "lines" }')
    Path(config).write_text(orders)
    clicks(config, {"user": 1400, "at": T_MS + 1405, "lines": [1400, -1400, 5]})
    status, found = checked(config, capsys)
    clicked = found["clicks"]
    assert status == 0 and (clicked["records"], clicked["actions"], clicked["met"]) == (1, 3, 2)


@pytest.mark.parametrize("partitions", [1, 64])
def test_newest_records_are_read_wherever_they_lie(tmp_path: Path, partitions: int) -> None:
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create_topic("t", partitions)
    log.append("t", [Outgoing(b"", b"%d" % i, partitions - 1) for i in range(50)])
    log.append("t", [Outgoing(b"", b"x", 0) for _ in range(5)])
    for count, there in ((10, 10), (40, 40), (1_000, 55)):
        assert there <= sum(map(len, newest(log, "t", count))) <= there + 5
    log.create_topic("empty", partitions)
    assert not any(newest(log, "empty", 10))
    log.close()


def test_check_says_what_is_wrong(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    clicks(config, *({"user": i, "item": str(i), "at": T_MS + i + 5} for i in range(1400, 1500)))
    clicks(config, {"user": 1, "at": T_MS}, {"user": 1, "item": 1, "at": T_MS // 1000})
    status, found = checked(config, capsys)
    assert status == 1 and found["shown"]["ok"]
    said = found["clicks"]
    assert said["hints"] == [
        "no action meets its impression",
        "match.item is text in actions and an integer in impressions: values of two types are never equal",
    ]
    assert said["dead_letters"] == 2 and "item: there is no 'item' in the record" in str(said["reasons"])
    assert 'is it unit = \\"s\\"?' in json.dumps(said["reasons"])


def test_check_of_a_topic_that_is_not_there(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(config).write_text(CONFIG.replace('topic = "clicks"', 'topic = "klicks"'))
    status, found = checked(config, capsys)
    assert status == 1 and "klicks" in str(found["clicks"]["error"]) and found["shown"]["ok"]


def test_ingest_without_sources_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.toml").write_text('[features.user]\nkind = "id"\n')
    for more in ([], ["--check"]):
        assert main(["ingest", "--config", str(tmp_path / "f.toml"), *more]) == 2
        assert "declares no sources; add a section [sources.NAME]" in capsys.readouterr().err


def test_topic_that_is_not_there_is_named(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(config).write_text(CONFIG.replace('topic = "clicks"', 'topic = "klicks"'))
    assert main(["ingest", "--config", config]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "sources.clicks.topic = 'klicks'" in said and "is there, by its full name" in said
    main(["check", "--config", config])
    assert "not ok  sources  sources.clicks.topic = 'klicks'" in capsys.readouterr().out
