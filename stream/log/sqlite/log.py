"""The embedded log: one SQLite file in WAL mode, shared by any number of processes and threads.

A record's row id is its partition's slot number shifted by 40 bits, plus its offset: so appends go
to the end of their partition's range of one B-tree, and a read is one range scan. Offsets have no
gaps (records are only dropped from the front), which lets retention find its cut by bisection.

Cost sketch: a synced append costs one fsync (about 1 to 5 ms); 1000 records in one append cost about
5 ms more. A read of 1000 records of 200 bytes takes about 1 ms.
"""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from stream.errors import LogError
from stream.log.base import (
    HOW_TO_CREATE,
    PARTITIONS_MAX,
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
    Log,
    Outgoing,
    Record,
    bytes_allowed,
    check_partition,
    checked_partition,
)
from stream.log.settings import LOG_DEFAULTS, LogSettings
from stream.log.sqlite.pool import Pool, transaction

FORMAT_VERSION = 1
OFFSET_BITS = 40
TRIM_RECORDS_MAX = 5_000  # per transaction, so that a trim never blocks writers for long

_SCHEMA = """
CREATE TABLE topics (name TEXT PRIMARY KEY, slot INTEGER NOT NULL, partitions INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE partitions (
    slot INTEGER PRIMARY KEY,
    first INTEGER NOT NULL DEFAULT 0,
    next INTEGER NOT NULL DEFAULT 0,
    written INTEGER NOT NULL DEFAULT 0, -- bytes of all records ever appended
    last_ms INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    producer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    ingest_ms INTEGER NOT NULL,
    written INTEGER NOT NULL -- bytes of its partition up to and with this record
);
CREATE TABLE committed (
    grp TEXT NOT NULL, slot INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (grp, slot)
) WITHOUT ROWID;
"""


class SqliteLog(Log):
    """A `Log` in one file."""

    def __init__(self, path: str | Path, settings: LogSettings = LOG_DEFAULTS) -> None:
        """Open `path`, creating it and its folder where missing.

        A file that cannot be written here (on a read-only mount, say) is opened for reading.

        Raises:
            LogError: the file cannot be opened, or is no log of this version.
        """
        self.path = Path(path)
        self.settings = settings
        self._slots: dict[str, tuple[int, int]] = {}  # topic -> (slot of partition 0, partitions)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(f"{self}: its folder cannot be made: {error.strerror}") from None
        self._pool = Pool(self.path, settings)
        with self._connection() as db:
            if self._pool.read_only:
                self._check_format(db)
            else:
                with transaction(db):
                    self._prepare(db)

    def __str__(self) -> str:
        return f"log {self.path}"

    def create_topic(self, topic: str, partitions: int) -> None:
        if not topic or len(topic) > 200:
            raise LogError(f"{self}: a topic's name must have 1 to 200 characters")
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise LogError(
                f"{self}: topic {topic!r} cannot have {partitions} partitions; 1 to {PARTITIONS_MAX}"
            )
        with self._connection() as db:
            found = self._find_topic(db, topic)
            if found is None:
                with transaction(db):
                    found = self._find_topic(db, topic)  # another process may have created it first
                    if found is None:
                        (slot,) = db.execute("SELECT coalesce(max(slot) + 1, 0) FROM partitions").fetchone()
                        db.execute("INSERT INTO topics VALUES (?, ?, ?)", (topic, slot, partitions))
                        slots = ((slot + i,) for i in range(partitions))
                        db.executemany("INSERT INTO partitions (slot) VALUES (?)", slots)
                        found = slot, partitions
            if found[1] != partitions:
                raise LogError(
                    f"{self}: topic {topic!r} has {found[1]} partitions, not {partitions}; "
                    "it is fixed when a topic is made: configure the same number, or use another log file"
                )

    def partitions(self, topic: str) -> int:
        with self._connection() as db:
            return self._topic(db, topic)[1]

    def topics(self) -> dict[str, int]:
        """All topics and how many partitions each has."""
        with self._connection() as db:
            return dict(db.execute("SELECT name, partitions FROM topics ORDER BY name").fetchall())

    def record_bytes_max(self, topic: str) -> int:
        return bytes_allowed(topic, self.settings.record_bytes_max)

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        if not records:
            return []
        with self._connection() as db:
            slot, partitions = self._topic(db, topic)
            bytes_max = self.record_bytes_max(topic)
            placed = [
                checked_partition(str(self), topic, record, partitions, bytes_max) for record in records
            ]
            taken: list[tuple[int, int]] = []
            rows: list[tuple[int, bytes, bytes, str, int, int, int]] = []
            with transaction(db):
                now_ms = time.time_ns() // 1_000_000
                tails: dict[int, list[int]] = {}
                for record, partition in zip(records, placed, strict=True):
                    tail = tails.get(partition)
                    if tail is None:
                        tail = tails[partition] = list(
                            db.execute(
                                "SELECT next, written, last_ms FROM partitions WHERE slot = ?",
                                (slot + partition,),
                            ).fetchone()
                        )
                        # ingest times never step back in a partition: retention bisects over them
                        tail[2] = max(tail[2], now_ms)
                    offset = tail[0]
                    tail[0] += 1
                    tail[1] += len(record.key) + len(record.value)
                    row_id = (slot + partition << OFFSET_BITS) + offset
                    rows.append(
                        (row_id, record.key, record.value, record.producer, record.seq, tail[2], tail[1])
                    )
                    taken.append((partition, offset))
                db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                db.executemany(
                    "UPDATE partitions SET next = ?, written = ?, last_ms = ? WHERE slot = ?",
                    [(*tail, slot + partition) for partition, tail in tails.items()],
                )
            return taken

    def read_any(
        self,
        topic: str,
        offsets: Mapping[int, int],
        max_records: int = READ_RECORDS_MAX,
        max_bytes: int = READ_BYTES_MAX,
        wait_s: float = 0.0,
    ) -> dict[int, list[Record]]:
        with self._connection() as db:
            slots = {p: self._partition_slot(db, topic, p) for p in offsets}
            deadline = time.monotonic() + wait_s
            seen = -1
            while True:
                # another connection's commit changes this connection's data_version; far cheaper than a query
                version = -2 if wait_s <= 0.0 else db.execute("PRAGMA data_version").fetchone()[0]
                if version != seen:
                    seen = version
                    found = {
                        p: records
                        for p, slot in slots.items()
                        if (records := self._select(db, topic, p, slot, offsets[p], max_records, max_bytes))
                    }
                    if found:
                        return found
                left_s = deadline - time.monotonic()
                if wait_s <= 0.0 or left_s <= 0.0:
                    return {}
                time.sleep(min(self.settings.poll_s, left_s))

    def ends(self, topic: str) -> list[tuple[int, int]]:
        with self._connection() as db:
            slot, partitions = self._topic(db, topic)
            query = "SELECT first, next FROM partitions WHERE slot >= ? AND slot < ? ORDER BY slot"
            return [(first, end) for first, end in db.execute(query, (slot, slot + partitions))]

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        with self._connection() as db:
            rows = [(group, self._partition_slot(db, topic, p), o) for p, o in offsets.items()]
            with transaction(db):
                db.executemany("INSERT OR REPLACE INTO committed VALUES (?, ?, ?)", rows)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        with self._connection() as db:
            slot, partitions = self._topic(db, topic)
            query = "SELECT slot - ?, offset FROM committed WHERE grp = ? AND slot >= ? AND slot < ?"
            return dict(db.execute(query, (slot, group, slot, slot + partitions)).fetchall())

    def trim(self, topic: str, partition: int, before_offset: int) -> None:
        with self._connection() as db:
            self._trim(db, self._partition_slot(db, topic, partition), before_offset)

    def enforce_retention(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        for topic, partitions in self.topics().items():
            keep_s, keep_bytes = self.settings.retention(topic)
            with self._connection() as db:
                slot, _ = self._topic(db, topic)
                held = [self._held_bytes(db, slot + i) for i in range(partitions)]
                excess = sum(held) - keep_bytes if keep_bytes > 0 else 0
                for i in range(partitions):
                    if keep_s > 0.0:
                        self._trim(
                            db, slot + i, self._bisect(db, slot + i, "ingest_ms", now_ms - keep_s * 1e3)
                        )
                    if excess > 0 and held[i] > 0:
                        # each partition gives up bytes in proportion to what it holds
                        drop = -(-excess * held[i] // sum(held))
                        (written,) = db.execute(
                            "SELECT written FROM partitions WHERE slot = ?", (slot + i,)
                        ).fetchone()
                        cut = written - held[i] + drop
                        self._trim(db, slot + i, self._bisect(db, slot + i, "written", cut) + 1)

    def close(self) -> None:
        self._pool.close()

    def _connection(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._pool.connection()

    def _prepare(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables:
                raise LogError(f"{self} is some other SQLite database; choose another file")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        else:
            self._check_format(db)

    def _check_format(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != FORMAT_VERSION:
            raise LogError(
                f"{self} has format {version}; this Freshet reads format {FORMAT_VERSION}: "
                "use the Freshet that wrote it, or another file"
            )

    def _find_topic(self, db: sqlite3.Connection, topic: str) -> tuple[int, int] | None:
        found = self._slots.get(topic)
        if found is None:
            row = db.execute("SELECT slot, partitions FROM topics WHERE name = ?", (topic,)).fetchone()
            # not cached inside a transaction, which may still fail
            if row is not None and not db.in_transaction:
                self._slots[topic] = row
            found = row
        return found

    def _topic(self, db: sqlite3.Connection, topic: str) -> tuple[int, int]:
        found = self._find_topic(db, topic)
        if found is None:
            raise LogError(f"{self} has no topic {topic!r}; create it first: {HOW_TO_CREATE}")
        return found

    def _partition_slot(self, db: sqlite3.Connection, topic: str, partition: int) -> int:
        slot, partitions = self._topic(db, topic)
        check_partition(str(self), topic, partition, partitions)
        return slot + partition

    def _select(
        self,
        db: sqlite3.Connection,
        topic: str,
        partition: int,
        slot: int,
        offset: int,
        max_records: int,
        max_bytes: int,
    ) -> list[Record]:
        start = slot << OFFSET_BITS
        cursor = db.execute(
            "SELECT id - ?, key, value, producer, seq, ingest_ms FROM records "
            "WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (start, start + max(offset, 0), slot + 1 << OFFSET_BITS, max(max_records, 1)),
        )
        records: list[Record] = []
        size = 0
        for row in cursor:
            size += len(row[1]) + len(row[2])
            if records and size > max_bytes:
                break
            records.append(Record(topic, partition, *row))
        cursor.close()  # ends the read, so that the write-ahead log can be folded back
        return records

    def _held_bytes(self, db: sqlite3.Connection, slot: int) -> int:
        first, end, written = db.execute(
            "SELECT first, next, written FROM partitions WHERE slot = ?", (slot,)
        ).fetchone()
        if first == end:
            return 0
        row = db.execute(
            "SELECT written - length(key) - length(value) FROM records WHERE id = ?",
            ((slot << OFFSET_BITS) + first,),
        ).fetchone()
        return 0 if row is None else int(written - row[0])  # None: trimmed by another process just now

    def _bisect(self, db: sqlite3.Connection, slot: int, column: str, cut: float) -> int:
        """The first offset of a partition whose `column`, which never falls, is at or over `cut`."""
        low, high = db.execute("SELECT first, next FROM partitions WHERE slot = ?", (slot,)).fetchone()
        while low < high:
            middle = (low + high) // 2
            row = db.execute(
                f"SELECT {column} FROM records WHERE id = ?", ((slot << OFFSET_BITS) + middle,)
            ).fetchone()
            if row is None or row[0] < cut:  # None: trimmed by another process just now
                low = middle + 1
            else:
                high = middle
        return int(low)

    def _trim(self, db: sqlite3.Connection, slot: int, before_offset: int) -> None:
        while True:
            with transaction(db):
                first, end = db.execute(
                    "SELECT first, next FROM partitions WHERE slot = ?", (slot,)
                ).fetchone()
                cut = min(before_offset, end, first + TRIM_RECORDS_MAX)
                if cut <= first:
                    return
                start = slot << OFFSET_BITS
                db.execute("DELETE FROM records WHERE id >= ? AND id < ?", (start + first, start + cut))
                db.execute("UPDATE partitions SET first = ? WHERE slot = ?", (cut, slot))
