"""Turns of N shards: one shard is today's learner, the same cut gives the same bits, and little is lost."""

import msgspec
import numpy as np
import pytest
from turns import FEATURES, KEPT, SETTINGS, chunks_of, examples_of, learn, predicted

from learner.errors import ShardError
from learner.fast.spread import EXPECTED_SUM, LABEL_SUM, LABELS, SCORED
from learner.features.encoder import FeatureSpec
from learner.metrics import auc
from learner.model.forgetting import forget
from learner.model.model import Model
from learner.model.scales import CALIBRATION_KEEP
from learner.settings import LearnerSettings
from learner.shards.dense import DenseState, add_dense
from learner.shards.live.session import TurnMeter
from learner.shards.owners import Owners
from learner.shards.shard import Shard
from learner.shards.together import ShardedLearner, Together, check_turn, lockstep
from learner.train.trainer import Trainer
from stream.records.targets import UNDECLARED, Target, Targets
from stream.records.types import Forget

THREE = Targets({"click": Target(), "buy": Target(of="click"), "minutes": Target(kind="value", of="click")})


@pytest.mark.parametrize("features", [FEATURES, KEPT])
def test_one_shard_is_one_learner_bit_for_bit(features: dict[str, FeatureSpec]) -> None:
    examples = examples_of(480)
    trainer = Trainer(Model(features, SETTINGS, learning=True))
    alone = learn(trainer, chunks_of(examples, 100, features))
    crew = Together(Owners(1), features, SETTINGS)
    sharded = ShardedLearner(crew, 96)  # whole groups, as a learner has them
    assert np.array_equal(predicted(alone), predicted(learn(sharded, chunks_of(examples, 70, features))))
    for table, owned in zip(trainer.model.tables, crew.members[0].tables, strict=True):
        assert table.digest(0) == owned.table.digest(0)
    for name, array in trainer.model.arrays().items():
        assert np.array_equal(array, sharded.model.arrays()[name]), name
    assert np.array_equal(trainer.moments, sharded.trainer.moments)
    assert sharded.bytes_sent == 0 and sharded.skew == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shards", "targets", "features"),
    [(3, UNDECLARED, FEATURES), (2, THREE, FEATURES), (3, UNDECLARED, KEPT)],
)
def test_the_same_turns_give_the_same_bits_and_lose_little(
    shards: int, targets: Targets, features: dict[str, FeatureSpec]
) -> None:
    examples = examples_of(700, slate=2, targets=targets.declared)
    chunks = chunks_of(examples, 150, features, targets)
    first, again = (
        ShardedLearner(Together(Owners(shards), features, SETTINGS, targets), 64) for _ in range(2)
    )
    learnt = learn(first, chunks)
    other_cut = learn(again, chunks_of(examples, 57, features, targets))
    assert np.array_equal(predicted(learnt), predicted(other_cut))
    assert first.digest() == again.digest()
    # in the order in which the requests came
    y = np.array([label for example in examples for label in example.labels])
    assert np.array_equal(np.concatenate([one.y for one in learnt]), y)
    alone = learn(Trainer(Model(features, SETTINGS, targets, learning=True)), chunks)
    mine = np.concatenate([one.target for one in learnt]) == 0
    half = np.arange(mine.sum()) >= mine.sum() // 2
    of_one = auc(predicted(alone)[mine][half], y[mine][half])
    of_shards = auc(predicted(learnt)[mine][half], y[mine][half])
    assert of_one is not None and of_shards is not None and of_one > 0.6
    assert of_shards > of_one - 0.03


def test_what_is_expected_of_values_is_kept_as_long_as_by_one_learner() -> None:
    """The sums of labels and of expectations forget by the candidate, whichever shard has it."""
    model = Model(FEATURES, SETTINGS, THREE, learning=True)
    old, n, minutes = DenseState.of(model).copy(), 400, 2
    old.values[minutes, [LABELS, SCORED, LABEL_SUM, EXPECTED_SUM]] = 1e4, 1e4, 900.0, 900.0
    kept = CALIBRATION_KEEP**n
    news = [old.copy() for _ in range(2)]
    for new in news:  # each label is 0.3, and each expectation 0.6
        new.values[minutes, [LABELS, SCORED]] += n
        for column, each in ((LABEL_SUM, 0.3), (EXPECTED_SUM, 0.6)):
            new.values[minutes, column] = 900.0 * kept + each * (1.0 - kept) / (1.0 - CALIBRATION_KEEP)
    add_dense(model, old, news, [np.full(3, n)] * 2)
    found = DenseState.of(model).values[minutes]
    assert found[SCORED] == 1e4 + 2 * n
    for column, each in ((LABEL_SUM, 0.3), (EXPECTED_SUM, 0.6)):
        alone = 900.0 * kept**2 + each * (1.0 - kept**2) / (1.0 - CALIBRATION_KEEP)
        assert found[column] == pytest.approx(alone, rel=0.02)


@pytest.mark.slow
def test_owners_admit_expire_and_evict_and_every_row_has_one_owner() -> None:
    features = {
        "user": FeatureSpec(dim=4),
        "item": FeatureSpec(dim=4, admit_after=3),
        "tags": FeatureSpec(kind="ids", dim=4, ttl_s=2000.0),
        "price": FeatureSpec(kind="number", dim=4),
    }
    settings = msgspec.structs.replace(SETTINGS, pairs_rows_max=600)
    examples = examples_of(700)
    crew = Together(Owners(3), features, settings)
    sharded = ShardedLearner(crew, 100)
    learn(sharded, chunks_of(examples, 100, features))
    trainer = Trainer(Model(features, settings, learning=True))
    learn(trainer, chunks_of(examples, 100, features))
    for t, name in enumerate(sharded.model.table_names):
        tables = [shard.tables[t].table for shard in crew.members]
        for rank, table in enumerate(tables):
            keys, slots = table.items(int(sharded.trainer.clock))
            assert (sharded.owners.of(keys) == rank).all()
            if name != "pairs":
                alone = trainer.model.tables[t]
                assert (alone.find(keys) >= 0).all()
                assert np.array_equal(table.last_seen(slots), alone.last_seen(alone.find(keys)))
        rows = sum(len(table.items(int(sharded.trainer.clock))[0]) for table in tables)
        if name == "pairs":
            assert 300 < rows <= 600 and all(len(table) <= 250 for table in tables)
            assert sum(table.stats.evicted for table in tables) > 100
        else:
            assert rows == len(trainer.model.tables[t].items(int(trainer.clock))[0])


@pytest.mark.slow
@pytest.mark.parametrize("features", [FEATURES, KEPT])
def test_forgetting_reaches_every_owner(features: dict[str, FeatureSpec]) -> None:
    examples = examples_of(400)
    sharded = ShardedLearner(Together(Owners(3), features, SETTINGS), 64)
    for chunk in chunks_of(examples, 100, features):
        sharded.learn_labelled(chunk)
    request = Forget("f1", 1e9, {"user": ["u3"], "item": [4, 5]})
    finished = sharded.forget(request)
    assert [len(one.requests) - 1 for one in finished] == [400 % 64]
    model = Model(features, SETTINGS, learning=True)
    learn(Trainer(model), chunks_of(examples, 100, features))
    before = model.table_rows()
    forget(model, request.entity)
    assert sharded.table_rows() == model.table_rows() != before


def test_everything_that_learning_changes_is_added_up() -> None:
    model = Model({**FEATURES, **KEPT}, SETTINGS, THREE, learning=True)
    added = [*DenseState.of(model), model.deep_weights]
    for name, array in (model.arrays() | model.unpublished).items():
        assert any(array is one for one in added), name


@pytest.mark.slow
def test_a_user_who_is_half_of_all_requests_is_seen_in_the_report() -> None:
    examples = examples_of(200)
    skewed = [
        msgspec.structs.replace(example, context={"user": "u1"}) if i % 2 else example
        for i, example in enumerate(examples)
    ]
    reports = []
    for some in (examples, skewed):
        sharded = ShardedLearner(Together(Owners(4), FEATURES, SETTINGS), 100)
        learn(sharded, chunks_of(some, 100))
        reports.append(sharded.report()["busiest_over_fair_share"])
    assert reports[0] < 1.8 and 2.0 <= reports[1] <= 3.2


def shard(rank: int, shards: int = 2, settings: LearnerSettings = SETTINGS) -> Shard:
    return Shard(rank, Owners(shards), FEATURES, settings)


@pytest.mark.parametrize(
    ("others", "why"),
    [
        (lambda: [shard(0), shard(1, settings=LearnerSettings(group=8))], "hash of features and settings is"),
        (lambda: [shard(0), shard(0)], "the rank is 0 there and 1 here"),
        (lambda: [shard(0), shard(1, shards=3)], "the number of shards is 3 there and 2 here"),
    ],
)  # fmt: skip
def test_shards_that_do_not_fit_are_refused(others, why: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ShardError, match=why):
        lockstep([one.turn(None) for one in others()])


def test_a_shard_that_missed_a_turn_is_refused() -> None:
    two = [shard(0), shard(1)]
    lockstep([one.turn(None) for one in two])
    with pytest.raises(ShardError, match="the turn is 0 there and 1 here"):
        lockstep([one.turn(None) for one in (two[0], shard(1))])


@pytest.mark.parametrize("turn", [0, (1 << 20) + 1])
def test_a_turn_out_of_range_is_refused(turn: int) -> None:
    with pytest.raises(ShardError, match="a turn has 1 to 1,048,576 requests"):
        check_turn(turn)


def test_what_turns_cost_is_told_as_a_share_of_even_work() -> None:
    meter = TurnMeter()
    assert meter.values(4)["busiest_over_fair_share"] is None
    meter.turns, meter.turn_s, meter.bytes_sent, meter.requests, meter.busiest = 3, 1.23456, 900, 100, 50
    assert meter.values(4) == {
        "turns": 3, "turn_s": 1.235, "turn_bytes": 900, "busiest_over_fair_share": 2.0,
    }  # fmt: skip
