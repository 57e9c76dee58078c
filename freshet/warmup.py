"""Compiling the kernels: once per machine, visibly, and not while somebody waits for an answer.

Kernels are compiled by numba when first called and kept beside their sources. What is there is found
by numba itself; a marker in the same folder, named for everything that the compiled code depends on,
says that all of them have been through here.
"""

import hashlib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import msgspec

PACKAGES = ("ground", "stream", "embeddings", "error_memory", "learner")
MARKER = "freshet-kernels-"
TELL_EVERY_S = 2.0


def warm_up(*, always: bool = False) -> None:
    """Compile all kernels if that has not been done yet on this machine, with a line of progress.

    Args:
        always: go through it even if the marker says that there is nothing to do.
    """
    marker = marker_path()
    if not always and marker is not None and marker.exists():
        return
    began = time.perf_counter()
    with _telling(began):
        exercise()
    if marker is not None:
        _leave(marker)
    print(f"kernels are ready ({time.perf_counter() - began:.1f} s)", file=sys.stderr, flush=True)


def marker_path() -> Path | None:
    """Where the marker is or will be; None if numba keeps nothing here."""
    from ground import bayes

    folder = bayes.predict.stats.cache_path
    return Path(folder) / f"{MARKER}{_fingerprint()}" if folder else None


def exercise() -> None:
    """Call every kernel once, with the types that the roles call it with: a stream in small."""
    from error_memory import MemorySettings, make_memory
    from error_memory.settings import Kind
    from learner.features import FeatureSpec
    from learner.model import Model
    from learner.settings import LearnerSettings
    from learner.trainer import Trainer
    from stream.records import Example

    features = {
        "user": FeatureSpec(ttl_s=3600.0),
        "item": FeatureSpec(admit_after=2, ttl_s=3600.0),
        "tags": FeatureSpec(kind="ids"),
        "hour": FeatureSpec(kind="hour"),
        "price": FeatureSpec(kind="number"),
    }
    trainer = Trainer(Model(features, LearnerSettings(group=8), learning=True))
    kinds: tuple[Kind, ...] = ("residual", "sketch", "neighbours")
    memories = [make_memory(MemorySettings(kind=k, capacity=64), trainer.model.memory_columns) for k in kinds]
    for hour in range(4):
        at = 1e9 + 3000.0 * hour
        examples = [
            Example(
                request_id=str(i),
                time=at,
                decided=at,
                context={"user": f"u{i % 3}"},
                candidates=[{"item": i % 5, "tags": ["a", "b"], "price": 1.5}, {"item": i}],
                labels=[1.0, 0.0],
            )
            for i in range(16)
        ]
        for learnt in trainer.learn(examples):
            position = hour * len(examples)
            for memory in memories:
                memory.set_priors(trainer.model.memory_tau())
                memory.correct(learnt.rows, learnt.p)
                memory.observe(learnt.rows, learnt.p, learnt.y, position, learnt.requests)
                memory.advance(position - 1)
    trainer.finish()
    model = trainer.model
    model.score_requests(examples)
    for table in model.tables:
        table.expire(int(at), 1000)
        touched, _ = table.drain_delta()
        rows, _ = table.export(touched)
        table.load(touched, rows)
        table.digest(int(at))


def _fingerprint() -> str:
    """Of everything that compiled kernels depend on: the sources, numba, Python, the processor."""
    import numba
    from llvmlite import binding  # type: ignore[import-untyped]

    parts = [numba.__version__, sys.version, binding.get_host_cpu_name()]
    for package in PACKAGES:
        root = Path(str(import_module(package).__file__)).parent
        for source in sorted(root.glob("*.py")):
            stat = source.stat()
            parts.append(f"{source} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()


def _leave(marker: Path) -> None:
    """Leave the marker in place of older ones; where nothing can be written, every start does this again."""
    try:
        for old in marker.parent.glob(f"{MARKER}*"):
            old.unlink(missing_ok=True)
        marker.touch()
    except OSError:
        return


@contextmanager
def _telling(began: float) -> Iterator[None]:
    """Say that kernels are compiled, and now and then that it still goes on."""
    line = "compiling kernels (first run only) ..."
    print(line, file=sys.stderr, flush=True)
    done = threading.Event()

    def tell() -> None:
        while not done.wait(TELL_EVERY_S):
            seconds = time.perf_counter() - began
            if sys.stderr.isatty():
                print(f"\r{line} {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r" + " " * (len(line) + 8) + "\r", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, name="warm-up", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
