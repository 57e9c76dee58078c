"""The library's clients end when nobody uses them, in the thread that drops them."""

import gc
import weakref

from stream.log.kafka.client import KafkaClient
from stream.log.settings import KafkaSettings


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
