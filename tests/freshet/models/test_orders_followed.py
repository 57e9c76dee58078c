"""Orders are given to servers and learners that beats show, and are waited for until beats say they count."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from freshet.config import Config, parse_config, resolve
from freshet.errors import OrderError
from freshet.models.snapshots import print_resume
from freshet.models.traffic import MODEL, order_shares
from freshet.roles.opening import open_topics
from stream.group.signs import Beat, MemberStatus, send_beat
from stream.log.base import EXAMPLES, Log, Outgoing
from stream.records.types import Example, encode


@pytest.fixture
def config(tmp_path: Path) -> Config:
    table = {
        "stream": {"log": {"sync": False}},
        "features": {"user": {}, "item": {}},
        "group": {"snapshots": "snapshots", "snapshots_kept": 4},
        "models": {"challenger": {"share": 0.25}},
    }
    return resolve(parse_config(table, "test"), tmp_path)


@pytest.fixture
def log(config: Config) -> Iterator[Log]:
    with contextlib.closing(open_topics(config)) as opened:
        yield opened


def beat(log: Log, group: str, leading: int = -1, **numbers: float) -> None:
    send_beat(log, Beat(group, "one", "x", 1, leading=leading, status=MemberStatus(numbers=numbers)))


def test_shares_are_given_only_to_models_that_every_server_holds_and_has_ready(
    config: Config, log: Log
) -> None:
    example = Example("r", 1e9, 1e9, [{"item": 1}], [1.0], {"user": "a"})
    log.append(EXAMPLES, [Outgoing(b"r", encode(example), 0)])
    log.commit("learn.challenger", EXAMPLES, {0: 1})
    for numbers, said in (
        ({}, "does not hold model challenger"),
        ({f"{MODEL}challenger/ready": 0.0}, "model challenger is not ready in server one"),
    ):
        beat(log, "serve", **numbers)
        with pytest.raises(OrderError, match=said):
            order_shares(config, {"challenger": 1.0}, wait_s=1.0)
    ready = {f"{MODEL}challenger/ready": 1.0}
    beat(log, "serve", **ready)
    with pytest.raises(OrderError, match=r"order 0 is in the log, but after 0\.2 s it is not followed"):
        order_shares(config, {"challenger": 1.0}, wait_s=0.2)
    beat(log, "serve", **ready, shares_from=1.0)
    assert order_shares(config, {"challenger": 1.0}, wait_s=5.0)[0] == 1


def test_resuming_is_waited_for_until_the_learner_says_so(
    config: Config, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OrderError, match="no learner of model main runs"):
        print_resume(config, "", False)
    beat(log, "learn", leading=1, order=-1.0)
    follows = threading.Timer(0.3, beat, (log, "learn", 1), {"order": 0.0})
    follows.start()
    print_resume(config, "", False)
    follows.join()
    assert "model main learns again, by order 0" in capsys.readouterr().out
