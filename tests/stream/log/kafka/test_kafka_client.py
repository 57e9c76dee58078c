"""The library's clients end when nobody uses them, in the thread that drops them."""

import gc
import weakref

import pytest
from confluent_kafka import KafkaError

from stream.log.base import Outgoing
from stream.log.kafka.client import TEXT_MAX, KafkaClient, text
from stream.log.kafka.writer import KafkaWriter
from stream.log.settings import KafkaSettings

TIMED_OUT, TRANSPORT = -185, -195  # librdkafka's numbers


def test_client_that_is_dropped_unclosed_is_no_garbage_of_cycles() -> None:
    """The collector may run in a thread of the library, which ends the process if its client goes there."""
    client = KafkaClient(["127.0.0.1:1"], KafkaSettings())
    client.admin()
    gone = weakref.ref(client)
    gc.disable()
    try:
        del client
        assert gone() is None
    finally:
        gc.enable()


def test_errors_of_the_library_are_told_in_few_words() -> None:
    assert text(KafkaError(TIMED_OUT)).startswith("TIMED_OUT: ")
    long = text(KafkaError(TRANSPORT, "127.0.0.1:9/1: " + "word " * 200))
    assert long.startswith("TRANSPORT: 127.0.0.1:9/1: word") and long.endswith(" …")
    assert len(long) <= len("TRANSPORT: ") + TEXT_MAX


def test_error_in_a_wait_that_the_library_does_not_explain_ends_the_append(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        """A producer whose wait fails within, for a reason that is not Kafka's."""

        def __init__(self, settings: object) -> None:
            pass

        def produce(self, *arguments: object, **options: object) -> None:
            pass

        def purge(self) -> None:
            pass

        def flush(self, timeout_s: float) -> int:
            raise SystemError("no reason given")

    monkeypatch.setattr("stream.log.kafka.writer.Producer", Broken)
    client = KafkaClient(["127.0.0.1:1"], KafkaSettings())
    with pytest.raises(SystemError, match="no reason given"):
        KafkaWriter(client).append("events", [0], [Outgoing(b"k", b"v")], 1_000_000)
