"""`freshet init` of a file with one line an event: sources of one topic, and their way through ingest."""

import csv
import json
import random
from pathlib import Path

import pytest

from freshet.cli.main import main
from freshet.config import load_config
from stream.log.open import open_log

pytestmark = pytest.mark.slow


def write(path: Path, names: list[str], words: tuple[str, str, str], requests: bool) -> int:
    """Views, of which some get into the cart and are bought; returns the number of views."""
    rng = random.Random(3)
    rows: list[list[object]] = []
    at = 1433221332117
    for n in range(600):
        at += rng.randint(10, 3000)
        line: list[object] = [rng.randint(0, 90), rng.randint(0, 40)]
        rows.append([at, *line, words[0], "", f"v{n}"])
        if rng.random() < 0.2:
            rows.append([at + rng.randint(1000, 60000), *line, words[1], "", f"v{n}"])
            if rng.random() < 0.5:
                rows.append([at + rng.randint(70000, 900000), *line, words[2], rng.randint(0, 999), f"v{n}"])
    rows.sort(key=lambda row: int(str(row[0])))
    keep = slice(None) if requests else slice(0, 5)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";" if requests else ",")
        writer.writerow(names[keep])
        writer.writerows([row[keep] for row in rows])
    return 600


@pytest.mark.parametrize(
    ("names", "words", "requests"),
    [
        (
            ["timestamp", "visitorid", "itemid", "event", "transactionid"],
            ("view", "addtocart", "transaction"),
            False,
        ),
        (
            ["event_time", "user_id", "product_id", "event_type", "order_id", "session_id"],
            ("Product Viewed", "Product Clicked", "Order Completed"),
            True,
        ),
    ],
)
def test_lines_are_sources_whose_actions_find_what_was_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    names: list[str],
    words: tuple[str, str, str],
    requests: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    views = write(tmp_path / "events.csv", names, words, requests)
    assert main(["init", "--data", "events.csv", "--out", "c.toml", "--yes"]) == 0
    assert f"each line is an event: {names[3]} says which" in capsys.readouterr().out
    config = load_config("c.toml")
    first = "click" if requests else "cart"
    assert list(config.targets) == [first, "buy"] and config.targets["buy"].of == first
    assert {source.topic for source in config.sources.values()} == {"events.lines"}
    assert config.sources["lines_shown"].only == {names[3]: [words[0]]}
    assert sorted(config.sources["lines_done"].only[names[3]]) == sorted(words[1:])

    assert main(["produce", "--config", "c.toml", "--data", "events.csv", "--source", "lines_shown"]) == 0
    log = open_log("sqlite:.freshet/log.db")
    records = [
        json.loads(record.value)
        for partition in range(log.partitions("events.lines"))
        for record in log.read("events.lines", partition, 0, 10_000)
    ]
    log.close()
    shown = [record for record in records if record[names[3]] == words[0]]
    request_id = config.sources["lines_shown"].request_id
    assert len(shown) == views == len({record[request_id] for record in shown})
    capsys.readouterr()
    main(["ingest", "--check", "--config", "c.toml", "--json"])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[0]["impressions"] > 0 and told[1]["actions"] > 0


def test_words_that_say_neither_what_was_shown_leave_the_file_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["timestamp", "visitorid", "itemid", "event", "transactionid"]
    write(tmp_path / "events.csv", names, ("frob", "addtocart", "transaction"), False)
    main(["init", "--data", "events.csv", "--out", "c.toml", "--yes"])
    assert not load_config("c.toml").sources and "each line is an event:" not in capsys.readouterr().out
