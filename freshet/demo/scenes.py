"""The demo's streams: a simulated world, or real ratings in their order.

A scene first returns its history, labelled requests to train on; then turns, each a request with the person's
future clicks, which are sent at their time.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from freshet.errors import ConfigError
from stream.files.sources import DataSettings, detect_format, read_examples
from stream.records.types import Action, Example, Impression
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

    def history(self) -> Iterator[Impression]:
        """The requests before the play, with labels."""

    def turn(self) -> Turn | None:
        """The next request; None when there are no more."""

    def shift(self) -> None:
        """Change tastes now."""


_WORLD_CONFIG = """\
[join]
window_s = {window_s}  # of event time, which the demo plays {speed:.0f} times as fast
late = "learn"

[features.user]
[features.segment]
[features.item]
[features.category]
[features.age]
[features.device]
[features.hour]
kind = "hour"

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
                seed=seed,
                start_time=float(int(time.time() - 1.2 * span_s - 600.0)),
            )
        )

    def history(self) -> Iterator[Impression]:
        for example in self._world.examples(self.history_requests):
            yield _impression(example, with_labels=True)

    def turn(self) -> Turn | None:
        impression = self._world.request()
        clicks = self._world.react(impression)
        y = np.zeros(len(impression.candidates))
        y[[action.candidate for action in clicks]] = 1.0
        context = impression.context
        return Turn(
            impression,
            y,
            clicks,
            self._world.truth(impression),
            int(str(context["user"])),
            f"user {context['user']} on {context['device']}",
            [f"item {c['item']}, {c['category']}, {c['age']}" for c in impression.candidates],
        )

    def shift(self) -> None:
        self._world.shift()


class RatingsScene:
    """Real ratings, in the order in which they were given: will this person rate this movie highly?"""

    labelled = True
    speed = 1.0
    settle_s = 0.0
    rate = 80.0
    shifts: tuple[float, ...] = ()
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

    def history(self) -> Iterator[Impression]:
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
        )

    def shift(self) -> None:
        """None: real tastes shift at unknown times."""


def _impression(example: Example, with_labels: bool) -> Impression:
    labels = example.labels if with_labels else None
    return Impression(example.request_id, example.time, example.candidates, example.context, labels=labels)
