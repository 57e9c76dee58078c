"""A few numbers over time: the last ten minutes by the second, the last day by the minute."""

from collections import deque
from collections.abc import Sequence

import msgspec

FINE_POINTS = 600  # a second each
COARSE_POINTS = 1440  # a minute each
COARSE_S = 60.0
DIGITS = 5  # significant digits of a stored number; more are not visible

Readings = list[float | None]


class Span(msgspec.Struct, frozen=True):
    """Some points, the oldest first. A column has the length of `time`; None: the number was not known."""

    every_s: float
    time: list[float]  # Unix seconds, the end of each point's period
    columns: dict[str, Readings]


class History:
    """Two ring buffers of points: the newest ones, and one-minute means for a day.

    Args:
        names: of the numbers that a point has.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._fine: deque[tuple[float, Sequence[float | None]]] = deque(maxlen=FINE_POINTS)
        self._coarse: deque[tuple[float, Sequence[float | None]]] = deque(maxlen=COARSE_POINTS)
        self._minute = -1.0
        self._sums = [0.0] * len(self.names)
        self._counts = [0] * len(self.names)

    def add(self, time_s: float, values: Sequence[float | None]) -> None:
        """Add a point; `values` in the order of the names."""
        rounded = [None if value is None else _rounded(value) for value in values]
        self._fine.append((time_s, rounded))
        minute = time_s // COARSE_S
        if self._minute >= 0.0 and minute != self._minute:
            self._end_minute()
        self._minute = minute
        for i, value in enumerate(values):
            if value is not None:
                self._sums[i] += value
                self._counts[i] += 1

    def fine(self, points: int = FINE_POINTS) -> Span:
        """The newest points."""
        return self._span(1.0, list(self._fine)[-points:])

    def coarse(self) -> Span:
        """The complete minutes of the last day."""
        return self._span(COARSE_S, list(self._coarse))

    def _end_minute(self) -> None:
        means = [
            _rounded(total / count) if count else None
            for total, count in zip(self._sums, self._counts, strict=True)
        ]
        self._coarse.append(((self._minute + 1.0) * COARSE_S, means))
        self._sums = [0.0] * len(self.names)
        self._counts = [0] * len(self.names)

    def _span(self, every_s: float, points: Sequence[tuple[float, Sequence[float | None]]]) -> Span:
        columns = {name: [values[i] for _, values in points] for i, name in enumerate(self.names)}
        return Span(every_s, [round(time_s, 1) for time_s, _ in points], columns)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
