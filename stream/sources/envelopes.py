"""What others wrap their records in: change events of Debezium, CloudEvents and batches of them, lists."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from ground import UNDECODABLE
from stream.errors import RecordError
from stream.limits import CANDIDATES_MAX
from stream.sources.paths import compile_path, describe, split_path

EVENTS_MAX = CANDIDATES_MAX
"""Events of one record. Times the ways in which actions look for them, they are fewer than OUTPUTS_MAX."""

DELETED = object()
"""In place of a record: its row was deleted."""

Opener = Callable[[object], object]
"""A decoded message to the record in it, or DELETED. Raises RecordError."""

_decode_json = msgspec.json.Decoder().decode


def open_envelope(kind: Literal["none", "debezium", "cloudevents"]) -> Opener:
    """The function that opens envelopes of a kind.

    >>> open_envelope("debezium")({"before": None, "after": {"sku": 7}, "op": "c"})
    {'sku': 7}
    """
    return {"none": _open_none, "debezium": _open_debezium, "cloudevents": _open_cloudevent}[kind]


def _open_none(message: object) -> object:
    return message


def _open_debezium(message: object) -> object:
    """The row after the change; with JSON the event may be in `payload`, beside its schema."""
    if isinstance(message, Mapping) and "payload" in message and "op" not in message:
        message = message["payload"]
        if message is None:
            return DELETED
    if not isinstance(message, Mapping) or "op" not in message:
        raise RecordError(
            f"the message is {describe(message)}; expected an event of Debezium, with before, after and op"
        )
    change = message["op"]
    if change in ("d", "t"):
        return DELETED
    if change not in ("c", "u", "r"):
        raise RecordError(f"op is {describe(change)}; expected c, u, r, d or t")
    row = message.get("after")
    if not isinstance(row, Mapping):
        raise RecordError(f"after is {describe(row)}; expected the row")
    return row


def _open_cloudevent(message: object) -> object:
    """The data of an event in structured mode; in binary mode the message is the data already."""
    if not isinstance(message, Mapping):
        raise RecordError(f"the message is {describe(message)}; expected a CloudEvent")
    if "attribute" in message and "data" in message:  # as in the specification's schema for Avro
        return _data(message["data"])
    if "specversion" not in message:
        return message
    if "data_base64" in message:
        text = message["data_base64"]
        try:
            return _data(base64.b64decode(text, validate=True))
        except (TypeError, ValueError, binascii.Error):
            raise RecordError(f"data_base64 is {describe(text)}; expected base64") from None
    data = message.get("data")
    return DELETED if data is None else data


def _data(data: object) -> object:
    if not isinstance(data, bytes):
        return data
    try:
        return _decode_json(data)
    except UNDECODABLE:
        raise RecordError(f"data is {len(data)} bytes that are not JSON") from None


class Each:
    """Parts a record by a list in it: into as many records, each with one element in the list's place.

    >>> Each("order.lines").of({"user": 7, "order": {"lines": [{"sku": 1}, {"sku": 2}]}}, None)
    [{'user': 7, 'order': {'lines': {'sku': 1}}}, {'user': 7, 'order': {'lines': {'sku': 2}}}]
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._steps, _, self._optional = split_path(path)
        self._get = compile_path(path)

    def of(self, record: object, message: object) -> list[object]:
        """The records; none for an empty list.

        Raises:
            RecordError: it is no list, or too long.
        """
        found = self._get(record, message)
        if found is None and self._optional:
            return []
        if not isinstance(found, list | tuple):
            raise RecordError(f"{self._path} is {describe(found)}; expected a list")
        check_count(self._path, found)
        return [_put(record, self._steps, element) for element in found]


def events_of_batch(message: object) -> list[object] | None:
    """The events of a batch of CloudEvents; None: it is no batch.

    Raises:
        RecordError: there are too many, or one is no CloudEvent in structured mode.
    """
    if not isinstance(message, list):
        return None
    check_count("the batch", message)
    for index, event in enumerate(message):
        if not isinstance(event, Mapping) or "specversion" not in event:
            raise RecordError(
                f"event {index} of the batch is {describe(event)}; expected a CloudEvent, with specversion"
            )
    return message


def check_count(what: str, found: Sequence[object]) -> None:
    """Check that a record does not hold too many events.

    Raises:
        RecordError: it does.
    """
    if len(found) > EVENTS_MAX:
        raise RecordError(f"{what} is {describe(found)}; expected at most {EVENTS_MAX}, an event each")


def _put(value: object, steps: tuple[str, ...], element: object) -> object:
    """A copy of a value with an element at a path that is there."""
    if not steps:
        return element
    if isinstance(value, Mapping):
        return {**value, steps[0]: _put(value[steps[0]], steps[1:], element)}
    assert isinstance(value, list | tuple)
    at = int(steps[0])
    return [*value[:at], _put(value[at], steps[1:], element), *value[at + 1 :]]
