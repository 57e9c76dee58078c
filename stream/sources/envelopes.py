"""What others wrap their records in: change events of Debezium, and CloudEvents."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from stream.errors import RecordError
from stream.sources.paths import describe

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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RecordError(f"data is {len(data)} bytes that are not JSON") from None
