"""One Kafka broker for all tests of a run."""

import os
import uuid
from collections.abc import Iterator

import pytest
from broker import Broker, BrokerError


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a running broker: that of FRESHET_KAFKA, or one started for this test run.

    Without a JDK and Maven the tests that need it are skipped; with CI=true they fail.
    """
    running = os.environ.get("FRESHET_KAFKA")
    if running:
        yield running
        return
    try:
        broker = Broker(tmp_path_factory.mktemp("kafka"))
        broker.start()
    except BrokerError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Kafka broker: {error}")
        pytest.skip(f"NO KAFKA: {error}")
    yield broker.address
    broker.stop()


@pytest.fixture
def kafka_prefix() -> str:
    """What the names of a test's topics begin with, so that tests share a broker and meet nothing old."""
    return f"test-{uuid.uuid4().hex[:12]}"
