"""Histories and rates on their way: score, log, join, learn, publish, export; the values stay the same."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from error_memory import MemorySettings
from freshet.cli.main import main
from freshet.config import parse_config
from freshet.roles.opening import open_topics
from learner.features.columns import declared_by
from learner.features.known.given import given_in
from learner.model.model import Model
from learner.role.learner import Learner
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.files.record_files import read_records
from stream.join.joiner import Joiner
from stream.join.settings import JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.records.types import Action, Example, Features, Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

START = 1_700_000_000.0
ROUNDS, TOGETHER = 12, 8
AT_ONCE = RunnerSettings(commit_every_s=0.0, wait_s=0.0)


def asked(rng: np.random.Generator, number: int) -> Impression:
    items = rng.choice(20, size=3, replace=False).tolist()
    candidates: list[Features] = [{"item": i if i % 2 else f"item {i}"} for i in items]
    return Impression(f"r{number}", START + 7.25 * number, candidates, {"user": f"u{rng.integers(4)}"})


@pytest.mark.slow
def test_exported_values_are_those_that_live_scores_used(tmp_path: Path) -> None:
    """What a replica filled in and scored with is what the learner learns with and what is exported, to the
    bit; and a model that knows nothing encodes the exported examples as the replica did the requests."""
    config = parse_config(
        {
            "log": f"sqlite:{tmp_path / 'log.db'}",
            "stream": {"partitions": 1},
            "learner": {"group": 4},
            "features": {
                "user": {},
                "item": {},
                "past": {"kind": "history", "by": "user", "of": "item", "length": 4},
                "ctr": {"kind": "rate", "of": "item", "window_s": 600.0},
            },
        },
        "here",
    )
    schema, settings = config.features, config.learner
    log, rng = open_topics(config), np.random.default_rng(0)
    used: dict[str, tuple[Impression, bytes]] = {}
    with RoleState(tmp_path / "j", "joiner", {}) as js, RoleState(tmp_path / "l", "learner", {}) as ls:
        joiner = Joiner(js, JoinSettings(decide="first_action"), declared=declared_by(schema))
        learner = Learner(schema, settings, ls)
        roles = [
            Runner(log, js, joiner, Subscription(EVENTS, "join"), AT_ONCE).open(),
            Runner(log, ls, learner, Subscription(EXAMPLES, "learn"), AT_ONCE).open(),
        ]
        replica = Replica(log, schema, settings, MemorySettings(), ServerSettings())
        for first in range(0, ROUNDS * TOGETHER, TOGETHER):
            for role in roles:
                while role.step():
                    pass
                role.commit()
            while replica.step():
                pass
            for number in range(first, first + TOGETHER):
                request = asked(rng, number)
                filled = replica.filled(request)
                (scored,) = replica.score([request])
                assert replica.score([filled])[0].base == scored.base
                used[request.request_id] = filled, read_by(replica.model, request)
                made = msgspec.structs.replace(filled, served=scored.served)
                click = Action(request.request_id, request.time + 1.0, int(rng.integers(3)))
                log.append(EVENTS, [Outgoing(b"r", encode(one)) for one in (made, click)])
        for role in roles:
            while role.step():
                pass
            role.commit()
        assert log.ends(DEAD_LETTERS)[0][1] == 0
    log.close()

    out = tmp_path / "all.parquet"
    assert main(["export", str(out), "--data", config.log]) == 0
    exported = list(read_records(out))
    assert len(exported) == len(used)
    empty, histories, rates = Model(schema, settings), 0, set()
    for example in exported:
        assert isinstance(example, Example)
        filled, bits = used[example.request_id]
        for then, now in zip(filled.candidates, example.candidates, strict=True):
            for name in ("past", "ctr"):
                kind = schema[name].kind
                told = given_in(name, kind, {**filled.context, **then})
                assert told == given_in(name, kind, {**example.context, **now})
            histories += example.context.get("past.keys") not in (None, [])
            rates.add(now.get("ctr"))
        assert read_by(empty, example) == bits
    assert histories > len(exported) // 2 and len(rates) > 20  # they did say something


def read_by(model: Model, request: Impression | Example) -> bytes:
    """All that a model reads of a request, as bytes."""
    batch = model.filled(model.encoder.encode([request]))
    rows = batch.rows
    return b"".join(a.tobytes() for a in (rows.start, rows.column, rows.key, rows.x, batch.numbers))
