"""What one step costs at a limit, against what it costs far below it."""

import gc
from collections.abc import Callable

DEARER_MAX = 5.0
"""Times as much a step may cost at a limit as at a hundredth of it; caches make some difference."""


def dearer(step_cost: Callable[[int], float], limit: int) -> float:
    """How much dearer a step is at a limit than at a hundredth of it, by processor time: the least of three.

    Both are measured one after the other, since a machine that others use changes its speed.
    """
    gc.disable()  # it looks at all objects of the test's process
    try:
        return least_ratio(lambda: step_cost(limit), lambda: step_cost(max(limit // 100, 2)))
    finally:
        gc.enable()


def least_ratio(one: Callable[[], float], other: Callable[[], float], times: int = 3) -> float:
    """What one costs in terms of the other: the least of some ratios, each measured at one time.

    Work that grows without need shows in each of them, and a busy neighbour does not.
    """
    return min(one() / other() for _ in range(times))
