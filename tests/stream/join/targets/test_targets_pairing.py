"""Several targets of a request: each is decided in its own time, once, whatever comes in which order."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st
from joining import RestartableJoiner
from reference import Reference, Taught

from stream.errors import StateError
from stream.join.joiner import joiner_fingerprint
from stream.join.settings import JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.decoding import Decoder
from stream.records.targets import Target, Targets
from stream.records.types import (
    Action,
    DeadLetter,
    Example,
    Exposure,
    Forget,
    Impression,
    Served,
    ServedTarget,
    encode,
)
from stream.state.role_state import RoleState

T = 1_700_000_000.0
DAY = 86_400.0
SHOP = Targets(
    {
        "click": Target(window_s=60.0),
        "buy": Target(of="click", actions=("buy", "order"), observe_s=1800.0, window_s=7 * DAY),
        "minutes": Target(kind="value", of="click", scale="log1p", window_s=3600.0),
    }
)
MANY = Targets(
    {
        "click": Target(observe_s=60.0, window_s=90.0),
        "refund": Target(of="buy", observe_s=130.0, window_s=220.0),
        "like": Target(observe_s=30.0, window_s=100.0),
        "buy": Target(of="click", observe_s=100.0, window_s=200.0),
        "minutes": Target(kind="value", of="click", window_s=120.0),
    }
)


class Joined(RestartableJoiner):
    """A joiner of several targets on a log in memory."""

    def __init__(self, folder: Path, targets: Targets = SHOP, **options: Any) -> None:
        super().__init__(MemoryLog(), folder, JoinSettings(**options), targets=targets)

    def send(self, *said: Impression | Action | Exposure | Forget) -> None:
        self.log.append(EVENTS, [Outgoing(b"k", encode(event)) for event in said])
        self.take_all()

    def examples(self, target: str | None = None) -> list[Example]:
        decode = Decoder(Example, Forget, targets=self.targets).decode
        found = [decode(record.value) for record in self.log.read(EXAMPLES, 0, 0)]
        return [e for e in found if isinstance(e, Example) and e.target == (target or e.target)]

    def taught(self) -> list[Taught]:
        """What was emitted, with the numbers of candidates, which their feature `item` is."""
        return [
            Taught(
                e.request_id,
                e.target or self.targets.primary,
                tuple((int(c["item"]), y) for c, y in zip(e.candidates, e.labels, strict=True)),  # type: ignore[arg-type]
                e.before[0] if e.before else None,
            )
            for e in self.examples()
        ]

    def letters(self) -> list[str]:
        records = self.log.read(DEAD_LETTERS, 0, 0)
        return [msgspec.msgpack.decode(record.value, type=DeadLetter).reason for record in records]


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[Joined]:
    made = Joined(tmp_path)
    yield made
    made.state.close()


def asked(name: str = "r", at: float = 0.0, n: int = 4, **more: Any) -> Impression:
    return Impression(name, T + at, [{"item": i} for i in range(n)], {"user": "ann"}, **more)


def act(what: str, candidate: int, at: float, label: float = 1.0, value: float | None = None) -> Action:
    return Action("r", T + at, candidate, label, what, value=value)


def clock(at: float) -> Impression:
    return asked(f"clock {at}", at, 1)


def test_each_target_is_decided_in_its_own_time(joined: Joined) -> None:
    also = {"minutes": ServedTarget([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 4.5])}
    served = Served([0.5] * 4, [0.4] * 4, "m", also)
    joined.send(asked(served=served, weight=[1.0, 2.0, 3.0, 4.0]), act("click", 2, 5.0), act("click", 1, 6.0))
    joined.send(act("minutes", 2, 20.0, value=3.5), clock(61.0))
    (click,) = joined.examples()
    assert (click.labels, click.target, click.weight) == ([0, 1, 1, 0], "", [1.0, 2.0, 3.0, 4.0])
    joined.send(act("order", 1, 700.0), clock(1801.0))
    (buy,) = joined.examples("buy")
    assert (buy.candidates, buy.labels, buy.weight) == ([{"item": 1}, {"item": 2}], [1, 0], [2.0, 3.0])
    assert (buy.context, buy.served, buy.decided) == ({"user": "ann"}, None, T + 1800.0)
    joined.send(clock(3601.0))
    (minutes,) = joined.examples("minutes")
    assert (minutes.candidates, minutes.labels) == ([{"item": 1}, {"item": 2}], [0.0, 3.5])
    assert minutes.served == Served([2.0, 3.0], [2.5, 3.5], "m")
    joined.send(act("buy", 2, 6 * DAY))
    assert joined.examples("buy")[1:] == [
        msgspec.structs.replace(
            buy,
            decided=T + 6 * DAY,
            candidates=[{"item": 2}],
            labels=[1],
            weight=[3.0],
            late=True,
            before=[0],
        )
    ]
    joined.send(act("buy", 1, 6 * DAY + 5, label=0.0))
    assert [(e.labels, e.before) for e in joined.examples("buy")[2:]] == [([0.0], [1.0])]
    joined.send(act("buy", 1, 7 * DAY + 5), act("buy", 3, 7 * DAY + 6))
    assert len(joined.examples("buy")) == 3 and joined.joiner.counts.late == 2
    assert joined.joiner.counts.corrections == 2 and not joined.letters()


@pytest.mark.slow
def test_what_waits_for_days_is_small_counted_and_bounded(tmp_path: Path) -> None:
    joined = Joined(tmp_path, waiting_bytes_max=30_000)
    long = "x" * 100
    for i in range(300):
        name = f"r{i}"
        joined.send(
            Impression(name, T + i, [{"item": c, "text": long} for c in range(50)], {"user": i}),
            Action(name, T + i + 1, i % 50),
        )
    joined.send(clock(400.0))
    progress = joined.joiner
    assert 20_000 < progress.waiting_bytes <= 30_000
    assert progress.waiting_bytes / progress.waiting < 300  # of 50 candidates, one
    assert progress.counts.early == 300 - progress.waiting  # the others were decided, not lost
    assert len(joined.examples("buy")) == progress.counts.early
    joined.send(clock(8 * DAY))
    assert len(joined.examples("buy")) == len(joined.examples("minutes")) == 300
    assert joined.joiner.waiting_bytes == joined.joiner.waiting == 0
    joined.state.close()


def test_purchase_before_its_click_waits_and_without_one_implies_it(joined: Joined) -> None:
    joined.send(asked(), act("buy", 1, 3.0), act("buy", 2, 4.0), act("click", 1, 2.0), clock(2000.0))
    assert [t[1:3] for t in joined.taught() if t.request == "r"] == [
        ("click", ((0, 0.0), (1, 1.0), (2, 1.0), (3, 0.0))),
        ("buy", ((1, 1.0), (2, 1.0))),
    ]
    assert joined.joiner.counts.implied == 1


def test_purchase_without_its_click_after_that_was_decided_is_late(joined: Joined) -> None:
    joined.send(asked(), act("click", 0, 5.0), clock(61.0), act("buy", 1, 70.0), clock(8 * DAY))
    assert [t[1:3] for t in joined.taught() if t.request == "r" and t.target == "buy"] == [
        ("buy", ((0, 0.0),))
    ]
    assert joined.joiner.counts.late == 1


def test_purchase_without_its_impression_is_a_dead_letter(joined: Joined) -> None:
    joined.send(act("buy", 1, 0.0), clock(61.0))
    assert len(joined.letters()) == 1 and "action without impression" in joined.letters()[0]


def test_click_taken_back_after_the_purchase(joined: Joined) -> None:
    joined.send(asked(), act("click", 1, 2.0), act("buy", 1, 3.0), act("click", 1, 4.0, label=0.0))
    joined.send(clock(2000.0))  # nobody clicked, so there is nothing among which to buy
    assert [t[1:3] for t in joined.taught() if t.request == "r"] == [
        ("click", tuple((c, 0.0) for c in range(4)))
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (act("like", 1, 5.0), "'like' is of no target; known actions: click, buy, order, minutes"),
        (act("minutes", 1, 5.0, value=-2.0), "value is -2.0; expected a finite number"),
        (act("minutes", 1, 5.0, value=float("inf")), "value is inf; expected a finite number"),
        (act("minutes", 1, 5.0), "there is no value for minutes"),
        (act("buy", 1, 5.0, value=9.5), "value is 9.5 for buy, which happens or not"),
        (act("buy", 4, 5.0), "candidate 4 of a request of 4 candidates"),
        (asked("s", weight=[1.0]), "weight has 1 entries for 4 candidates"),
        (asked("s", weight=-1.0), "weight has -1.0"),
        (
            asked("s", labels=[0.0] * 4, outcomes={"like": [0.0] * 4}),
            "no further target; known: buy, minutes",
        ),
    ],
)
def test_event_that_fits_no_target_is_a_dead_letter(
    joined: Joined, said: Impression | Action, why: str
) -> None:
    joined.send(asked(), said, act("click", 0, 6.0), clock(70.0))
    assert len(joined.letters()) == 1 and why in joined.letters()[0]
    assert joined.examples()[0].labels == [1, 0, 0, 0]


def test_labels_and_outcomes_that_are_known_do_not_wait(joined: Joined) -> None:
    outcomes = {"buy": [None, 1.0, None, 0.0]}
    joined.send(asked(labels=[0.0, 1.0, 0.0, 1.0], outcomes=outcomes), act("minutes", 1, 5.0, value=2.0))
    assert [t[1:3] for t in joined.taught()] == [
        ("click", ((0, 0.0), (1, 1.0), (2, 0.0), (3, 1.0))),
        ("buy", ((1, 1.0), (3, 0.0))),
    ]


def test_unshown_candidates_are_in_no_sample_and_only_what_was_kept_is_corrected(tmp_path: Path) -> None:
    joined = Joined(tmp_path, MANY, negative_rate=0.5, seed=3)
    joined.send(asked(n=40, shown=list(range(20))), act("click", 3, 5.0), act("buy", 25, 6.0), clock(61.0))
    (click,) = joined.examples("")[1:2] if joined.examples("")[0].target else joined.examples("")[:1]
    learned = {int(c["item"]) for c in click.candidates}  # type: ignore[arg-type]
    assert {3, 25} <= learned < {*range(20), 25} and click.log_odds < 0.0  # a purchase was shown too
    kept, left_out = min(learned - {3, 25}), min(set(range(20)) - learned)
    joined.send(act("click", kept, 70.0), act("click", left_out, 71.0))
    late = [e for e in joined.examples() if e.late and not e.target]
    assert [(e.candidates[0]["item"], e.before) for e in late] == [(kept, [0.0]), (left_out, None)]
    joined.state.close()


def test_ids_are_forgotten_wherever_they_wait(joined: Joined) -> None:
    joined.send(asked(), act("click", 1, 2.0), act("click", 2, 3.0), clock(61.0))
    joined.send(Forget("f", T + 62.0, {"item": [1]}))
    joined.send(act("buy", 1, 70.0), clock(1801.0))
    assert [e.candidates for e in joined.examples("buy")] == [[{"item": 2}]]
    joined.send(Forget("g", T + 1802.0, {"user": ["ann"]}), clock(8 * DAY))
    assert joined.joiner.waiting == 0 and not joined.examples("minutes")


def test_another_joiner_takes_over_what_waits(tmp_path: Path) -> None:
    first = Joined(tmp_path / "a", MANY)
    second = Joined(tmp_path / "b", MANY)
    second.log = first.log
    events = history(random.Random(5), 120)
    first.send(*events[:-20])
    point, begun = first.joiner.resume_point(0), len(events) - 20
    assert point is not None and 0 < point.offset < begun
    second.joiner.begin_at(0, point)
    second.joiner.send_from(0, begun)
    second.restart()
    second.joiner.send_from(0, begun)
    first.send(*events[-20:])
    theirs = [(r.producer, r.seq, r.value) for r in first.log.read(EXAMPLES, 0, 0)]
    second.take_all()  # sends once more what the first has sent
    both = [(r.producer, r.seq, r.value) for r in first.log.read(EXAMPLES, 0, 0)]
    mine = both[len(theirs) :]
    assert len(set(theirs)) == len(theirs) == len({(producer, seq) for producer, seq, _ in theirs})
    assert len(mine) > 10 and mine == theirs[-len(mine) :]
    second.state.close()
    first.state.close()


def history(rng: random.Random, n: int) -> list[Impression | Action]:
    """Requests and what is done with them, now and then out of order, twice, or never shown."""
    events: list[tuple[float, Impression | Action]] = []
    at = 0.0
    for i in range(n):
        at += rng.choice([1.0, 10.0, 40.0])
        name = f"r{i}"
        if rng.random() < 0.95:
            events.append((at + rng.choice([0.0, 0.0, 50.0]), asked(name, at, 3)))
        for _ in range(rng.choice([0, 1, 2, 5])):
            what = rng.choice(["click", "click", "buy", "minutes", "like", "refund"])
            value = rng.choice([0.0, 1.0, 2.5]) if what == "minutes" else None
            when = at + rng.choice([1.0, 20.0, 59.0, 75.0, 95.0, 110.0, 150.0, 210.0, 300.0]) + rng.random()
            action = Action(
                name, T + when, rng.randrange(3), rng.choice([1.0, 1.0, 1.0, 0.0]), what, value=value
            )
            events += [(when + rng.choice([0.0, 0.0, 0.0, 30.0]), action)] * rng.choice([1, 1, 2])
    events.sort(key=lambda pair: pair[0])
    return [event for _, event in events] + [clock(at + 2000.0)]


@pytest.mark.slow
@given(seed=st.integers(0, 1 << 32), learn=st.booleans(), first_action=st.booleans())
@settings(deadline=None, max_examples=many(12))
def test_any_history_teaches_what_the_rules_say_in_any_cut(
    tmp_path_factory: pytest.TempPathFactory, seed: int, learn: bool, first_action: bool
) -> None:
    rng = random.Random(seed)
    events = history(rng, 12)
    late, decide = "learn" if learn else "drop", "first_action" if first_action else "window"
    joined = Joined(tmp_path_factory.mktemp("j"), MANY, late=late, decide=decide, pending_max_memory=2)
    reference = Reference(MANY, learn, first_action)
    expected = [taught for event in events for taught in reference.take(event)]
    while events:
        size = rng.choice([1, 3, 10])
        joined.send(*events[:size])
        del events[:size]
        if rng.random() < 0.3:
            joined.restart()
    found = joined.taught()
    joined.state.close()
    for name in {taught.request for taught in (*expected, *found)}:
        for target in MANY:
            one = [t for t in found if (t.request, t.target) == (name, target)]
            assert one == [t for t in expected if (t.request, t.target) == (name, target)]


def test_state_is_opened_again_and_refused_with_other_targets(tmp_path: Path) -> None:
    mine = joiner_fingerprint(1, SHOP, JoinSettings())
    for _ in range(2):
        RoleState(tmp_path, "joiner", mine, sync=False).close()
    others = joiner_fingerprint(1, MANY, JoinSettings())
    with pytest.raises(StateError, match=r"was made with targets = .*put targets back, or"):
        RoleState(tmp_path, "joiner", others, sync=False)


def test_what_was_learned_as_shown_is_corrected_and_a_late_click_shows_itself_only(tmp_path: Path) -> None:
    joined = Joined(tmp_path, MANY, late="learn")
    joined.send(asked(n=6), Exposure("r", T + 1.0, examined=1), act("click", 1, 2.0), clock(61.0))
    joined.restart()
    joined.send(act("click", 5, 70.0), act("click", 3, 71.0), act("click", 5, 72.0, label=0.0))
    joined.restart()
    joined.send(act("click", 1, 74.0, label=0.0), Exposure("r", T + 1.0, examined=1))
    late = [
        (e.candidates[0]["item"], e.labels, e.before) for e in joined.examples() if e.late and not e.target
    ]
    assert late == [
        (5, [1.0], None), (3, [1.0], None), (5, [0.0], [1.0]), (1, [0.0], [1.0])
    ]  # fmt: skip
    assert joined.joiner.counts.duplicate_exposures == 1
    joined.state.close()


def test_exposure_after_the_first_decision_changes_no_later_target(tmp_path: Path) -> None:
    joined = Joined(tmp_path, MANY)
    joined.send(asked(shown=[1, 2]), act("click", 1, 5.0), clock(31.0))
    joined.send(Exposure("r", T + 32.0, shown=[3]), clock(61.0))
    assert [one for one in joined.taught() if one[0] == "r"] == [
        ("r", "like", ((1, 0.0), (2, 0.0)), None), ("r", "click", ((1, 1.0), (2, 0.0)), None)
    ]  # fmt: skip
    assert joined.joiner.counts.late_exposures == 1
    joined.state.close()
