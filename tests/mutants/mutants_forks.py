"""Test runs that begin as forks of one process, which has imported all but the sources and the tests."""

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import pytest
from mutants_hook import ROOT, Wanted, for_children, install, opened
from mutants_lines import Noting

QUICK = "not long and not process"
PROCESS = "process and not long"
ARGUMENTS = ("-q", "--no-header", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist")
SELDOM_IMPORTED = ("torch", "hypothesis.extra.numpy")
"""Libraries that tests import only when they run."""

BELOW = {"ground", "embeddings", "error_memory"}
"""Packages that import none of the others."""

START_S_MAX = 120.0
"""How long the imports of a run may take."""

COMPILE_S = 600.0
"""How much longer all may take where kernels are compiled anew."""

TEST_S = 30.0
TIMES = 10.0
"""A test hangs if it takes `TIMES` times as long as without the change, and `TEST_S` more."""

NOTING_S_MAX = 1800.0
MEMORY_BYTES_MAX = 6 << 30
LOOK_S = 0.25
COLLECTION = "the collection of the tests"


def preload(packages: Collection[str], asked: Sequence[str]) -> None:
    """Import the libraries that a collection of tests imports, and forget the sources.

    Args:
        packages: that changes are made in; what lies below all of them is imported too.
        asked: the tests; folders or files.
    """
    sources = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    for name in [name for name in sys.modules if name.partition(".")[0] in sources]:
        del sys.modules[name]
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiving)
        with _Child():
            _quiet(Path(os.devnull))
            pytest.main([*ARGUMENTS, "--collect-only", "-m", QUICK, *(str(ROOT / name) for name in asked)])
            with os.fdopen(sending, "w") as out:
                json.dump([*_libraries(() if BELOW & {*packages} else BELOW)], out)
    os.close(sending)
    with os.fdopen(receiving) as said:
        names = json.load(said)
    os.waitpid(pid, 0)
    for name in (*names, *SELDOM_IMPORTED):
        with contextlib.suppress(Exception):
            import_module(name)
    gc.collect()
    gc.freeze()


def _libraries(below: Collection[str]) -> Iterator[str]:
    for name, module in list(sys.modules.items()):
        origin = getattr(getattr(module, "__spec__", None), "origin", None) or ""
        library = "/site-packages/" in origin or origin.startswith(sys.base_prefix)
        if library or name.partition(".")[0] in below:
            yield name


class _Child:
    """What runs in a fork ends there."""

    def __enter__(self) -> None:
        os.setsid()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            print(f"{kind}: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(0 if error is None else 1)


def _quiet(log: Path) -> None:
    """Nothing to read, and all that is said goes to a file."""
    for number, how in ((0, os.O_RDONLY), (1, os.O_WRONLY | os.O_CREAT), (2, os.O_WRONLY | os.O_CREAT)):
        file = os.open(os.devnull if number == 0 else log, how | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)


def _prepare(wanted: Wanted, folder: Path, compiling: bool = False) -> None:
    """Make this fork one whose imports are as wanted, with a folder for all that it writes."""
    _quiet(folder / "log")
    tempfile.tempdir = str(folder)
    os.environ.update(TMPDIR=str(folder), OMP_NUM_THREADS="1", **for_children(wanted, folder))
    os.environ.pop("PYTEST_DEBUG_TEMPROOT", None)
    if compiling:
        from numba import config

        config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(folder / "kernels")
    os.chdir(ROOT)
    install(wanted)


class _Settled:
    """A plugin for hypothesis: the same examples in each run, and nothing remembered from the last."""

    def pytest_configure(self) -> None:
        from hypothesis import settings

        settings.register_profile("mutants", settings.default, derandomize=True, database=None)
        settings.load_profile("mutants")


class _Telling:
    """A plugin that runs chosen tests in their order, says which begins, and ends with the first failure."""

    def __init__(self, said: int, chosen: Sequence[str]) -> None:
        self._said = said
        self._order = {name: number for number, name in enumerate(chosen)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = [item for item in items if item.nodeid in self._order]
        items[:] = sorted(found, key=lambda item: self._order[item.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._end(f"fail {COLLECTION}")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._say(f"begin {nodeid}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._end(f"fail {report.nodeid}")

    def _say(self, line: str) -> None:
        os.write(self._said, f"{line}\n".encode())

    def _end(self, line: str) -> None:
        self._say(line)
        os._exit(1)


def note(outs: Mapping[Path, Path], marker: str, packages: Sequence[str], lines: int) -> None:
    """Run the tests of some files, and write for each file which lines its tests ran."""
    with _folder() as folder:
        hits = folder / "hits"
        hits.write_bytes(bytes(lines))
        wanted = Wanted(tuple(packages), str(hits))
        pid = os.fork()
        if pid == 0:
            with _Child():
                _prepare(wanted, folder)
                plugins = [_Settled(), Noting(opened(hits), outs)]
                tests = [*map(str, outs)]
                status = pytest.main([*ARGUMENTS, "--timeout=120", "-m", marker, *tests], plugins=plugins)
                sys.stdout.flush()
                assert status in (0, 1, 5), f"the tests cannot be run: status {status}"
        ended = os.pidfd_open(pid)
        select.select([ended], [], [], NOTING_S_MAX)
        os.close(ended)
        if _kill(pid) != 0:
            raise RuntimeError(f"{next(iter(outs)).parent}: {(folder / 'log').read_text()[-4000:]}")


def attempt(
    chosen: Sequence[str], seconds: Mapping[str, float], wanted: Wanted, compiling: bool = False
) -> str:
    """Run tests with a change, in their order, until one fails.

    Args:
        chosen: their names.
        seconds: how long each takes without the change.
        wanted: the change.
        compiling: its kernels are not those in the cache.

    Returns:
        the first that fails, or hangs; "" if none does.
    """
    more = COMPILE_S * compiling
    files = list(dict.fromkeys(name.partition("::")[0] for name in chosen))
    receiving, sending = os.pipe()
    with _folder() as folder:
        pid = os.fork()
        if pid == 0:
            os.close(receiving)
            with _Child():
                _prepare(wanted, folder, compiling)
                plugins = [_Settled(), _Telling(sending, chosen)]
                status = pytest.main([*ARGUMENTS, *(str(ROOT / file) for file in files)], plugins=plugins)
                os.write(sending, f"end {int(status)}\n".encode())
        os.close(sending)
        try:
            return _follow(pid, receiving, lambda name: more + TEST_S + TIMES * seconds.get(name, 0.0))
        finally:
            os.close(receiving)
            _kill(pid)


def _follow(pid: int, receiving: int, limit: Callable[[str], float]) -> str:
    """What fails in a run, by what it says."""
    running, until, rest = COLLECTION, time.monotonic() + max(START_S_MAX, limit("")), b""
    while True:
        if time.monotonic() > until:
            return f"{running} (hangs)"
        if not select.select([receiving], [], [], LOOK_S)[0]:
            if _memory(pid) > MEMORY_BYTES_MAX:
                return f"{running} (takes all memory)"
            continue
        said = os.read(receiving, 1 << 16)
        if not said:
            return f"{running} (ends the process)"
        *lines, rest = (rest + said).split(b"\n")
        for line in lines:
            word, _, about = line.decode().partition(" ")
            if word == "fail":
                return about
            if word == "end":
                return "" if about in ("0", "5") else f"{running} (or what follows)"
            running, until = about, time.monotonic() + limit(about)


def _memory(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _kill(pid: int) -> int:
    """End what runs in a fork; returns how it ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it has no session yet
    return os.waitpid(pid, 0)[1]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
