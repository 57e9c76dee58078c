"""What was shown of a request: said by its impression, amended by exposures until it is decided.

Of several exposures the newest by event time counts, for `shown` and for `examined` apart, so the order in
which they arrive does not matter. A click always counts: nobody clicks what is not there, and who says what
was shown may have said it before the page was drawn. So a clicked candidate was shown, and every place above
the last click was examined.
"""

import math
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from stream.errors import RecordError
from stream.records.types import Exposure, Impression

LONG_SLATE = 10
"""Candidates above which a request was probably not shown whole, if nobody says what was."""


class Exposed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What has been said of a request's exposure, and at which event time; minus infinity: by the impression.

    `shown` and `examined` are as in `Exposure`; None: nobody has said so. `settled` are the candidates that
    have been learned as shown, by their places; None: none yet.
    """

    shown: list[int] | None = None
    shown_s: float = -math.inf
    examined: int | None = None
    examined_s: float = -math.inf
    settled: list[int] | None = None
    by_click: int = 0  # of the settled: so many of which only a click says that they were shown

    def says(self, other: "Exposed") -> bool:
        """Whether both say the same, at whatever times."""
        return self.shown == other.shown and self.examined == other.examined


class ShownOrder(NamedTuple):
    """The candidates that count as shown, by their places from the first down."""

    candidates: list[int]
    by_click: int  # so many at the end, of which only a click says that they were shown


UNSAID = Exposed()

UNSAID_MAX = 1_000
"""Long requests of which nobody says what was shown, above which a joiner warns."""


def amended(before: Exposed, exposure: Exposure, size: int) -> Exposed:
    """What is said after an exposure.

    >>> said = amended(Exposed([2, 0]), Exposure("r", 10.0, examined=1), 3)
    >>> said.shown, said.examined, said.examined_s
    ([2, 0], 1, 10.0)

    Args:
        size: the request's number of candidates.

    Raises:
        RecordError: the exposure names a candidate or a place that the request does not have.
    """
    shown, shown_s, examined, examined_s = before.shown, before.shown_s, before.examined, before.examined_s
    time = exposure.time
    if exposure.shown is not None:
        last = max(exposure.shown, default=-1)
        if last >= size:
            raise RecordError(
                f"exposure with candidate {last} of a request of {size} candidates (0 to {size - 1})"
            )
        # at one time the longer list counts, then the larger: some rule that no order of arrival changes
        mine = (time, len(exposure.shown), exposure.shown)
        if shown is None or mine > (shown_s, len(shown), shown):
            shown, shown_s = exposure.shown, time
    if exposure.examined is not None:
        if exposure.examined > size:
            raise RecordError(
                f"exposure with {exposure.examined} places examined of a request of {size} candidates"
            )
        if examined is None or (time, exposure.examined) > (examined_s, examined):
            examined, examined_s = exposure.examined, time
    return Exposed(shown, shown_s, examined, examined_s)


def seen(impression: Impression, exposed: Exposed, clicked: Collection[int]) -> ShownOrder:
    """The candidates that were shown, and examined where that was said.

    >>> request = Impression("r", 1e9, [{}] * 5)
    >>> seen(request, Exposed(shown=[4, 1, 0], examined=1), clicked={1})
    ShownOrder(candidates=[4, 1], by_click=0)
    >>> seen(request, Exposed(shown=[4, 1, 0]), clicked={3})
    ShownOrder(candidates=[4, 1, 0, 3], by_click=1)

    Args:
        exposed: what was said, with that of the impression.
        clicked: the candidates whose last action is a click.
    """
    if exposed.settled is not None:  # a late click shows itself only, and what was learned stays shown
        late = sorted(set(clicked).difference(exposed.settled))
        return ShownOrder([*exposed.settled, *late], exposed.by_click + len(late))
    order = _laid_out(impression) if exposed.shown is None else exposed.shown
    if exposed.examined is not None:
        clicks = [place for place, candidate in enumerate(order) if candidate in clicked]
        order = order[: max(exposed.examined, max(clicks, default=-1) + 1)]
    unsaid = sorted(set(clicked).difference(order))
    return ShownOrder([*order, *unsaid], len(unsaid))


def settled(exposed: Exposed, found: ShownOrder) -> Exposed:
    """What is said, once that is learned."""
    return msgspec.structs.replace(exposed, settled=found.candidates, by_click=found.by_click)


def _laid_out(impression: Impression) -> list[int]:
    """All candidates by their places: as said, as Freshet answered, or as they come."""
    candidates = range(len(impression.candidates))
    if impression.place is not None:
        return sorted(candidates, key=impression.place.__getitem__)
    if impression.served is not None:
        corrected = impression.served.corrected
        return sorted(candidates, key=lambda candidate: -corrected[candidate])  # stable, as the answer's
    return list(candidates)
