"""How long a table's snapshot takes to save, to bring up to date and to restore.

A restore has to read the snapshot's bytes and to insert the keys; both are measured alone, in the same run,
and a restore may take 1.5 times their sum. Files come from the page cache, on one thread: what is measured
is the work, not the disk. The incremental save touches 1 % of the rows.

    .venv/bin/python benchmarks/snapshot.py [--quick] [--folder FOLDER] [--json OUT]
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embeddings import SnapshotFolder, Table, TableSpec

SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd: a bijection from numbers to 64-bit ids
BATCH = 30_000  # keys inserted at once: about a page's
DIM = 16
TARGET = 1.5


def make_keys(rows: int) -> npt.NDArray[np.uint64]:
    """Ids spread over all 64 bits."""
    return np.arange(1, rows + 1, dtype=np.uint64) * SPREAD


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def read_files(path: Path) -> int:
    """Read every byte of a folder; returns how many."""
    total = 0
    buffer = bytearray(4 << 20)
    for file in path.glob("*.sst"):
        with file.open("rb", buffering=0) as opened:
            while count := opened.readinto(buffer):
                total += count
    return total


def insert(spec: TableSpec, keys: npt.NDArray[np.uint64]) -> Table:
    """Insert keys into an empty table."""
    table = Table(spec)
    for first in range(0, len(keys), BATCH):
        table.upsert(keys[first : first + BATCH], 1)
    return table


def restore(path: Path) -> Table:
    """What is measured."""
    with SnapshotFolder(path, read_only=True) as folder:
        return folder.restore()


def bench(rows: int, repeats: int, path: Path) -> dict[str, float]:
    """Save, save again, restore; medians of `repeats`."""
    spec = TableSpec(name="ids", dim=DIM, optimizer="adagrad", rows_max=rows + rows // 8)
    keys = make_keys(rows)
    table = insert(spec, keys)
    with SnapshotFolder(path) as folder:
        start = time.perf_counter()
        folder.save(table)
        save_s = time.perf_counter() - start
        written = read_files(path)
        touched = np.random.default_rng(0).choice(keys, rows // 100, replace=False)
        table.touch(table.find(touched), 2)
        start = time.perf_counter()
        folder.save(table)
        again_s = time.perf_counter() - start
        folder.save(table, whole=True)
    digest = table.digest(0)
    del table
    again = restore(path)  # compiles, and fills the page cache
    assert again.digest(0) == digest
    del again
    times: dict[str, list[float]] = {"read": [], "insert": [], "restore": []}
    for _ in range(repeats):
        times["read"].append(seconds(lambda: read_files(path)))
        times["insert"].append(seconds(lambda: insert(spec, keys)))
        times["restore"].append(seconds(lambda: restore(path)))
    read_s, insert_s, restore_s = (float(np.median(times[name])) for name in ("read", "insert", "restore"))
    return {
        "rows": rows,
        "bytes": written,
        "save_s": save_s,
        "save_1_percent_s": again_s,
        "read_s": read_s,
        "insert_s": insert_s,
        "restore_s": restore_s,
        "restore_over_read_and_insert": restore_s / (read_s + insert_s),
        "target": TARGET,
    }


def main() -> None:
    """Run, print, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a million rows; seconds")
    parser.add_argument("--rows", type=int, help="how many rows; default: 10 million")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the results here")
    options = parser.parse_args()
    rows = options.rows or (1_000_000 if options.quick else 10_000_000)
    parent = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        result = bench(rows, 3, parent / "snapshot")
    finally:
        shutil.rmtree(parent)
    print(
        f"{rows:,} rows, {result['bytes'] / 1e6:,.0f} MB: saved in {result['save_s']:.2f} s; "
        f"with 1 % touched again in {result['save_1_percent_s'] * 1e3:.0f} ms"
    )
    ratio = result["restore_over_read_and_insert"]
    print(
        f"restored in {result['restore_s']:.2f} s: {ratio:.2f} times reading the bytes "
        f"({result['read_s']:.2f} s) and inserting the keys ({result['insert_s']:.2f} s); target {TARGET}"
    )
    if options.json:
        options.json.write_text(
            json.dumps({"benchmark": "snapshot", "quick": options.quick, **result}, indent=2)
        )


if __name__ == "__main__":
    main()
