"""A log with every topic of Freshet."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Log
from stream.log.open import open_log
from stream.log.settings import LogSettings


@contextlib.contextmanager
def opened_topics(folder: Path) -> Iterator[Log]:
    """An embedded log in this folder, with two partitions of events and examples."""
    log = open_log(f"sqlite:{folder / 'log.db'}", LogSettings(sync=False))
    for topic in (EVENTS, EXAMPLES):
        log.create_topic(topic, 2)
    for topic in (UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
        log.create_topic(topic, 1)
    yield log
    log.close()
