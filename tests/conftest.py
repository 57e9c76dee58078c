"""What tests share that is no Python: one Kafka broker for a run, and tools of other projects."""

import contextlib
import os
import uuid
from collections.abc import Iterator

import pytest
from jars import BrokerError
from shared_broker import shared_broker
from tools import find_tool

from freshet.warmup import drop_stale

# The first is for its command alone (importing it takes a second), the second for an environment of its own.
collect_ignore = ["serving/http/schemathesis", "serving/foreign"]

LONGEST = ("chaos/test_load", "chaos/test_chaos", "freshet/demo/test_demo", "docs/test_docs_blocks")
"""Files that take a minute or so each: begun last they would run alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then the others with tests of processes; each file in its own order."""
    processes = {item.path for item in items if item.get_closest_marker("process")}

    def rank(item: pytest.Item) -> int:
        name = item.path.with_suffix("").as_posix()
        found = [i for i, longest in enumerate(LONGEST) if name.endswith(longest)]
        return found[0] if found else len(LONGEST) + (item.path not in processes)

    items.sort(key=rank)


def pytest_configure(config: pytest.Config) -> None:
    """Drop kernels that were compiled from other sources, once, before any process of the run uses one."""
    if not hasattr(config, "workerinput"):
        drop_stale()


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
    with contextlib.ExitStack() as opened:
        try:
            address = opened.enter_context(shared_broker(folder / "shared-broker"))
        except BrokerError as error:
            if os.environ.get("CI") == "true":
                pytest.fail(f"no Kafka broker: {error}")
            pytest.skip(f"NO KAFKA: {error}")
        yield address


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
