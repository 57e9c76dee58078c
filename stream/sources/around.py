"""What is around a record's value: its key, its headers, its time in the log."""

from collections.abc import Callable

from stream.errors import RecordError
from stream.log.base import Record
from stream.sources.formats import Format, JsonFormat
from stream.sources.paths import Carried, describe, split_path
from stream.sources.settings import SourceSettings

BATCH = "application/cloudevents-batch+json"
STRUCTURED = "application/cloudevents"
CE = "ce_"
"""Begins the names of the headers that are attributes of a CloudEvent in binary mode."""


class Around:
    """Adds to decoded messages what is around them, where a source needs it.

    Args:
        keys: the format of keys that are more than text; None: there are none.
    """

    def __init__(self, source: SourceSettings, keys: Format | None) -> None:
        paths = [split_path(path) for _, path in source.paths()]
        named = [steps for steps, start, _ in paths if start == "@@"]
        self._key = any(steps[0] == "key" for steps in named)
        self._has_fields = any(steps[0] == "key" and len(steps) > 1 for steps in named)
        self._headers = any(steps[0] == "headers" for steps in named)
        self._cloudevents = source.envelope == "cloudevents"
        self._carries = bool(named)
        self._keys = keys

    def add(self, message: object, record: Record) -> object:
        """The decoded message of a record, with what is around it if a path needs that.

        Raises:
            RecordError: the key or a header is not what it should be.
            LogAwayError: the schema of the key cannot be had now.
        """
        if self._cloudevents:
            message = _with_attributes(message, record.headers)
        if not self._carries:
            return message
        around: dict[str, object] = {}
        if time_ms := record.ingest_ms or record.created_ms:
            around["timestamp"] = time_ms
        if self._headers:
            around["headers"] = {name: text_of(value) for name, value in record.headers}
        if self._key and record.key:
            around["key"] = self._key_of(record.key)
        return Carried(message, around)

    def schemas(self) -> dict[int, bytes]:
        """The digests of the schemas of keys, as `Format.schemas`."""
        return self._keys.schemas() if self._keys is not None else {}

    def close(self) -> None:
        """Close the connection to the registry, if there is one."""
        if self._keys is not None:
            self._keys.close()

    def _key_of(self, key: bytes) -> object:
        """The key: text, unless fields of it are wanted, or it is in no text or in quotes."""
        text = text_of(key)
        decode = self._keys.decode if self._keys is not None else None
        if isinstance(text, str) and not self._has_fields:
            if text[0] not in '"{' or not isinstance(self._keys, JsonFormat):
                return text
            return _or(decode, key, text)
        if decode is None:
            return text
        try:
            return _payload(decode(key))
        except RecordError as error:
            raise RecordError(f"@@key: {error}".replace("the record", "the key")) from None


def text_of(value: bytes | None) -> object:
    """Text if some bytes are text, else the bytes; None stays.

    >>> text_of(b"ann"), text_of((7).to_bytes(8, "big"))
    ('ann', b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x07')
    """
    if value is None or b"\0" in value:  # a number, or behind the head of a registry
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _or(decode: Callable[[bytes], object] | None, key: bytes, text: str) -> object:
    try:
        return text if decode is None else _payload(decode(key))
    except RecordError:
        return text


def _payload(key: object) -> object:
    """The key itself, of one that has its schema beside it, as Debezium's in JSON."""
    return key["payload"] if isinstance(key, dict) and set(key) == {"schema", "payload"} else key


def _with_attributes(message: object, headers: tuple[tuple[str, bytes | None], ...]) -> object:
    """A CloudEvent in binary mode as one in structured mode; others as they are."""
    if not headers:
        return message
    found = {name.lower(): value for name, value in headers if value is not None}
    content = found.get("content-type", b"").decode(errors="replace")
    if content.startswith(STRUCTURED) or CE + "specversion" not in found:
        if content.startswith(BATCH) and not isinstance(message, list):
            raise RecordError(
                f"the message is {describe(message)}; content-type says {BATCH}: expected a list"
            )
        return message
    event: dict[str, object] = {
        name.removeprefix(CE): text_of(value) for name, value in found.items() if name.startswith(CE)
    }
    return {**event, "datacontenttype": content, "data": message}
