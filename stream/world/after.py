"""What follows a click in a simulated world: some people buy, later, and all watch for some minutes.

Whether somebody buys depends on the item and on the person, and so do the minutes, each by a trait of their
own, which no feature says. What chance decides is drawn from the seed and the request's number alone, so that
it does not depend on which reactions are asked for, or when.
"""

import math
from statistics import NormalDist

import numpy as np

from stream.records.types import Action, Impression
from stream.world.settings import WorldSettings

BUY, MINUTES = "buy", "minutes"

_ITEM_SD, _USER_SD = 0.8, 0.5  # of the logit of buying, and of the logarithm of the minutes
_CHANCE_SD = 0.5  # of the logarithm of the minutes, beside item and user
_WATCHED_S = 60.0  # in a minute
_NORMAL = NormalDist()


class AfterClicks:
    """Purchases and minutes, as `buy_rate` and `minutes` of a world say, of an average pair."""

    def __init__(self, settings: WorldSettings) -> None:
        self._settings = settings

    def buy_truth(self, item: int, user: int) -> float:
        """The probability that a click becomes a purchase."""
        rate = self._settings.buy_rate
        if not rate:
            return 0.0
        logit = math.log(rate / (1.0 - rate)) + self._pair("buy", item, user)
        return 1.0 / (1.0 + math.exp(-logit))

    def minutes_truth(self, item: int, user: int) -> float:
        """The minutes that a click is expected to bring."""
        return self._settings.minutes * math.exp(self._pair("minutes", item, user) + 0.5 * _CHANCE_SD**2)

    def of(self, impression: Impression, number: int, click: Action) -> list[Action]:
        """The actions that follow a click: minutes first, in order of event time.

        Args:
            impression: the request.
            number: of the request.
            click: its click.
        """
        s = self._settings
        item, user = (
            int(str(features[name]))
            for features, name in (
                (impression.candidates[click.candidate], "item"),
                (impression.context, "user"),
            )
        )
        chance, delay, watched = np.random.default_rng([s.seed, number, click.candidate]).random(3).tolist()
        found = []
        if s.minutes:
            noise = _CHANCE_SD * _NORMAL.inv_cdf(min(max(watched, 1e-9), 1.0 - 1e-9))
            minutes = s.minutes * math.exp(self._pair("minutes", item, user) + noise)
            at = click.time + _WATCHED_S * minutes
            found.append(Action(click.request_id, at, click.candidate, name=MINUTES, value=minutes))
        if chance < self.buy_truth(item, user):
            at = click.time - s.buy_delay_s * math.log1p(-delay)
            found.append(Action(click.request_id, at, click.candidate, name=BUY))
        return sorted(found, key=lambda action: action.time)

    def _pair(self, what: str, item: int, user: int) -> float:
        return _ITEM_SD * self._trait(what, "item", item) + _USER_SD * self._trait(what, "user", user)

    def _trait(self, *names: str | int) -> float:
        """A standard normal number that belongs to these names."""
        seed = [
            self._settings.seed,
            *(part if isinstance(part, int) else int.from_bytes(part.encode()) for part in names),
        ]
        return float(np.random.default_rng(seed).standard_normal())
