"""Which tests run which lines of the sources, and how long each takes: noted once, asked for each change."""

import json
import mmap
import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from mutants_hook import ROOT, Numbers

SHARING = ("@cache", "lru_cache", "functools.cache", "scope=")

Bits = npt.NDArray[np.uint8]


class Noting:
    """A plugin of pytest that writes for each test the lines that ran, and its seconds.

    Args:
        hits: a byte for each line, set as it runs.
        outs: what to write for `Lines`, by file of tests.
    """

    def __init__(self, hits: mmap.mmap, outs: Mapping[Path, Path]) -> None:
        self._hits, self._outs = hits, outs
        self._seen: dict[Path, list[tuple[str, float, Bits]]] = {file: [] for file in outs}
        self._failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._hits[:] = bytes(len(self._hits))
        began = time.monotonic()
        result = yield
        ran = np.packbits(np.frombuffer(self._hits[:], np.uint8))
        self._seen[item.path].append((item.nodeid, round(time.monotonic() - began, 3), ran))
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._failed.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        none = np.zeros((0, (len(self._hits) + 7) // 8), np.uint8)
        for file, seen in self._seen.items():
            names, seconds, rows = map(list, zip(*seen, strict=True)) if seen else ([], [], [])
            about = {"names": names, "seconds": seconds, "failed": sorted(self._failed & {*names})}
            with self._outs[file].open("wb") as out:
                np.savez_compressed(out, rows=np.stack(rows) if rows else none, about=json.dumps(about))


class Lines:
    """Which tests run which lines, and how long each takes.

    Args:
        numbers: of the lines.
        files: what `Noting` has written.
    """

    def __init__(self, numbers: Numbers, files: Iterable[Path]) -> None:
        self.numbers = numbers
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self._names: list[str] = []
        rows: list[Bits] = [np.zeros((0, (numbers.count + 7) // 8), np.uint8)]
        for file in files:
            with np.load(file) as kept:
                about = json.loads(str(kept["about"]))
                rows.append(kept["rows"])
            self._names += about["names"]
            self.seconds.update(zip(about["names"], about["seconds"], strict=True))
            self.failed.update(about["failed"])
        self._rows = np.concatenate(rows)
        self._by_file: dict[str, list[str]] = {}
        for name in self._names:
            self._by_file.setdefault(name.partition("::")[0], []).append(name)

    def tests(self, lines: Iterable[int]) -> set[str]:
        """The tests that run one of these lines, and those that share what such a test has made.

        Those that fail as it is are no judges, and left out.
        """
        found = np.zeros(len(self._names), bool)
        for number in lines:
            found |= (self._rows[:, number >> 3] & (128 >> (number & 7))) > 0
        names = {self._names[at] for at in np.flatnonzero(found)}
        for file in {name.partition("::")[0] for name in names}:
            if shares(file):
                names.update(self._by_file[file])
        return names - self.failed


def shares(file: str) -> bool:
    """Whether what one test of a file makes serves others, of which only the first runs the lines then."""
    text = (ROOT / file).read_text()
    return any(word in text for word in SHARING)
