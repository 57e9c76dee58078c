"""What is asked of a cluster, with answers as the library gives them: no broker is needed for these."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation

from stream.errors import LogAwayError, LogError
from stream.log.kafka import topics as topics_module
from stream.log.kafka.client import THROTTLE_LOG_S, KafkaClient
from stream.log.kafka.rights import allowed_operations
from stream.log.kafka.topics import Topics
from stream.log.settings import KafkaSettings, LogSettings


class Admin:
    """Answers as the library's client for administration does.

    Args:
        partitions: of each topic that there is.
    """

    def __init__(self, partitions: dict[str, int]) -> None:
        self.partitions = partitions
        self.asked = 0

    def list_topics(self, name: str, timeout: float) -> None:
        pass

    def describe_topics(
        self, names: TopicCollection, include_authorized_operations: bool = False, request_timeout: float = 0
    ) -> dict[str, "Future[Any]"]:
        self.asked += 1
        return {
            name: self._described(name, include_authorized_operations)
            for name in names.topic_names  # type: ignore[attr-defined]
        }

    def describe_cluster(
        self, include_authorized_operations: bool = False, request_timeout: float = 0
    ) -> "Future[Any]":
        return _done(_allowed([AclOperation.CREATE], include_authorized_operations))

    def _described(self, name: str, rights: bool) -> "Future[Any]":
        if name not in self.partitions:
            failed: Future[Any] = Future()
            failed.set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
            return failed
        found = _allowed([AclOperation.READ], rights)
        found.partitions = [SimpleNamespace(leader=1)] * self.partitions[name]
        found.topic_id = "an-id"
        return _done(found)


def _allowed(operations: Sequence[AclOperation], asked: bool) -> Any:
    return SimpleNamespace(authorized_operations=list(operations) if asked else None)


def _done(value: object) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class Client(KafkaClient):
    """A client of the cluster that asks an `Admin`."""

    def __init__(self, answers: Admin) -> None:
        super().__init__(["127.0.0.1:1"], KafkaSettings(away_after_s=1.0))
        self._answers = answers

    def admin(self) -> Any:
        return self._answers


def test_topic_that_is_used_is_looked_at_again_after_a_while_by_whichever_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin = Admin({"p.events": 3})
    topics = Topics(Client(admin), LogSettings(), "p")
    assert topics.partitions("events") == topics.partitions("events") == 3
    assert admin.asked == 1
    monkeypatch.setattr(topics_module, "CHECK_S", 0.0)
    found: list[int] = []
    for _ in range(2):  # one after the other: each must find the lock free
        thread = threading.Thread(target=lambda: found.append(topics.partitions("events")), daemon=True)
        thread.start()
        thread.join(20.0)
    assert found == [3, 3] and admin.asked == 3
    admin.partitions["p.events"] = 4
    with pytest.raises(LogError, match="had 3 partitions and now has 4"):
        topics.partitions("events")
    with pytest.raises(LogError, match=r"has no topic 'p\.other'"):
        topics.partitions("other")


def test_rights_are_those_that_the_cluster_tells() -> None:
    client = Client(Admin({"there": 1}))
    assert allowed_operations(client, ["there", "missing"]) == {
        "there": frozenset({"READ"}),
        "missing": frozenset({"CREATE"}),
    }


def test_throttling_is_told_at_once_and_then_seldom(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(Admin({}))
    event = SimpleNamespace(throttle_time=2.0, broker_name="one")
    now_s = time.monotonic()
    with caplog.at_level(logging.WARNING):
        for after_s in (0.0, 1.0, THROTTLE_LOG_S - 1.0, THROTTLE_LOG_S + 1.0):
            monkeypatch.setattr(time, "monotonic", lambda at_s=now_s + after_s: at_s)
            client.throttled(event)  # type: ignore[arg-type]
    assert sum("throttles this client by 2 s" in message for message in caplog.messages) == 2


def test_address_where_nobody_listens_is_one_that_may_answer_later() -> None:
    client = KafkaClient(["127.0.0.1:1"], KafkaSettings(away_after_s=1.0))
    with pytest.raises(LogAwayError, match="start the broker, or correct the address"):
        client.connect()
    client.close()
