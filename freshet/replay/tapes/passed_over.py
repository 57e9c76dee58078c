"""Examples that a live model has passed over since it went back: a replay of the log would learn them."""

from collections.abc import Sequence

from freshet.config import Config
from freshet.errors import ReplayError
from stream.errors import LogAwayError, LogError
from stream.log.base import Log
from stream.orders.names import MAIN
from stream.orders.orders import MODELS, OrderReader, Rollback


def check_not_passed_over(log: Log, config: Config, offsets: Sequence[tuple[int, int]]) -> None:
    """Check that the live model has learned what a replay would learn.

    The log says up to where a rollback passed examples over, and not from where on: that is where the
    snapshot ends. So a range is taken only if it begins behind that place.

    Args:
        offsets: [first, end) in topic `examples`, by partition.

    Raises:
        ReplayError: the model went back, and not all of its examples were learned again.
    """
    try:
        log.partitions(MODELS)
    except LogAwayError:
        raise
    except LogError:  # nobody has ordered anything: there is no such topic
        return
    model = config.model or MAIN
    for placed in OrderReader(log).read():
        order = placed.order
        if not isinstance(order, Rollback) or order.model != model:
            continue
        overlaps = any(
            first < min(order.skip_to.get(partition, 0), end)
            for partition, (first, end) in enumerate(offsets)
        )
        if overlaps or order.hold:
            skipped = ",".join(str(order.skip_to.get(partition, 0)) for partition in range(len(offsets)))
            behind = "" if order.hold else f"; or begin behind them, --from offset:{skipped}"
            raise ReplayError(
                f"model {model} went back (order {placed.offset} in topic models) to snapshot "
                f"{order.snapshot or 'from before the trouble'}, and passed over examples that this replay "
                f"would learn: --through-rollbacks learns them too, and does not give the live model{behind}"
            )
