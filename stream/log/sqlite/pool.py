"""Connections to the embedded log's file: pooled, configured alike, with errors that say what to do."""

import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from stream.errors import LogAwayError, LogError
from stream.log.settings import LogSettings

JOURNAL_BYTES_MAX = 64 << 20  # the write-ahead log's file is cut back to this once it is folded in


class Pool:
    """One connection per thread that is inside a call. Must not be used after a fork."""

    def __init__(self, path: Path, settings: LogSettings) -> None:
        self.read_only = _read_only(path)
        self._path = path
        self._settings = settings
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """One connection for the length of a `with`; after an error it is not used again.

        Raises:
            LogAwayError: there is no room on the disk, or another process keeps the file locked.
            LogError: for every other error of SQLite inside.
        """
        if self._closed:
            raise LogError(f"log {self._path} is closed")
        db: sqlite3.Connection | None = None
        try:
            try:
                db = self._idle.pop()
            except IndexError:
                db = self._connect()
            yield db
        except BaseException as error:
            if db is not None:
                db.close()
            if isinstance(error, sqlite3.Error):
                raise self._log_error(error) from None
            raise
        self._idle.append(db)
        if self._closed:  # by another thread in the meantime
            self.close()

    def close(self) -> None:
        """Close the idle connections; those in use close when they come back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> sqlite3.Connection:
        if self.read_only:
            return self._connect_read_only()
        db = sqlite3.connect(
            self._path,
            timeout=self._settings.busy_timeout_s,
            isolation_level=None,  # transactions are begun and ended here, not by the driver
            check_same_thread=False,  # the pool hands a connection to one thread at a time
        )
        try:
            db.execute("PRAGMA page_size = 8192")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if self._settings.sync else 'NORMAL'}")
            db.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}")
        except BaseException:
            db.close()
            raise
        return db

    def _connect_read_only(self) -> sqlite3.Connection:
        """Open a file on read-only storage: without locks, and without journal files beside it."""
        name = f"file:{quote(str(self._path.absolute()), errors='surrogateescape')}?mode=ro&immutable=1"
        return sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)

    def _log_error(self, error: sqlite3.Error) -> LogError:
        text = str(error)
        away = True  # nothing was written, so the call can be retried
        if "full" in text:
            advice = "free some space, or lower retain_bytes"
        elif "locked" in text or "busy" in text:
            advice = f"another process has been writing for over {self._settings.busy_timeout_s:g} s"
        elif "readonly" in text:
            away = False
            advice = "its file or folder cannot be written here, so it can only be read"
        elif "disk I/O error" in text:
            advice = "is the disk full, or failing?"
        else:
            away = False
            advice = self._advice(text)
        return (LogAwayError if away else LogError)(f"log {self._path}: {text}; {advice}")

    @staticmethod
    def _advice(text: str) -> str:
        if "malformed" in text or "not a database" in text or "decode" in text:
            return "the file is damaged or no log: restore it from a copy, or use another file"
        return "check that the path, its folder and their permissions are right"


def _read_only(path: Path) -> bool:
    """Whether an existing file can be read here but not written, or its folder not.

    Raises:
        LogError: it cannot be read as it lies there, for a write-ahead log is still to be folded into it.
    """
    if not path.is_file() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return False
    waiting = path.with_name(f"{path.name}-wal")
    if waiting.exists() and waiting.stat().st_size > 0:
        raise LogError(
            f"log {path}: it cannot be written here, and {waiting.name} beside it holds records that are not "
            "in it yet: copy both files to a folder that can be written and name the log there, or copy the "
            "log again while no role runs"
        )
    return True


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: all of what happens inside, or after an error none of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
