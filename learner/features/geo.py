"""Places on Earth as cells of three sizes.

A cell is a part of a band of latitude. The parts of a band are about as wide as the band is high, so all
cells of one size have about the same area: about 111 km squared, 11 km squared and 1.1 km squared. The parts
of a band go once round the Earth: the date line divides no cell into two, and each pole has its own.
"""

from collections.abc import Sequence
from math import cos, floor, isfinite, radians

import numpy as np

from learner.errors import FeatureError
from learner.features.values import Values, one_a_row

PARTS = ("region", "city", "street")
SIZES = (1.0, 0.1, 0.01)
"""The height of a cell in degrees of latitude, of each of `PARTS`."""


def read_places(name: str, values: Sequence[object]) -> list[Values]:
    """Latitude and longitude (n,), lists of two numbers or None, as the entries of each of `PARTS`.

    Raises:
        FeatureError: a value is no place on Earth.
    """
    there = [value is not None for value in values]
    keys = np.zeros((len(SIZES), sum(there)), dtype=np.uint64)
    for i, value in enumerate(value for value in values if value is not None):
        place = _place(name, value)
        keys[:, i] = [cell_of(*place, size) for size in SIZES]
    return [one_a_row(there, key) for key in keys]


def cell_of(latitude: float, longitude: float, size: float) -> int:
    """The number of a place's cell: its band from the south in the upper 32 bits, its part in the lower.

    >>> cell_of(52.52, 13.40, 1.0) == cell_of(52.1, 13.2, 1.0), cell_of(0, 180, 1.0) == cell_of(0, -180, 1.0)
    (True, True)
    """
    bands = round(180.0 / size)
    band = min(floor((latitude + 90.0) / size), bands - 1)
    middle = (band + 0.5) * size - 90.0
    parts = max(round(360.0 / size * cos(radians(middle))), 1)
    part = floor((longitude + 180.0) / 360.0 * parts) % parts
    return (band << 32) | part


def _place(name: str, value: object) -> tuple[float, float]:
    """A value as (latitude, longitude) in degrees."""

    def refuse(why: str) -> FeatureError:
        return FeatureError(f"feature {name} (kind geo) has the value {str(value)[:80]!r}: {why}")

    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(v, int | float) for v in value):
        raise refuse("expected a latitude and a longitude in degrees, [52.52, 13.40]")
    latitude, longitude = float(value[0]), float(value[1])
    if not (isfinite(latitude) and isfinite(longitude)):
        raise refuse("expected finite numbers")
    if abs(latitude) > 90.0 and abs(longitude) <= 90.0 and abs(latitude) <= 180.0:
        raise refuse("a latitude is -90 to 90; the latitude comes first")
    if abs(latitude) > 90.0 or abs(longitude) > 180.0:
        raise refuse("a latitude is -90 to 90, a longitude -180 to 180")
    return latitude, longitude
