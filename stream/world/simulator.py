"""A seeded click-stream world: people with tastes, items that come and go, and a truth that is known.

    world = World(WorldSettings(seed=7))
    for event in world.events(1_000):
        log.append(...)

The click probability of person u and item i of category c is, on the logit scale,

    bias + device + hour + activity(u) + quality(i) + novelty(i) + popularity(c) + taste(u) · style(c)

where taste(u) is in part that of the person's segment. The bias makes the mean click rate `click_rate`.
So a linear model on user, item, category, and user × category can come near to the truth. Three things move:
new items replace old ones, everything drifts slowly, and every `shift_every_s` seconds the tastes of the
segments and the popularity of the categories are drawn anew, which a frozen model does not survive. Where
so configured, shifts come back to worlds that were there before, people come and go too, many items
arrive at once, a few items are all the rage for a while, items have attributes or titles that add to the
logit, and people are drawn to categories that they clicked lately.

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

from ground.kernels.logistic import sigmoids
from stream.records.types import Action, Example, Features, Impression
from stream.world.after import AfterClicks
from stream.world.catalogue import Catalogue, Floats, Ints
from stream.world.habits import Habits
from stream.world.settings import WorldError as WorldError
from stream.world.settings import WorldSettings as WorldSettings

# Standard deviations on the logit scale: with the catalogue's together about 1.3, at which the truth's AUC
# is near 0.8.
_ACTIVITY_SD = 0.45
_POPULARITY_SD = 0.5
_SEGMENT_TASTE_SD = 0.65
_OWN_TASTE_SD = 0.5
_DEVICES = (("phone", 0.1, 0.6), ("desktop", -0.15, 0.3), ("tablet", 0.05, 0.1))  # name, logit, share
_HOUR_AMPLITUDE = 0.2  # most clicks at 20:00 UTC
_SEGMENTS = ("a", "b", "c", "d", "e", "f")
_USER_ZIPF = 1.1  # a few people make most requests
_TICK_S = 10.0  # of event time; drift, arrivals and exposure move in these steps
_BLOCK = 256  # requests whose randomness is drawn at once
_KEPT_REQUESTS = 100_000  # whose truth is still known


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
        requests, tastes, items, regimes = np.random.SeedSequence(s.seed).spawn(4)
        self._request_rng = np.random.default_rng(requests)
        self._taste_rng = np.random.default_rng(tastes)
        self._regime_rng = np.random.default_rng(regimes)
        self.time = s.start_time
        self.shifts = 0
        self._made = 0
        self._draws: OrderedDict[str, _Draw] = OrderedDict()
        self._tick_time = s.start_time
        self._next_shift = s.start_time + (s.shift_every_s or math.inf)
        self._remembered: list[tuple[Floats, Floats]] = []  # the worlds that shifts come back to
        self._at = 0  # the next request's place in the block
        self._gaps: Floats  # (block,) seconds since the request before
        self._users: Ints  # (block,)
        self._devices: Ints  # (block,)
        self._shown: Floats  # (block, 2 slates) uniform
        self._chances: Floats  # (block, slate)
        self._delays: Floats  # (block, slate)
        self._noise: Ints  # (block, slate, noise features)
        self._habits = Habits(s.habit, s.habit_half_life_s, (s.users, s.categories)) if s.habit else None
        self._after = AfterClicks(s) if s.buy_rate or s.minutes else None
        self._make_people()
        self._items = Catalogue(s, np.random.default_rng(items), self._regime_rng)
        self.shift()
        self.shifts = 0
        self._take_block()

    @property
    def items(self) -> list[Features]:
        """The features of all items on show, as they are now."""
        return self._items.features

    # What happens

    def request(self) -> Impression:
        """The next request: moves the clock, and shows a slate drawn by exposure.

        Context: `user` (int), `segment`, `device` (str), `hour` (int). Candidates: `item` (int),
        `category`, `age` (str), and `title` (str), `attr0`, ..., `noise0`, ... (int) where configured.
        """
        s = self.settings
        if self._at == _BLOCK:
            self._take_block()
        at, self._at = self._at, self._at + 1
        self.time += float(self._gaps[at])
        if self.time >= self._tick_time + _TICK_S or self.time >= self._next_shift:
            self._move_on()
        user, device = int(self._users[at]), int(self._devices[at])
        shown = self._items.slate(self._shown[at])
        taste = self._own_taste[user] + self._segment_taste[self._segment[user]]
        categories = self._items.category[shown]
        logit = self._items.logit[shown] + (self._styles @ taste)[categories]
        if self._habits is not None:
            logit += self._habits.logit(user, self.time)[categories]
        logit += (
            self._activity[user]
            + _DEVICES[device][1]
            + _HOUR_AMPLITUDE * math.cos((self.time / 3600.0 - 20.0) * math.pi / 12.0)
        )
        request_id = f"w{s.seed}-{self._made}"
        self._made += 1
        truth = sigmoids(logit)
        if self._habits is not None:
            self._habits.clicked(user, categories[self._chances[at] < truth])
        self._draws[request_id] = _Draw(truth, self._chances[at], self._delays[at])
        if len(self._draws) > _KEPT_REQUESTS:
            self._draws.popitem(last=False)
        context: Features = {
            "user": int(self._user[user]),
            "segment": _SEGMENTS[self._segment[user]],
            "device": _DEVICES[device][0],
            "hour": int(self.time // 3600) % 24,
        }
        candidates = [self._items.features[i].copy() for i in shown.tolist()]
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

    def truth_after(self, impression: Impression) -> dict[str, Floats]:
        """What a click on each candidate is worth, (slate,): of `buy` the probability of a purchase, of
        `minutes` the expected minutes; each only if it is configured."""
        user = int(str(impression.context["user"]))
        items = [int(str(features["item"])) for features in impression.candidates]
        found: dict[str, Floats] = {}
        if self._after is not None and self.settings.buy_rate:
            found["buy"] = np.array([self._after.buy_truth(item, user) for item in items])
        if self._after is not None and self.settings.minutes:
            found["minutes"] = np.array([self._after.minutes_truth(item, user) for item in items])
        return found

    def react(self, impression: Impression, order: Sequence[int] | None = None) -> list[Action]:
        """The clicks on a request, and what follows them where that is configured (`buy`, `minutes`), in
        order of event time.

        Args:
            impression: a request of this world.
            order: the candidates that are shown, from top to bottom; a click then also needs the place to
                be looked at, with probability 1 / log2(place + 1), place 1 being the top. None: every
                candidate is shown and looked at.

        Raises:
            WorldError: the request is not known, or `order` is not some of its candidates, each once.
        """
        draw = self._draw(impression)
        needed = draw.truth
        if order is not None:
            if len(set(order)) < len(order) or not all(0 <= i < len(needed) for i in order):
                raise WorldError(
                    f"order must hold some of 0 to {len(needed) - 1}, each once, not {list(order)}"
                )
            looked = np.zeros(len(needed))
            looked[list(order)] = 1.0 / np.log2(np.arange(2, len(order) + 2))
            needed = needed * looked
        clicks = [
            Action(impression.request_id, impression.time + float(draw.delay_s[i]), int(i))
            for i in np.flatnonzero(draw.chance < needed)
        ]
        if self._after is not None:
            number = int(impression.request_id.rpartition("-")[2])
            clicks += [
                action for click in list(clicks) for action in self._after.of(impression, number, click)
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

    def examples(self, requests: int, window_s: float | None = None) -> Iterator[Example]:
        """Requests with their labels, as a joiner gives them.

        Args:
            requests: how many.
            window_s: a request is decided so long after it was shown, and clicks that take longer are
                lost; None: as if no click took time.
        """
        for _ in range(requests):
            impression = self.request()
            draw = self._draw(impression)
            clicked = draw.chance < draw.truth
            if window_s is not None:
                clicked &= draw.delay_s <= window_s
            request_id, time = impression.request_id, impression.time
            decided = time + (window_s or 0.0)
            labels = clicked.astype(np.float64).tolist()
            yield Example(request_id, time, decided, impression.candidates, labels, impression.context)

    def shift(self) -> None:
        """Redraw the segments' tastes and the categories' popularity, now: a sudden shift.

        With `recurring` worlds, the one whose turn it is comes back as it was first drawn.
        """
        s, rng = self.settings, self._taste_rng
        self.shifts += 1
        if s.recurring and len(self._remembered) == s.recurring:
            taste, popularity = self._remembered[self.shifts % s.recurring]
            self._segment_taste, self._popularity = taste.copy(), popularity.copy()
        else:
            self._segment_taste = rng.normal(0.0, _SEGMENT_TASTE_SD, (len(_SEGMENTS), s.dim))
            self._popularity = rng.normal(0.0, _POPULARITY_SD, s.categories)
            if s.recurring:
                self._remembered.append((self._segment_taste.copy(), self._popularity.copy()))
        self._bias = 0.0
        self._weigh_items()
        self._bias = self._bias_for(s.click_rate)
        self._items.logit += self._bias

    # How it is made and moves

    def _make_people(self) -> None:
        s, rng = self.settings, self._taste_rng
        # Styles of length 1, so that the logit's variance is a taste's variance per dimension.
        styles = rng.normal(size=(s.categories, s.dim))
        self._styles = styles / np.linalg.norm(styles, axis=1, keepdims=True)  # (categories, dim)
        self._segment = rng.integers(0, len(_SEGMENTS), s.users)
        self._own_taste = rng.normal(0.0, _OWN_TASTE_SD, (s.users, s.dim))
        self._activity = rng.normal(0.0, _ACTIVITY_SD, s.users)
        self._user = np.arange(s.users)
        self._next_user = s.users
        self._newcomers = 0.0
        # The order in which people leave, so that it is not the busiest first.
        self._leaving = self._regime_rng.permutation(s.users)
        self._left = 0
        weight = np.arange(1, s.users + 1) ** -_USER_ZIPF
        self._user_share = np.cumsum(weight) / weight.sum()
        self._device_share = np.cumsum([share for _, _, share in _DEVICES])

    def _move_on(self) -> None:
        """Bring the world to the clock: arrivals and drift since the last tick, shifts that are due."""
        s = self.settings
        elapsed_s = self.time - self._tick_time
        self._tick_time = self.time
        self._items.arrive(self.time, elapsed_s)
        self._come_and_go(elapsed_s)
        self._items.burst_and_spike(self.time)
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

    def _come_and_go(self, elapsed_s: float) -> None:
        """Replace people by others, at the configured rate; each has the pace of who was there before."""
        s, rng = self.settings, self._regime_rng
        self._newcomers += s.new_users_per_h * elapsed_s / 3600.0
        count = min(int(self._newcomers), s.users)
        self._newcomers -= int(self._newcomers)
        if not count:
            return
        at = self._leaving[(self._left + np.arange(count)) % s.users]
        self._left = (self._left + count) % s.users
        self._user[at] = self._next_user + np.arange(count)
        self._next_user += count
        if self._habits is not None:
            self._habits.leave(at)
        self._segment[at] = rng.integers(0, len(_SEGMENTS), count)
        self._own_taste[at] = rng.normal(0.0, _OWN_TASTE_SD, (count, s.dim))
        self._activity[at] = rng.normal(0.0, _ACTIVITY_SD, count)

    def _weigh_items(self) -> None:
        self._items.weigh(self._tick_time, self._bias, self._popularity)

    def _bias_for(self, click_rate: float) -> float:
        """The bias at which the mean click probability of what would be shown is `click_rate`."""
        rng = self._taste_rng
        users = np.searchsorted(self._user_share, rng.random(4_000))
        items = np.searchsorted(self._items.exposure, rng.random(4_000))
        users, items = np.minimum(users, self.settings.users - 1), np.minimum(items, self.settings.items - 1)
        tastes = self._own_taste[users] + self._segment_taste[self._segment[users]]
        logit = self._activity[users] + self._items.logit[items]
        logit += np.einsum("nd,nd->n", tastes, self._styles[self._items.category[items]])
        low, high = -30.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            if np.mean(sigmoids(logit + middle)) < click_rate:
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

    def _draw(self, impression: Impression) -> _Draw:
        draw = self._draws.get(impression.request_id)
        if draw is None:
            raise WorldError(
                f"request {impression.request_id!r} is not of this world, or older than its last "
                f"{_KEPT_REQUESTS:,} requests"
            )
        return draw
