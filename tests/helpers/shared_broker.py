"""One Kafka broker for all processes of a test run: the first to need it starts it, and stops it when no
other needs it any more.

A broker costs about five seconds of a processor and 350 MB, and under pytest-xdist each worker process
has session fixtures of its own.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import VERSION, Broker
from jars import needs_zookeeper

USED_S_MAX = 900.0
"""How long the process that started the broker waits for the others at its end."""

LOOK_S = 0.1

with_kraft = pytest.mark.skipif(
    needs_zookeeper(VERSION), reason=f"clusters, SCRAM and rules of Kafka {VERSION} need tools of ZooKeeper's"
)


@contextlib.contextmanager
def shared_broker(folder: Path) -> Iterator[str]:
    """host:port of a broker that all who name the same folder share.

    Raises:
        BrokerError: it does not start.
    """
    started: Broker | None = None
    with _book(folder) as book:
        if not book.get("address") or not _runs(book["owner"]):  # a broker dies with its owner
            started = Broker(folder / "kafka")
            started.start()
            book |= {"address": started.address, "owner": os.getpid(), "users": []}
        book["users"].append(os.getpid())
        address = book["address"]
    try:
        yield address
    finally:
        with _book(folder) as book:
            book["users"].remove(os.getpid())
        if started is not None:
            _wait_for_others(folder)
            started.stop()


def _wait_for_others(folder: Path) -> None:
    deadline = time.monotonic() + USED_S_MAX
    while True:
        with _book(folder) as book:
            book["users"] = [user for user in book["users"] if _runs(user)]
            if not book["users"] or time.monotonic() > deadline:
                book["address"] = ""
                return
        time.sleep(LOOK_S)


@contextlib.contextmanager
def _book(folder: Path) -> Iterator[dict[str, Any]]:
    """Who owns and uses the broker, for one process at a time; written when the `with` ends."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "kafka.json"
    with (folder / "kafka.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        book = json.loads(file.read_text()) if file.exists() else {"users": []}
        yield book
        file.write_text(json.dumps(book))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
