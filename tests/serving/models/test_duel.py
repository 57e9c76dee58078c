"""Which model is better: honest when it is looked at often, and right when there is a difference."""

from collections.abc import Iterator

import numpy as np
import pytest
from duelled import duelled
from two_models import new_log

from serving.models.confidence import anytime
from serving.models.duel import REQUESTS_MIN, Duel, DuelWatch, better, paired_of
from stream.log.base import EXAMPLES, Outgoing
from stream.records.types import Example, encode


def duel_of(found: Iterator[Example]) -> Duel:
    duel = Duel("first", "other", "user")
    for example in found:
        duel.add(example)
    return duel


@pytest.mark.slow
def test_a_better_model_is_found_on_the_same_requests() -> None:
    status = duel_of(duelled(6000, other_sees=0.3)).status()
    assert status.requests == 6000 and status.logloss is not None
    assert better(status) == "better" and status.logloss_difference is not None
    assert status.logloss_difference[2] < 0.0 and status.logloss[1] < status.logloss[0]
    worse = duel_of(duelled(6000, other_sees=-0.4)).status()
    assert better(worse) == "worse"
    assert status.clicks_difference is not None and status.clicks_difference[1] < 0.0


@pytest.mark.slow
def test_clicks_count_against_a_lower_log_loss() -> None:
    status = duel_of(duelled(6000, other_sees=0.3, other_earns=-0.1)).status()
    assert status.clicks_difference is not None and status.clicks_difference[2] < 0.0
    assert better(status) == "mixed"


@pytest.mark.slow
def test_variance_is_that_of_people_not_of_requests() -> None:
    """Requests of one person that are all alike are one observation."""
    one = duel_of(duelled(2000)).status().clicks_difference
    alike = Duel("first", "other", "user")
    for example in duelled(2000):
        for _ in range(4):
            alike.add(example)
    four = alike.status().clicks_difference
    assert one is not None and four is not None and one[0] == pytest.approx(four[0])
    usual, repeated = one[2] - one[0], four[2] - four[0]
    assert repeated > 0.7 * usual  # and not half of it


@pytest.mark.slow
def test_an_interval_may_be_looked_at_any_time() -> None:
    """Of two equal models, in sixty looks at most one run in twenty finds a difference; a usual interval
    finds one in every fourth or so."""
    rng = np.random.default_rng(5)
    runs, people, per_look, looks = 150, 600, 100, 60
    wrong = usual_wrong = 0
    arm = np.arange(people) % 4 == 0
    for _ in range(runs):
        rate = rng.beta(1.0, 4.0, people)
        asked, clicks = np.zeros(people), np.zeros(people)
        found = usual = False
        for look in range(1, looks + 1):
            who = rng.integers(0, people, per_look)
            asked += np.bincount(who, minlength=people)
            clicks += np.bincount(who, rng.random(per_look) < rate[who], people)
            if look < 10:
                continue
            means = [clicks[mine].sum() / asked[mine].sum() for mine in (~arm, arm)]
            parts = [
                (clicks[m] - r * asked[m]) / asked[m].sum() for m, r in zip((~arm, arm), means, strict=True)
            ]
            variance = float(sum(part @ part for part in parts))
            found |= anytime(means[1] - means[0], variance, look * per_look, 4_000).decided
            usual |= abs(means[1] - means[0]) > 1.96 * variance**0.5
        wrong += found
        usual_wrong += usual
    assert wrong / runs <= 0.05 + 2.0 * (0.05 * 0.95 / runs) ** 0.5
    assert usual_wrong / runs > 0.12


def test_too_little_says_nothing() -> None:
    status = duel_of(duelled(REQUESTS_MIN - 1, other_sees=0.3)).status()
    assert status.logloss is not None and status.logloss_difference is None
    assert better(status) == "undecided" and status.clicks_difference is None
    shadow = duel_of(duelled(500, other_sees=0.3, share=0.0)).status()
    assert shadow.answered == (500, 0) and shadow.clicks is None and shadow.logloss_difference is not None


def test_thinned_negatives_shift_predictions_and_say_nothing_of_clicks() -> None:
    (example,) = duelled(1, log_odds=float(np.log(0.5)))
    paired = paired_of(example, "first", "other")
    assert paired is not None and paired.first[0] == pytest.approx(0.4)  # odds of 1/3 become 2/3
    status = duel_of(duelled(400, log_odds=-0.7)).status()
    assert status.clicks is None and status.logloss is not None


@pytest.mark.parametrize(
    "fields", [{"target": "buy"}, {"before": [0.0, 0.0]}], ids=["further target", "correction"]
)
def test_examples_of_something_else_are_left_out(fields: dict) -> None:
    (example,) = duelled(1, **fields)
    assert paired_of(example, "first", "other") is None
    (plain,) = duelled(1)
    assert paired_of(plain, "first", "third") is None


def test_watch_compares_what_comes_from_now_on() -> None:
    log = new_log()
    records = [Outgoing(b"", encode(example), 0) for example in duelled(600, other_sees=0.3)]
    log.append(EXAMPLES, records[:100])
    watch = DuelWatch(log, "user")
    watch.begin("first", ["other"])
    watch.look()
    assert watch.statuses()["other"].requests == 0
    log.append(EXAMPLES, [*records[100:], Outgoing(b"", b"no example", 0)])
    watch.look()
    assert watch.statuses()["other"].requests == 500
