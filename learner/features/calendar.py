"""The calendar of a time zone: hour of the day, weekday, and hour of the week of a moment.

The hour is what clocks on the wall show. So the hour that a clock change repeats is one hour seen twice, and
the hour that it skips never comes.
"""

import difflib
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import numpy as np

from learner.errors import FeatureError
from learner.features.values import Values, one_a_row
from stream.limits import TIME_MAX_S, TIME_MIN_S

PARTS = ("hour", "weekday", "week")
"""The hour of the day (0 to 23), the weekday (0: Monday), the hour of the week (0: Monday at midnight)."""

DAY_S = 86_400.0


@cache
def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name.

    Raises:
        ValueError: there is none; the message suggests one.
    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        pass
    except KeyError:
        pass
    known = sorted(available_timezones())
    if not known:
        raise ValueError(f"zone is {name!r}, but this machine knows no time zones; install package tzdata")
    lower = {zone.lower(): zone for zone in known} | {zone.rsplit("/", 1)[-1].lower(): zone for zone in known}
    near = difflib.get_close_matches(name.strip().replace(" ", "_").lower(), lower, 1, 0.6)
    meant = f"; did you mean {lower[near[0]]!r}?" if near else ""
    raise ValueError(f'zone is {name!r}, which is no time zone; expected a name as "Europe/Berlin"{meant}')


def read_calendar(name: str, zone: str, values: Sequence[object]) -> list[Values]:
    """Moments (n,), Unix seconds or None, as the entries of each of `PARTS`.

    Raises:
        FeatureError: a value is no moment from 1970 to 2100.
    """
    tz = zone_of(zone)
    there = [value is not None for value in values]
    keys = np.zeros((len(PARTS), sum(there)), dtype=np.uint64)
    for i, value in enumerate(value for value in values if value is not None):
        local = datetime.fromtimestamp(moment(name, "calendar", value), tz)
        hour, weekday = local.hour, local.weekday()
        keys[:, i] = hour, weekday, 24 * weekday + hour
    return [one_a_row(there, key) for key in keys]


def time_value(kind: str, time: float) -> float:
    """What a feature of kind hour or calendar is at a request's event time."""
    return int(time // 3600) % 24 if kind == "hour" else time


def days_since(name: str, values: Sequence[object], times: Sequence[float]) -> list[float | None]:
    """Days from moments (n,), Unix seconds or None, to the event times (n,); below 0 for those to come.

    Raises:
        FeatureError: a value is no moment from 1970 to 2100.
    """
    return [
        None if value is None else (time - moment(name, "age", value)) / DAY_S
        for value, time in zip(values, times, strict=True)
    ]


def moment(name: str, kind: str, value: object) -> float:
    """A value as Unix seconds.

    Raises:
        FeatureError: it is none from 1970 to 2100.
    """
    if not isinstance(value, int | float) or not TIME_MIN_S <= value <= TIME_MAX_S:
        raise FeatureError(
            f"feature {name} (kind {kind}) has the value {str(value)[:80]!r}; expected Unix seconds, 1970 to "
            "2100 (milliseconds? divide by 1000)"
        )
    return float(value)
