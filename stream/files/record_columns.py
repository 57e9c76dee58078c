"""Records as columns of a table, from which the same records can be read back.

One row is one candidate. Values of the request (its id, its time, its context) are repeated in each of its
rows. Each feature is a column with the feature's name. The column's type follows from the values; a feature
with values of several types is a column of JSON texts. A feature that a request does not have is null. The
file's schema contains this layout (`RecordLayout`), so nothing has to be guessed when it is read.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from stream.records.types import (
    Action,
    Event,
    Example,
    Exposure,
    Features,
    Impression,
    Served,
    ServedTarget,
    Value,
)

if TYPE_CHECKING:
    import pyarrow

METADATA = b"freshet"
FORMAT_VERSION = 1

Holds = Literal["examples", "events", "records"]
Where = Literal["context", "candidate"]
Kind = Literal["int", "uint", "number", "text", "ints", "uints", "numbers", "texts", "json"]

# The types of values seen of a feature, as bits.
_INT, _NEGATIVE, _BEYOND, _NUMBER, _TEXT, _LIST, _OF_INT, _OF_NEGATIVE, _OF_BEYOND, _OF_NUMBER, _OF_TEXT = (
    1 << bit for bit in range(11)
)
_KINDS: tuple[tuple[int, Kind], ...] = (
    (_INT | _NEGATIVE, "int"),
    (_INT | _BEYOND, "uint"),
    (_NUMBER, "number"),
    (_TEXT, "text"),
    (_LIST | _OF_INT | _OF_NEGATIVE, "ints"),
    (_LIST | _OF_INT | _OF_BEYOND, "uints"),
    (_LIST | _OF_NUMBER, "numbers"),
    (_LIST | _OF_TEXT, "texts"),
)
"""A feature gets the first kind that holds all types seen; "json" holds any."""

REQUEST_COLUMNS = ("request_id", "time", "candidate", "label")
EXAMPLE_COLUMNS = (
    *REQUEST_COLUMNS, "decided", "served_base", "served_corrected", "served_model", "place", "propensity",
    "log_odds", "late", "candidate_count", "further",
)  # fmt: skip
EVENT_COLUMNS = (
    "type", *REQUEST_COLUMNS, "action", "served_base", "served_corrected", "served_model", "place",
    "propensity", "shown", "examined", "further",
)  # fmt: skip
LATER_COLUMNS = ("shown", "examined", "candidate_count", "further")
"""Columns that files of older versions do not have: no value is in them there."""
_ARROW = {
    "type": "string", "request_id": "string", "time": "float64", "candidate": "int32", "label": "float64",
    "decided": "float64", "action": "string", "served_base": "float64", "served_corrected": "float64",
    "served_model": "string", "place": "int32", "propensity": "float64", "further": "string",
    "examined": "int32", "candidate_count": "int32", "log_odds": "float64", "late": "bool_",
    "int": "int64", "uint": "uint64", "number": "float64", "text": "string", "json": "string",
}  # fmt: skip


class Further(msgspec.Struct, omit_defaults=True):
    """What a record says of targets and weights, as JSON in column `further`; null: nothing."""

    target: str = ""
    weight: list[float] | float | None = None
    before: list[float] | None = None
    outcomes: dict[str, list[float | None]] | None = None
    value: float | None = None
    served: dict[str, ServedTarget] = {}
    by: str = ""
    models: dict[str, ServedTarget] = {}
    filled: list[str] = []


class FeatureColumn(msgspec.Struct, frozen=True):
    """One feature's column."""

    column: str
    feature: str
    where: Where
    kind: Kind


class RecordLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The layout in a file's schema, in addition to the columns' types."""

    holds: Holds
    features: list[FeatureColumn] = []
    records: int = 0  # number of requests and actions when the file was written
    v: int = FORMAT_VERSION

    @property
    def fixed(self) -> tuple[str, ...]:
        """The columns other than features."""
        return EXAMPLE_COLUMNS if self.holds == "examples" else EVENT_COLUMNS

    @property
    def older(self) -> bool:
        """Whether a feature has the name of a later column: the file was written before there was one."""
        return any(c.column in LATER_COLUMNS and c.column in self.fixed for c in self.features)

    def schema(self, more: tuple[str, ...] = ()) -> "pyarrow.Schema":
        """The Arrow schema; `more` names columns of numbers after all others."""
        import pyarrow

        fields = [pyarrow.field(name, _arrow(name)) for name in self.fixed]
        fields += [pyarrow.field(column.column, _arrow(column.kind)) for column in self.features]
        fields += [pyarrow.field(name, pyarrow.float64()) for name in more]
        return pyarrow.schema(fields, {METADATA: msgspec.json.encode(self)})


class Survey:
    """Finds the layout for a set of records.

    >>> survey = Survey("examples")
    >>> survey.add(Example("r", 1e9, 1e9, [{"item": 1}, {"item": "a"}], [0.0, 1.0], {"user": -5}))
    >>> [(c.column, c.kind) for c in survey.layout().features]
    [('user', 'int'), ('item', 'json')]

    `more` names further columns of the file; no feature's column gets such a name.
    """

    def __init__(self, holds: Holds, more: Sequence[str] = ()) -> None:
        self._holds: Holds = holds
        self._more = {*PREDICTION_COLUMNS, *more}
        self._seen: dict[tuple[Where, str], int] = {}
        self._records = 0

    def add(self, record: Example | Event) -> None:
        """Look at one record."""
        self._records += 1
        if isinstance(record, Example | Impression):
            self._look("context", record.context)
            for features in record.candidates:
                self._look("candidate", features)

    def layout(self) -> RecordLayout:
        """The columns, in the order in which their features first occurred."""
        layout = RecordLayout(holds=self._holds)
        names = Counter(name for _, name in self._seen)
        taken = {*layout.fixed, *self._more, *names}
        columns = []
        for (where, name), seen in self._seen.items():
            column = name
            if names[name] > 1 or name in layout.fixed or name in self._more:
                column = f"{where}:{name}"
                while column in taken:
                    column += "'"
                taken.add(column)
            columns.append(FeatureColumn(column, name, where, _kind(seen)))
        return RecordLayout(holds=self._holds, features=columns, records=self._records)

    def _look(self, where: Where, features: Features) -> None:
        seen = self._seen
        for name, value in features.items():
            key = (where, name)
            kind = type(value)
            seen[key] = seen.get(key, 0) | (_TEXT if kind is str else _bits(value))


PREDICTION_COLUMNS = ("base", "corrected")
"""Columns that a replay adds to its examples: its predictions."""


def layout_of(schema: "pyarrow.Schema") -> RecordLayout | None:
    """The layout in a schema; None: Freshet has not written it.

    Raises:
        ValueError: it was written by another version.
    """
    metadata = (schema.metadata or {}).get(METADATA)
    if metadata is None:
        return None
    version = msgspec.json.decode(metadata, type=dict[str, msgspec.Raw]).get("v")
    if version is None or bytes(version) != b"%d" % FORMAT_VERSION:
        raise ValueError(
            f"it is of version {bytes(version or b'?').decode()}; this Freshet reads version {FORMAT_VERSION}"
        )
    return msgspec.json.decode(metadata, type=RecordLayout)


class RecordColumns:
    """Collects records as columns.

    Attributes:
        rows: number of collected rows.
        weight: about their bytes, uncompressed.
    """

    def __init__(self, layout: RecordLayout) -> None:
        self.rows = 0
        self.weight = 0
        self.columns: dict[str, list[Any]] = {name: [] for name in layout.fixed}
        self.columns |= {column.column: [] for column in layout.features}
        self._context, self._candidate = (
            [
                (column.feature, self.columns[column.column].append, column.kind == "json")
                for column in layout.features
                if column.where == where
            ]
            for where in ("context", "candidate")
        )

    def add(self, record: Example | Event) -> None:
        """Take one record."""
        columns = self.columns
        candidates: list[Features] = [{}]
        context: Features = {}
        if isinstance(record, Action | Exposure):
            n = 1
            columns["candidate"].append(record.candidate if isinstance(record, Action) else 0)
            columns["label"].append(record.label if isinstance(record, Action) else None)
        else:
            candidates, context = record.candidates, record.context
            n = len(candidates)
            columns["candidate"].extend(range(n))
            columns["label"].extend(record.labels if record.labels is not None else [None] * n)
        columns["request_id"].extend([record.request_id] * n)
        columns["time"].extend([record.time] * n)
        if isinstance(record, Example):
            columns["decided"].extend([record.decided] * n)
            columns["log_odds"].extend([record.log_odds] * n)
            columns["late"].extend([record.late] * n)
            columns["candidate_count"].extend([record.candidate_count] * n)
        else:
            columns["type"].extend([record.__struct_config__.tag] * n)
            columns["shown"].extend([None if isinstance(record, Action) else record.shown] * n)
            columns["examined"].extend([record.examined if isinstance(record, Exposure) else None] * n)
            columns["action"].extend([record.name if isinstance(record, Action) else None] * n)
        said = _further(record)
        columns["further"].extend([None if said is None else _to_json(said)] * n)
        served = None if isinstance(record, Action | Exposure) else record.served
        columns["served_base"].extend([None] * n if served is None else served.base)
        columns["served_corrected"].extend([None] * n if served is None else served.corrected)
        columns["served_model"].extend([None if served is None else served.model] * n)
        for name in ("place", "propensity"):
            columns[name].extend(getattr(record, name, None) or [None] * n)
        for name, append, as_json in self._context:
            value: Value | None = context.get(name)
            value = _to_json(value) if as_json and value is not None else value
            for _ in range(n):
                append(value)
        for name, append, as_json in self._candidate:
            for features in candidates:
                value = features.get(name)
                append(_to_json(value) if as_json and value is not None else value)
        self.rows += n
        # A context is written once for each candidate, however large it is.
        self.weight += _size(candidates) + n * (_size(context) + 100)


def records_of(layout: RecordLayout, columns: dict[str, list[Any]]) -> Iterator[Example | Event]:
    """The records of some rows. The first and the last request must be complete.

    Args:
        layout: of the file.
        columns: all columns' values, by name, as Python values.
    """
    read = [
        (c.feature, c.where == "context", columns[c.column], _from_json if c.kind == "json" else None)
        for c in layout.features
    ]
    candidate = columns["candidate"]
    total = len(candidate)
    kinds = columns.get("type")
    first = 0
    while first < total:
        if kinds is not None and kinds[first] == "action":
            request, time, label = (columns[name][first] for name in ("request_id", "time", "label"))
            value = _further_of(layout, columns, first).value
            yield Action(request, time, candidate[first], label, columns["action"][first], value=value)
            first += 1
            continue
        if kinds is not None and kinds[first] == "exposure":
            yield Exposure(*(columns[name][first] for name in ("request_id", "time", "shown", "examined")))
            first += 1
            continue
        end = first + 1
        while end < total and candidate[end] > 0 and (kinds is None or kinds[end] == "impression"):
            end += 1
        yield _request(layout, columns, read, first, end)
        first = end


def _request(
    layout: RecordLayout,
    columns: dict[str, list[Any]],
    read: Sequence[tuple[str, bool, list[Any], Callable[[str], Any] | None]],
    first: int,
    end: int,
) -> Example | Impression:
    """The request of rows [first, end)."""
    context: Features = {}
    candidates: list[Features] = [{} for _ in range(first, end)]
    for name, shared, values, convert in read:
        if shared:
            value = values[first]
            if value is not None:
                context[name] = value if convert is None else convert(value)
        else:
            for features, value in zip(candidates, values[first:end], strict=True):
                if value is not None:
                    features[name] = value if convert is None else convert(value)
    fields: dict[str, Any] = {
        "request_id": columns["request_id"][first],
        "time": columns["time"][first],
        "candidates": candidates,
        "context": context,
    }
    said = _further_of(layout, columns, first)
    base = columns["served_base"][first:end]
    if base[0] is not None:
        corrected = columns["served_corrected"][first:end]
        given = columns["served_model"][first], said.served, said.by, said.models, said.filled
        fields["served"] = Served(base, corrected, *given)
    fields["weight"] = said.weight
    for name in ("place", "propensity"):
        values = columns[name][first:end]
        fields[name] = None if values[0] is None else values
    labels = columns["label"][first:end]
    if layout.holds == "events":
        shown = None if layout.older else columns["shown"][first]
        known = None if labels[0] is None else labels
        return Impression(**fields, labels=known, shown=shown, outcomes=said.outcomes)
    fields |= {name: columns[name][first] for name in ("decided", "log_odds", "late")}
    count = 0 if layout.older else columns["candidate_count"][first] or 0
    return Example(**fields, labels=labels, target=said.target, before=said.before, candidate_count=count)


def _further(record: Example | Event) -> Further | None:
    """What a record says of targets and weights; None: nothing."""
    served = None if isinstance(record, Action | Exposure) else record.served
    given = {name: getattr(record, name) for name in _FURTHER if hasattr(record, name)}
    if served is not None:
        given |= {"served": served.targets, "by": served.by, "models": served.models, "filled": served.filled}
    return None if (found := Further(**given)) == Further() else found


def _further_of(layout: RecordLayout, columns: dict[str, list[Any]], row: int) -> Further:
    text = None if layout.older else columns["further"][row]
    return msgspec.json.decode(text or "{}", type=Further)


_FURTHER = ("target", "weight", "before", "outcomes", "value")
_json = msgspec.json.Encoder()
_from_json = msgspec.json.Decoder(Value).decode


def _to_json(value: Any) -> str:
    return _json.encode(value).decode()


def _size(value: Any) -> int:
    return len(msgspec.msgpack.encode(value))


def _bits(value: Any) -> int:
    """The types of a value, as bits."""
    if isinstance(value, list):
        bits = _LIST
        for item in value:
            if isinstance(item, str):
                bits |= _OF_TEXT
            elif isinstance(item, float):
                bits |= _OF_NUMBER
            else:
                bits |= _OF_NEGATIVE if item < 0 else _OF_BEYOND if item >= 1 << 63 else _OF_INT
        return bits
    if isinstance(value, float):
        return _NUMBER
    if isinstance(value, str):
        return _TEXT
    return _NEGATIVE if value < 0 else _BEYOND if value >= 1 << 63 else _INT


def _kind(seen: int) -> Kind:
    return next((kind for room, kind in _KINDS if seen & ~room == 0), "json")


def _arrow(name: str) -> Any:
    import pyarrow

    lists = {"ints": pyarrow.int64(), "uints": pyarrow.uint64(), "numbers": pyarrow.float64()}
    lists |= {"texts": pyarrow.string(), "shown": pyarrow.int32()}
    return pyarrow.list_(lists[name]) if name in lists else getattr(pyarrow, _ARROW[name])()
