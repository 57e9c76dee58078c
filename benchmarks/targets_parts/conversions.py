"""A drifting world of clicks and purchases, half of which come days after the click."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Conversions:
    """n clicks of PEOPLE on ITEMS, one a minute; whether they buy drifts over the stream.

    Half of the purchases come within OBSERVE minutes, the other half within WINDOW.

    Args:
        n: clicks.
        p: about the share of them that buy.
        seed: of the world.
    """

    PEOPLE, ITEMS = 200, 50
    OBSERVE, WINDOW = 30, 3 * 1_440
    SEGMENT = 2_000
    """Clicks from one step of the drift to the next."""
    TASTE, STEP = 0.7, 0.35
    """Deviations of people and items, and of a step."""
    LATE = 0.5

    def __init__(self, n: int, p: float, seed: int) -> None:
        rng = np.random.default_rng([int(1_000 * p), seed])
        self.user, self.item = rng.integers(0, self.PEOPLE, n), rng.integers(0, self.ITEMS, n)
        drift = np.cumsum(rng.normal(0.0, self.STEP, (n // self.SEGMENT + 1, self.ITEMS)), axis=0)
        taste = rng.normal(0.0, self.TASTE, self.PEOPLE)
        z = taste[self.user] + rng.normal(0.0, self.TASTE, self.ITEMS)[self.item]
        z += drift[np.arange(n) // self.SEGMENT, self.item]
        self.offset = float(np.log(p / (1.0 - p)) - 0.6)
        self.truth: Floats = 1.0 / (1.0 + np.exp(-z - self.offset))
        self.label: Floats = (rng.random(n) < self.truth).astype(np.float64)
        late = rng.random(n) < self.LATE
        delay = np.where(late, rng.uniform(self.OBSERVE + 1, self.WINDOW, n), rng.uniform(0, self.OBSERVE, n))
        self.delay: Ints = delay.astype(np.int64)

    @property
    def n(self) -> int:
        """Clicks."""
        return len(self.label)

    def come(self, age: Ints) -> Floats:
        """The share of purchases that have come at these ages of their clicks, in whole minutes."""
        soon = np.minimum((age + 1) / self.OBSERVE, 1.0)
        late = np.clip((age - self.OBSERVE) / (self.WINDOW - self.OBSERVE - 1), 0.0, 1.0)
        share: Floats = (1.0 - self.LATE) * soon + self.LATE * late
        return share
