"""How a source's records become events: each field by its path."""

from collections.abc import Callable, Mapping
from operator import itemgetter
from zoneinfo import ZoneInfo

import msgspec

from ground.id_types import is_plain_integer
from stream.errors import RecordError
from stream.limits import CANDIDATES_MAX, REQUEST_ID_MAX, TEXT_MAX, TIME_MAX_S
from stream.records.entities.checking import checked
from stream.records.entities.record import EntityEvent
from stream.records.fields import ID_END, ID_MIN
from stream.records.id_types import DeclaredFeature
from stream.records.types import Action, Features, Impression, Value
from stream.sources.envelopes import DELETED, Each, check_count, events_of_batch, open_envelope
from stream.sources.paths import Carried, Decoded, Getter, compile_path, describe
from stream.sources.settings import Constant, SourceSettings
from stream.sources.values import TIME_FROM_S, number_of, to_amount, to_feature, to_id, to_label, to_seconds

NAME_MAX = 100


class CandidateLine(msgspec.Struct):
    """A record that is one candidate of its request."""

    request_id: str
    time: float
    context: Features
    candidate: Features
    label: float | None


class Wanted(msgspec.Struct):
    """An action that names its candidate by features: which one is known where the impressions are."""

    request_id: str  # empty: that of the entity's newest impression
    entity: list[Value]  # values of the source's `by`, in the order of their names
    match: dict[str, Value]
    time: float
    label: float
    name: str
    value: float | None = None


class Skipped(msgspec.Struct):
    """A record that is no event."""

    deleted: bool


SKIPPED, IS_DELETED = Skipped(False), Skipped(True)

One = Impression | Action | EntityEvent | CandidateLine | Wanted | Skipped


class Several(msgspec.Struct):
    """The events of a record that holds several, in its order; an event's place is part of its number."""

    events: list[One]


Mapped = One | Several


class Mapper:
    """Makes events of the decoded records of one source.

    >>> from stream.sources.settings import TimeField
    >>> source = SourceSettings(topic="t", kind="action", time=TimeField(field="at", unit="ms"),
    ...     request_id="request", candidate="position")
    >>> Mapper("clicks", source).map({"at": 1_700_000_000_000, "request": 7, "position": 2}, "clicks-0-0")
    Action(request_id='7', time=1700000000.0, candidate=2, label=1.0)
    """

    def __init__(
        self, name: str, source: SourceSettings, declared: Mapping[str, DeclaredFeature] | None = None
    ) -> None:
        """A mapper of one source.

        Args:
            name: of the source.
            declared: features; values of those with a `type` become ids of that type, and a text that writes
                a number becomes one for those of kind number. Others are taken as they are.
        """
        declared = declared or {}
        self._source = source
        self._name = name
        self._open = open_envelope(source.envelope)
        self._only = [
            (path, compile_path(path), frozenset((type(v), v) for v in values))
            for path, values in source.only.items()
        ]
        self._time = compile_path(source.time.field)
        self._zone = ZoneInfo(source.time.zone) if source.time.zone else None
        self._scale = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}.get(source.time.unit, 0.0)
        self._request_id = compile_path(source.request_id) if source.request_id else None
        self._entity_id = _typed(compile_path(source.id), declared.get(source.feature)) if source.id else None
        self._label = compile_path(source.label) if source.label else None
        self._candidates = compile_path(source.candidates) if source.candidates else None
        self._context = _features(source.context, declared)
        self._features = _features(source.features, declared)
        self._candidate = (
            compile_path(source.candidate) if isinstance(source.candidate, str) and source.candidate else None
        )
        self._value = compile_path(source.value) if source.value else None
        self._match = _features(source.match, declared)
        self._by = [(path, get) for _, path, get in sorted(_features(source.by, declared), key=itemgetter(0))]
        self._type = None if isinstance(source.name, Constant) else compile_path(source.name)
        self._each = Each(source.each) if source.each else None
        self._has_batches = source.envelope == "cloudevents"
        self._make: Callable[[object, object, str], One] = {
            "action": self._action,
            "impression": self._impression,
            "labelled": self._impression,
            "entity": self._entity,
        }[source.kind]
        if source.kind in ("impression", "labelled") and not source.candidates:
            self._make = self._line

    def map(self, message: object, default_id: str) -> Mapped:
        """The event that a message is, or those that it holds.

        Args:
            message: as decoded, or `Carried` with what is around it.
            default_id: the id of a labelled request that has none.

        Raises:
            RecordError: a field is missing or of a wrong type; names its path and what is there. If it holds
                several events, none is taken.
        """
        bare = message.message if type(message) is Carried else message
        batch = events_of_batch(bare) if self._has_batches else None
        if batch is not None:
            return self._batch(batch, message, default_id)
        record = self._open(bare)
        if record is DELETED:
            return IS_DELETED
        if self._each is not None:
            return Several(self._parts(self._each, record, message, default_id))
        return self._event(record, message, default_id)

    def _batch(self, batch: list[object], message: object, default_id: str) -> Several:
        """The events of a batch."""
        if self._source.together and len(batch) > 1:
            raise RecordError(
                f"the record is a batch of {len(batch)} events, and each would be a candidate; expected one "
                "event a record, or candidates, the path of a list, or lines_wait_s = 0"
            )
        events: list[One] = []
        for index, one in enumerate(batch):
            whole = Carried(one, message.around) if isinstance(message, Carried) else one
            own_id = f"{default_id}-{index}"
            try:
                record = self._open(one)
                if record is DELETED:
                    events.append(IS_DELETED)
                elif self._each is not None:
                    events += self._parts(self._each, record, whole, own_id)
                else:
                    events.append(self._event(record, whole, own_id))
            except RecordError as error:
                raise RecordError(f"event {index} of the batch: {error}") from None
        check_count("the batch", events)
        return Several(events)

    def _parts(self, each: Each, record: object, message: object, default_id: str) -> list[One]:
        """The events of the elements of a list."""
        events: list[One] = []
        for index, part in enumerate(each.of(record, message)):
            try:
                events.append(self._event(part, message, default_id))
            except RecordError as error:
                raise RecordError(f"{self._source.each}.{index}: {error}") from None
        return events

    def _event(self, record: object, message: object, default_id: str) -> One:
        for path, get, values in self._only:
            value = get(record, message)
            try:
                if (type(value), value) not in values:
                    return SKIPPED
            except TypeError:
                raise RecordError(f"{path} is {describe(value)}; expected a plain value") from None
        return self._make(record, message, default_id)

    def _impression(self, record: object, message: object, default_id: str) -> Impression:
        assert self._candidates is not None
        path = self._source.candidates
        found = self._candidates(record, message)
        if not isinstance(found, list | tuple):
            raise RecordError(f"{path} is {describe(found)}; expected a list of candidates")
        if not 1 <= len(found) <= CANDIDATES_MAX:
            raise RecordError(f"{path} is {describe(found)}; expected 1 to {CANDIDATES_MAX} candidates")
        features, label = self._features, self._label
        candidates = []
        for index, candidate in enumerate(found):
            try:
                candidates.append(_take(features, candidate, message))
            except RecordError as error:
                raise RecordError(f"{path}.{index}: {error}") from None
        labels = None
        if label is not None:
            labels = []
            for index, candidate in enumerate(found):
                try:
                    labels.append(to_label(self._source.label, label(candidate, message)))
                except RecordError as error:
                    raise RecordError(f"{path}.{index}: {error}") from None
        return Impression(
            request_id=self._id(record, message, default_id),
            time=self._seconds(record, message),
            candidates=candidates,
            context=_take(self._context, record, message),
            labels=labels,
        )

    def _line(self, record: object, message: object, default_id: str) -> Impression | CandidateLine:
        request_id, time = self._id(record, message, default_id), self._seconds(record, message)
        context, candidate = _take(self._context, record, message), _take(self._features, record, message)
        label = None if self._label is None else to_label(self._source.label, self._label(record, message))
        if self._source.together:
            return CandidateLine(request_id, time, context, candidate, label)
        labels = None if label is None else [label]
        return Impression(request_id, time, [candidate], context, labels=labels)

    def _action(self, record: object, message: object, default_id: str) -> Action | Wanted | Skipped:
        source = self._source
        time, name, label = self._seconds(record, message), self._name_of(record, message), 1.0
        if self._label is not None:
            label = to_label(source.label, self._label(record, message))
        amount = None if self._value is None else to_amount(source.value, self._value(record, message))
        request_id = ""
        if self._request_id is not None:
            found = self._request_id(record, message)
            if found is not None or not source.by:
                request_id = to_id(source.request_id, found)
        if not self._match:
            return Action(request_id, time, self._index(record, message), label, name, value=amount)
        match = _take(self._match, record, message)
        for feature, path, _ in self._match:
            if feature not in match:
                raise RecordError(f"{path} is null; expected the {feature} of a candidate")
        entity: list[Value] = []
        for path, get in self._by if not request_id else ():
            value = to_feature(path, get(record, message))
            if value is None and source.anonymous == "ignore":
                return SKIPPED
            if value is None:
                raise RecordError(f"{path} is null; expected whose impression the action belongs to")
            entity.append(value)
        return Wanted(request_id, entity, match, time, label, name, amount)

    def _entity(self, record: object, message: object, default_id: str) -> EntityEvent:
        """What is true of an entity; a null attribute is taken away."""
        source = self._source
        assert self._entity_id is not None
        entity = to_feature(source.id, self._entity_id(record, message))
        if not isinstance(entity, int | str):
            raise RecordError(f"{source.id} is {describe(entity)}; expected an id, an integer or text")
        said = {name: to_feature(path, get(record, message)) for name, path, get in self._features}
        return checked(EntityEvent(source.feature, entity, self._seconds(record, message), {**said}))

    def _id(self, record: object, message: object, default_id: str) -> str:
        if self._request_id is None:
            return default_id
        found = self._request_id(record, message)
        if type(found) is str and 0 < len(found) <= REQUEST_ID_MAX:
            return found
        return to_id(self._source.request_id, found)

    def _seconds(self, record: object, message: object) -> float:
        value = self._time(record, message)
        if type(value) is int and self._scale and 0 <= value < 1 << 62:
            seconds = value / self._scale
            if TIME_FROM_S <= seconds < TIME_MAX_S:
                return seconds
        return to_seconds(self._source.time.field, value, self._source.time.unit, self._zone)

    def _name_of(self, record: object, message: object) -> str:
        source = self._source
        if isinstance(source.name, Constant):
            return source.name.constant
        assert self._type is not None
        found = self._type(record, message)
        if not isinstance(found, str) or not 0 < len(found) <= NAME_MAX:
            raise RecordError(
                f"{source.name} is {describe(found)}; expected text of 1 to {NAME_MAX} characters"
            )
        return found

    def _index(self, record: object, message: object) -> int:
        if self._candidate is None:
            assert isinstance(self._source.candidate, int)
            return self._source.candidate
        found = number_of(self._candidate(record, message))
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < CANDIDATES_MAX:
            raise RecordError(
                f"{self._source.candidate} is {describe(found)}; expected the index of a candidate, 0 to "
                f"{CANDIDATES_MAX - 1}"
            )
        return found


def _features(
    paths: Mapping[str, str], declared: Mapping[str, DeclaredFeature]
) -> list[tuple[str, str, Getter]]:
    return [
        (feature, path, _typed(compile_path(path), declared.get(feature))) for feature, path in paths.items()
    ]


def _typed(get: Getter, feature: DeclaredFeature | None) -> Getter:
    """A getter whose values are as a feature is declared; what cannot be is left, and refused later."""
    if feature is None or (feature.id_type is None and feature.kind != "number"):
        return get
    convert = number_of if feature.id_type is None else _to_int if feature.id_type == "int" else _to_text

    def get_typed(record: Decoded, message: object) -> object:
        value = get(record, message)
        return [convert(one) for one in value] if isinstance(value, list | tuple) else convert(value)

    return get_typed


def _to_int(value: object) -> object:
    return int(value) if isinstance(value, str) and is_plain_integer(value) else value


def _to_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _take(features: list[tuple[str, str, Getter]], record: object, message: object) -> Features:
    """The values of some features; a null one is left out."""
    taken: Features = {}
    for feature, path, get in features:
        value = get(record, message)
        kind = type(value)
        if (
            (kind is str and len(value) <= TEXT_MAX)
            or (kind is int and ID_MIN <= value < ID_END)
            or (kind is float and value - value == 0.0)
        ):
            taken[feature] = value
        else:
            found = to_feature(path, value)
            if found is not None:
                taken[feature] = found
    return taken
