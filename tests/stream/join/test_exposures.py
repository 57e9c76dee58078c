"""What was shown: only that becomes an example, whoever says so, in whatever order it arrives."""

import math
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st
from joining import RestartableJoiner

from stream.join.settings import JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.log.testing import MemoryLog
from stream.records.decoding import Decoder
from stream.records.types import (
    Action,
    DeadLetter,
    Example,
    Exposure,
    Forget,
    Impression,
    Served,
    encode,
    encode_json,
)

T = 1_700_000_000.0
WINDOW_S = 60.0

Said = Impression | Action | Exposure | Forget | bytes


class Joined(RestartableJoiner):
    """A joiner on a log in memory."""

    def __init__(self, folder: Path, **options: object) -> None:
        settings = JoinSettings(window_s=WINDOW_S, **options)  # type: ignore[arg-type]
        super().__init__(MemoryLog(), folder, settings)

    def send(self, *said: Said) -> None:
        self.log.append(EVENTS, [Outgoing(b"k", s if isinstance(s, bytes) else encode(s)) for s in said])
        self.take_all()

    def examples(self) -> list[Example]:
        decode = Decoder(Example, Forget).decode
        found = [decode(record.value) for record in self.log.read(EXAMPLES, 0, 0)]
        return [example for example in found if isinstance(example, Example)]

    def letters(self) -> list[str]:
        records = self.log.read(DEAD_LETTERS, 0, 0)
        return [msgspec.msgpack.decode(record.value, type=DeadLetter).reason for record in records]


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[Joined]:
    made = Joined(tmp_path)
    yield made
    made.state.close()


def asked(name: str = "r", at: float = 0.0, n: int = 6, **more: object) -> Impression:
    candidates = [{"item": i} for i in range(n)]
    return Impression(name, T + at, candidates, {"user": "ann"}, **more)  # type: ignore[arg-type]


def click(candidate: int, at: float = 5.0, name: str = "r", label: float = 1.0) -> Action:
    return Action(name, T + at, candidate, label)


def exposure(
    shown: list[int] | None = None, examined: int | None = None, at: float = 1.0, name: str = "r"
) -> Exposure:
    return Exposure(name, T + at, shown, examined)


END = asked("end", 1000.0)


def told(example: Example) -> list[tuple[object, float]]:
    return [(c["item"], label) for c, label in zip(example.candidates, example.labels, strict=True)]


def test_only_what_the_impression_says_was_shown_becomes_an_example(joined: Joined) -> None:
    served = Served([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    joined.send(asked(shown=[4, 1, 0], served=served), click(1), END)
    (example,) = joined.examples()
    assert told(example) == [(0, 0.0), (1, 1.0), (4, 0.0)]
    assert example.place == [2, 1, 0] and example.candidate_count == 6
    assert example.served == Served([0.1, 0.2, 0.5], [0.6, 0.5, 0.2])
    counts = joined.joiner.counts
    assert (counts.exposed, counts.unshown, counts.positives, counts.negatives) == (1, 3, 1, 2)
    # the log keeps all candidates
    kept = Decoder(Impression, Action).decode(joined.log.read(EVENTS, 0, 0)[0].value)
    assert len(kept.candidates) == 6


def test_exposure_overrides_the_impression_and_the_newest_counts(joined: Joined) -> None:
    joined.send(asked(shown=[0]), exposure([3, 2], at=9.0), exposure([5], at=2.0), click(2), END)
    (example,) = joined.examples()
    assert told(example) == [(2, 1.0), (3, 0.0)] and example.place == [1, 0]
    assert joined.joiner.counts.exposures == 1 and joined.joiner.counts.duplicate_exposures == 1


def test_cascade_is_learnt_as_far_as_it_was_examined(joined: Joined) -> None:
    joined.send(asked(shown=[4, 1, 0, 2]), exposure(examined=2), END)
    (example,) = joined.examples()
    assert told(example) == [(1, 0.0), (4, 0.0)] and example.place == [1, 0]


def test_click_below_what_was_examined_means_that_more_was(joined: Joined) -> None:
    joined.send(asked(shown=[4, 1, 0, 2]), exposure(examined=1), click(0), END)
    (example,) = joined.examples()
    assert told(example) == [(0, 1.0), (1, 0.0), (4, 0.0)]


def test_examined_without_shown_goes_by_place_then_by_what_was_answered(joined: Joined) -> None:
    served = Served([0.5] * 3, [0.1, 0.3, 0.2])
    joined.send(
        asked("a", n=3, place=[2, 0, 1]), exposure(examined=2, name="a"),
        asked("b", n=3, served=served), exposure(examined=1, name="b"),
        asked("c", n=3), exposure(examined=2, name="c"),
        END,
    )  # fmt: skip
    assert [[item for item, _ in told(e)] for e in joined.examples()] == [[1, 2], [1], [0, 1]]


def test_click_on_what_was_said_not_to_be_shown_counts_and_is_counted(joined: Joined) -> None:
    joined.send(asked(shown=[4, 1], place=[0, 1, 2, 3, 4, 5], propensity=[0.5] * 6), click(3), END)
    (example,) = joined.examples()
    assert told(example) == [(1, 0.0), (3, 1.0), (4, 0.0)] and example.place == [1, 2, 0]
    assert example.propensity is None  # this is not what was drawn
    assert joined.joiner.counts.shown_by_click == 1


def test_click_taken_back_shows_nothing(joined: Joined) -> None:
    joined.send(asked(shown=[4]), click(3, 5.0), click(3, 6.0, label=0.0), END)
    (example,) = joined.examples()
    assert told(example) == [(4, 0.0)] and joined.joiner.counts.shown_by_click == 0


def test_nothing_shown_is_no_example(joined: Joined) -> None:
    joined.send(asked("a", shown=[]), asked("b"), exposure(examined=0, name="b"), END)
    assert joined.examples() == [] and joined.letters() == []
    assert joined.joiner.counts.emptied == 2 and joined.joiner.counts.unshown == 12


def test_propensity_stays_with_the_order_that_was_drawn(joined: Joined) -> None:
    drawn: dict[str, object] = {"n": 3, "place": [2, 0, 1], "propensity": [0.2, 0.5, 0.4]}
    joined.send(asked("a", shown=[1, 2], **drawn), asked("b", shown=[1, 0], **drawn), END)  # type: ignore[arg-type]
    a, b = joined.examples()
    assert a.propensity == [0.5, 0.4] and a.place == [0, 1]
    assert b.propensity is None and b.place == [1, 0]


def test_exposure_before_its_impression_waits_for_it(joined: Joined) -> None:
    joined.send(exposure([2]), exposure([2]), asked(), END)
    (example,) = joined.examples()
    assert told(example) == [(2, 0.0)] and joined.joiner.counts.duplicate_exposures == 1


def test_exposure_without_impression_is_a_dead_letter(joined: Joined) -> None:
    joined.send(exposure([2], name="nobody"), END)
    (why,) = joined.letters()
    assert why.startswith("exposure without impression: none for request 'nobody' came in this partition")


def test_exposure_after_the_decision_changes_nothing_and_is_counted(joined: Joined) -> None:
    joined.send(asked(n=2), asked("s", n=2, shown=[0]), asked("next", 61.0), exposure([1]))
    joined.send(exposure([0], name="s"))  # known already
    assert [told(e) for e in joined.examples()] == [[(0, 0.0), (1, 0.0)], [(0, 0.0)]]
    counts = joined.joiner.counts
    assert (counts.exposures, counts.late_exposures, counts.duplicate_exposures) == (0, 1, 1)
    assert joined.letters() == []


@pytest.mark.parametrize("first", ["impression", "exposure"])
@pytest.mark.parametrize(
    ("said", "why"),
    [
        (exposure([1, 6]), "exposure with candidate 6 of a request of 6 candidates (0 to 5)"),
        (exposure(examined=7), "exposure with 7 places examined of a request of 6 candidates"),
    ],
)
def test_exposure_beyond_the_request_is_a_dead_letter(
    joined: Joined, said: Exposure, why: str, first: str
) -> None:
    joined.send(*((asked(), said) if first == "impression" else (said, asked())), END)
    (example,) = joined.examples()
    assert len(example.candidates) == 6 and joined.letters() == [why]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"type":"exposure","request_id":"r","time":1e9}', "neither shown nor examined"),
        ('{"type":"exposure","request_id":"r","time":1e9,"shown":[1,1]}', "shown holds candidate 1 twice"),
        ('{"type":"exposure","request_id":"r","time":1e9,"shown":[-1]}', "shown holds candidate -1"),
        ('{"type":"exposure","request_id":"r","time":1e9,"shown":[2000]}', "shown holds candidate 2000"),
        ('{"type":"exposure","request_id":"r","time":1e9,"shown":["a"]}', "Expected `int`, got `str`"),
        ('{"type":"exposure","request_id":"r","time":1e9,"examined":-1}', "examined is -1"),
        ('{"type":"exposure","request_id":"r","time":1e12,"examined":1}', "expected Unix seconds"),
        ('{"type":"exposure","request_id":"","time":1e9,"examined":1}', "1 to 128 characters"),
        ('{"type":"exposure","request_id":"r","time":1e9,"examined":1,"v":2}', "schema version 2"),
        (
            '{"type":"impression","request_id":"r","time":1e9,"candidates":[{}],"shown":[1]}',
            "holds candidate 1",
        ),
        (
            '{"type":"impression","request_id":"r","time":1e9,"candidates":[{}],"shown":[0,0]}',
            "candidate 0 twice",
        ),
        ('{"type":"impression","request_id":"r","time":1e9,"candidates":[{}],"shown":0}', "Expected `array"),
    ],
)
def test_impossible_exposure_is_a_dead_letter_that_says_why(joined: Joined, text: str, why: str) -> None:
    joined.send(text.encode(), END)
    (reason,) = joined.letters()
    assert why in reason


def test_json_says_the_same(joined: Joined) -> None:
    joined.send(encode_json(asked(shown=[1])), encode_json(exposure([2, 3], 1)), END)
    (example,) = joined.examples()
    assert told(example) == [(2, 0.0)]


def test_first_action_decides_among_what_is_known_to_be_shown(tmp_path: Path) -> None:
    j = Joined(tmp_path, decide="first_action")
    j.send(exposure([2, 0], name="late"), click(0, name="late"), asked("late"))
    j.send(asked(shown=[2, 0, 1]), exposure(examined=2), click(0))
    j.send(click(0, name="x"), exposure([2, 0], name="x"), asked("x"))  # the exposure goes first
    assert [told(e) for e in j.examples()] == [[(0, 1.0), (2, 0.0)]] * 3
    j.state.close()


def test_labelled_request_is_learnt_as_far_as_it_was_shown(joined: Joined) -> None:
    joined.send(asked(labels=[0.0, 1.0, 0.0, 0.0, 1.0, 0.0], shown=[5, 1]))
    (example,) = joined.examples()
    assert told(example) == [(1, 1.0), (4, 1.0), (5, 0.0)]  # a click always counts


def test_thinned_negatives_are_those_that_were_shown(tmp_path: Path) -> None:
    j = Joined(tmp_path, negative_rate=0.5)
    for i in range(400):
        j.send(asked(f"r{i}", n=8, shown=[7, 6, 5]), click(6, name=f"r{i}"))
    j.send(asked("end", 1000.0, shown=[]))
    kept = [item for example in j.examples() for item, _ in told(example)]
    assert set(kept) == {5, 6, 7} and kept.count(6) == 400
    assert 300 < kept.count(5) + kept.count(7) < 500
    assert all(e.log_odds == math.log(0.5) for e in j.examples())
    assert j.joiner.counts.subsampled == 800 - kept.count(5) - kept.count(7)
    j.state.close()


def test_late_click_is_learnt_at_its_place_and_taken_back_only_if_it_was_shown(tmp_path: Path) -> None:
    j = Joined(tmp_path, late="learn")
    j.send(asked(shown=[4, 1]), asked("next", 61.0, shown=[]), click(1, 62.0), click(3, 62.0))
    j.send(click(0, 63.0, label=0.0))
    _, late, unsaid = j.examples()
    assert (late.late, told(late), late.place) == (True, [(1, 1.0)], [1])
    assert (unsaid.late, told(unsaid), unsaid.place) == (True, [(3, 1.0)], [2])
    assert j.joiner.counts.shown_by_click == 0  # of what was decided
    j.state.close()


def test_forgotten_candidates_are_neither_shown_nor_unshown(joined: Joined) -> None:
    joined.send(asked(shown=[4, 1, 0]), Forget("f", T + 1, {"item": [1, 2]}), END)
    (example,) = joined.examples()
    assert told(example) == [(0, 0.0), (4, 0.0)] and example.place == [2, 0]
    assert joined.joiner.counts.unshown == 2  # 3 and 5


def test_long_slates_of_which_nobody_says_what_was_shown_are_counted(joined: Joined) -> None:
    joined.send(
        asked("a", n=11), asked("b", n=10), asked("c", n=20, shown=[1]), asked("d", n=20),
        exposure(examined=3, name="d"), asked("e", n=20, labels=[0.0] * 20), END,
    )  # fmt: skip
    assert joined.joiner.counts.long_unsaid == 1 and joined.joiner.counts.exposed == 2


names = st.sampled_from(["a", "b"])
sayings = st.one_of(
    st.builds(
        lambda name, at, shown, examined: exposure(shown, examined, at, name),
        names,
        st.integers(0, 3).map(float),
        st.lists(st.integers(0, 5), max_size=6, unique=True),
        st.none() | st.integers(0, 6),
    ),
    st.builds(
        lambda name, at, examined: exposure(None, examined, at, name),
        names,
        st.integers(0, 3).map(float),
        st.integers(0, 6),
    ),
)


@pytest.mark.slow
@settings(max_examples=many(25), deadline=None)
@given(
    said=st.lists(sayings, max_size=8),
    clicked=st.sets(st.tuples(names, st.integers(0, 5)), max_size=4),
    shown=st.none() | st.lists(st.integers(0, 5), max_size=6, unique=True),
    seed=st.integers(0, 10**6),
)
def test_order_of_arrival_and_restarts_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    said: list[Exposure],
    clicked: set[tuple[str, int]],
    shown: list[int] | None,
    seed: int,
) -> None:
    impressions = [
        asked("a", shown=shown),
        asked("b", served=Served([0.5] * 6, [0.1, 0.6, 0.3, 0.2, 0.5, 0.4])),
    ]
    events: list[Said] = [*impressions, *said, *(click(c, name=name) for name, c in sorted(clicked))]
    rng = random.Random(seed)
    outcomes = []
    for shuffled in (False, True, True):
        if shuffled:
            rng.shuffle(events)
        j = Joined(tmp_path_factory.mktemp("order"))
        cut = rng.randrange(len(events) + 1) if shuffled else 0
        j.send(*events[:cut])
        if shuffled:
            j.restart()
        j.send(*events[cut:], END)
        outcomes.append(sorted(j.examples(), key=lambda example: example.request_id))
        assert j.letters() == []
        j.state.close()
    assert outcomes[0] == outcomes[1] == outcomes[2]
    for example in outcomes[0]:
        assert example.labels == [
            float((example.request_id, c["item"]) in clicked) for c in example.candidates
        ]


def test_joiner_warns_once_where_nobody_says_what_was_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    j = Joined(tmp_path)
    j.send(*(asked(f"r{i}", i / 1000, n=11) for i in range(1_000)), END)
    assert caplog.records == []  # a thousand are not enough
    j.send(asked("one more", 1000.0, n=11), asked("end 2", 2000.0), asked("end 3", 3000.0, n=11))
    j.send(asked("end 4", 4000.0))
    (record,) = caplog.records
    assert "of over 10 candidates were taken as shown whole" in record.getMessage()
    j.state.close()


def test_what_was_learned_as_shown_stays_shown_and_a_late_click_shows_itself_only(tmp_path: Path) -> None:
    joined = Joined(tmp_path, late="learn")
    joined.send(asked(), exposure(examined=1), click(1, 2.0), asked("clock", 61.0))
    joined.send(
        click(5, 70.0), click(3, 71.0), click(5, 72.0, label=0.0), click(5, 73.0), click(1, 74.0, label=0.0)
    )
    late = [(told(example), example.before) for example in joined.examples() if example.late]
    assert late == [
        ([(5, 1.0)], None),  # neither it nor those above it were learned
        ([(3, 1.0)], None),
        ([(5, 0.0)], [1.0]),
        ([(5, 1.0)], [0.0]),
        ([(1, 0.0)], [1.0]),
    ]
    joined.state.close()
