"""The streams of the quality benchmark: MovieTweetings, and simulated worlds that change in different ways.

A stream is a list of requests in the order in which they are shown; as each is decided equally long after
it was shown, that is also the order in which they are learnt. Times are event time, in seconds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ground.keys import key_of
from learner.features.encoder import FeatureSpec
from stream.files.sources import DataSettings, read_examples
from stream.records.types import Example
from stream.world.simulator import World, WorldSettings

HOUR_S = 3600.0
REQUESTS = 12_000
SPAN_S = 20 * HOUR_S  # of a simulated stream, so that a base that is five hours old is a quarter of it behind

_PACE = {"slate": 4, "requests_per_s": REQUESTS / SPAN_S, "item_half_life_h": 10.0}
# Of a catalogue that stays as it is nothing is new for long, or the click rate would fall with novelty.
_STILL = {"shift_every_s": 0.0, "drift_slow": 0.0, "new_items_per_h": 0.0, "item_half_life_h": 0.1}
_SUDDEN = {"shift_every_s": 4 * HOUR_S, "drift_slow": 0.0, "new_items_per_h": 25.0}

REGIMES: dict[str, dict[str, float]] = {
    "stationary": {**_STILL, "attributes": 3},
    "sudden": _SUDDEN,
    "slow": {**_STILL, "drift_slow": 0.2},
    "recurring": {**_STILL, "shift_every_s": 2.5 * HOUR_S, "recurring": 2},
    "bursts": {**_STILL, "burst_every_s": 2 * HOUR_S, "item_half_life_h": 2.0, "attributes": 3},
    "newcomers": {**_STILL, "new_users_per_h": 200.0},
    "spikes": {**_SUDDEN, "shift_every_s": 0.0, "spike_every_s": 1 * HOUR_S, "spike_s": 1200.0},
    "delay 10 min": {**_SUDDEN, "label_delay_s": 100.0},
    "delay 1 h": {**_SUDDEN, "label_delay_s": 600.0},
    "2 % clicks": {**_SUDDEN, "click_rate": 0.02},
    "50 % clicks": {**_SUDDEN, "click_rate": 0.5},
    "2 features": {**_STILL, "drift_slow": 0.2},
    "30 features": {**_SUDDEN, "attributes": 13, "noise_features": 10},
    "thinned": {**_SUDDEN, "label_delay_s": 100.0},
    "permuted": _SUDDEN,
}
"""Settings of the simulated worlds, beside the pace that all share."""

WINDOW_S = {"delay 10 min": 600.0, "delay 1 h": 3600.0, "thinned": 600.0}
KEPT_NEGATIVES = {"thinned": 0.1}
DRIFTING = (
    "movietweetings 8", "movietweetings 9", "sudden", "slow", "recurring", "bursts", "newcomers", "spikes",
    "delay 10 min", "delay 1 h", "2 % clicks", "50 % clicks", "2 features", "30 features",
)  # fmt: skip
"""Streams on which a frozen model loses, so that there is something to win back."""
APART = ("thinned", "permuted")
"""Streams for one question of their own; not in the means. Freshet alone learns the thinned one."""


class Stream(NamedTuple):
    """R requests with n candidates in all."""

    name: str
    seed: int
    features: dict[str, FeatureSpec]
    shown: list[Example]  # (R,), what is predicted and scored
    learnt: list[Example]  # (R,), what is learnt of each: fewer candidates where negatives were thinned
    day_s: float

    @property
    def waits(self) -> bool:
        """Whether a request is learnt otherwise than at once and as it was shown."""
        return self.learnt is not self.shown or any(e.decided > e.time for e in self.shown[:1])


class Arrays(NamedTuple):
    """A stream's labels and times."""

    y: npt.NDArray[np.float64]  # (n,)
    group: npt.NDArray[np.uint64]  # (n,), the user
    requests: npt.NDArray[np.int64]  # (R + 1,), candidates of request r are requests[r]:requests[r + 1]
    time: npt.NDArray[np.float64]  # (R,), when it was shown
    decided: npt.NDArray[np.float64]  # (R,), when its labels were known
    visible: npt.NDArray[np.int64]  # (R,), how many requests were decided when this one was shown


def arrays_of(stream: Stream) -> Arrays:
    """Labels, users and times of a stream."""
    sizes = [len(e.labels) for e in stream.shown]
    time = np.array([e.time for e in stream.shown])
    decided = np.array([e.decided for e in stream.shown])
    users = np.array([key_of(e.context["user"]) for e in stream.shown], dtype=np.uint64)  # type: ignore[arg-type]
    # Where nothing waits a request has seen those before it, even of its own second.
    visible = np.searchsorted(decided, time, side="right") if stream.waits else np.arange(len(time))
    return Arrays(
        y=np.array([label for e in stream.shown for label in e.labels]),
        group=np.repeat(users, sizes),
        requests=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        time=time,
        decided=decided,
        visible=visible.astype(np.int64),
    )


def names(movies: Path | None) -> list[str]:
    """All streams, with those of MovieTweetings if its folder is there."""
    found = [] if movies is None else ["movietweetings 8", "movietweetings 9"]
    return found + list(REGIMES)


def make_stream(name: str, seed: int, movies: Path | None, requests: int | None = None) -> Stream:
    """A stream by name; `seed` draws a simulated world, of at most `requests` requests."""
    if name.startswith("movietweetings"):
        assert movies is not None
        return _movietweetings(name, seed, movies, requests)
    return _world(name, seed, requests or REQUESTS)


def _movietweetings(name: str, seed: int, movies: Path, requests: int | None) -> Stream:
    settings = DataSettings(format="movietweetings", positive_from=float(name.split()[1]))
    examples = list(read_examples(movies, settings))[:requests]
    features = {
        "user": FeatureSpec(),
        "hour": FeatureSpec(kind="hour"),
        "movie": FeatureSpec(),
        "genres": FeatureSpec(kind="ids"),
    }
    return Stream(name, seed, features, examples, examples, day_s=86_400.0)


def _world(name: str, seed: int, requests: int) -> Stream:
    settings = {"seed": seed, **_PACE, **REGIMES[name]}
    if requests != REQUESTS:
        # A short stream is a slice of the same span: fewer requests an hour.
        settings["requests_per_s"] = requests / SPAN_S
    world = World(msgspec.convert(settings, WorldSettings))
    shown = list(world.examples(requests, WINDOW_S.get(name)))
    if name == "2 features":
        shown = [_only(e, ("user",), ("item",)) for e in shown]
    if name == "permuted":
        shown = _permuted(shown, seed)
    learnt = shown
    if name in KEPT_NEGATIVES:
        learnt = _thinned(shown, KEPT_NEGATIVES[name], seed)
    given = {*shown[0].context, *shown[0].candidates[0]}
    features = {
        field: FeatureSpec(kind="hour" if field == "hour" else "id") for field in sorted(given, key=_rank)
    }
    return Stream(name, seed, features, shown, learnt, day_s=2 * HOUR_S)


def _rank(field: str) -> tuple[int, str]:
    """Schema order: who, what, and then the rest."""
    first = ["user", "item", "category", "segment", "device", "hour", "age"]
    return (first.index(field) if field in first else len(first), field)


def _only(example: Example, context: tuple[str, ...], candidate: tuple[str, ...]) -> Example:
    return msgspec.structs.replace(
        example,
        context={name: example.context[name] for name in context},
        candidates=[{name: c[name] for name in candidate} for c in example.candidates],
    )


def _permuted(examples: list[Example], seed: int) -> list[Example]:
    """The same requests with all labels permuted: nothing can be learnt but their rate."""
    labels = np.array([label for e in examples for label in e.labels])
    np.random.default_rng(seed).shuffle(labels)
    parts = np.split(labels, np.cumsum([len(e.labels) for e in examples])[:-1])
    pairs = zip(examples, parts, strict=True)
    return [msgspec.structs.replace(e, labels=part.tolist()) for e, part in pairs]


def _thinned(examples: list[Example], kept: float, seed: int) -> list[Example]:
    """Clicks, and negatives with probability `kept`; a request may be left without a candidate."""
    draw = np.random.default_rng(seed).random
    thinned = []
    for e in examples:
        stay = [i for i, label in enumerate(e.labels) if label > 0.5 or draw() < kept]
        thinned.append(
            msgspec.structs.replace(
                e,
                candidates=[e.candidates[i] for i in stay],
                labels=[e.labels[i] for i in stay],
                log_odds=float(np.log(kept)),
            )
        )
    return thinned


# How old a served base is: from (time of now, requests shown, requests decided) to how many requests
# it has learnt.


class Policy(NamedTuple):
    """When a served base has learnt what. `learnt(now_s, shown, decided_times)` -> requests learnt."""

    name: str
    learnt: Callable[[float, int, npt.NDArray[np.float64]], int]


def policies(stream: Stream, arrays: Arrays) -> list[Policy]:
    """Every staleness of the benchmark; "live" is known for each stream and not among them."""
    half = len(stream.shown) // 2
    start, end = float(arrays.time[0]), float(arrays.time[-1])
    cycle = (end - start) / 10

    def lag(seconds: float) -> Callable[[float, int, npt.NDArray[np.float64]], int]:
        return lambda now, shown, decided: int(np.searchsorted(decided, now - seconds, side="right"))

    def stops(now: float, shown: int, decided: npt.NDArray[np.float64]) -> int:
        """Seconds behind for half of a cycle, then stopped, then ahead by a jump."""
        into = (now - start) % cycle
        return lag(2.0 if into < cycle / 2 else into - cycle / 2)(now, shown, decided)

    def daily(now: float, shown: int, decided: npt.NDArray[np.float64]) -> int:
        return lag((now - start) % stream.day_s)(now, shown, decided)

    return [
        Policy("2 s", lag(2.0)),
        Policy("1 min", lag(60.0)),
        Policy("10 min", lag(600.0)),
        Policy("1 h", lag(HOUR_S)),
        Policy("5 h", lag(5 * HOUR_S)),
        Policy("daily", daily),
        Policy("stops", stops),
        Policy("frozen", lambda now, shown, decided: half),
    ]
