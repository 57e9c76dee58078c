"""`freshet init --topic` on records as others have them: what it proposes, and that all actions meet."""

import io
import json
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from avro_data import datum, framed
from small_registry import SmallRegistry, small_registry

from freshet.cli.main import main
from freshet.config import Config, load_config
from freshet.init.topics.choose import look_at_topic
from freshet.init.topics.meet import find_table
from freshet.init.topics.records import read_topic
from freshet.init.topics.shown import requests_of
from stream.log.base import Outgoing
from stream.log.open import open_log

pytestmark = pytest.mark.slow

T_S = 1_767_225_600
REQUESTS = 90
RNG = random.Random(7)
ITEMS = [RNG.sample(range(1_000, 1_060), 4) for _ in range(REQUESTS)]
Row = dict[str, Any]
N = range(REQUESTS)


def user(i: int) -> int:
    return i * 7 % 30


def clicked(i: int) -> int:
    return ITEMS[i][i % 4]


def shown(i: int, **more: object) -> Row:
    items = [{"sku": x, "price": x / 8} for x in ITEMS[i]]
    return {"request_id": f"r{i}", "ts": (T_S + i) * 1000, "user_id": user(i), "items": items, **more}


def click(i: int, **more: object) -> Row:
    return {"ts": (T_S + i + 2) * 1000, "user_id": user(i), "sku": clicked(i), **more}


def packed(rows: Sequence[object]) -> list[bytes]:
    return [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]


def fill(folder: Path, topics: Mapping[str, Sequence[object]]) -> None:
    log = open_log(f"sqlite:{folder / 'log.db'}")
    for topic, rows in topics.items():
        log.create_topic(topic, 2)
        log.append(topic, [Outgoing(str(i).encode(), value) for i, value in enumerate(packed(rows))])
    log.close()


def proposed(
    folder: Path, topics: dict[str, Sequence[object]], registry: str = "", share: float = 1.0
) -> tuple[Config, str, Row]:
    """(the config, its text, what `freshet ingest --check` says of each source)."""
    fill(folder, topics)
    out = folder / "freshet.toml"
    named = [f"--topic=sqlite:{folder / 'log.db'}/{topic}" for topic in topics]
    assert main(["init", *named, "--out", str(out), *(["--registry", registry] if registry else [])]) == 0
    said = io.StringIO()
    with redirect_stdout(said):
        status = main(["ingest", "--check", "--json", "--config", str(out)])
    checked = {row["source"]: row for row in map(json.loads, said.getvalue().splitlines())}
    assert status == 0, checked
    for row in checked.values():
        assert row["ok"] and row["impressions"] + row["actions"] + row["entities"] > 0
        assert min(row["covered"], row["met"]) >= share * row["actions"]
    return load_config(out), out.read_text(), checked


TIMES: dict[str, tuple[Callable[[float], object], str, str]] = {
    "seconds": (lambda at: at + 0.5, "s", ""),
    "micros": (lambda at: round(at * 10**6), "us", ""),
    "millis as text": (lambda at: str(round(at * 1000)), "ms", ""),
    "a zone": (lambda at: datetime.fromtimestamp(at, timezone(timedelta(hours=2))).isoformat(), "iso", ""),
    "no zone": (lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S"), "iso", "UTC"),
}


@pytest.mark.parametrize("form", TIMES)
def test_times_as_encoders_write_them(tmp_path: Path, form: str) -> None:
    write, unit, zone = TIMES[form]
    rows = {
        "imps": [shown(i, ts=write(T_S + i)) for i in N],
        "clicks": [click(i, ts=write(T_S + i + 2)) for i in N],
    }
    config, text, checked = proposed(tmp_path, rows)
    time = config.sources["imps"].time
    assert (time.field, time.unit, time.zone) == ("ts", unit, zone)
    assert ("name no zone" in text) == bool(zone)
    assert json.loads(checked["imps"]["becomes"])["time"] // 1 in range(T_S, T_S + REQUESTS)


def test_ids_that_are_text_in_one_topic_get_a_type(tmp_path: Path) -> None:
    rows = {
        "imps": [shown(i) for i in N],
        "clicks": [click(i, sku=str(clicked(i)), user_id=str(user(i))) for i in N],
    }
    config, text, _ = proposed(tmp_path, rows)
    assert config.features["sku"].id_type == config.features["user_id"].id_type == "int"
    assert "integers here and text in clicks" in text
    beyond = {
        "imps": [shown(i, user_id=user(i) + (1 << 63)) for i in N],
        "clicks": [click(i, user_id=user(i) + (1 << 63)) for i in N],
    }
    (tmp_path / "beyond").mkdir()
    config, _, checked = proposed(tmp_path / "beyond", beyond)
    assert config.sources["clicks"].by == {"user_id": "user_id"}
    assert "9223372036854775" in checked["imps"]["becomes"]


def test_lists_of_ids_are_candidates(tmp_path: Path) -> None:
    rows = {
        "imps": [{**shown(i), "items": None, "product_ids": ITEMS[i], "tags": ["a", "b"]} for i in N],
        "clicks": [click(i) for i in N],
    }
    config, _, _ = proposed(tmp_path, rows)
    source = config.sources["imps"]
    assert (source.candidates, source.features) == ("product_ids", {"product_id": "."})
    assert config.sources["clicks"].match == {"product_id": "sku"}


def test_names_of_any_kind_and_the_same_name_at_two_levels(tmp_path: Path) -> None:
    rows = {
        "imps": [
            {"id": f"r{i}", "event time": (T_S + i) * 1000, "usér": {"id": user(i)},
             "Résultats": [{"id": x, "app.version": f"v{x % 3}", "prix-€": x / 8} for x in ITEMS[i]]}
            for i in N
        ],
        "clicks": [
            {"event time": (T_S + i + 2) * 1000, "customer": {"id": user(i)}, "id": clicked(i)} for i in N
        ],
    }  # fmt: skip
    config, _, _ = proposed(tmp_path, rows)
    source, clicks = config.sources["imps"], config.sources["clicks"]
    assert (source.request_id, source.candidates) == ("id", "Résultats")
    assert source.context == {"usér_id": "usér.id"} and source.time.field == "'event time'"
    assert source.features == {"id": "id", "app.version": "'app.version'", "prix-€": "prix-€"}
    assert (clicks.match, clicks.by) == ({"id": "id"}, {"usér_id": "customer.id"})


@pytest.mark.parametrize(
    ("words", "targets", "left_out"),
    [
        (("click", "order", "add_to_cart", "share", "return"), {"click", "cart", "buy"}, "return, share"),
        (("ProductClicked", "OrderCompleted", "OrderRefunded"), {"click", "buy"}, "OrderRefunded"),
        (("select_item", "purchase", "view_item"), {"click", "buy"}, "view_item"),
        (("PLAY", "LIKE"), set(), ""),
    ],
)
def test_words_of_actions_become_targets(
    tmp_path: Path, words: Sequence[str], targets: set[str], left_out: str
) -> None:
    rows = {
        "imps": [shown(i) for i in N],
        "shop.actions": [click(i, eventName=words[i % len(words)]) for i in N],
    }
    config, text, checked = proposed(tmp_path, rows)
    assert set(config.targets) == targets and (not left_out or f"left out: {left_out}" in text)
    kept = config.sources["actions"].only["eventName"]
    assert checked["actions"]["actions"] == sum(words[i % len(words)] in kept for i in N)
    for name, target in config.targets.items():
        assert target.of == ("" if name == "click" else "click")


def test_a_topic_of_orders_beside_one_of_clicks_is_a_target_of_its_own(tmp_path: Path) -> None:
    rows = {
        "imps": [shown(i) for i in N],
        "shop.clicks": [click(i) for i in N],
        "shop.orders": [click(i) for i in N if i % 4 == 0],
    }
    config, _, checked = proposed(tmp_path, rows)
    assert set(config.targets) == {"click", "buy"}
    names = {name: json.loads(checked[name]["becomes"])["name"] for name in ("clicks", "orders")}
    assert names == {"clicks": "click", "orders": "buy"}


def test_one_topic_of_views_and_clicks_becomes_two_sources(tmp_path: Path) -> None:
    rows = [
        row
        for i in N
        for row in (
            {"event": "ListViewed", **shown(i)},
            {"event": "ItemClicked", "request_id": f"r{i}", "ts": (T_S + i + 2) * 1000, "sku": clicked(i)},
            {"event": "Heartbeat", "ts": (T_S + i) * 1000},
        )
    ]
    config, _, checked = proposed(tmp_path, {"web.events": rows})
    shows, done = config.sources["events_shown"], config.sources["events_done"]
    assert (shows.only, done.only) == ({"event": ["ListViewed"]}, {"event": ["ItemClicked"]})
    assert (shows.candidates, done.request_id, done.match) == ("items", "request_id?", {"sku": "sku?"})
    assert checked["events_done"]["actions"] == REQUESTS


def test_rows_of_items_and_people_become_attributes(tmp_path: Path) -> None:
    things = [{"sku": x, "brand": f"b{x % 7}", "weight": x / 8} for x in range(1_000, 1_060)]
    rows = {
        "imps": [shown(i) for i in N],
        "clicks": [click(i) for i in N],
        "db.stock": [{"op": "c", "before": None, "after": row, "ts_ms": T_S * 1000} for row in things],
        "crm.users": [{"id": x, "country": ("de", "fr")[x % 2], "updated_at": T_S * 1000} for x in range(30)],
        "crm.codes": [{"user_id": x, "at": T_S * 1000} for x in range(30)],  # nothing that is a feature
    }
    config, _, checked = proposed(tmp_path, rows)
    stock, users = config.sources["stock"], config.sources["users"]
    assert (stock.kind, stock.feature, stock.id) == ("entity", "sku", "sku")
    assert (users.feature, users.id, users.features) == ("user_id", "id", {"country": "country"})
    assert {name: f.of for name, f in config.features.items() if f.of} == {
        "brand": "sku", "weight": "sku", "country": "user_id"
    }  # fmt: skip
    assert checked["stock"]["entities"] == 60 and "codes" not in config.sources


def test_rows_are_of_what_each_row_names_and_no_other_row_does(tmp_path: Path) -> None:
    """Ids that some rows lack, or that come again and again, are not what the rows are of."""
    rows = {
        "imps": [shown(i) for i in N],
        "clicks": [click(i) for i in N],
        "crm.visits": [{"visit": f"v{i}", "user_id": i % 30, "at": T_S * 1000} for i in N],
        "crm.cards": [{"card": f"c{x}", "points": x / 4, "at": T_S * 1000, **holder(x)} for x in N],
    }
    log = f"sqlite:{tmp_path / 'log.db'}"
    fill(tmp_path, rows)
    imps, _, visits, cards = (look_at_topic(read_topic(log, topic)) for topic in rows)
    assert find_table(visits, [requests_of(imps)]) is None
    assert find_table(cards, [requests_of(imps)]) is None
    whole = {"crm.users": [{"user_id": x, "at": T_S * 1000} for x in range(30)]}
    fill(tmp_path, whole)
    found = find_table(look_at_topic(read_topic(log, "crm.users")), [requests_of(imps)])
    assert found is not None and (found.of.path, found.id.path) == ("user_id", "user_id")


def holder(card: int) -> Row:
    return {"user_id": card} if card < 30 else {}


@pytest.mark.parametrize(("yes", "no"), [("true", "false"), (True, False)])
def test_deleted_rows_without_their_envelope_are_left_out(tmp_path: Path, yes: object, no: object) -> None:
    rows = {
        "imps": [shown(i) for i in N],
        "clicks": [click(i, __deleted=yes if i % 5 == 0 else no) for i in N],
    }
    config, _, checked = proposed(tmp_path, rows)
    assert config.sources["clicks"].only == {"__deleted": [no]}
    assert checked["clicks"]["actions"] == sum(i % 5 != 0 for i in N)


@pytest.mark.slow
@pytest.mark.parametrize("feature", ["history", "rate"])
def test_histories_and_rates_are_proposed_where_they_gain(tmp_path: Path, feature: str) -> None:
    rng = random.Random(5)
    imps: list[Row] = []
    clicks: list[Row] = []
    people, things = (50, 200) if feature == "history" else (40, 30)
    for i in range(1_000):
        person, items, at = rng.randrange(people), rng.sample(range(things), 8), (T_S + i * 60) * 1000
        imps.append({"request": i, "ts": at, "user": person, "items": [{"sku": x} for x in items]})
        for x in items:
            liked = (x + person) % 10 == 0 if feature == "history" else x // 5 == i // 125 % 6
            if rng.random() < (0.6 if liked else 0.02):
                clicks.append({"ts": at + 2_000, "user": person, "sku": x})
    config, text, _ = proposed(tmp_path, {"imps": imps, "clicks": clicks}, share=0.95)
    # a request's number is a user's too, and says nothing
    assert (config.sources["clicks"].request_id, config.sources["clicks"].by) == ("", {"user": "user"})
    assert config.features[f"sku_{feature}"].kind == feature
    assert "AUC on the sample" in text


@pytest.fixture
def served() -> Iterator[SmallRegistry]:
    with small_registry() as registry:
        yield registry


ITEM = {"type": "record", "name": "com.shop.types.Item", "fields": [
    {"name": "sku", "type": "long"},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "labels", "type": {"type": "map", "values": "string"}},
    {"name": "sizes", "type": {"type": "array", "items": {"type": "array", "items": "int"}}},
    {"name": "since", "type": {"type": "int", "logicalType": "date"}},
    {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "OLD"]}},
]}  # fmt: skip
PAGES = [
    {"type": "record", "name": "Web", "fields": [{"name": "url", "type": "string"}]},
    {"type": "record", "name": "App", "fields": [{"name": "build", "type": "int"}]},
]
SHOWN = {"type": "record", "name": "com.shop.events.Shown", "fields": [
    {"name": "search", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "shown_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "customer", "type": ["null", "long"], "default": None},
    {"name": "page", "type": ["null", *PAGES]},
    {"name": "results", "type": {"type": "array", "items": "com.shop.types.Item"}},
]}  # fmt: skip
DONE = {"type": "record", "name": "com.shop.events.Done", "fields": [
    {"name": "at", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
    {"name": "customer", "type": "long"},
    {"name": "what", "type": [
        {"type": "record", "name": "Item", "fields": [{"name": "sku", "type": "long"}]},
        {"type": "record", "name": "Banner", "fields": [{"name": "banner", "type": "string"}]},
    ]},
    {"name": "type", "type": {"type": "enum", "name": "Type", "symbols": ["CLICK", "ORDER"]}},
]}  # fmt: skip


def test_avro_of_every_type(tmp_path: Path, served: SmallRegistry) -> None:
    served.put(7, SHOWN, references=[{"name": "com.shop.types.Item", "subject": "items", "version": 1}])
    served.answers["/subjects/items/versions/1"] = {"schema": json.dumps(ITEM)}
    served.put(8, DONE)
    imps = [
        {
            "search": str(uuid.UUID(int=i + 1)), "shown_at": datetime.fromtimestamp(T_S + i, UTC),
            "customer": user(i), "page": {"url": "/x"} if i % 3 else {"build": i % 4},
            "results": [
                {"sku": x, "price": Decimal(x) / 100, "labels": {"c": str(x % 5)}, "sizes": [[1], [2]],
                 "since": date(2026, 1, 1 + x % 9), "state": ("NEW", "OLD")[x % 2]}
                for x in ITEMS[i]
            ],
        }
        for i in N
    ]  # fmt: skip
    done = [
        {
            "at": datetime.fromtimestamp(T_S + i + 2, UTC).replace(tzinfo=None), "customer": user(i),
            "what": {"sku": clicked(i)}, "type": ("CLICK", "ORDER")[i % 2],
        }
        for i in N
    ]  # fmt: skip
    rows = {
        "shop.shown": [framed(7, datum(SHOWN, row, [ITEM])) for row in imps],
        "shop.actions": [framed(8, datum(DONE, row)) for row in done],
    }
    config, _, _ = proposed(tmp_path, rows, served.url)
    source, actions = config.sources["shown"], config.sources["actions"]
    assert (source.format, source.request_id, source.candidates) == ("avro", "search", "results")
    assert source.features == {
        "sku": "sku", "price": "price", "c": "labels.c", "state": "state"
    }  # fmt: skip
    assert actions.match == {"sku": "what.sku"} and actions.by == {"customer": "customer"}
    assert actions.time.zone == "UTC" and set(config.targets) == {"click", "buy"}


PROTO = """
syntax = "proto3"; package shop.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Device { UNKNOWN = 0; IOS = 1; }
message Item { uint64 sku = 1; map<string, string> labels = 2; Brand brand = 3;
  google.protobuf.StringValue colour = 4; message Brand { string name = 1; } }
message Shown { string search = 1; google.protobuf.Timestamp at = 2;
  oneof who { uint64 user = 3; string cookie = 4; } Device device = 5; repeated Item results = 6; }
message Click { google.protobuf.Timestamp at = 1; uint64 user = 2; uint64 sku = 3; }
"""


@pytest.mark.slow
def test_protobuf_of_a_registry_that_gives_text(tmp_path: Path, served: SmallRegistry) -> None:
    pytest.importorskip("grpc_tools", reason="pip install 'freshet[formats]'")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    from stream.sources.proto_text import compile_proto

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compile_proto(PROTO, [])).file:
        pool.AddSerializedFile(file.SerializeToString())
    kinds = [pool.FindMessageTypeByName(f"shop.v1.{name}") for name in ("Shown", "Click")]
    shown_type, click_type = map(message_factory.GetMessageClass, kinds)
    served.put(3, PROTO, "PROTOBUF")
    imps, clicks = [], []
    top = 1 << 63
    for i in N:
        at = datetime.fromtimestamp(T_S + i, UTC)
        items = [
            {"sku": x + top, "labels": {"c": "x"}, "brand": {"name": f"b{x % 7}"}, "colour": {"value": "red"}}
            for x in ITEMS[i]
        ]
        message = shown_type(search=f"s{i}", at=at, user=user(i), device=i % 2, results=items)
        imps.append(framed(3, b"\x02\x02" + message.SerializeToString()))  # the second message of the file
        message = click_type(at=at + timedelta(seconds=2), user=user(i), sku=clicked(i) + top)
        clicks.append(framed(3, b"\x02\x04" + message.SerializeToString()))
    config, _, checked = proposed(tmp_path, {"imps": imps, "clicks": clicks}, served.url)
    source = config.sources["imps"]
    assert (source.format, source.request_id, source.candidates) == ("protobuf", "search", "results")
    assert source.features["brand_name"] == "brand.name" and source.context["device"] == "device"
    assert f'"sku":"{top + ITEMS[-1][0]}"' in checked["imps"]["becomes"] or "92233720368547" in str(checked)


def test_registry_that_hangs_fails_or_refuses_is_named(
    tmp_path: Path, served: SmallRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    served.put(7, {"type": "record", "name": "R", "fields": [{"name": "ts", "type": "long"}]})
    value = framed(7, b"\x02")
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create_topic("imps", 1)
    log.append("imps", [Outgoing(b"", value)])
    log.close()
    config = tmp_path / "freshet.toml"
    config.write_text(
        'log = "sqlite:log.db"\n[features.user]\nkind = "id"\n[ingest.registry]\naway_after_s = 0.3\n'
        f'[sources.imps]\ntopic = "imps"\nkind = "impression"\nformat = "avro"\nregistry = "{served.url}"\n'
        'request_id = "ts"\ntime = { field = "ts", unit = "ms" }\ncontext = { user = "ts" }\n'
    )
    for status, says in ((500, "it answers 500"), (401, "refuses the log-in"), (0, "does not answer")):
        served.status = status
        if not status:
            served.free.clear()  # it hangs
        check = ["ingest", "--check", "--config", str(config)]
        init = [
            "init",
            "--topic",
            "imps",
            "--with-config",
            str(config),
            "--registry",
            served.url,
            "--out",
            "-",
        ]
        for command in (check, init):
            assert main(command) != 0
            printed = capsys.readouterr()
            assert says in printed.out + printed.err and served.url in printed.out + printed.err
    served.free.set()


def test_topic_of_deletions_only_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = open_log(f"sqlite:{tmp_path / 'log.db'}")
    log.create_topic("imps", 2)
    log.append("imps", [Outgoing(str(i).encode(), b"") for i in range(9)])
    log.close()
    assert main(["init", f"--topic=sqlite:{tmp_path / 'log.db'}/imps", "--out", "-"]) == 2
    assert "its newest 9 records are all deletions" in capsys.readouterr().err
