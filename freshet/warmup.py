"""Compiling the kernels: once per machine, visibly, and not while somebody waits for an answer.

Kernels are compiled by numba when first called and kept beside their sources. What is there is found
by numba itself; a marker in the same folder, named for everything that the compiled code depends on,
says that all of them have been through here.

Numba takes a kernel to be new only when its own file has changed. But kernels are built into others, and
constants into all, so what is kept is dropped when any file changes that kernels stand on.
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

import msgspec

PACKAGES = ("ground", "stream", "embeddings", "error_memory", "learner")
MARKER = "freshet-kernels-"
SOURCES = "freshet-sources-"
TELL_EVERY_S = 1.0
LINE_EVERY_S = 10.0
KERNELS = 190
"""About how many compiled kernels there are on disk when all of the default is compiled."""
_IMPORT = re.compile(rf"^from ((?:{'|'.join(PACKAGES)})(?:\.\w+)*) import (\([^)]*\)|.*)", re.MULTILINE)
_BUILT_IN = re.compile(
    r"\b(?:[A-Z][A-Z0-9_]*|_?[a-z]\w*)\b"
)  # a constant or a function: classes are in no kernel


def warm_up(*, always: bool = False, everything: bool = False) -> None:
    """Compile what the default config runs, if that has not been done yet on this machine.

    Says how far it is.

    Args:
        always: go through it even if the marker says that there is nothing to do.
        everything: also what only other configs run; otherwise that is compiled when first called.
    """
    drop_stale()
    marker = marker_path()
    if not always and marker is not None and marker.exists():
        return
    began = time.perf_counter()
    with _telling(began):
        compile_all(everything)
    if marker is not None:
        _leave(marker, MARKER)
    print(f"kernels are ready ({time.perf_counter() - began:.1f} s)", file=sys.stderr, flush=True)


def marker_path() -> Path | None:
    """Where the marker is or will be; None if numba keeps nothing here."""
    folders = _cache_folders()
    return folders[0] / f"{MARKER}{_fingerprint()}" if folders else None


def compile_all(everything: bool = False) -> None:
    """Compile in this process and, where there are cores for it, in others beside it.

    Args:
        everything: also what only other configs run.
    """
    from freshet import exercise

    beside = list(exercise.BESIDE)[: len(os.sched_getaffinity(0)) - 1] if _cache_folders() else []
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "freshet.exercise", part],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for part in beside
    ]  # fmt: skip
    try:
        if started:
            exercise.model()
        for process in started:
            process.wait()
    finally:
        for process in started:
            process.kill()
            process.wait()
    # what the others have compiled is found on disk; what they could not is compiled here
    exercise.everything(everything)


def drop_stale() -> None:
    """Drop kept kernels if a file has changed, since they were made, that some kernel stands on.

    To be called before any kernel is: numba reads what is kept once in a process.
    """
    folders = _cache_folders()
    if not folders:
        return
    stamp = folders[0] / f"{SOURCES}{_fingerprint()}"
    if stamp.exists():
        return
    for folder in folders:
        for kept in (*folder.glob("*.nbi"), *folder.glob("*.nbc")):
            kept.unlink(missing_ok=True)
    _leave(stamp, SOURCES)


def _cache_folders() -> list[Path]:
    """Where numba keeps the packages' kernels, the marker's first; empty if it keeps nothing here."""
    from ground.kernels import bayes

    found = bayes.predict.stats.cache_path
    if not found:
        return []
    marked = Path(found)
    sources = sorted({source.parent for source in kernel_sources()})
    if marked.name == "__pycache__":
        folders = [source / "__pycache__" for source in sources]
    else:  # one folder of numba's own for all sources: in it NAME_HASH for each
        folders = [
            marked.parent / f"{source.name}_{hashlib.sha1(str(source).encode()).hexdigest()}"
            for source in sources
        ]
    return [marked, *(folder for folder in folders if folder != marked)]


def kernel_sources() -> dict[Path, str]:
    """The files with kernels, and those they import constants or functions from, sorted: their texts."""
    roots = {package: Path(str(import_module(package).__file__)).parent for package in PACKAGES}
    texts = {
        source: source.read_text(encoding="utf-8") for root in roots.values() for source in root.rglob("*.py")
    }
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


def name_of(source: Path) -> str:
    """A source within its package, as `embeddings/core/index.py`: the same wherever that is installed."""
    package = next(parent for parent in source.parents if parent.name in PACKAGES)
    return source.relative_to(package.parent).as_posix()


@cache
def _fingerprint() -> str:
    """Of everything that compiled kernels depend on: the sources, numba, Python, the processor.

    Once in a process: numba too reads what it has kept only once.
    """
    import numba
    from llvmlite import binding

    parts = [numba.__version__, sys.version, binding.get_host_cpu_name()]
    parts += [f"{name_of(source)} {text}" for source, text in kernel_sources().items()]
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()


def _leave(marker: Path, kind: str) -> None:
    """Leave a marker in place of older ones; where nothing can be written, every start does this again."""
    try:
        for old in marker.parent.glob(f"{kind}*"):
            old.unlink(missing_ok=True)
        marker.touch()
    except OSError:
        return


@contextmanager
def _telling(began: float) -> Iterator[None]:
    """Say that kernels are compiled, and how many there are by now: in place on a terminal, else in lines."""
    in_place = sys.stderr.isatty()
    title = "compiling kernels (first run only)"
    print(f"{title} ...", file=sys.stderr, flush=True)
    folders = _cache_folders()
    done = threading.Event()

    def line() -> str:
        made = sum(1 for folder in folders for _ in folder.glob("*.nbc"))
        return f"{title}: {made} of about {KERNELS}, {time.perf_counter() - began:.0f} s"

    def tell() -> None:
        width = 0
        while not done.wait(TELL_EVERY_S if in_place else LINE_EVERY_S):
            text = line()
            width = max(width, len(text))
            print(
                f"\r{text:<{width}}" if in_place else text, end="" if in_place else "\n", file=sys.stderr,
                flush=True,
            )  # fmt: skip
        if in_place:
            print("\r" + " " * width + "\r", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, name="warm-up", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
