"""Rows of Python, pandas or polars as requests: what a row may be, and what each of its values becomes."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from freshet.errors import ModelError
from ground import FreshetError
from learner.features.columns import declared_by
from learner.features.encoder import FeatureSpec, Request
from stream.limits import TIME_MAX_S, TIME_MIN_S
from stream.records.fields import tidy_features
from stream.records.types import Features

Row = Mapping[str, object]

_WHOLE_MAX = 1 << 53  # a float holds every whole number up to here


class GivenRows(NamedTuple):
    """Rows as they were given."""

    rows: list[Row]
    of_frame: bool  # from pandas, where a missing id makes all ids of its column floats


def rows_of(data: object) -> GivenRows:
    """The rows of a list of dicts, of one dict, or of a frame of pandas or polars.

    Raises:
        ModelError: it is none of these.
    """
    if isinstance(data, Mapping):
        return GivenRows([data], False)
    if hasattr(data, "to_dicts"):  # polars
        return GivenRows(data.to_dicts(), False)
    if hasattr(data, "columns") and hasattr(data, "astype") and hasattr(data, "notna"):  # pandas
        names = [str(name) for name in data.columns]
        if len(set(names)) < len(names):
            raise ModelError("the frame has two columns of one name: rename one of them")
        plain = data.astype(object).where(data.notna(), None)
        return GivenRows([dict(zip(names, row, strict=True)) for row in plain.itertuples(index=False)], True)
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        wrong = next((row for row in data if not isinstance(row, Mapping)), None)
        if wrong is None:
            return GivenRows(list(data), False)
        raise ModelError(f"a row is a {type(wrong).__name__}: expected a dict from feature to value")
    raise ModelError(
        f"requests are a {type(data).__name__}: expected a list of dicts, or a frame of pandas or polars"
    )


class RowReader:
    """Makes requests of rows.

    A row is one candidate with all its features, and a request of its own; or a dict with `candidates`, a
    list of dicts, and `context`, a dict of what all of them share.

    Args:
        features: the schema.
        time: name of the column with the event time: Unix seconds, or a datetime.
        request: name of the column that says which consecutive rows are one request; None: each row is one.
        whole_ids: take 7.0 for the id 7, as for frames of pandas.
    """

    def __init__(
        self, features: Mapping[str, FeatureSpec], time: str, request: str | None, *, whole_ids: bool
    ) -> None:
        self._declared = declared_by(features)
        self._whole_ids = whole_ids
        self._ids = {name for name, spec in features.items() if spec.kind in ("id", "hour")}
        self._time = time
        self._request = request

    def read(self, data: object, clock: Callable[[], float]) -> list[Request]:
        """The requests of rows in any form, in their order.

        Args:
            clock: gives the event time of a request that has none.

        Raises:
            ModelError: naming the row, and what was expected.
        """
        rows, of_frame = rows_of(data)
        requests: list[Request] = []
        last: object = None
        for number, row in enumerate(rows):
            try:
                if "candidates" in row:
                    requests.append(self._whole(row, clock))
                    last = None
                    continue
                features = self._tidy("row", row, of_frame)
                here = row.get(self._request) if self._request else None
                if requests and here is not None and here == last:
                    requests[-1].candidates.append(features)
                else:
                    requests.append(Request(self._time_of(row, clock), {}, [features]))
                last = here
            except FreshetError as error:
                raise ModelError(f"row {number}: {error}") from None
        return requests

    def _whole(self, row: Row, clock: Callable[[], float]) -> Request:
        context, candidates = parts_of(row)
        return Request(
            self._time_of(row, clock),
            self._tidy("context", context, False),
            [self._tidy(f"candidates[{i}]", c, False) for i, c in enumerate(candidates)],
        )

    def _tidy(self, where: str, row: Row, of_frame: bool) -> Features:
        said = {name: plain(row[name]) for name in self._declared if name in row}
        if of_frame or self._whole_ids:
            for name in self._ids:
                value = said.get(name)
                if isinstance(value, float) and value.is_integer() and abs(value) <= _WHOLE_MAX:
                    said[name] = int(value)
        return tidy_features(where, said, self._declared)

    def _time_of(self, row: Row, clock: Callable[[], float]) -> float:
        value = plain(row.get(self._time))
        if value is None:
            return clock()
        if isinstance(value, datetime.datetime):
            value = value.timestamp()
        if not isinstance(value, int | float) or not TIME_MIN_S <= value <= TIME_MAX_S:
            raise ModelError(
                f"{self._time} is {value!r}; expected Unix seconds, 1970 to 2100 (milliseconds? divide by "
                "1000), or a datetime"
            )
        return float(value)


def parts_of(row: Row) -> tuple[Row, list[Row]]:
    """The context and the candidates of a request.

    Raises:
        ModelError: they are no dicts, or there is no candidate.
    """
    candidates, context = row["candidates"], row.get("context") or {}
    if not isinstance(candidates, list) or not candidates:
        raise ModelError("candidates must be a list of at least one dict")
    if not isinstance(context, Mapping) or not all(isinstance(c, Mapping) for c in candidates):
        raise ModelError("context and each of the candidates must be dicts from feature to value")
    return context, candidates


def candidates_of(row: Row) -> list[Row]:
    """The candidates of a row in any form, each with its context, the time and all else of the request.

    Raises:
        ModelError: as `parts_of`.
    """
    if "candidates" not in row:
        return [row]
    context, candidates = parts_of(row)
    rest = {name: value for name, value in row.items() if name not in ("context", "candidates", "request_id")}
    return [{**rest, **context, **candidate} for candidate in candidates]


def plain(value: object) -> object:
    """A value without NumPy; None for NaN, which frames have where a value is missing."""
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else float(value.astype("datetime64[us]").astype(np.int64)) / 1e6
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    elif isinstance(value, set | frozenset | tuple):
        value = sorted(value, key=str) if not isinstance(value, tuple) else list(value)
    return None if isinstance(value, float) and value != value else value
