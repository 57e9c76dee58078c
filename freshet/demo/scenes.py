"""The demo's streams: a simulated world, or real ratings in their order.

A scene first returns its history, labelled requests to train on; then turns, each a request with the person's
future clicks, which are sent at their time.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from freshet.errors import ConfigError
from stream.files.sources import DataSettings, detect_format, read_examples
from stream.records.entities.record import EntityEvent
from stream.records.types import Action, Example, Features, Impression
from stream.world.simulator import World, WorldSettings

Floats = npt.NDArray[np.float64]


class Turn(NamedTuple):
    """One request and its clicks."""

    impression: Impression  # without labels
    y: Floats  # (n,) labels, known later
    clicks: list[Action]  # sent at their time; empty if the labels travel with the request
    ceiling: Floats | None  # (n,) the true probabilities; None: not known
    person: int
    words: str  # the request in words
    names: list[str]  # (n,) the candidates in words
    described: list[Features]  # (n,) the candidates with their attributes, as another system would know them
    told: list[EntityEvent]  # what has become true of items since the turn before


class Scene(Protocol):
    """A stream to play."""

    title: str
    config: str  # the sections of a config that this stream needs, as TOML
    rate: float  # requests per second to play
    speed: float  # seconds of event time in one second of play
    settle_s: float  # of play, from a request until its labels are known
    labelled: bool  # the labels travel with the request
    history_requests: int
    shifts: tuple[float, ...]  # shares of the play at which tastes change at once
    attributes: tuple[str, ...]  # of items, which no request has: entity events say them

    def history(self) -> Iterator[Impression | EntityEvent]:
        """The requests before the play, with labels, and before them what had become true of items."""

    def turn(self) -> Turn | None:
        """The next request; None when there are no more."""

    def shift(self) -> None:
        """Change tastes now."""


_WORLD_CONFIG = """\
[join]
window_s = {window_s}  # of event time, which the demo plays {speed:.0f} times as fast
late = "learn"

[targets.click]

[targets.buy]  # some of those who clicked, later
of = "click"
observe_s = 300.0
window_s = 1_800.0

[targets.minutes]  # watched after a click
kind = "value"
of = "click"
scale = "log1p"
window_s = 1_200.0

[features.user]
[features.segment]
[features.item]
[features.age]
[features.device]
[features.hour]
kind = "hour"

[features.category]  # said once of each item, in no request
of = "item"

[features.title]
kind = "text"
of = "item"

[features.categories]  # that the person clicked last
kind = "history"
by = "user"
of = "category"
length = 3

[features.category_rate]  # clicks of the category lately, of people of the segment
kind = "rate"
of = ["category", "segment"]
window_s = 300.0

[learner]
group_by = "user"
"""

_RATINGS_CONFIG = """\
[features.user]
[features.movie]
[features.genres]
kind = "ids"
[features.hour]
kind = "hour"

[learner]
group_by = "user"
"""


class WorldScene:
    """A simulated click stream, played faster than real time: items come and go, and tastes shift twice."""

    labelled = False
    window_s = 60.0
    speed = 20.0
    rate = 40.0
    history_requests = 3_000
    shifts: tuple[float, ...] = (0.25, 0.62)
    attributes: tuple[str, ...] = ("category", "title")

    def __init__(self, seconds: float, seed: int) -> None:
        """A world whose clock stays behind the wall clock for `seconds`: no event is in the future."""
        requests_per_s = self.rate / self.speed
        span_s = self.history_requests / requests_per_s + seconds * self.speed
        self.title = "a simulated click stream: 2,000 people, 500 items on show, slates of 10"
        self.settle_s = self.window_s / self.speed
        self.config = _WORLD_CONFIG.format(window_s=self.window_s, speed=self.speed)
        self._world = World(
            WorldSettings(
                requests_per_s=requests_per_s,
                shift_every_s=0,
                buy_rate=0.2,
                buy_delay_s=400.0,
                minutes=3.0,
                title_words=4,
                habit=3.0,
                categories=20,
                seed=seed,
                start_time=float(int(time.time() - 1.2 * span_s - 600.0)),
            )
        )
        self._known: set[object] = set()  # items that were told of

    def history(self) -> Iterator[Impression | EntityEvent]:
        for example in self._world.examples(self.history_requests):
            yield from self._tell(example.time)
            shown = _impression(example, with_labels=True)
            yield msgspec.structs.replace(shown, candidates=self._named(shown.candidates))

    def turn(self) -> Turn | None:
        impression = self._world.request()
        told = self._tell(impression.time)
        done = self._world.react(impression)
        y = np.zeros(len(impression.candidates))
        y[[action.candidate for action in done if action.name == "click"]] = 1.0
        context, described = impression.context, impression.candidates
        truth = self._world.truth(impression)
        impression = msgspec.structs.replace(impression, candidates=self._named(described))
        return Turn(
            impression,
            y,
            done,
            truth,
            int(str(context["user"])),
            f"user {context['user']} on {context['device']}",
            [f"item {c['item']}, {c['category']}, {c['age']}, “{c['title']}”" for c in described],
            described,
            told,
        )

    def _tell(self, now: float) -> list[EntityEvent]:
        """What is true of the items that have come since the last call; the first were always there."""
        new = [item for item in self._world.items if item["item"] not in self._known]
        since = now if self._known else 0.0
        self._known = {item["item"] for item in self._world.items} if new else self._known
        return [
            EntityEvent("item", int(str(item["item"])), since, {name: item[name] for name in self.attributes})
            for item in new
        ]

    def _named(self, candidates: list[Features]) -> list[Features]:
        """Candidates as requests have them, without attributes."""
        return [{n: v for n, v in one.items() if n not in self.attributes} for one in candidates]

    def shift(self) -> None:
        self._world.shift()


class RatingsScene:
    """Real ratings, in the order in which they were given: will this person rate this movie highly?"""

    labelled = True
    speed = 1.0
    settle_s = 0.0
    rate = 80.0
    shifts: tuple[float, ...] = ()
    attributes: tuple[str, ...] = ()
    config = _RATINGS_CONFIG

    def __init__(self, path: Path, seconds: float, history_requests: int = 20_000) -> None:
        """Reads at most the ratings that can be played in `seconds`.

        Raises:
            SourceError: the file cannot be read.
            ConfigError: it does not hold ratings, or too few.
        """
        kind = detect_format(path, DataSettings())
        if kind not in ("movietweetings", "movielens"):
            raise ConfigError(
                f"{path}: the demo plays MovieTweetings or MovieLens ratings, this is {kind}; "
                "for other data use freshet replay --data, or freshet up and freshet produce"
            )
        wanted = history_requests + int(seconds * self.rate) + 1
        self._examples = list(itertools.islice(read_examples(path, DataSettings()), wanted))
        if len(self._examples) < 1_000:
            raise ConfigError(f"{path}: {len(self._examples)} ratings are too few to play; 1,000 are enough")
        self.history_requests = min(history_requests, len(self._examples) // 2)
        self.title = f"real ratings of {path.name}, in their order: will this person rate this movie highly?"
        self._next = self.history_requests

    def history(self) -> Iterator[Impression | EntityEvent]:
        for example in self._examples[: self.history_requests]:
            yield _impression(example, with_labels=True)

    def turn(self) -> Turn | None:
        if self._next >= len(self._examples):
            return None
        example = self._examples[self._next]
        self._next += 1
        features = {**example.context, **example.candidates[0]}
        return Turn(
            _impression(example, with_labels=False),
            np.array(example.labels),
            [],
            None,
            int(str(features["user"])),
            f"user {features['user']}",
            [f"movie {features['movie']}"],
            example.candidates,
            [],
        )

    def shift(self) -> None:
        """None: real tastes shift at unknown times."""


def _impression(example: Example, with_labels: bool) -> Impression:
    labels = example.labels if with_labels else None
    return Impression(example.request_id, example.time, example.candidates, example.context, labels=labels)
