"""Shares and promotion: refused when they should be, and under load no answer fails or is of two models."""

import contextlib
import re
import time
from pathlib import Path

import pytest
from loaded import loaded, ready
from scraping import free_port, running
from waiting import WAIT_S

from freshet.config import Config, of_model, parse_config, resolve
from freshet.errors import OrderError
from freshet.models.traffic import order_shares, print_shares, shares_from_words
from freshet.roles.opening import open_topics
from freshet.roles.roles import run_join, run_learn, run_serve
from stream.log.base import EVENTS, EXAMPLES, Outgoing
from stream.records.decoding import Decoder, split_batch
from stream.records.types import Action, Example, Impression, Tick, encode


@pytest.fixture
def config(tmp_path: Path) -> Config:
    table = {
        "stream": {"log": {"sync": False}},
        "join": {"window_s": 1.0},
        "features": {"user": {}, "item": {}},
        "learner": {"deep": "none"},
        "server": {"port": free_port()},
        "models": {"challenger": {"share": 0.25, "set": ["features.user.dim=4"]}},
    }
    return resolve(parse_config(table, "test"), tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["main=0.9"], "the shares add up to 0.9, not to 1: 0.9; a model that is not named has 0"),
        (["main=0.9", "challenger=0.2"], "add up to 1.1, not to 1: 0.9 + 0.2"),
        (["main=1", "main=0"], "model main is named twice"),
        (["other=1"], "there is no model 'other'; the config has main, challenger"),
        (["main"], "expected MODEL=SHARE"),
        (["main=most"], "expected MODEL=SHARE"),
        (["main=-0.5", "challenger=1.5"], "a share of 0 to 1"),
        (["main=nan"], "expected MODEL=SHARE"),
    ],
)
def test_shares_that_cannot_be_are_refused(config: Config, words: list[str], said: str) -> None:
    with pytest.raises(OrderError) as caught:
        shares_from_words(words, config)
    assert said in str(caught.value)


def test_thirds_add_up(config: Config) -> None:
    assert shares_from_words(["main=0.7", "challenger=0.3"], config) == {"main": 0.7, "challenger": 0.3}


def test_what_has_not_caught_up_is_not_promoted(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(open_topics(config)) as log:
        example = Example("r", 1e9, 1e9, [{"item": 1}], [1.0], {"user": "a"})
        log.append(EXAMPLES, [Outgoing(b"r", encode(example), 0)] * 3)
        with pytest.raises(OrderError, match=r"challenger has learned nothing yet: .*--model challenger"):
            order_shares(config, {"challenger": 1.0})
        log.commit("learn.challenger", EXAMPLES, {0: 1})
        time.sleep(0.02)
        with pytest.raises(OrderError, match=r"not caught up: its learner is \d+ s and 2 examples behind"):
            order_shares(config, {"challenger": 1.0}, lag_s_max=0.01)
        log.commit("learn.challenger", EXAMPLES, {0: 3})
        offset, servers = order_shares(config, {"challenger": 1.0}, "better")
        assert offset == 0 and not servers.following
    print_shares(config, [], 10.0, "", as_json=False)
    told = capsys.readouterr().out
    assert told.startswith("main=0 challenger=1 (by order 0 of ") and told.endswith("UTC: better)\n")
    with contextlib.closing(open_topics(config)) as log:
        log.commit("learn", EXAMPLES, {0: 3})
    print_shares(config, ["main=0.25", "challenger=0.75"], 10.0, "on trial", as_json=False)
    print_shares(config, [], 10.0, "", as_json=False)
    assert "main=0.25 challenger=0.75 (by order 1 of " in capsys.readouterr().out
    one = resolve(parse_config({"features": {"user": {}}}, "test"), Path("/"))
    with pytest.raises(OrderError, match="one model; declare others"):
        order_shares(one, {"main": 1.0})


@pytest.mark.process
def test_promotion_under_load_fails_and_mixes_no_answer(config: Config) -> None:
    url = f"http://127.0.0.1:{config.server.port}"
    challenger = of_model(config, "challenger")
    roles = (run_join, run_learn, lambda _, stop: run_learn(challenger, stop), run_serve)
    with running(config, *roles):
        ready(url)
        with loaded(url) as load:

            def ordered(shares: dict[str, float]) -> int:
                """The offset of the order, once both have learned and none is far behind."""
                while True:
                    load.check()
                    try:
                        return order_shares(config, shares, wait_s=WAIT_S)[0]
                    except OrderError as error:
                        assert re.search("learned nothing|not ready|not caught up", str(error)), error
                    time.sleep(0.1)

            ordered({"main": 0.5, "challenger": 0.5})
            while len({kept.body["model"] for kept in load.answers}) < 2:
                load.check()
                time.sleep(0.1)
            promoted = ordered({"challenger": 1.0})
            done = time.monotonic()
            while not any(kept.asked_s > done for kept in load.answers):
                load.check()
                time.sleep(0.1)
        load.check()
    after = {kept.body["model"] for kept in load.answers if kept.asked_s > done}
    before = {kept.body["model"] for kept in load.answers if kept.answered_s < done}
    assert after == {"challenger"} and before == {"main", "challenger"} and promoted == 1
    with contextlib.closing(open_topics(config)) as log:
        records = [part for record in _all(log) for part in split_batch(record)]
    decode = Decoder[Impression | Action | Tick](Impression, Action, Tick).decode
    logged = {one.request_id: one for one in map(decode, records) if isinstance(one, Impression)}
    for _, _, answer in load.answers:
        served = logged[answer["request_id"]].served
        assert served is not None and served.by == answer["model"] and served.model == answer["model_version"]
        assert set(served.models) == {"main", "challenger"}
        # every number is of the model that the answer names
        assert served.models[answer["model"]].corrected == answer["corrected"] == served.corrected
        assert served.models[answer["model"]].base == answer["base"]


def _all(log) -> list[bytes]:
    found, at = [], 0
    while records := log.read(EVENTS, 0, at):
        found += [record.value for record in records]
        at = records[-1].offset + 1
    return found
