"""The index of items: it finds what scoring everything finds, and follows the model and the log."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from item_world import FEATURES, SETTINGS, ItemWorld, T, item

from error_memory import MemorySettings
from freshet.client import Client
from freshet.config import parse_config
from freshet.errors import ConfigError
from learner.features.encoder import Request
from serving.app.server import serve
from serving.errors import RankError, RequestError, UnavailableError
from serving.nearest.catalogue import ItemCatalogue
from serving.replica.ranking import Ranking
from serving.replica.replica import Replica
from stream.log.base import EVENTS, EXAMPLES, Log
from stream.records.decoding import Decoder
from stream.records.forgetting import append_forget
from stream.records.types import Example, Forget, Impression


@pytest.fixture
def world(log: Log, tmp_path: Path) -> Iterator[ItemWorld]:
    made = ItemWorld(log, tmp_path / "learn")
    yield made
    made.state.close()


def spread(world: ItemWorld, items: int, rounds: int) -> None:
    for _ in range(rounds):
        order = world.rng.permutation(items)
        for part in np.array_split(order, items // 25):
            world.show(part.tolist(), int(world.rng.integers(0, 30)))


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["float32", "int8"])
def test_finds_what_scoring_everything_finds(log: Log, tmp_path: Path, rows: str) -> None:
    world = ItemWorld(log, tmp_path / "learn", rows, score=256)
    spread(world, 5_000, 3)  # more than a column may have to be paired with the context whole
    world.turn()
    found = []
    for user in range(5):
        mine = world.find(user, 50)
        found.append(len(set(mine) & set(world.best(user, list(range(5_000)), 50))) / 50)
        by = Ranking("click * price", ["click"], ["price"])
        asked = world.index.find(Request(T + 50.0, {"user": user}, []), 10, ranking=by)
        values = world.replica.live.rank_values(Request(T + 50.0, {"user": user}, asked.candidates), by)
        assert (np.diff(values) <= 0.0).all()
    assert np.mean(found) >= 0.95, found
    world.state.close()


@pytest.mark.slow
def test_follows_the_model_and_the_log(world: ItemWorld) -> None:
    spread(world, 300, 4)
    world.turn()
    everything = {f"i{n}" for n in range(300)}
    assert world.index.status().items == 300
    assert len(set(world.find(1, 50)) & set(world.best(1, list(range(300)), 50))) >= 48
    # excluded; and a new item, which is in no earlier example
    assert not set(world.find(1, 50, exclude=[f"i{n}" for n in range(0, 300, 2)])) & {
        f"i{n}" for n in range(0, 300, 2)
    }
    for _ in range(30):
        world.show([1_001, 5], user=world.sent % 30)
    assert "i1001" not in world.find(0, 64)
    world.turn()
    assert "i1001" in world.find(0, 64)  # 1001 % 7 == 0 and 1001 % 13 == 0: the best of all
    # forgotten: not from the moment at which the record is read, whatever the model still holds
    append_forget(world.log, EXAMPLES, Forget("f", T + 60.0, {"item": ["i1001", "i5"]}))
    while world.index.step():
        pass
    assert not {"i1001", "i5"} & set(world.find(0, 64))
    world.turn()
    assert not {"i1001", "i5"} & set(world.find(0, 64)) and world.index.status().items == 299
    # expired: all that was not shown for 5,000 s
    for _ in range(3):
        world.show([7, 8, 9], at_s=6_000.0)
    world.turn()
    late = world.index.find(Request(T + 6_001.0, {"user": 1}, []), 64)
    assert set(late.items) == {"i7", "i8", "i9"} and set(late.items) < everything
    # what a server's own thread would answer, number for number
    scored = world.replica.score([Request(T + 6_001.0, {"user": 1}, late.candidates)])[0]  # type: ignore[list-item]
    assert scored.corrected == late.scored.corrected and sorted(scored.corrected)[::-1] == scored.corrected


def test_says_what_is_wrong(world: ItemWorld) -> None:
    with pytest.raises(UnavailableError, match="the model is still loading"):
        world.find(0, 5)
    for n in range(40):
        world.show([n])
    while world.learn.step():
        pass
    world.replica.step()
    with pytest.raises(UnavailableError, match=r"index of item is being built \(0 of .* ask again"):
        world.find(0, 5)
    world.turn()
    assert len(world.find(0, 64)) == 40  # more than there are
    with pytest.raises(RequestError, match=r"k is 65; expected 1 to 64 \(server.nearest.score\)"):
        world.find(0, 65)
    with pytest.raises(RankError, match="is neither a target"):
        world.find(0, 5, ranking=Ranking("click * worth", ["click"], []))
    assert world.find(0, 3, exclude=["i0", 7, "unheard of"]) == world.best(0, list(range(1, 40)), 3)


def test_a_full_catalogue_loses_what_the_model_has_lost_then_the_oldest(log: Log) -> None:
    catalogue = ItemCatalogue(FEATURES, "item", 32)
    exists = np.ones(32, dtype=bool)
    exists[5] = False
    for n in range(32):
        catalogue.take(Example(f"r{n}", T + n, T + n, [item(n)], [0.0]), lambda: exists)
    exists[31] = False  # shown a moment ago: its row may come soon
    assert len(catalogue.changed(99)) == 32
    catalogue.take(Example("r0", T + 99, T + 99, [item(0)], [0.0]), lambda: exists)
    catalogue.take(Example("r99", T + 100, T + 100, [item(99)], [0.0]), lambda: exists)
    gone = [n for n in range(32) if catalogue.place_of(f"i{n}") < 0]
    assert gone == [1, 5] and catalogue.place_of("i99") >= 0 and catalogue.evicted == 2
    # an id is forgotten wherever it is
    catalogue.forget({"kind": [3], "tags": [10], "item": ["i7"]})
    known = [c for c, one in zip(catalogue.candidates, catalogue.ids, strict=True) if one is not None]
    assert len(known) == 30 and not any(c.get("kind") == 3 or 10 in c["tags"] for c in known)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("of", "why"),
    [
        ("itm", "server.nearest.of = 'itm' is not declared; features of kind id: user, item"),
        ("price", "is of kind number, not id"),
    ],
)
def test_config_names_the_feature(of: str, why: str) -> None:
    features = {"user": {}, "item": {}, "price": {"kind": "number"}}
    with pytest.raises(ConfigError, match=why):
        parse_config({"features": features, "server": {"nearest": {"of": of}}}, "c")
    with pytest.raises(ConfigError, match="reads all rows: leave out memory_rows of user"):
        resting = {**features, "user": {"memory_rows": 100}}
        parse_config({"features": resting, "server": {"nearest": {"of": "item"}}}, "c")
    with pytest.raises(ConfigError, match=r"leave out learner\.pairs_memory_rows"):
        rests = {"learner": {"pairs_memory_rows": 9}, "server": {"nearest": {"of": "item"}}}
        parse_config({"features": features, **rests}, "c")
    with pytest.raises(ConfigError, match="goes with one model"):
        config = {
            "features": features,
            "server": {"nearest": {"of": "item"}},
            "models": {"b": {"share": 0.5}},
        }
        parse_config(config, "c")


@pytest.mark.slow
def test_over_http(world: ItemWorld, log: Log, running) -> None:
    spread(world, 100, 4)
    while world.learn.step():
        pass

    settings = msgspec.structs.replace(world.settings, explain_candidates_max=5)

    def run(stop: threading.Event, listening) -> None:
        serve(world.replica, log, settings, stop, listening, nearest=world.index)

    with running(run) as url, Client(url) as client:
        found = client.nearest({"user": 3}, 5, exclude=["i3"], time=T + 50.0, log=True, explain=True, show=2)
        assert len(found.items) == len(found.explained) == 5 and "i3" not in found.items  # type: ignore[arg-type]
        assert found.corrected == sorted(found.corrected)[::-1] and found.scored == 64
        again = client.score(found.candidates, {"user": 3}, time=T + 50.0, log=False)
        assert again.corrected == found.corrected
        decode = Decoder(Impression).decode
        (logged,) = [decode(r.value) for p in (0, 1) for r in log.read(EVENTS, p, 0)]
        assert logged.candidates == found.candidates and logged.shown == [0, 1] == found.shown
        assert logged.served is not None and logged.served.corrected == found.corrected
        for body, why in (
            ({"feature": "kind"}, "feature is 'kind'; this server's index is of 'item'"),
            ({"k": 65}, "expected 1 to 64"),
            ({"k": 6, "explain": True}, "expected 1 to 5 (explain_candidates_max)"),
            ({"k": 0}, "k"),
            ({"context": {"price": "dear"}}, "price"),
            ({"exclude": [1.5]}, "exclude"),
            ({"exclude": ["x" * 10_000]}, "has 10000 characters"),
            ({"exclude": [1 << 63]}, "send larger ones as text"),
            ({"rank": {"by": "worth"}}, "neither a target"),
            ({"candidates": []}, "candidates"),
        ):
            refused = httpx.post(f"{url}/v1/nearest", json=body)
            assert refused.status_code == 400 and why in refused.json()["error"], body
        strange = httpx.post(f"{url}/v1/nearest", json={"context": {"strange": {"a": 1}}})
        assert strange.status_code == 200  # what is not declared is not looked at
        status = client.model().nearest
        assert status and status.ready and status.items == 100  # type: ignore[union-attr]
        assert "freshet_nearest_items 100.0" in httpx.get(f"{url}/metrics").text
    plain = Replica(log, FEATURES, SETTINGS, MemorySettings(), world.settings)
    with running(lambda stop, listening: serve(plain, log, world.settings, stop, listening)) as url:
        refused = httpx.post(f"{url}/v1/nearest", json={})
        assert refused.status_code == 400 and '[server.nearest] of = "…"' in refused.json()["error"]
