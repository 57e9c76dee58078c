"""RocksDB as it is opened for rows: what leads to them takes no memory of its own, in old files too."""

from pathlib import Path
from typing import cast

import numpy as np
from rocksdict import Rdict, WriteBatch

from ground import rocks

KEYS = 30_000


def fill(folder: Path, rows: bool) -> int:
    """Bytes that index and filters take beside the cache, with this many rows of 100 bytes."""
    opened = Rdict(
        str(folder), rocks.options(create=True, cache_bytes=1 << 20, bloom=True, compress=False, rows=rows)
    )
    batch = WriteBatch(raw_mode=True)
    order = np.random.default_rng(1).permutation(KEYS).tolist()
    for key in order:
        batch.put(name(key), b"%100d" % key)
    opened.write(batch)
    opened.flush()
    found = look(opened)
    opened.close()
    return found


def name(key: int) -> bytes:
    return b"table/item/row/" + key.to_bytes(8, "big")


def look(opened: Rdict) -> int:
    keys = list(range(0, 2 * KEYS, 1000))
    found = rocks.get_many(opened, [name(key) for key in keys])
    assert found == [b"%100d" % key if key < KEYS else None for key in keys]
    return cast(int, opened.property_int_value("rocksdb.estimate-table-readers-mem"))


def test_what_leads_to_rows_takes_no_memory_for_each_row(tmp_path: Path) -> None:
    plain, rows = fill(tmp_path / "plain", rows=False), fill(tmp_path / "rows", rows=True)
    assert plain > 2 * KEYS > 10 * rows


def test_files_that_were_written_otherwise_are_read(tmp_path: Path) -> None:
    for before in (False, True):
        fill(tmp_path / str(before), rows=before)
        opened = Rdict(str(tmp_path / str(before)), rocks.options(create=False, bloom=True, rows=not before))
        look(opened)
        opened.close()


def test_what_waits_to_be_written_counts_as_part_of_the_cache(tmp_path: Path) -> None:
    used = []
    for rows in (False, True):
        made = rocks.options(create=True, write_buffer_bytes=8 << 20, cache_bytes=8 << 20, rows=rows)
        opened = Rdict(str(tmp_path / str(rows)), made)
        batch = WriteBatch(raw_mode=True)
        for key in range(KEYS):
            batch.put(name(key), b"%100d" % key)
        opened.write(batch)
        used.append(cast(int, opened.property_int_value("rocksdb.block-cache-usage")))
        opened.close()
    assert used[0] < 10_000 and used[1] > 100 * KEYS
