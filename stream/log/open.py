"""What opens a log: the one place that knows which kinds there are."""

import re

from stream.errors import LogError
from stream.log.base import LOG_DEFAULTS, Log, LogSettings
from stream.log.sqlite.log import SqliteLog


def open_log(url: str, settings: LogSettings = LOG_DEFAULTS) -> Log:
    """Open the log that `url` names: `sqlite:PATH`, just a path, or `kafka://HOST:PORT[,...][/PREFIX]`.

    Raises:
        LogError: the scheme is unknown, or the log cannot be opened.
        LogAwayError: the Kafka cluster does not answer.
    """
    # one letter before a colon is a Windows drive, not a scheme
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", url)
    if scheme is None:
        path = url
    elif scheme[1].lower() == "sqlite":
        path = url[len("sqlite:") :]
        path = path[2:] if path.startswith("//") else path  # sqlite:///absolute, sqlite://relative
    elif scheme[1].lower() == "kafka":
        # kafka-python is loaded only where it is used
        from stream.log.kafka.log import KafkaLog

        return KafkaLog(url, settings)
    else:
        raise LogError(
            f"log URL {url!r}: unknown scheme {scheme[1]!r}; known: sqlite:PATH, or just a path, and "
            "kafka://HOST:PORT"
        )
    if not path:
        raise LogError(f"log URL {url!r} names no file; write for example sqlite:data/log.db")
    return SqliteLog(path, settings)
