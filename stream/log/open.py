"""Opens a log from its URL: the only module that knows all kinds of logs."""

from __future__ import annotations

import re
from pathlib import Path

from stream.errors import LogError
from stream.log.base import Log
from stream.log.settings import LOG_DEFAULTS, LogSettings
from stream.log.sqlite.log import SqliteLog


def open_log(url: str, settings: LogSettings = LOG_DEFAULTS, grows: bool = False) -> Log:
    """Open the log that `url` names: `sqlite:PATH`, just a path, or `kafka://HOST:PORT[,...][/PREFIX]`.

    Args:
        grows: its topics may get more partitions while they are used, because no key of ours decides.

    Raises:
        LogError: the scheme is unknown, or the log cannot be opened.
        LogAwayError: the Kafka cluster does not answer.
    """
    path = embedded_path(url)
    if path is not None:
        return SqliteLog(path, settings)
    # the client library is loaded only where it is used
    from stream.log.kafka.log import KafkaLog

    return KafkaLog(url, settings, grows)


def without_prefix(url: str) -> str:
    """The same log with all topics of its cluster, those of others too.

    >>> without_prefix("kafka://a:9092,b:9092/shop"), without_prefix("sqlite:log.db")
    ('kafka://a:9092,b:9092', 'sqlite:log.db')
    """
    return "/".join(url.split("/")[:3]) if embedded_path(url) is None else url


def prefix_of(url: str) -> str:
    """What all topics and groups of a log begin with in its cluster, a dot at the end; "" if nothing.

    >>> prefix_of("kafka://a:9092/shop"), prefix_of("kafka://a:9092"), prefix_of("sqlite:log.db")
    ('shop.', '', '')
    """
    prefix = url[len(without_prefix(url)) :].strip("/")
    return f"{prefix}." if prefix else ""


def missing_log(url: str) -> Path | None:
    """The file of an embedded log that is not there; None if it is there, or if `url` names a cluster.

    Raises:
        LogError: the scheme is unknown.
    """
    path = embedded_path(url)
    return Path(path) if path is not None and not Path(path).is_file() else None


def embedded_path(url: str) -> str | None:
    """The path of an embedded log; None for a Kafka cluster."""
    # one letter before a colon is a Windows drive, not a scheme
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", url)
    if scheme is None:
        path = url
    elif scheme[1].lower() == "sqlite":
        path = url[len("sqlite:") :]
        path = path[2:] if path.startswith("//") else path  # sqlite:///absolute, sqlite://relative
    elif scheme[1].lower() == "kafka":
        return None
    else:
        raise LogError(
            f"log URL {url!r}: unknown scheme {scheme[1]!r}; known: sqlite:PATH, or just a path, and "
            "kafka://HOST:PORT"
        )
    if not path:
        raise LogError(f"log URL {url!r} names no file; write for example sqlite:data/log.db")
    return path
