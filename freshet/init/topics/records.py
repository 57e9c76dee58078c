"""The newest records of a topic of others, decoded: its format and its envelope are found by trying them."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from freshet.errors import ConfigError
from freshet.init.messages import error
from stream.errors import LogAwayError, LogError, RecordError
from stream.log.open import missing_log, open_log, without_prefix
from stream.log.reading import newest
from stream.log.settings import LOG_DEFAULTS, LogSettings
from stream.sources.envelopes import DELETED, open_envelope
from stream.sources.formats import HEAD_BYTES, MAGIC, Format
from stream.sources.opening import open_format
from stream.sources.settings import RegistrySettings, SourceSettings, TimeField

RECORDS = 1_000
READ_SHARE_MIN = 0.9  # of the records that a format must read
ENVELOPE_SHARE_MIN = 0.9
BAD = object()
AVRO_OBJECT = b"\xc3\x01"  # how single-object encoding begins

FormatName = Literal["json", "msgpack", "avro", "protobuf"]
EnvelopeName = Literal["none", "debezium", "cloudevents"]


class TopicRecords(NamedTuple):
    """What was read of one topic."""

    log: str  # its URL
    topic: str
    format: FormatName
    envelope: EnvelopeName
    registry: str
    messages: list[object]  # decoded, in the order of partitions and offsets
    records: list[object]  # the same within their envelopes
    logged_s: list[float]  # when the log took each; 0: not known
    deletions: int
    bad: int
    why: dict[str, str]  # reasons, by key
    holds: str  # of a part of a topic: its kind
    only: Mapping[str, Sequence[str]]  # the words by which the records of the part are chosen, by path

    @property
    def name(self) -> str:
        """The topic's name, for messages."""
        return f"{self.log}/{self.topic}"


def split_topic(text: str, log: str = "") -> tuple[str, str]:
    """(URL of the log, topic) that an argument names; a topic alone is one of `log`.

    >>> split_topic("kafka://a:9092,b:9092/shop.clicks")
    ('kafka://a:9092,b:9092', 'shop.clicks')
    >>> split_topic("sqlite:data/log.db/events")
    ('sqlite:data/log.db', 'events')

    Raises:
        InitError: it names no topic, or no log.
    """
    url, _, topic = text.rpartition("/")
    if not topic or (not url and not log) or url.endswith(":/"):
        raise error("no topic", text=text)
    if not url:
        return without_prefix(log), topic
    return url, topic


def read_topic(
    url: str,
    topic: str,
    registry: str = "",
    settings: LogSettings = LOG_DEFAULTS,
    login: RegistrySettings | None = None,
) -> TopicRecords:
    """Read the newest records of a topic.

    Args:
        registry: URL of a schema registry; empty: there is none.

    Raises:
        InitError: no format fits, or there is no record.
        LogError: there is no such topic, or the log or the registry does not answer.
    """
    if (path := missing_log(url)) is not None:
        raise ConfigError(f"there is no log {path}")
    log = open_log(url, settings, grows=True)
    try:
        by_partition = newest(log, topic, RECORDS)
    except LogAwayError:
        raise
    except LogError as wrong:
        raise error("no such topic", name=f"{url}/{topic}", why=wrong.args[0].partition(";")[0]) from None
    finally:
        log.close()
    raw = [record for records in by_partition for record in records]
    filled = [record for record in raw if record.value]
    name = f"{url}/{topic}"
    if raw and not filled:
        raise error("only deletions", name=name, count=len(raw))
    if not filled:
        raise error("empty topic", name=name)
    kind, messages, first_bad, why = _format_of([record.value for record in filled], name, registry, login)
    envelope, opened = _opened(messages)
    kept = [at for at, record in enumerate(opened) if isinstance(record, Mapping)]
    deleted = sum(record is DELETED for record in opened)
    bad = len(filled) - len(kept) - deleted
    if not kept:
        raise error("no objects", name=name)
    reasons = {"format": why + (f"; {bad:,} records cannot be used: {first_bad}" if bad else "")}
    if envelope != "none":
        reasons["envelope"] = "before, after and op" if envelope == "debezium" else "it has a specversion"
    return TopicRecords(
        url,
        topic,
        kind,
        envelope,
        registry if kind in ("avro", "protobuf") else "",
        [messages[at] for at in kept],
        [opened[at] for at in kept],
        [(filled[at].ingest_ms or filled[at].created_ms) / 1e3 for at in kept],
        len(raw) - len(filled) + deleted,
        bad,
        reasons,
        "",
        {},
    )


def _format_of(
    values: list[bytes], name: str, registry: str, login: RegistrySettings | None
) -> tuple[FormatName, list[object], str, str]:
    """The format that reads the records: (name, the decoded records, why some are not, why this format).

    A record that cannot be read is `BAD`.
    """
    headed = sum(value[0] == MAGIC and len(value) > HEAD_BYTES for value in values)
    behind = headed >= READ_SHARE_MIN * len(values)
    tried = []
    for kind, why in _possible(values, behind, bool(registry)):
        try:
            form = open_format(_bare(kind, registry), login or RegistrySettings(), whole=True)
        except LogError as wrong:
            tried.append(f"{kind}: {wrong}")
            continue
        with contextlib.closing(form):
            messages, first = _decoded(values, form)
        if sum(isinstance(message, Mapping) for message in messages) >= READ_SHARE_MIN * len(values):
            return kind, messages, first, why
        tried.append(f"{kind}: {first or 'the records are no objects'}")
    if behind and not registry:
        number = int.from_bytes(values[0][1:HEAD_BYTES], "big")
        raise error("registry needed", name=name, number=number)
    if values[0].startswith(AVRO_OBJECT):
        raise error("avro file needed", name=name)
    raise error("no format", name=name, begin=values[0][:16].hex(" "), tried="; ".join(tried))


def _decoded(values: list[bytes], form: Format) -> tuple[list[object], str]:
    """The decoded records, `BAD` where one cannot be read; and why the first of these cannot."""
    messages: list[object] = []
    first = ""
    for value in values:
        try:
            messages.append(form.decode(value))
        except RecordError as wrong:
            messages.append(BAD)
            first = first or str(wrong)
    return messages, first


def _possible(values: list[bytes], headed: bool, registry: bool) -> Iterator[tuple[FormatName, str]]:
    if headed and values[0][HEAD_BYTES : HEAD_BYTES + 1] in (b"{", b"["):
        yield "json", "JSON behind the id of its schema"
    elif headed and registry:
        yield "avro", "behind the id of a schema of the registry"
        yield "protobuf", "behind the id of a schema of the registry"
    elif not headed:
        yield "json", "its records are JSON"
        yield "msgpack", "its records are MessagePack"


def _bare(kind: FormatName, registry: str) -> SourceSettings:
    """A source that only says the format."""
    needs = kind in ("avro", "protobuf")
    return SourceSettings(
        topic="t",
        kind="action",
        time=TimeField(field="t", unit="ms"),
        request_id="r",
        candidate=0,
        format=kind,
        registry=registry if needs else "",
    )


def _opened(messages: list[object]) -> tuple[EnvelopeName, list[object]]:
    """The envelope around the records, and the records; DELETED where a row was deleted."""
    looks: Counter[EnvelopeName] = Counter()
    for message in messages:
        if isinstance(message, Mapping):
            inner = message.get("payload", message)
            if isinstance(inner, Mapping) and {"op", "after"} <= set(inner):
                looks["debezium"] += 1
            elif "specversion" in message and ("data" in message or "data_base64" in message):
                looks["cloudevents"] += 1
    for kind, count in looks.most_common(1):
        if count >= ENVELOPE_SHARE_MIN * len(messages):
            opener = open_envelope(kind)
            return kind, [_open(opener, message) for message in messages]
    return "none", messages


def _open(opener: Callable[[object], object], message: object) -> object:
    try:
        return opener(message)
    except RecordError:
        return None
