"""A seeded click-stream world: people with tastes, items that come and go, and a truth that is known.

    world = World(WorldSettings(seed=7))
    for event in world.events(1_000):
        log.append(...)

The click probability of person u and item i of category c is, on the logit scale,

    bias + device + hour + activity(u) + quality(i) + novelty(i) + popularity(c) + taste(u) · style(c)

where taste(u) is in part that of the person's segment. The bias makes the mean click rate `click_rate`.
So a linear model on user, item, category, and user × category can come near to the truth. Three things move:
new items replace old ones, everything drifts slowly, and every `shift_every_s` seconds the tastes of the
segments and the popularity of the categories are drawn anew, which a frozen model does not survive.

All randomness comes from the seed: the same settings give the same stream, exactly. What a request's
reaction will be is drawn with the request, so it does not depend on when or in which order `react` is called.
"""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ground import FreshetError
from stream.records import CANDIDATES_MAX, Action, Example, Features, Impression, Value

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Standard deviations on the logit scale. Together about 1.3, at which the truth's AUC is near 0.8.
_ACTIVITY_SD = 0.45
_QUALITY_SD = 0.55
_POPULARITY_SD = 0.5
_SEGMENT_TASTE_SD = 0.65
_OWN_TASTE_SD = 0.5
_NOVELTY = 0.4  # of an item just arrived; halves with `item_half_life_h`
_DEVICES = (("phone", 0.1, 0.6), ("desktop", -0.15, 0.3), ("tablet", 0.05, 0.1))  # name, logit, share
_HOUR_AMPLITUDE = 0.2  # most clicks at 20:00 UTC
_SEGMENTS = ("a", "b", "c", "d", "e", "f")
_USER_ZIPF = 1.1  # a few people make most requests
_ITEM_ZIPF = 0.7
_TICK_S = 10.0  # of event time; drift, arrivals and exposure move in these steps
_BLOCK = 256  # requests whose randomness is drawn at once
_KEPT_REQUESTS = 100_000  # whose truth is still known
_AGES = ((120.0, "new"), (600.0, "minutes"), (3600.0, "hour"), (86_400.0, "day"), (math.inf, "old"))


class WorldError(FreshetError):
    """A world that cannot be made as configured, or a request that it does not know (any more)."""


class WorldSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A world: its size, its pace, and how fast it changes.

    Raises:
        WorldError: a setting out of its range; the message names it.
    """

    users: int = 2_000
    items: int = 500  # on show at a time; ids go on counting as new ones replace old ones
    categories: int = 12
    slate: int = 10  # candidates of a request
    dim: int = 6  # of tastes and styles
    click_rate: float = 0.1
    requests_per_s: float = 50.0  # mean; arrivals are a Poisson process
    new_items_per_h: float = 600.0
    item_half_life_h: float = 0.5  # an item's exposure and novelty halve in this time
    drift_slow: float = 0.05  # share of each effect's variance renewed per hour of event time
    shift_every_s: float = 600.0  # 0: never
    label_delay_s: float = 20.0  # mean, exponential, from impression to click
    noise_features: int = 0  # features of the candidates that mean nothing, with 100 values each
    seed: int = 0
    start_time: float = 1_700_000_000.0

    def __post_init__(self) -> None:
        ranges: tuple[tuple[str, float, float], ...] = (
            ("users", 1, 10_000_000),
            ("items", 1, 1_000_000),
            ("categories", 1, 10_000),
            ("slate", 1, min(CANDIDATES_MAX, self.items)),
            ("dim", 1, 256),
            ("click_rate", 1e-4, 0.9),
            ("requests_per_s", 1e-3, 1e6),
            ("new_items_per_h", 0, 1e7),
            ("item_half_life_h", 1e-3, 1e6),
            ("drift_slow", 0, 1),
            ("shift_every_s", 0, 1e9),
            ("label_delay_s", 0, 1e6),
            ("noise_features", 0, 100),
            ("seed", 0, 2**63 - 1),
            ("start_time", 0, 4e9),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if not low <= value <= high:
                raise WorldError(f"{name} is {value}; expected {low:g} to {high:g}")


class _Draw(msgspec.Struct, frozen=True, gc=False):
    """What was true of a request when it was made, and what chance will make of it."""

    truth: Floats  # (slate,) click probabilities
    chance: Floats  # (slate,) uniform; a click where it is below the probability
    delay_s: Floats  # (slate,)


class World:
    """The world at one moment of event time; `request` moves the clock on.

    >>> world = World(WorldSettings(seed=1))
    >>> impression = world.request()
    >>> len(impression.candidates), world.truth(impression).shape
    (10, (10,))
    """

    def __init__(self, settings: WorldSettings | None = None) -> None:
        self.settings = s = settings or WorldSettings()
        # One generator each, so that the pace of requests does not change how tastes move.
        requests, tastes, items = np.random.SeedSequence(s.seed).spawn(3)
        self._request_rng = np.random.default_rng(requests)
        self._taste_rng = np.random.default_rng(tastes)
        self._item_rng = np.random.default_rng(items)
        self.time = s.start_time
        self.shifts = 0
        self._made = 0
        self._draws: OrderedDict[str, _Draw] = OrderedDict()
        self._tick_time = s.start_time
        self._next_shift = s.start_time + s.shift_every_s if s.shift_every_s else math.inf
        self._at = 0  # the next request's place in the block
        self._gaps: Floats  # (block,) seconds since the request before
        self._users: Ints  # (block,)
        self._devices: Ints  # (block,)
        self._shown: Floats  # (block, 2 slates) uniform
        self._chances: Floats  # (block, slate)
        self._delays: Floats  # (block, slate)
        self._noise: Ints  # (block, slate, noise features)
        self._make_people()
        self._make_items()
        self.shift()
        self.shifts = 0
        self._take_block()

    # What happens

    def request(self) -> Impression:
        """The next request: moves the clock, and shows a slate drawn by exposure.

        Context: `user` (int), `segment`, `device` (str), `hour` (int). Candidates: `item` (int),
        `category`, `age` (str), and `noise0`, ... (int) where configured.
        """
        s = self.settings
        if self._at == _BLOCK:
            self._take_block()
        at, self._at = self._at, self._at + 1
        self.time += float(self._gaps[at])
        if self.time >= self._tick_time + _TICK_S or self.time >= self._next_shift:
            self._move_on()
        user, device = int(self._users[at]), int(self._devices[at])
        shown = self._slate(at)
        taste = self._own_taste[user] + self._segment_taste[self._segment[user]]
        logit = self._item_logit[shown] + (self._styles @ taste)[self._category[shown]]
        logit += (
            self._activity[user]
            + _DEVICES[device][1]
            + _HOUR_AMPLITUDE * math.cos((self.time / 3600.0 - 20.0) * math.pi / 12.0)
        )
        request_id = f"w{s.seed}-{self._made}"
        self._made += 1
        truth = 1.0 / (1.0 + np.exp(-logit))
        self._draws[request_id] = _Draw(truth, self._chances[at], self._delays[at])
        if len(self._draws) > _KEPT_REQUESTS:
            self._draws.popitem(last=False)
        context: Features = {
            "user": user,
            "segment": _SEGMENTS[self._segment[user]],
            "device": _DEVICES[device][0],
            "hour": int(self.time // 3600) % 24,
        }
        candidates = [self._features[i].copy() for i in shown.tolist()]
        if s.noise_features:
            for features, values in zip(candidates, self._noise[at].tolist(), strict=True):
                features.update({f"noise{j}": value for j, value in enumerate(values)})
        return Impression(request_id, self.time, candidates, context)

    def truth(self, impression: Impression) -> Floats:
        """The click probabilities, shape (slate,), as they were when the request was made.

        Raises:
            WorldError: the request is not of this world or more than 100,000 requests old.
        """
        return self._draw(impression).truth.copy()

    def react(self, impression: Impression, order: Sequence[int] | None = None) -> list[Action]:
        """The clicks on a request, in order of event time.

        Args:
            impression: a request of this world.
            order: the candidates from top to bottom as a ranker laid them out; a click then also needs
                the place to be looked at, with probability 1 / log2(place + 1), place 1 being the top.
                None: every candidate is looked at.

        Raises:
            WorldError: the request is not known, or `order` is no order of its candidates.
        """
        draw = self._draw(impression)
        needed = draw.truth
        if order is not None:
            if sorted(order) != list(range(len(needed))):
                raise WorldError(f"order must hold each of 0 to {len(needed) - 1} once, not {list(order)}")
            looked = np.empty(len(needed))
            looked[list(order)] = 1.0 / np.log2(np.arange(2, len(needed) + 2))
            needed = needed * looked
        clicks = [
            Action(impression.request_id, impression.time + float(draw.delay_s[i]), int(i))
            for i in np.flatnonzero(draw.chance < needed)
        ]
        return sorted(clicks, key=lambda action: action.time)

    def events(self, requests: int | None = None) -> Iterator[Impression | Action]:
        """Impressions and clicks as they happen, in order of event time; without a number, endlessly.

        After the last request its clicks, and those still to come of others, follow.
        """
        coming: list[tuple[float, int, Action]] = []
        order = 0
        for _ in itertools.count() if requests is None else range(requests):
            impression = self.request()
            while coming and coming[0][0] <= impression.time:
                yield heapq.heappop(coming)[2]
            yield impression
            for action in self.react(impression):
                order += 1
                heapq.heappush(coming, (action.time, order, action))
        while coming:
            yield heapq.heappop(coming)[2]

    def examples(self, requests: int) -> Iterator[Example]:
        """Requests with their labels, as if no click took time: what a joiner with a long window gives."""
        for _ in range(requests):
            impression = self.request()
            draw = self._draw(impression)
            labels = (draw.chance < draw.truth).astype(np.float64).tolist()
            request_id, time = impression.request_id, impression.time
            yield Example(request_id, time, time, impression.candidates, labels, impression.context)

    def shift(self) -> None:
        """Redraw the segments' tastes and the categories' popularity, now: a sudden shift."""
        s, rng = self.settings, self._taste_rng
        self.shifts += 1
        self._segment_taste = rng.normal(0.0, _SEGMENT_TASTE_SD, (len(_SEGMENTS), s.dim))
        self._popularity = rng.normal(0.0, _POPULARITY_SD, s.categories)
        self._bias = 0.0
        self._weigh_items()
        self._bias = self._bias_for(s.click_rate)
        self._item_logit += self._bias

    # How it is made and moves

    def _make_people(self) -> None:
        s, rng = self.settings, self._taste_rng
        # Styles of length 1, so that the logit's variance is a taste's variance per dimension.
        styles = rng.normal(size=(s.categories, s.dim))
        self._styles = styles / np.linalg.norm(styles, axis=1, keepdims=True)  # (categories, dim)
        self._segment = rng.integers(0, len(_SEGMENTS), s.users)
        self._own_taste = rng.normal(0.0, _OWN_TASTE_SD, (s.users, s.dim))
        self._activity = rng.normal(0.0, _ACTIVITY_SD, s.users)
        weight = np.arange(1, s.users + 1) ** -_USER_ZIPF
        self._user_share = np.cumsum(weight) / weight.sum()
        self._device_share = np.cumsum([share for _, _, share in _DEVICES])

    def _make_items(self) -> None:
        s, rng = self.settings, self._item_rng
        self._item = np.arange(s.items)
        self._next_item = s.items
        self._arrivals = 0.0
        self._category = rng.integers(0, s.categories, s.items)
        self._quality = rng.normal(0.0, _QUALITY_SD, s.items)
        self._appeal = (1.0 + rng.permutation(s.items)) ** -_ITEM_ZIPF
        # Ages as if the world had run before: evenly spread over the time that replaces every item once.
        turnover_s = s.items / s.new_items_per_h * 3600.0 if s.new_items_per_h else 0.0
        self._born = s.start_time - np.sort(rng.uniform(0.0, turnover_s, s.items))[::-1]
        self._oldest = 0

    def _move_on(self) -> None:
        """Bring the world to the clock: arrivals and drift since the last tick, shifts that are due."""
        s = self.settings
        elapsed_s = self.time - self._tick_time
        self._tick_time = self.time
        self._arrive(elapsed_s)
        kept = (1.0 - s.drift_slow) ** (elapsed_s / 3600.0)  # share of variance that stays
        if kept < 1.0:
            renew = math.sqrt(1.0 - kept)
            stay = math.sqrt(kept)
            for effect, sd in (
                (self._own_taste, _OWN_TASTE_SD),
                (self._segment_taste, _SEGMENT_TASTE_SD),
                (self._popularity, _POPULARITY_SD),
                (self._activity, _ACTIVITY_SD),
            ):
                effect *= stay
                effect += self._taste_rng.normal(0.0, renew * sd, effect.shape)
        if self.time >= self._next_shift:
            # After a long silence one shift stands for all that it hid.
            missed = math.floor((self.time - self._next_shift) / s.shift_every_s)
            self._next_shift += (missed + 1) * s.shift_every_s
            self.shift()
        else:
            self._weigh_items()

    def _arrive(self, elapsed_s: float) -> None:
        """Replace the oldest items by new ones, at the configured rate."""
        s, rng = self.settings, self._item_rng
        self._arrivals += s.new_items_per_h * elapsed_s / 3600.0
        count = min(int(self._arrivals), s.items)
        self._arrivals -= int(self._arrivals)
        if not count:
            return
        at = (self._oldest + np.arange(count)) % s.items
        self._oldest = (self._oldest + count) % s.items
        self._item[at] = self._next_item + np.arange(count)
        self._next_item += count
        self._category[at] = rng.integers(0, s.categories, count)
        self._quality[at] = rng.normal(0.0, _QUALITY_SD, count)
        self._born[at] = self.time

    def _weigh_items(self) -> None:
        """Each item's exposure, logit without the person, and features, as of the last tick."""
        s = self.settings
        age_s = self._tick_time - self._born
        fresh = 0.5 ** (age_s / (s.item_half_life_h * 3600.0))
        weight = self._appeal * np.maximum(fresh, 1e-3)
        self._exposure = np.cumsum(weight) / weight.sum()
        novelty = _NOVELTY * fresh
        self._item_logit = self._bias + self._quality + novelty + self._popularity[self._category]
        ages = np.searchsorted([limit for limit, _ in _AGES], age_s, side="right").tolist()
        names = [name for _, name in _AGES]
        self._features: list[dict[str, Value]] = [
            {"item": item, "category": f"c{category}", "age": names[age]}
            for item, category, age in zip(self._item.tolist(), self._category.tolist(), ages, strict=True)
        ]

    def _bias_for(self, click_rate: float) -> float:
        """The bias at which the mean click probability of what would be shown is `click_rate`."""
        rng = self._taste_rng
        users = np.searchsorted(self._user_share, rng.random(4_000))
        items = np.searchsorted(self._exposure, rng.random(4_000))
        users, items = np.minimum(users, self.settings.users - 1), np.minimum(items, self.settings.items - 1)
        tastes = self._own_taste[users] + self._segment_taste[self._segment[users]]
        logit = self._activity[users] + self._item_logit[items]
        logit += np.einsum("nd,nd->n", tastes, self._styles[self._category[items]])
        low, high = -30.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            if np.mean(1.0 / (1.0 + np.exp(-(logit + middle)))) < click_rate:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    def _take_block(self) -> None:
        """Draw the randomness of the next requests at once; it is the same however the world moves."""
        s, rng = self.settings, self._request_rng
        self._at = 0
        self._gaps = rng.exponential(1.0 / s.requests_per_s, _BLOCK)
        self._users = np.minimum(np.searchsorted(self._user_share, rng.random(_BLOCK)), s.users - 1)
        self._devices = np.minimum(np.searchsorted(self._device_share, rng.random(_BLOCK)), len(_DEVICES) - 1)
        self._shown = rng.random((_BLOCK, 2 * s.slate))
        self._chances = rng.random((_BLOCK, s.slate))
        self._delays = rng.exponential(s.label_delay_s, (_BLOCK, s.slate))
        if s.noise_features:
            self._noise = rng.integers(0, 100, (_BLOCK, s.slate, s.noise_features))

    def _slate(self, at: int) -> Ints:
        """Distinct places of items, shape (slate,), drawn by exposure."""
        s = self.settings
        drawn = np.searchsorted(self._exposure, self._shown[at])
        shown = list(dict.fromkeys(drawn.tolist()))[: s.slate]
        if len(shown) < s.slate or max(shown) >= s.items:
            # Few items, or most exposure on a few: fill up with those next in place, round the catalogue.
            taken = {place for place in shown if place < s.items}
            place = int(self._shown[at, 0] * s.items)
            while len(taken) < s.slate:
                taken.add(place)
                place = (place + 1) % s.items
            shown = list(taken)
        return np.array(shown, dtype=np.int64)

    def _draw(self, impression: Impression) -> _Draw:
        draw = self._draws.get(impression.request_id)
        if draw is None:
            raise WorldError(
                f"request {impression.request_id!r} is not of this world, or older than its last "
                f"{_KEPT_REQUESTS:,} requests"
            )
        return draw
