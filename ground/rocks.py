"""RocksDB as Freshet uses it: how it is opened, what a folder holds, and what its errors mean.

For each operation that the database refuses, `rocksdict` raises a plain `Exception` whose text is RocksDB's
status. Only these exceptions are classified here; any other exception is a bug and propagates.
"""

import errno
import os
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBufferManager,
)

Kind = Literal["damaged", "full", "refused", "failing"]
"""What is wrong: corrupt data; no disk space; refused by the system for now; any other error."""

_HELPS: dict[int, tuple[Kind, str]] = {
    errno.ENOSPC: ("full", "free some disk space"),
    errno.EDQUOT: ("full", "free some disk space"),
    errno.EFBIG: ("full", "free some disk space, or let files grow larger (ulimit -f)"),
    errno.EMFILE: ("refused", "let the process open more files (ulimit -n, LimitNOFILE)"),
    errno.ENFILE: ("refused", "let the system open more files (fs.file-max)"),
    errno.EACCES: ("refused", "let the user who runs this write there"),
    errno.EPERM: ("refused", "let the user who runs this write there"),
    errno.EROFS: ("refused", "mount it so that it can be written"),
    errno.ENOLCK: ("refused", "another process holds the database: stop that one first"),
    errno.EAGAIN: ("refused", "another process holds the database: stop that one first"),
    errno.ENOMEM: ("refused", "give the process more memory"),
    errno.ENOENT: ("damaged", ""),
    errno.EIO: ("failing", "the disk fails: replace it, or copy what can be read to another one"),
}
"""What the operating system's errors mean for a database."""

METADATA_BYTES = 4 << 10  # of a part of the index or of a filter
INDEX_RESTART = 16
"""Keys of an index after which one is written whole: those of rows begin alike, so the others need half."""

_OS_CODE = re.compile(r"\(os error (\d+)\)")
_STATUS = re.compile(r"([A-Z][a-zA-Z ]+): ")


class Trouble(NamedTuple):
    """What is wrong with a database, and how to fix it; "" if that depends on the owner of the database."""

    kind: Kind
    helps: str


def read_error(error: Exception) -> Trouble | None:
    """Classify an error of a database or a disk; None: it is neither, and the caller re-raises it.

    >>> read_error(OSError(28, "No space left on device"))
    Trouble(kind='full', helps='free some disk space')
    >>> read_error(Exception("Corruption: block checksum mismatch"))
    Trouble(kind='damaged', helps='')
    >>> read_error(ValueError("Corruption: no")) is None
    True
    """
    if isinstance(error, OSError):
        return _of_code(error.errno or 0)
    if type(error) is not Exception:
        return None
    text = str(error)
    found = _STATUS.match(text)
    status = found[1] if found else ""
    if status == "Corruption":
        return Trouble("damaged", "")
    code = _OS_CODE.search(text)
    if code is not None:
        return _of_code(int(code[1]))
    if status == "IO error":
        # its text ends with the message of the operating system
        for number in _HELPS:
            if os.strerror(number) in text:
                return _of_code(number)
    if status == "Invalid argument" and "does not exist" in text:
        return Trouble("damaged", "")  # CURRENT, or a file that it leads to
    return Trouble("failing", "")


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a database, or the remains of one, that may contain data.

    False if the folder is empty, or if a crash interrupted the creation of the database: RocksDB writes
    CURRENT last, and before it only the first manifest. True for a folder that has lost its CURRENT:
    RocksDB would create a new database in it, so open it with `create_if_missing(False)`.
    """
    if not folder.is_dir():
        return False
    return any(
        file.name == "CURRENT"
        or file.suffix in (".sst", ".log")
        or (file.name.startswith("MANIFEST-") and file.name != "MANIFEST-000001")
        for file in folder.iterdir()
    )


def get_many(database: Rdict, keys: list[bytes]) -> list[bytes | None]:
    """The values of a raw database's entries in the order of their keys, None where there is no entry."""
    return cast(list[bytes | None], database.get(cast(Any, keys)))


def options(
    *,
    create: bool,
    write_buffer_bytes: int | None = None,
    cache_bytes: int = 0,
    bloom: bool = False,
    compress: bool = True,
    rows: bool = False,
    torn_journal: Literal["tail", "point"] = "tail",
) -> Options:
    """The options of a Freshet database: paranoid checks, no statistics, a small info log.

    Args:
        create: make it if it is not there.
        write_buffer_bytes: size of the memtable; None: RocksDB's default.
        cache_bytes: size of the block cache; 0: no cache, for data that is read once.
        bloom: most look-ups are for keys that are not there.
        compress: files are compressed; learnt floats do not compress.
        rows: most entries are rows of tables, many more than there is memory for. What leads to them, index
            and filters, then lies in the block cache too; else it is in memory whole, 6 bytes for each row.
            The memtables count as part of the cache.
        torn_journal: how to recover the write-ahead log after a crash: tolerate a torn end ("tail"), or,
            where writes are not synced, recover up to the first inconsistent record ("point").
    """
    found = Options(raw_mode=True)
    found.create_if_missing(create)
    found.set_wal_recovery_mode(
        DBRecoveryMode.tolerate_corrupted_tail_records()
        if torn_journal == "tail"
        else DBRecoveryMode.point_in_time()
    )
    found.set_paranoid_checks(True)
    found.set_keep_log_file_num(2)
    found.set_max_log_file_size(1 << 20)
    found.set_stats_dump_period_sec(0)
    found.set_max_background_jobs(2)
    if write_buffer_bytes is not None:
        found.set_write_buffer_size(write_buffer_bytes)
    if not compress:
        found.set_compression_type(DBCompressionType.none())
    tables = BlockBasedOptions()
    if rows:
        tables.set_index_type(BlockBasedIndexType.two_level_index_search())
        tables.set_index_block_restart_interval(INDEX_RESTART)
        tables.set_metadata_block_size(METADATA_BYTES)
        tables.set_partition_filters(True)
        tables.set_cache_index_and_filter_blocks(True)
        tables.set_pin_top_level_index_and_filter(True)
    if bloom:
        tables.set_bloom_filter(10, False)
    if cache_bytes:
        cache = Cache(cache_bytes)
        tables.set_block_cache(cache)
        if rows and write_buffer_bytes:  # two of them: one is filled while one is written out
            size = 2 * write_buffer_bytes
            found.set_write_buffer_manager(
                WriteBufferManager.new_write_buffer_manager_with_cache(size, False, cache)
            )
    else:
        tables.disable_cache()
    found.set_block_based_table_factory(tables)
    return found


def _of_code(number: int) -> Trouble:
    kind, helps = _HELPS.get(number, ("failing", ""))
    return Trouble(kind, helps)
