"""What tests share that is no Python: one Kafka broker for a run, and tools of other projects."""

import contextlib
import gc
import os
import uuid
from collections.abc import Generator, Iterator
from functools import cache
from inspect import signature
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings
from jars import BrokerError
from shared_broker import shared_broker
from tools import find_tool
from xdist.scheduler import LoadFileScheduling

from freshet.warmup import drop_stale

# How long an example takes says how busy the machine is, and is no verdict. A test makes the same examples
# wherever it runs, so that what passed here passes there; `make test-deep` looks for others.
settings.register_profile(
    "patient",
    derandomize="FRESHET_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patient")

# Nor is an answer a verdict that takes longer than httpx waits where it is told nothing, which is 5 s.
for phase in ("connect", "read", "write", "pool"):
    setattr(signature(httpx.get).parameters["timeout"].default, phase, 60.0)

# The first is for its command alone (importing it takes a second), the second for an environment of its own.
collect_ignore = ["serving/http/schemathesis", "serving/foreign"]

# httpx then reads no authorities' certificates, which takes each `httpx.get` 35 ms. No test asks a server of
# somebody else.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)

LONGEST = (
    "docs/test_docs_blocks",
    "chaos/test_load",
    "chaos/test_chaos",
    "freshet/demo/test_demo",
    "freshet/roles/test_foreign_producers",
)
"""Files that take half a minute or more each: begun last they would run alone at the end."""

WAITING_SHARE = 0.8
"""Of a run, in which the files with tests of processes begin: what ends it has short tests."""

WITH_TORCH = (
    "/embeddings/torch/",
    "/learner/deep/",
    "/learner/shards/test_processes.py",
    "/freshet/test_warm.py",
    "/learner/model/test_targets.py",
    "_own_network.py",
    "_docs_examples.py",
    "/test_repo_docs.py",
    "/test_repo_surface.py",
)
"""Files that import PyTorch when their tests run. One process runs all of them, so that one pays for it."""


class _TorchTogether(LoadFileScheduling):
    """Gives a file's tests to one process, and those of all files with PyTorch to the same one.

    So are those that read all sources, which they do once then.
    """

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        if any(part in scope for part in WITH_TORCH):
            return "torch"
        return "sources" if scope.startswith("tests/repo/") else scope


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling | None:
    """Schedule by files where that is asked for; see the Makefile."""
    return _TorchTogether(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected lives until the end, and Python's collector need not look at it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, and those with PyTorch, which one process runs; each file in its own order.

    Then files with tests of processes, which wait for most of their time, and files that compute, evenly
    mixed: the cores have work meanwhile.
    """
    files = dict.fromkeys(item.path for item in items)
    waiting = dict.fromkeys(item.path for item in items if item.get_closest_marker("process"))
    places = {path: i / len(waiting) * WAITING_SHARE for i, path in enumerate(waiting)}
    computing = files.keys() - places.keys()
    places |= {path: i / len(computing) for i, path in enumerate(p for p in files if p in computing)}

    @cache
    def rank(path: Path) -> tuple[int, float]:
        name = path.with_suffix("").as_posix()
        found = [i for i, longest in enumerate(LONGEST) if name.endswith(longest)]
        if found:
            return found[0], 0.0
        with_torch = any(part in path.as_posix() for part in WITH_TORCH)
        return len(LONGEST), 0.0 if with_torch else 1.0 + places[path]

    items.sort(key=lambda item: rank(item.path))


def pytest_configure(config: pytest.Config) -> None:
    """Drop kernels that were compiled from other sources, once, before any process of the run uses one."""
    if not hasattr(config, "workerinput"):
        drop_stale()


_open_until_the_end = contextlib.ExitStack()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Let go of the broker. Who started it waits for those who still use it, which is no part of any test."""
    _open_until_the_end.close()


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a running broker: that of FRESHET_KAFKA, or one that all processes of this test run share.

    Without a JDK and Maven the tests that need it are skipped; with CI=true they fail.
    """
    running = os.environ.get("FRESHET_KAFKA")
    if running:
        yield running
        return
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent  # which all workers of a run share
    try:
        yield _open_until_the_end.enter_context(shared_broker(folder / "shared-broker"))
    except BrokerError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Kafka broker: {error}")
        pytest.skip(f"NO KAFKA: {error}")


@pytest.fixture
def kafka_prefix() -> str:
    """What the names of a test's topics begin with, so that tests share a broker and meet nothing old."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def kcat() -> str:
    """kcat, a Kafka client that is not ours. Without it tests are skipped; with CI=true they fail."""
    return find_tool("kcat", "kcat")


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own checker of rules. Without it tests are skipped; with CI=true they fail."""
    return find_tool("promtool", "prometheus")


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser to look at pages with. Without it tests are skipped; with CI=true they fail."""
    return find_tool("chromium", "chromium")
