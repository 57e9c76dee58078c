"""Compiles the kernels once per machine, with progress shown, before the first request arrives.

Numba compiles a kernel at its first call and caches the machine code beside the source. A marker file in the
same folder says that all kernels are compiled; its name is a hash of everything that the code depends on.

Numba recompiles a kernel only when its own file changes. But kernels are inlined into others, and constants
into all, so the cache is dropped when any file changes that a kernel imports from.
"""

import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import msgspec

from ground.threads import HelperThread

PACKAGES = ("ground", "stream", "embeddings", "error_memory", "learner")
MARKER = "freshet-kernels-"
SOURCES = "freshet-sources-"
REPORT_EVERY_S = 1.0
LINE_EVERY_S = 10.0
KERNELS, ALL_KERNELS = 235, 309
"""Approximate numbers of kernels in the cache when the default config is compiled, and when everything is."""
_IMPORT = re.compile(rf"^from ((?:{'|'.join(PACKAGES)})(?:\.\w+)*) import (\([^)]*\)|.*)", re.MULTILINE)
_BUILT_IN = re.compile(
    r"\b(?:[A-Z][A-Z0-9_]*|_?[a-z]\w*)\b"
)  # a constant or a function: classes are in no kernel
_TUPLE = re.compile(r"^class (\w+)\((?:typing\.)?NamedTuple\b", re.MULTILINE)


def warm_up(*, always: bool = False, everything: bool = False) -> None:
    """Compile the kernels of the default config, unless this machine has them; prints progress.

    Args:
        always: ignore the marker.
        everything: also the kernels that only other configs use; else those compile at their first call.
    """
    drop_stale()
    marker = marker_path()
    if not always and marker is not None and marker.exists():
        return
    began = time.perf_counter()
    with _telling(began, ALL_KERNELS if everything else KERNELS):
        compile_all(everything)
    if marker is not None:
        _leave(marker, MARKER)
    print(f"kernels are ready ({time.perf_counter() - began:.1f} s)", file=sys.stderr, flush=True)


def marker_path() -> Path | None:
    """The path of the marker; None if numba has no cache here."""
    folders = _cache_folders()
    return folders[0] / f"{MARKER}{_sources().fingerprint}" if folders else None


def compile_all(everything: bool = False) -> None:
    """Compile in this process and, if there are free cores, in others at the same time.

    Args:
        everything: also the kernels that only other configs use.
    """
    from freshet import exercise

    parts = list(exercise.ALL_BESIDE if everything else exercise.BESIDE)
    others = min(len(parts), len(os.sched_getaffinity(0)) - 1) if _cache_folders() else 0
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "freshet.exercise", str(os.getpid()), *parts[number::others]],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for number in range(others)
    ]  # fmt: skip
    try:
        if started:
            exercise.model()
            if everything:
                exercise.model(deep=True, kinds=exercise.ALL_KINDS, seldom=True)
        for process in started:
            process.wait()
    finally:
        for process in started:
            process.kill()
            process.wait()
    # loads what the other processes compiled, and compiles the rest
    exercise.everything(everything)


def drop_stale() -> None:
    """Drop the cache if a file that a kernel imports from has changed since.

    Call it before any kernel runs: numba reads its cache once per process.
    """
    folders = _cache_folders()
    if not folders:
        return
    stamp = folders[0] / f"{SOURCES}{_sources().fingerprint}"
    if stamp.exists():
        return
    for folder in folders:
        for kept in (*folder.glob("*.nbi"), *folder.glob("*.nbc")):
            kept.unlink(missing_ok=True)
    _leave(stamp, SOURCES)


def _cache_folders() -> list[Path]:
    """Numba's cache folders of the packages, the marker's folder first; empty without a cache."""
    from ground.kernels import bayes

    found = bayes.predict.stats.cache_path
    if not found:
        return []
    marked = Path(found)
    sources = _sources().folders
    if marked.name == "__pycache__":
        folders = [source / "__pycache__" for source in sources]
    else:  # NUMBA_CACHE_DIR: one folder for all sources, with a folder NAME_HASH for each
        folders = [
            marked.parent / f"{source.name}_{hashlib.sha1(str(source).encode()).hexdigest()}"
            for source in sources
        ]
    return [marked, *(folder for folder in folders if folder != marked)]


def kernel_sources(texts: dict[Path, str] | None = None) -> dict[Path, str]:
    """The texts of the files with kernels, and of the files from which they import, sorted by name.

    Args:
        texts: those of all packages; None: read them.
    """
    roots = _roots()
    texts = _texts() if texts is None else texts
    waiting = [source for source, text in texts.items() if "njit" in text]
    found = set(waiting)
    while waiting:
        for module, names in _IMPORT.findall(texts[waiting.pop()]):
            package, *path = module.split(".")
            place = roots[package].joinpath(*path)
            sources = [place.with_suffix(".py")] if _BUILT_IN.search(names) else []
            sources += [place / f"{name}.py" for name in re.findall(r"\w+", names)]  # of a whole module
            for source in sources:
                if source in texts and source not in found:
                    found.add(source)
                    waiting.append(source)
    return {source: texts[source] for source in sorted(found)}


def _tuple_names(texts: dict[Path, str]) -> list[str]:
    """The named tuples of all packages. Numba's cache stores those that a kernel takes by module and name,
    so a cache from before one was renamed cannot be read.
    """
    return [
        f"{name_of(source)} {name}" for source, text in sorted(texts.items()) for name in _TUPLE.findall(text)
    ]


def _roots() -> dict[str, Path]:
    return {package: Path(str(import_module(package).__file__)).parent for package in PACKAGES}


def _texts() -> dict[Path, str]:
    """The sources of all packages."""
    return {
        source: source.read_text(encoding="utf-8")
        for root in _roots().values()
        for source in root.rglob("*.py")
    }


def name_of(source: Path) -> str:
    """A source's path within its package, such as `embeddings/core/index.py`, on every machine."""
    package = next(parent for parent in source.parents if parent.name in PACKAGES)
    return source.relative_to(package.parent).as_posix()


class _Sources(NamedTuple):
    """What is known of the sources, which are read once per process: numba reads its cache only once too."""

    folders: list[Path]  # with kernels, or with what kernels import
    fingerprint: str  # of everything that compiled kernels depend on: sources, numba, Python, the processor


@cache
def _sources() -> _Sources:
    import numba
    from llvmlite import binding

    texts = _texts()
    kernels = kernel_sources(texts)
    parts = [numba.__version__, sys.version, binding.get_host_cpu_name()]
    parts += [f"{name_of(source)} {text}" for source, text in kernels.items()]
    parts += _tuple_names(texts)
    digest = hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()
    return _Sources(sorted({source.parent for source in kernels}), digest)


def _leave(marker: Path, kind: str) -> None:
    """Write the marker and remove older ones. On a read-only disk every start compiles again."""
    try:
        for old in marker.parent.glob(f"{kind}*"):
            old.unlink(missing_ok=True)
        marker.touch()
    except OSError:
        return


@contextmanager
def _telling(began: float, kernels: int) -> Iterator[None]:
    """Print how many kernels are compiled: in place on a terminal, else as lines."""
    in_place = sys.stderr.isatty()
    title = "compiling kernels (first run only)"
    print(f"{title} ...", file=sys.stderr, flush=True)
    folders = _cache_folders()

    def line() -> str:
        made = sum(1 for folder in folders for _ in folder.glob("*.nbc"))
        return f"{title}: {made} of about {kernels}, {time.perf_counter() - began:.0f} s"

    def tell(done: threading.Event) -> None:
        width = 0
        while not done.wait(REPORT_EVERY_S if in_place else LINE_EVERY_S):
            text = line()
            width = max(width, len(text))
            print(
                f"\r{text:<{width}}" if in_place else text, end="" if in_place else "\n", file=sys.stderr,
                flush=True,
            )  # fmt: skip
        if in_place:
            print("\r" + " " * width + "\r", end="", file=sys.stderr, flush=True)

    with HelperThread("warm-up", tell) as telling:
        yield
    telling.check()
