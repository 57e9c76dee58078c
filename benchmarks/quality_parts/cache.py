"""Results on disk, by what they depend on: a run that was cut off goes on where it was."""

import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]

STREAM_CODE = (
    "benchmarks/quality_parts/streams.py", "stream/world/simulator.py", "stream/world/catalogue.py",
    "stream/world/settings.py",
    "stream/files/movielens.py",
)  # fmt: skip
FRESHET_CODE = (
    "benchmarks/quality_parts/freshet.py",
    "ground/**/*.py",
    "learner/**/*.py",
    "error_memory/**/*.py",
    "embeddings/**/*.py",
)
SKETCH_CODE = (
    "benchmarks/quality_parts/memories.py",
    "error_memory/baselines/sketch.py",
    "error_memory/baselines/hashed.py",
)
COMPARATOR_CODE = ("benchmarks/foreign/comparators.py",)


@functools.cache
def code_hash(patterns: tuple[str, ...]) -> str:
    """A hash of the sources that match, as they were when this was first asked."""
    digest = hashlib.blake2b(digest_size=8)
    for pattern in patterns:
        found = sorted(ROOT.glob(pattern))
        if not found:
            raise FileNotFoundError(f"no source matches {pattern!r}: results would be kept when it changes")
        for path in found:
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(*parts: object) -> str:
    """A short key of anything that JSON can say."""
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()


class Cache:
    """Named arrays in files of one folder; a name has one file per key, and only the newest is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str, key: str) -> Path:
        """Where the arrays of this name and key are or will be."""
        return self.folder / f"{name.replace(' ', '_').replace('%', 'pct')}.{key}.npz"

    def get(
        self, name: str, key: str, make: Callable[[], Mapping[str, npt.NDArray[Any]]]
    ) -> dict[str, npt.NDArray[Any]]:
        """The arrays, from disk or made now."""
        path = self.path(name, key)
        if not path.exists():
            self.put(name, key, make())
        with np.load(path) as saved:
            return dict(saved)

    def put(self, name: str, key: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write whole or not at all, and drop what other keys had left."""
        path = self.path(name, key)
        part = path.with_suffix(f".{os.getpid()}.tmp.npz")
        np.savez(part, **arrays)
        part.replace(path)
        self.drop_others(name, key)

    def drop_others(self, name: str, key: str) -> None:
        """Remove what other keys have left of this name."""
        path = self.path(name, key)
        for old in self.folder.glob(f"{path.name.split('.')[0]}.*.npz"):
            if old != path and not old.name.endswith(".tmp.npz"):
                old.unlink(missing_ok=True)
