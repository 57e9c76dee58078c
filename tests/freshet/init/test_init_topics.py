"""`freshet init --topic`: what it proposes for topics in shapes of others, and that the proposal works."""

import json
import random
import tomllib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from freshet.cli.main import main
from freshet.config import Config, load_config
from freshet.errors import InitError
from freshet.init.topics.choose import look_at_topic
from freshet.init.topics.fields import fields_of, lists_of
from freshet.init.topics.propose import propose
from freshet.init.topics.records import read_topic, split_topic
from stream.log.base import Outgoing
from stream.log.open import open_log

pytestmark = pytest.mark.slow

T_S = 1_767_225_600
REQUESTS, SLATE, USERS = 300, 4, 60
RNG = random.Random(4)
ITEMS = [RNG.sample(range(100), SLATE) for _ in range(REQUESTS)]
CLICKED = [RNG.randrange(SLATE) if RNG.random() < 0.6 else None for _ in range(REQUESTS)]
Row = dict[str, Any]


def iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()


def slate(i: int) -> Row:
    return {
        "meta": {"search.id": f"s-{i:x}", "trace": "%032x" % (i * 7919**5), "lang": ("de", "en")[i % 2]},
        "visitor": i * 7 % USERS,
        "ts": (T_S + i) * 1000,
        "expires_at": (T_S + i + 999) * 1000,
        "results": [{"sku": f"p{x}", "price": x + 0.5, "new": x % 2 == 0} for x in ITEMS[i]],
        "related": [{"sku": "x"}],
    }


def click(i: int) -> Row | None:
    if CLICKED[i] is None:
        return None
    return {"search": f"s-{i:x}", "article": f"p{ITEMS[i][CLICKED[i]]}", "clicked_at": iso(T_S + i + 3)}


def click_by_index(i: int) -> Row | None:
    if CLICKED[i] is None:
        return None
    return {"search": f"s-{i:x}", "position": CLICKED[i], "at": T_S + i + 3}


def click_of_user(i: int) -> Row | None:
    """A change event of a database, which knows no request."""
    if CLICKED[i] is None:
        return None
    row = {
        "id": i, "account": i * 7 % USERS, "sku": f"p{ITEMS[i][CLICKED[i]]}",
        "verb": ("click", "order")[i % 2],
    }  # fmt: skip
    return {"payload": {"op": "c", "before": None, "after": row, "ts_ms": (T_S + i + 3) * 1000}}


def line(i: int) -> Row:
    request, place = divmod(i, SLATE)
    return {"query": request, "rank": place, "doc": ITEMS[request][place], "time": iso(T_S + request)}


def rating(i: int) -> Row:
    data = {"who": i % USERS, "movie": i * 31 % 97, "clicked": i * 17 % 3 == 0}
    return {"specversion": "1.0", "id": str(i), "time": iso(T_S + i), "data": data}


def fill(folder: Path, topics: dict[str, Sequence[Row | None]], encode: Callable[[Row], bytes]) -> list[str]:
    log = open_log(f"sqlite:{folder / 'log.db'}")
    for topic, rows in topics.items():
        log.create_topic(topic, 2)
        log.append(topic, [Outgoing(str(i).encode(), encode(r)) for i, r in enumerate(rows) if r is not None])
    log.close()
    return [f"--topic=sqlite:{folder / 'log.db'}/{topic}" for topic in topics]


def as_json(row: Row) -> bytes:
    return json.dumps(row).encode()


def made(folder: Path, *topics: str) -> Config:
    out = folder / "freshet.toml"
    assert main(["init", *topics, "--out", str(out)]) == 0
    return load_config(out)


def met(config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Row]:
    """What `freshet ingest --check` says of each source."""
    capsys.readouterr()
    main(["ingest", "--check", "--json", "--config", str(config)])
    return {row["source"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}


def test_slates_and_clicks_that_name_an_item(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = range(REQUESTS)
    topics = fill(
        tmp_path, {"web.shown": [slate(i) for i in n], "web.clicks": [click(i) for i in n]}, as_json
    )
    config = made(tmp_path, *topics)
    shown, clicks = config.sources["shown"], config.sources["clicks"]
    assert (shown.request_id, shown.candidates) == ("meta.'search.id'", "results")
    assert (shown.time.field, shown.time.unit) == ("ts", "ms")
    assert shown.context == {"lang": "meta.lang", "visitor": "visitor"}
    assert shown.features == {"sku": "sku", "price": "price", "new": "new"}
    assert (clicks.request_id, clicks.match) == ("search", {"sku": "article"})
    assert (clicks.time.field, clicks.time.unit) == ("clicked_at", "iso")
    kinds = {name: spec.kind for name, spec in config.features.items()}
    assert kinds == {"lang": "id", "visitor": "id", "sku": "id", "price": "number", "new": "id"}
    assert config.learner.group_by == "visitor"
    found = met(tmp_path / "freshet.toml", capsys)
    assert found["shown"]["impressions"] == REQUESTS and found["shown"]["ok"]
    assert found["clicks"]["met"] == found["clicks"]["covered"] == sum(c is not None for c in CLICKED)


def test_config_that_is_there_is_kept_unless_it_is_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["init", *fill(tmp_path, {"web.shown": [slate(i) for i in range(40)]}, as_json)]
    out = tmp_path / "freshet.toml"
    out.write_text("mine")
    assert main([*command, "--out", str(out)]) == 2
    assert "already exists; use --out FILE" in capsys.readouterr().err and out.read_text() == "mine"
    assert main([*command, "--out", str(out), "--force"]) == 0 and load_config(out).sources


def test_clicks_by_index_in_messagepack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = range(REQUESTS)
    rows: dict[str, Sequence[Row | None]] = {
        "slates": [slate(i) for i in n], "feedback": [click_by_index(i) for i in n],
    }  # fmt: skip
    config = made(tmp_path, *fill(tmp_path, rows, msgspec.msgpack.encode))
    assert config.sources["slates"].format == "msgpack"
    assert (config.sources["feedback"].candidate, config.sources["feedback"].time.unit) == ("position", "s")
    found = met(tmp_path / "freshet.toml", capsys)["feedback"]
    assert found["met"] == found["actions"] > 0


@pytest.mark.slow
def test_change_events_of_users_with_two_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = range(REQUESTS)
    rows = {"shown": [slate(i) for i in n], "clicks": [click_of_user(i) for i in n]}
    config = made(tmp_path, *fill(tmp_path, rows, as_json))
    clicks = config.sources["clicks"]
    assert (clicks.envelope, clicks.by, clicks.match) == ("debezium", {"visitor": "account"}, {"sku": "sku"})
    assert (clicks.time.field, clicks.name) == ("@payload.ts_ms", "verb")
    assert set(config.targets) == {"click", "buy"} and config.targets["buy"].of == "click"
    found = met(tmp_path / "freshet.toml", capsys)["clicks"]
    assert found["met"] == found["actions"] > 0


def test_a_record_per_candidate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create_topic("ranked", 1)
    log.append("ranked", [Outgoing(b"", as_json(line(i))) for i in range(REQUESTS * SLATE)])
    log.close()
    config = made(tmp_path, f"--topic=sqlite:{tmp_path / 'log.db'}/ranked")
    source = config.sources["ranked"]
    assert (source.request_id, source.features, source.together) == ("query", {"doc": "doc"}, True)
    assert met(tmp_path / "freshet.toml", capsys)["ranked"]["impressions"] == 1_000 // SLATE


def test_labelled_records_in_cloud_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topics = fill(tmp_path, {"ratings": [rating(i) for i in range(REQUESTS)]}, as_json)
    source = made(tmp_path, *topics).sources["ratings"]
    assert (source.kind, source.envelope, source.label) == ("labelled", "cloudevents", "clicked")
    assert source.time.field == "@time" and source.lines_wait_s == 0.0
    assert met(tmp_path / "freshet.toml", capsys)["ratings"]["ok"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([b"\x00\x00\x00\x00\x07\x02\x04"], r"begin with the id of a schema \(7\); name the registry"),
        ([b"\xc3\x01" + b"x" * 20], "single-object encoding"),
        ([b"hello"], "fit no format"),
        ([b"[1, 2]"], "fit no format"),
        ([], "has no records"),
        ([as_json({"item": 1, "user": 2})], "no field is a time of each record; its fields are item, user"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, values: list[bytes], says: str) -> None:
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create_topic("t", 1)
    log.append("t", [Outgoing(b"", value) for value in values])
    log.close()
    with pytest.raises(InitError, match=says):
        look_at_topic(read_topic(f"sqlite:{tmp_path / 'log.db'}", "t"))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"clicks": [click(i) for i in range(50)]}, "only actions"),
        (
            {"shown": [slate(i) for i in range(50)], "clicks": [{"x": "never", "at": T_S * 1000}] * 9},
            "share no values with those of the impressions",
        ),
        ({"shown": [{"ts": T_S + i, "items": [{"a": i}]} for i in range(9)]}, "none names the request"),
    ],
)
def test_what_cannot_meet_is_told(tmp_path: Path, rows: dict[str, Sequence[Row]], says: str) -> None:
    fill(tmp_path, rows, as_json)
    log = f"sqlite:{tmp_path / 'log.db'}"
    with pytest.raises(InitError, match=says):
        propose([look_at_topic(read_topic(log, topic)) for topic in rows])


@pytest.mark.slow
def test_records_of_too_many_fields_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = [
        {**rating(i), "data": {**rating(i)["data"], **{f"f{k}": i % 3 for k in range(600)}}}
        for i in range(30)
    ]
    made(tmp_path, *fill(tmp_path, {"rated": wide}, as_json))
    assert "topic rated: only the first 500 fields were looked at" in capsys.readouterr().out


def test_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topics = fill(tmp_path, {"rated": [rating(i) for i in range(60)]}, as_json)
    assert main(["init", *topics, "--data", "x.csv"]) == 2
    assert "not at both" in capsys.readouterr().err
    assert main(["init", f"--topic=sqlite:{tmp_path / 'log.db'}/nothing", "--out", "-"]) == 2
    assert "has no topic 'nothing'; name a topic that is there" in capsys.readouterr().err
    assert main(["init", f"--topic=sqlite:{tmp_path / 'other.db'}/rated", "--out", "-"]) == 2
    assert "there is no log" in capsys.readouterr().err
    config = tmp_path / "own.toml"
    config.write_text('log = "sqlite:log.db"\n[features.movie]\nkind = "id"\n')
    assert main(["init", "--topic", "rated", "--with-config", str(config), "--out", "-"]) == 0
    added = tomllib.loads(capsys.readouterr().out)
    assert "log" not in added and set(added["sources"]) == {"rated"}
    with pytest.raises(InitError, match="expected the URL of a log, a slash"):
        split_topic("clicks")
    with pytest.raises(InitError, match="expected the URL of a log, a slash"):
        split_topic("kafka://host:9092")


def test_fields_of_any_objects() -> None:
    rows: list[object] = [
        {"a": {"b": {"c": 1}}, "it's": 3, "n": None, "l": [1, 2], "o": [{"x": 1}, {"y": 2}]},
        {"a": {"b": 7}, "": 1, "o": []},
    ]
    assert [field.path for field in fields_of(rows)] == ["a.b.c?", "l?", "a.b?", "o?"]
    (candidates,) = lists_of(rows[:1])
    assert candidates.path == "o" and [field.path for field in candidates.fields] == ["x?", "y?"]
