"""How a simulated world is set up: its size, its pace, and how fast and in which ways it changes."""

import msgspec

from ground import FreshetError
from ground.short_repr import ShortRepr
from stream.limits import CANDIDATES_MAX


class WorldError(FreshetError):
    """A world that cannot be made as configured, or a request that it does not know (any more)."""


class WorldSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    recurring: int = 0  # shifts go round so many remembered worlds; 0: each is a new one
    new_users_per_h: float = 0.0  # people who leave, and others, with an id and tastes of their own, who come
    burst_every_s: float = 0.0  # from one burst of new items to the next; 0: none
    burst_share: float = 0.3  # of the catalogue, replaced at once by a burst
    spike_every_s: float = 0.0  # from one spike to the next, when a few items are all the rage; 0: none
    spike_s: float = 900.0  # how long a spike lasts
    attributes: int = 0  # features of the items that matter, each a little less, with 20 values each
    title_words: int = 0  # in an item's `title`, which tell how good it is; 0: no titles
    noise_features: int = 0  # features of the candidates that mean nothing, with 100 values each
    # What a click adds to the logit of its category for the same person, on top of `click_rate`; 0: nothing.
    habit: float = 0.0
    habit_half_life_s: float = 900.0  # of what clicks add
    buy_rate: float = 0.0  # share of an average pair's clicks that become a purchase; 0: nobody buys
    buy_delay_s: float = 600.0  # mean, exponential, from click to purchase
    minutes: float = 0.0  # watched after an average pair's click; 0: nothing is said of it
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
            ("recurring", 0, 1000),
            ("new_users_per_h", 0, 1e7),
            ("burst_every_s", 0, 1e9),
            ("burst_share", 0, 1),
            ("spike_every_s", 0, 1e9),
            ("spike_s", 0, 1e9),
            ("attributes", 0, 100),
            ("title_words", 0, 20),
            ("noise_features", 0, 100),
            ("habit", 0, 10),
            ("habit_half_life_s", 1, 1e9),
            ("buy_rate", 0, 0.9),
            ("buy_delay_s", 0, 1e7),
            ("minutes", 0, 1e6),
            ("seed", 0, 2**63 - 1),
            ("start_time", 0, 4e9),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if not low <= value <= high:
                raise WorldError(f"{name} is {value}; expected {low:g} to {high:g}")
