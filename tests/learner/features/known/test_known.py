"""Histories and rates against plain Python, however the stream is cut, and whoever filled the values in."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from ground.keys import key_of
from learner.errors import FeatureError
from learner.features.encoder import FeatureSpec, Request
from learner.features.known.given import as_signed
from learner.features.known.taken import Taken
from learner.features.known.windows import PARTS
from learner.model.forgetting import forget, widened
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.records.types import Example, Features, Value

START = 1_700_000_000.0
WINDOW_S = 800.0
SCHEMA = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "land": FeatureSpec(pairs=False),
    "past": FeatureSpec(kind="history", by="user", of="item", length=3),
    "ctr": FeatureSpec(kind="rate", of="item", window_s=WINDOW_S),
    "here": FeatureSpec(kind="rate", of=["item", "land"], window_s=WINDOW_S, measure="count"),
}


def stream(requests: int, seed: int = 0, late: float = 0.1) -> list[Example]:
    """Few ids, so that histories fill. Some requests come later than their time says, some at one time."""
    rng = np.random.default_rng(seed)
    found = []
    now = START
    for q in range(requests):
        now += float(rng.choice([0.0, 0.5, 7.25, 90.0], p=[0.2, 0.3, 0.4, 0.1]))
        time = now - float(rng.integers(2_000)) / 4.0 if rng.random() < late else now
        candidates: list[Features] = [
            {"item": int(i)} if i % 2 else {"item": f"item {i}"}
            for i in rng.integers(9, size=rng.integers(1, 4))
        ]
        labels = (rng.random(len(candidates)) < 0.5).astype(float).tolist()
        context: Features = {"land": "de"} if rng.random() < 0.8 else {}
        if rng.random() < 0.9:
            context["user"] = int(rng.integers(4))
        found.append(Example(str(q), time, now, candidates, labels, context))
    return found


class Shown(NamedTuple):
    time: float
    item: Value
    land: Value | None
    y: float


def same(item: Value, one: Shown) -> bool:
    return one.item == item


def same_here(item: Value, land: Value | None, one: Shown) -> bool:
    return one.item == item and one.land == land


def plainly(examples: Sequence[Example]) -> list[tuple[list[list[int | str]], list[float], list[float]]]:
    """By request: of each candidate its history, its rate, its count here; as a reader would write it."""
    past: dict[object, list[tuple[int, int | str]]] = defaultdict(list)
    events: list[Shown] = []
    part_s = WINDOW_S / PARTS
    found = []

    def window(now: float, keep: Callable[[Shown], bool]) -> tuple[int, float]:
        parts: dict[int, list[Shown]] = defaultdict(list)  # the newest part of each eighth
        for one in filter(keep, events):
            held = parts[int(one.time // part_s) % PARTS]
            if held and held[0].time // part_s > one.time // part_s:
                continue
            if held and held[0].time // part_s < one.time // part_s:
                held.clear()
            held.append(one)
        mine: list[Shown] = []
        for held in parts.values():
            begun = not any(one.time > now for one in held)
            if held and begun and held[0].time // part_s > now // part_s - PARTS:
                mine += [one for one in held if one.time < now]
        return len(mine), sum(one.y for one in mine)

    for e in examples:
        user, land = e.context.get("user"), e.context.get("land")
        mine = [item for time, item in past[user] if time < int(e.time)]
        count, total = window(e.time, lambda _: True)
        histories, rates, counts = [], [], []
        for c in e.candidates:
            item = c["item"]
            assert isinstance(item, int | str)
            n, s = window(e.time, partial(same, item))
            here, _ = window(e.time, partial(same_here, item, land))
            histories.append(list(mine) if user is not None else [])
            rates.append((s + 10.0 * total / count) / (n + 10.0) if count else 0.0)
            counts.append(float(here) if land is not None else np.nan)
        found.append((histories, rates, counts))
        for c, y in zip(e.candidates, e.labels, strict=True):
            if y and user is not None:
                ring = past[user]
                item = c["item"]
                assert isinstance(item, int | str)
                ring.append((int(e.time), item))
                ring.sort(key=lambda one: one[0])
                del ring[:-3]
            events.append(Shown(e.time, c["item"], land, y))
    return found


def taken(model: Model, example: Example) -> list[Taken]:
    assert model.filler is not None
    return model.filler.fill_and_tell(model.encoder.encode([example]))[1]


def trained(examples: Sequence[Example], size: int, schema: dict[str, FeatureSpec] = SCHEMA) -> Trainer:
    trainer = Trainer(Model(schema, LearnerSettings(deep="none", group=4), learning=True))
    for at in range(0, len(examples), size):
        trainer.learn(examples[at : at + size])
    return trainer


def state(trainer: Trainer) -> list[object]:
    model = trainer.model
    arrays = [array.tobytes() for _, array in sorted(model.arrays().items())]
    return [*(table.digest(0) for table in model.tables), *arrays]


@pytest.mark.slow
def test_known_values_are_those_of_plain_python() -> None:
    examples = stream(120)
    expected = plainly(examples)
    trainer = trained([], 1)
    for e, (histories, rates, counts) in zip(examples, expected, strict=True):
        ((context, own),) = taken(trainer.model, e)
        for r, candidate in enumerate(own):
            held = {**context, **candidate}
            assert held.get("past.keys", []) == [as_signed(key_of(item)) for item in histories[r]]
            assert held.get("ctr", np.nan) == pytest.approx(rates[r], nan_ok=True, rel=1e-5)
            assert held.get("here", np.nan) == pytest.approx(counts[r], nan_ok=True)
        trainer.learn([e])


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{}, {"ttl_s": 300.0}, {"rows_max": 64, "evict": "least_recent"}])
@pytest.mark.parametrize("slates", [True, False])
def test_how_the_stream_is_cut_changes_nothing(limits: dict[str, object], slates: bool) -> None:
    examples = stream(150 if slates else 300, seed=1)
    if "rows_max" in limits:  # the people come again soon after there was no room for them
        for i, e in enumerate(examples):
            e.context["user"] = 7 * i % (200 if slates else 66)
    if not slates:
        examples = [
            msgspec.structs.replace(e, candidates=e.candidates[:1], labels=e.labels[:1]) for e in examples
        ]
    schema = {
        name: msgspec.structs.replace(spec, **limits) if spec.kind in ("history", "rate") else spec
        for name, spec in SCHEMA.items()
    }
    states = [state(trained(examples, size, schema)) for size in (1, 7, 300)]
    assert states[0] == states[1] == states[2]


@pytest.mark.slow
def test_values_that_were_taken_give_the_state_of_those_that_are_known() -> None:
    """A learner of examples with what a server filled in, and one that fills them in itself: the same bits.
    A learner that has nothing of its own reads the same features from them."""
    learning, empty = (
        Trainer(Model(SCHEMA, LearnerSettings(), learning=True)),
        Model(SCHEMA, LearnerSettings()),
    )
    again = Trainer(Model(SCHEMA, LearnerSettings(), learning=True))
    for e in stream(120, seed=2):
        ((context, own),) = taken(learning.model, e)
        told = msgspec.structs.replace(
            e,
            context={**e.context, **context},
            candidates=[{**c, **mine} for c, mine in zip(e.candidates, own, strict=True)],
        )
        here = learning.model.filled(learning.model.encoder.encode([e]))
        there = empty.filled(empty.encoder.encode([told]))
        for one, other in zip(here.rows, there.rows, strict=True):
            assert isinstance(one, np.ndarray) and one.tobytes() == np.asarray(other).tobytes()
        assert np.array_equal(here.numbers, there.numbers)
        learning.learn([e])
        again.learn([told])
    assert state(learning) == state(again)


def test_forgetting_takes_ids_out_of_rows_and_out_of_the_histories_of_others() -> None:
    trainer = trained(stream(200, seed=3), 50)
    model = trainer.model

    def past(user: int) -> dict[str, list[int]]:
        asked = Example("r", START + 1e6, 0.0, [{"item": 1}], [0.0], {"user": user})
        held = taken(model, asked)[0].context
        return {name: msgspec.convert(held[name], list[int]) for name in ("past.keys", "past.at")}

    before = [past(user) for user in range(4)]
    gone = as_signed(key_of("item 4"))
    assert any(gone in held["past.keys"] for held in before)
    forget(model, widened(SCHEMA, {"user": [0], "item": ["item 4"]}))
    after = [past(user) for user in range(4)]
    assert after[0]["past.keys"] == []
    for old, new in zip(before[1:], after[1:], strict=True):
        left = [(k, t) for k, t in zip(old["past.keys"], old["past.at"], strict=True) if k != gone]
        assert list(zip(new["past.keys"], new["past.at"], strict=True)) == left


def test_a_correction_takes_back_what_was_pushed() -> None:
    trainer = trained([], 1)
    first = Example("a", START, START, [{"item": 1}, {"item": 2}], [1.0, 0.0], {"user": 1})
    trainer.learn([first, msgspec.structs.replace(first, labels=[0.0, 1.0], before=[1.0, 0.0])])
    ((context, own),) = taken(trainer.model, Example("b", START + 9, 0.0, [{"item": 1}], [0.0], {"user": 1}))
    assert context["past.keys"] == [2] and own == [{}]


@pytest.mark.slow
def test_a_person_with_very_many_events_has_one_row() -> None:
    schema = {"user": FeatureSpec(), "item": FeatureSpec(), "past": SCHEMA["past"]}
    examples = [
        Example(str(i), START + i, 0.0, [{"item": i}], [1.0], {"user": 1, "past": []}) for i in range(3_000)
    ]
    trainer = trained(examples, 500, schema)
    assert trainer.model.table_rows()["past.state"] == 1
    ((context, _),) = taken(trainer.model, Example("r", START + 1e6, 0.0, [{"item": 1}], [0.0], {"user": 1}))
    assert context["past.keys"] == [2997, 2998, 2999]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "history", "of": "item"}, "needs `by`"),
        ({"kind": "history", "by": "item", "of": "item"}, "two features"),
        ({"kind": "history", "by": "user", "of": "nothing"}, "`of` is 'nothing'"),
        ({"kind": "history", "by": "nobody", "of": "item"}, "`by` is 'nobody'"),
        ({"kind": "history", "by": "user", "of": "other"}, "no declared feature of kind id"),
        ({"kind": "history", "by": "user", "of": "item", "on": "buy"}, "target 'buy' is not declared"),
        ({"kind": "history", "by": "user", "of": "item", "length": 0}, "length must be"),
        ({"kind": "rate", "of": "item"}, "needs `of`"),
        ({"kind": "rate", "of": "item", "window_s": 0.0}, "window_s"),
        ({"kind": "rate", "of": "item", "window_s": -60.0}, "60 to"),
        ({"kind": "rate", "of": "item", "window_s": np.nan}, "60 to"),
        ({"kind": "rate", "of": "item", "window_s": np.inf}, "60 to"),
        ({"kind": "rate", "of": "item", "window_s": 60.0, "smooth": np.nan}, "smooth must be"),
        ({"kind": "rate", "of": "item", "window_s": 10 * 366 * 86_400.0}, "60 to"),
        ({"kind": "rate", "of": ["item", "item"], "window_s": 60.0}, "two different features"),
        ({"kind": "rate", "of": ["item", "user", "other"], "window_s": 60.0}, "two different features"),
        ({"kind": "rate", "of": "past", "window_s": 60.0}, "no declared feature of kind id"),
        ({"kind": "id", "window_s": 60.0}, "kind rate"),
    ],
)
def test_what_cannot_be_kept_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises((ValueError, FeatureError, msgspec.ValidationError), match=says):
        spec = msgspec.convert(settings, FeatureSpec)
        others = {"other": FeatureSpec(kind="history", by="user", of="item")}
        Model({"user": FeatureSpec(), "item": FeatureSpec(), **others, "past": spec}, LearnerSettings())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"past": 3}, "list of integers or strings"),
        ({"past": [1, 2], "past.at": [1]}, "1 times for 2 ids"),
        ({"past.keys": ["a"]}, "integers of 64 bits"),
        ({"ctr": "much"}, "a number of 32 bits"),
        ({"ctr": 1e300}, "a number of 32 bits"),
        ({"ctr": np.nan}, "a number of 32 bits"),
        ({"past": [1], "past.at": [np.nan]}, "integers of 64 bits"),
        ({"past": [1.5]}, "list of integers or strings"),
    ],
)
def test_a_given_value_of_another_kind_is_refused(value: Features, says: str) -> None:
    with pytest.raises(FeatureError, match=says):
        trained([Example("r", START, START, [{"item": 1}], [1.0], value)], 1)


def test_a_users_own_list_goes_before_what_is_kept() -> None:
    trainer = trained(stream(60), 60)
    encoder = trainer.model.encoder
    asked = Request(
        START + 1e6, {"user": 1, "past": [7, 5], "past.at": [1, int(START + 1e6) - 5]}, [{"item": 5}]
    )
    rows = trainer.model.filled(encoder.encode([asked])).rows
    mine = rows.column == encoder.column_of("past")
    assert rows.key[mine].tolist() == [5, 7, 5]
    assert rows.key[rows.column == encoder.column_of("past.seen")].tolist() == [1 + 2]  # 5 s ago
