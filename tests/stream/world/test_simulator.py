"""The simulated world: reproducible, honest about its truth, learnable, and changing."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pytest

from stream.records.decoding import Decoder, check
from stream.records.types import Action, Example, Features, Impression, encode
from stream.world.simulator import World, WorldError, WorldSettings

Floats = npt.NDArray[np.float64]


def auc(scores: Floats, labels: Floats) -> float:
    """The exact area under the curve, ties counted half."""
    _, at, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[at]
    positives = labels.sum()
    return float(
        (ranks[labels > 0].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))
    )


class Linear:
    """Adagrad logistic regression on user, item, category and user × category; whole requests, in order."""

    def __init__(self) -> None:
        self.weights: dict[tuple[object, ...], float] = defaultdict(float)
        self.squares: dict[tuple[object, ...], float] = defaultdict(lambda: 1.0)

    @staticmethod
    def keys(context: Features, features: Features) -> list[tuple[object, ...]]:
        user, category = context["user"], features["category"]
        return [("bias",), ("user", user), ("item", features["item"]), (category,), (user, category)]

    def predict(self, example: Example) -> list[float]:
        return [
            sum(self.weights.get(key, 0.0) for key in self.keys(example.context, features))
            for features in example.candidates
        ]

    def learn(self, example: Example, logits: Iterable[float]) -> None:
        for features, label, logit in zip(example.candidates, example.labels, logits, strict=True):
            error = 1.0 / (1.0 + math.exp(-logit)) - label
            for key in self.keys(example.context, features):
                self.squares[key] += error * error
                self.weights[key] -= 0.25 * error / math.sqrt(self.squares[key])


def run(world: World, requests: int, model: Linear) -> tuple[float, float]:
    """(the model's AUC, the truth's AUC) over the next requests, each predicted before it is learnt."""
    truths, scores, labels = [], [], []
    for example in world.examples(requests):
        logits = model.predict(example)
        scores += logits
        labels += example.labels
        truths += world.truth(impression_of(example)).tolist()
        model.learn(example, logits)
    return auc(np.array(scores), np.array(labels)), auc(np.array(truths), np.array(labels))


def impression_of(example: Example) -> Impression:
    return Impression(example.request_id, example.time, example.candidates, example.context)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_truth_auc_is_in_the_range_of_real_click_streams(seed: int) -> None:
    world = World(WorldSettings(seed=seed))
    truths, labels = [], []
    for example in world.examples(4_000):
        truths += world.truth(impression_of(example)).tolist()
        labels += example.labels
    found = auc(np.array(truths), np.array(labels))
    print(f"seed {seed}: AUC of the truth {found:.4f}, click rate {np.mean(labels):.4f}")
    assert 0.75 <= found <= 0.85
    # Calibrated: the truth's mean is the labels' mean, within 4 standard errors.
    assert abs(np.mean(truths) - np.mean(labels)) < 4 * math.sqrt(0.1 / len(labels))
    assert 0.08 < np.mean(labels) < 0.13


@pytest.mark.slow
def test_linear_model_comes_near_the_truth_and_frozen_one_loses_at_a_shift() -> None:
    world = World(WorldSettings(seed=1, shift_every_s=200.0))  # a shift after about 10,000 requests
    live, frozen = Linear(), Linear()
    run(world, 4_000, live)
    found, best = run(world, 4_000, live)
    assert found > best - 0.06
    frozen.weights.update(live.weights)
    run(world, 4_000, live)
    assert world.shifts == 1
    again = [(frozen.predict(e), live.predict(e), e) for e in learning(world, live, 4_000)]
    labels = np.array([label for _, _, e in again for label in e.labels])
    old = auc(np.array([z for logits, _, _ in again for z in logits]), labels)
    assert len(labels) == 40_000
    # `learning` predicts before it learns, so the comparison is fair to the frozen one.
    new = auc(np.array([z for _, logits, _ in again for z in logits]), labels)
    assert new > old + 0.03


def learning(world: World, model: Linear, requests: int) -> Iterable[Example]:
    """The next examples; each is learnt only after whoever iterates is done with it."""
    for example in world.examples(requests):
        yield example
        model.learn(example, model.predict(example))


@pytest.mark.slow
def test_same_seed_gives_the_same_stream_and_another_seed_another() -> None:
    def stream(seed: int) -> bytes:
        settings = WorldSettings(seed=seed, shift_every_s=5.0, noise_features=2)
        return b"".join(encode(event) for event in World(settings).events(1_500))

    assert stream(3) == stream(3)
    assert stream(3) != stream(4)


def test_reactions_do_not_depend_on_when_they_are_asked_for() -> None:
    at_once, later = World(WorldSettings(seed=5)), World(WorldSettings(seed=5))
    first = [at_once.react(at_once.request()) for _ in range(300)]
    impressions = [later.request() for _ in range(300)]
    assert [later.react(impression) for impression in reversed(impressions)][::-1] == first


def test_events_are_in_time_order_valid_and_complete() -> None:
    world = World(WorldSettings(seed=2, noise_features=1))
    events = list(world.events(600))
    times = [event.time for event in events]
    assert times == sorted(times)
    shown = {e.request_id: e for e in events if isinstance(e, Impression)}
    assert len(shown) == 600
    decoder = Decoder[Impression | Action](Impression, Action)
    for event in events:
        assert decoder.decode(encode(event)) == event
    clicks = [e for e in events if isinstance(e, Action)]
    assert clicks
    delays = [click.time - shown[click.request_id].time for click in clicks]
    assert min(delays) >= 0.0
    assert 15.0 < np.mean(delays) < 25.0


def test_slates_hold_distinct_items_even_when_nearly_all_are_shown() -> None:
    for items in (10, 11, 30):
        world = World(WorldSettings(seed=1, items=items, users=3, slate=10))
        for example in world.examples(300):
            check(example)
            assert len({features["item"] for features in example.candidates}) == 10


def test_new_items_arrive_and_are_shown() -> None:
    world = World(WorldSettings(seed=1, new_items_per_h=3_600.0))
    items = [features["item"] for example in world.examples(3_000) for features in example.candidates]
    arrived = [item for item in items if isinstance(item, int) and item >= 500]
    assert len(arrived) > 0.05 * len(items)
    ages = {features["age"] for example in world.examples(100) for features in example.candidates}
    assert {"new", "minutes"} <= ages


def test_no_shift_and_no_change_when_so_configured() -> None:
    still = WorldSettings(seed=1, shift_every_s=0.0, drift_slow=0.0, new_items_per_h=0.0, requests_per_s=1.0)
    world = World(still)
    items = {features["item"] for example in world.examples(1_000) for features in example.candidates}
    assert world.shifts == 0
    assert max(item for item in items if isinstance(item, int)) < still.items


@pytest.mark.slow
def test_shifts_follow_the_clock_whatever_the_pace() -> None:
    fast = World(WorldSettings(seed=1, shift_every_s=60.0, requests_per_s=50.0))
    slow = World(WorldSettings(seed=1, shift_every_s=60.0, requests_per_s=5.0))
    for world in (fast, slow):
        while world.time < world.settings.start_time + 200.0:
            world.request()
        assert world.shifts == 3


def test_lower_places_are_clicked_less_when_an_order_is_given() -> None:
    world = World(WorldSettings(seed=1, click_rate=0.3))
    order = list(range(10))[::-1]
    plain, placed = np.zeros(10), np.zeros(10)
    for _ in range(2_000):
        impression = world.request()
        seen = {action.candidate for action in world.react(impression)}
        laid_out = {action.candidate for action in world.react(impression, order)}
        assert laid_out <= seen
        plain[list(seen)] += 1
        placed[list(laid_out)] += 1
    assert placed[9] == plain[9]  # at the top
    assert placed[0] < 0.5 * plain[0]  # at the bottom


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: WorldSettings(slate=20, items=10), "slate is 20; expected 1 to 10"),
        (lambda: WorldSettings(click_rate=0.0), "click_rate is 0"),
        (lambda: WorldSettings(label_delay_s=math.nan), "label_delay_s is nan"),
        (lambda: World().truth(Impression("r", 1e9, [{}])), "not of this world"),
        (lambda: _react_in_order([0, 0]), "some of 0 to 9, each once"),
    ],
)
def test_wrong_settings_and_requests_are_told(act: Callable[[], object], words: str) -> None:
    with pytest.raises(WorldError, match=words):
        act()


def _react_in_order(order: list[int]) -> None:
    world = World()
    world.react(world.request(), order)


def test_recurring_shifts_come_back_to_the_same_tastes() -> None:
    truths = []
    for shifts in range(4):
        world = World(WorldSettings(seed=1, recurring=2, drift_slow=0.0, shift_every_s=0.0))
        for _ in range(shifts):
            world.shift()
        truths.append(world.truth(world.request()))
    # The bias that keeps the click rate is found anew at each shift, from a sample.
    logits = [np.log(truth / (1.0 - truth)) for truth in truths]
    assert np.ptp(logits[0] - logits[2]) < 1e-9 and np.ptp(logits[1] - logits[3]) < 1e-9
    assert np.ptp(logits[0] - logits[1]) > 0.1


def test_people_come_and_go_when_so_configured() -> None:
    world = World(WorldSettings(seed=1, new_users_per_h=20_000.0))
    users = [example.context["user"] for example in world.examples(3_000)]
    assert sum(isinstance(user, int) and user >= 2_000 for user in users) > 0.05 * len(users)


def test_burst_replaces_its_share_of_the_catalogue_at_once() -> None:
    world = World(WorldSettings(seed=1, new_items_per_h=0.0, burst_every_s=20.0, burst_share=0.4))
    before, after = set(), set()
    for example in world.examples(2_000):
        at = before if example.time < 1_700_000_019.0 else after
        at.update(features["item"] for features in example.candidates)
    assert max(before) < 500
    assert 100 < sum(item >= 500 for item in after) <= 600


def test_spike_shows_a_few_items_to_everybody_for_a_while() -> None:
    world = World(WorldSettings(seed=1, slate=1, new_items_per_h=0.0, spike_every_s=20.0, spike_s=20.0))
    calm: dict[object, int] = defaultdict(int)
    spike: dict[object, int] = defaultdict(int)
    for example in world.examples(1_500):
        into = example.time - 1_700_000_000.0
        for features in example.candidates:
            (calm if into < 20.0 else spike)[features["item"]] += 1
    share = sum(sorted(spike.values())[-5:]) / sum(spike.values())
    assert share > 2 * sum(sorted(calm.values())[-5:]) / sum(calm.values())


def test_attributes_move_the_truth_and_stay_with_their_item() -> None:
    world = World(WorldSettings(seed=1, attributes=3))
    seen: dict[object, tuple[object, ...]] = {}
    for example in world.examples(500):
        for features in example.candidates:
            values = tuple(features[f"attr{j}"] for j in range(3))
            assert seen.setdefault(features["item"], values) == values


def test_window_decides_later_and_loses_slow_clicks() -> None:
    at_once = list(World(WorldSettings(seed=1)).examples(2_000))
    waited = list(World(WorldSettings(seed=1)).examples(2_000, window_s=20.0))
    clicks = [sum(sum(example.labels) for example in examples) for examples in (at_once, waited)]
    assert clicks[1] == pytest.approx((1 - math.exp(-1)) * clicks[0], rel=0.1)  # delays of 20 s on average
    assert {round(example.decided - example.time, 3) for example in waited} == {20.0}


@pytest.mark.slow
def test_some_who_clicked_buy_later_and_all_watch_as_the_truth_says() -> None:
    settings = WorldSettings(seed=5, click_rate=0.3, buy_rate=0.2, buy_delay_s=900.0, minutes=3.0)
    world, plain = World(settings), World(WorldSettings(seed=5, click_rate=0.3))
    clicks = bought = expected = 0.0
    minutes, watched, delays = 0.0, 0.0, []
    for _ in range(400):
        impression = world.request()
        assert impression == plain.request()  # the same world otherwise
        done = world.react(impression)
        assert done == world.react(impression) and [a.time for a in done] == sorted(a.time for a in done)
        at = {a.candidate: a.time for a in done if a.name == "click"}
        assert sorted(at) == sorted(a.candidate for a in plain.react(impression))
        truth = world.truth_after(impression)
        for candidate in at:
            clicks += 1
            expected += truth["buy"][candidate]
            minutes += truth["minutes"][candidate]
        for action in done:
            assert action.candidate in at and action.time >= at[action.candidate]
            bought += action.name == "buy"
            watched += action.value or 0.0
            delays += [action.time - at[action.candidate]] if action.name == "buy" else []
    assert plain.truth_after(impression) == {}
    assert sum(1 for a in done if a.name == "minutes") == len(at)
    assert abs(bought / expected - 1.0) < 0.15 and abs(watched / minutes - 1.0) < 0.1
    assert abs(np.mean(delays) / 900.0 - 1.0) < 0.2 and 0.1 < bought / clicks < 0.5
