"""What one step costs at a limit, against what it costs far below it."""

import gc
import statistics
from collections.abc import Callable

DEARER_MAX = 5.0
"""Times as much a step may cost at a limit as at a hundredth of it; caches make some difference."""


def dearer(step_cost: Callable[[int], float], limit: int) -> float:
    """How much dearer a step is at a limit than at a hundredth of it, by processor time; medians of five."""
    gc.disable()  # it looks at all objects of the test's process
    try:
        few, many = ([step_cost(size) for _ in range(5)] for size in (max(limit // 100, 2), limit))
    finally:
        gc.enable()
    return statistics.median(many) / statistics.median(few)
