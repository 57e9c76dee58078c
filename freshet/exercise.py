"""Compiles the kernels: calls each once, with the argument types that roles and replays use.

The parts can run in processes of their own (`python -m freshet.exercise PARENT deep`), which end with
their parent. They cache the machine code on disk; the process that waits for them loads it in `everything`.
"""

import sys
from typing import get_args

import numpy as np

from embeddings import Table, TableSpec
from embeddings.kernels.bags import pool_bags, unpool_bags, weigh_bags
from embeddings.spec import Optimizer
from error_memory import MemorySettings, make_memory
from error_memory.settings import Kind
from ground.rows import rows_from_keys
from ground.threads import end_with_parent
from learner.deep.dcn_predict import prediction_of
from learner.deep.dcn_train import DCNTrainer
from learner.deep.networks import InputLayout, make_network
from learner.features.encoder import Encoder, FeatureSpec, Request
from learner.features.labelled import Labelled
from learner.lessons import Lessons
from learner.model.explore import seeds_of, thompson
from learner.model.forgetting import forget, forget_in_memory
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.records.targets import UNDECLARED
from stream.records.types import Example, Forget

FEATURES = {
    "user": FeatureSpec(ttl_s=3600.0),
    "item": FeatureSpec(admit_after=2, ttl_s=3600.0),
    "tags": FeatureSpec(kind="ids"),
    "hour": FeatureSpec(kind="hour"),
    "price": FeatureSpec(kind="number"),
}

OTHER_FEATURES = {
    "user": FeatureSpec(optimizer="adam", rows_max=64, evict="least_recent"),
    "item": FeatureSpec(optimizer="ftrl", rows_max=64, evict="least_frequent"),
    "tags": FeatureSpec(kind="ids", optimizer="rowwise_adagrad", admit_after=2),
    "past": FeatureSpec(kind="sequence", of="item", length=2),
    "look": FeatureSpec(kind="vector", length=24),
}
"""Ways to keep and to train rows that the default config does not use."""

KNOWN_FEATURES = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "title": FeatureSpec(kind="text", of="item"),
    "seen": FeatureSpec(kind="history", by="user", of="item", length=2),
    "lately": FeatureSpec(kind="rate", of="item", window_s=3600.0),
}
"""What Freshet keeps by itself, and words."""

ALL_KINDS: tuple[Kind, ...] = ("residual", "sketch", "neighbours")
"""The default config uses the first."""

_ALONE = Request(1e9, {"user": "u1"}, [{"item": 1, "price": 1.5}, {"item": 2, "price": 2.5}])


def deep() -> None:
    """The default network: train on a group, and predict."""
    network = make_network("dcn", InputLayout(embeddings=(8, 8), width=24))
    flat = network.initial_weights(0)
    moments = np.zeros((2, network.weight_count), dtype=np.float32)
    inputs = np.ones((16, 24), dtype=np.float32)
    offset, y = np.zeros(16), np.tile([0.0, 1.0], 8)
    DCNTrainer(network, flat, moments, 0, 1e-3, 10.0, 1).step(inputs, 16, offset, Lessons.plain(y))
    prediction_of(network, network.split(flat))(inputs, offset)


def memory(kinds: tuple[Kind, ...] = ("residual",)) -> None:
    """Error memories: correct, explain, and learn from labels."""
    keys = np.arange(64, dtype=np.uint64).reshape(32, 2)
    rows = rows_from_keys(keys)
    requests = np.array([0, 16, 32], dtype=np.int64)
    y = np.tile([0.0, 1.0], 16)
    p = np.full(32, 0.3)
    for kind in kinds:
        held = make_memory(MemorySettings(kind=kind, capacity=64), 2)
        for position in (0, 100):
            held.set_priors(np.full(2, 0.1), np.ones(2))
            held.correct(rows, p)
            held.observe(rows, p, y, position, requests)
            held.explain(rows, p)
            held.advance(position - 1)


def model(deep: bool = False, kinds: tuple[Kind, ...] = (), seldom: bool = False) -> None:
    """A small replay: features, tables, the fast part, and the error memory.

    Args:
        deep: include the default network.
        kinds: the error memories to include.
        seldom: include exploring and forgetting.
    """
    settings = LearnerSettings(group=8, deep="dcn" if deep else "none")
    trainer = Trainer(Model(FEATURES, settings, learning=True))
    memories = [make_memory(MemorySettings(kind=k, capacity=64), trainer.model.memory_columns) for k in kinds]
    for hour in range(4):
        examples = _examples(hour)
        for learnt in trainer.learn(examples):
            position = hour * len(examples)
            for held in memories:
                held.set_priors(*trainer.model.memory_priors())
                held.correct(learnt.rows, learnt.p)
                held.observe(learnt.rows, learnt.p, learnt.y, position, learnt.requests)
                held.advance(position - 1)
    trainer.finish()
    trainer.model.score_requests(examples)
    short = Encoder({name: spec for name, spec in FEATURES.items() if spec.kind != "ids"}, 64)
    short.encode([_ALONE])  # one request without lists, its candidates alike, has an encoder of its own
    at = int(examples[-1].time)
    for table in trainer.model.tables:
        table.expire(at, 1000)
        touched, _ = table.drain_delta()
        rows, _ = table.export(touched)
        table.load(touched, rows)
        table.digest(at)
        table.page(0, 16)
        table.delete(touched[:1])
    for held in memories:
        held.explain(learnt.rows, learnt.p)
    if seldom:
        for held in memories:
            forget_in_memory(held, trainer.model, {"user": ["u1"]})
        thompson(trainer.model, examples[:1], 1)
        seeds_of(1, 3)
        forget(trainer.model, {"user": ["u1"]})


def others() -> None:
    """A small replay with other optimizers, with eviction, and with attention over a sequence."""
    trainer = Trainer(Model(OTHER_FEATURES, LearnerSettings(group=8, deep="dcn"), learning=True))
    for hour in range(8):
        trainer.learn(_examples(hour, new_items=16))
    trainer.finish()
    trainer.model.score_requests(_examples(7))
    for table in trainer.model.tables:
        keys, _ = table.items()
        table.forget(keys[:1])


def known() -> None:
    """A small replay with a history, a rate and texts, with the default network, and a score."""
    trainer = Trainer(Model(KNOWN_FEATURES, LearnerSettings(group=8), learning=True))
    for hour in range(4):
        trainer.learn(_examples(hour))
    trainer.finish()
    trainer.model.score_requests(_examples(4))


def shards() -> None:
    """A small replay by two shards, with rows on disk at their owners, and a request to forget."""
    # not at the top: `freshet demo` imports this file
    from learner.shards.owners import Owners
    from learner.shards.together import ShardedLearner, Together

    features = {**KNOWN_FEATURES, "tags": FeatureSpec(kind="ids", admit_after=2, evict="none", rows_max=64)}
    learner = ShardedLearner(Together(Owners(2), features, LearnerSettings(group=8)), 16)
    for hour in range(4):
        learner.learn_labelled(Labelled.of(learner.model.encoder, _examples(hour), UNDECLARED))
    learner.forget(Forget("forget", 1e9, {"user": ["u1"], "item": [1]}))
    learner.digest()


def resting() -> None:
    """A small replay with rows on disk, and a score."""
    features = {**FEATURES, "item": FeatureSpec(memory_rows=8)}
    trainer = Trainer(Model(features, LearnerSettings(group=8, deep="none"), learning=True))
    trainer.model.resting.rest_apart()
    for hour in (0, 1, 0):
        trainer.model.resting.relieve(8)
        trainer.learn(_examples(hour, new_items=16))
    trainer.finish()
    trainer.model.resting.close()


def tables() -> None:
    """Tables by themselves, with each optimizer, and bags of their vectors."""
    keys = np.arange(48, dtype=np.uint64) % np.uint64(24)
    for optimizer in get_args(Optimizer):
        table = Table(TableSpec(name="alone", dim=8, optimizer=optimizer, ttl_s=3600))
        block = table.block(keys, 1_000_000_000)
        table.apply_block(block, table.spread(block))
        table.apply_gradients(block.slots, np.ones((len(block.slots), 8), dtype=np.float32))
        table.read(keys)
    start, number = np.array([0, 20, 48], dtype=np.int64), np.arange(48) % 24
    weights, out = np.ones(48, dtype=np.float32), np.zeros((2, 8), dtype=np.float32)
    vectors = np.ones((24, 8), dtype=np.float32)
    pool_bags(start, number, weights, vectors, 0, False, out)
    unpool_bags(start, number, weights, out, 0, False, vectors)
    weigh_bags(start, number, vectors, out, 0, weights)


def everything(all_kinds: bool = False) -> None:
    """Everything that the default config runs.

    Args:
        all_kinds: also what only other configs run: their error memories, optimizers, eviction, attention,
            exploring and forgetting.
    """
    model(deep=True, kinds=ALL_KINDS if all_kinds else ALL_KINDS[:1], seldom=all_kinds)
    if all_kinds:
        for part in SELDOM.values():
            part()


def _examples(hour: int, new_items: int = 0) -> list[Example]:
    """Requests of one hour, whose items are others than those of the hour before by `new_items`."""
    first = hour * new_items
    at = 1e9 + 3000.0 * hour
    return [
        Example(
            request_id=str(i),
            time=at,
            decided=at,
            context={"user": f"u{i % 3}", "past": [i % 5, i % 4], "look": [float(i)] * 24},
            candidates=[
                {"item": first + i % 5, "tags": ["a", "b"], "price": 1.5, "title": "some words"},
                {"item": first + i},
            ],
            labels=[1.0, 0.0],
        )
        for i in range(16)
    ]


BESIDE = {"deep": deep, "memory": memory}
"""Parts that run in other processes beside `model`, by name; together they take about as long as it does."""

SELDOM = {"others": others, "known": known, "shards": shards, "resting": resting, "tables": tables}
"""Parts that only other configs, shards, and tables without a model run."""

ALL_BESIDE = {**BESIDE, **SELDOM}
"""The same of everything. What `others` shares with the parts before it is compiled when it comes to it."""


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    for part in sys.argv[2:]:
        ALL_BESIDE[part]()
