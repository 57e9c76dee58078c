"""The sending side of a producer: a bounded buffer, and the thread that appends what is in it.

Appends keep the order of the calls. Each message carries the producer's name and a number, so that a retry
after a lost answer is recognised and counts once.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ground.clock import Clock
from ground.retry import Backoff, Pauses
from ground.threads import HelperThread
from stream.errors import BufferFullError, LogError, ProducerError, UndeliveredError
from stream.limits import BATCH_EVENTS_MAX
from stream.log.base import EVENTS, Log, Outgoing
from stream.produce.settings import ProducerSettings
from stream.records.batching import pack
from stream.records.entities.record import AnyEvent, key_of_event

RETRY_S = 0.02  # before the first retry
RETRY_S_MAX = 5.0  # before any

_logger = logging.getLogger("freshet.producer")


class BufferedEvent(NamedTuple):
    """An event in the buffer."""

    event: AnyEvent
    value: bytes


class Sender:
    """Sends encoded events from one thread of its own. All methods may be called from any thread.

    Args:
        partitions: of topic `events`.
        name: of the producer, unique.
        on_failed: called, by the sending thread, with events that are given up and why.
    """

    def __init__(
        self,
        log: Log,
        partitions: int,
        name: str,
        settings: ProducerSettings,
        on_failed: Callable[[Sequence[AnyEvent], LogError], None] | None,
        clock: Clock,
    ) -> None:
        self._log = log
        self._partitions = partitions
        self._name = name
        self._settings = settings
        self._on_failed = on_failed
        self._clock = clock
        self.acknowledged = 0  # events that the log has confirmed
        self.failed = 0  # events given up
        self.dropped = 0  # events left out because the buffer was full
        self._buffer: deque[BufferedEvent] = deque()
        self._bytes = 0  # of all waiting events, those of the running append included
        self._taken = 0  # events ever put into the buffer
        self._seq = 0  # of the next message
        self._hurry = False  # a caller waits: send without lingering
        self._closing = False
        self._abandon = threading.Event()  # no more retries
        self._trouble = ""  # why the last append failed; "" after one that succeeded
        self._failure: UndeliveredError | None = None
        lock = threading.Lock()
        self._work = threading.Condition(lock)  # the sending thread waits here
        self._room = threading.Condition(lock)  # callers wait here, for room or for the log
        self._thread = HelperThread("producer", self._send_all, self._wake_callers, clock=clock)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Events taken that are neither acknowledged nor given up."""
        return self._taken - self.acknowledged - self.failed

    def put(self, waiting: BufferedEvent, *, wait: bool) -> None:
        """Put an event into the buffer.

        Args:
            wait: until the log has confirmed it.

        Raises:
            BufferFullError: there is no room, as configured.
            UndeliveredError: with `wait`, the log did not take it.
            ProducerError: the producer is closed, or its thread ended with an error.
        """
        with self._work:
            if not self._make_room(len(waiting.value)):
                self.dropped += 1
                return
            self._buffer.append(waiting)
            self._bytes += len(waiting.value)
            self._taken += 1
            mine = self._taken
            if wait:
                self._hurry = True
            if wait or len(self._buffer) in (1, self._settings.batch_max):
                self._work.notify()
            if wait:
                # a batch that fails is retried for give_up_s, perhaps after an earlier one that failed too
                self._await(mine, 2.0 * self._settings.give_up_s + 1.0)
                self._raise_failure()

    def flush(self, timeout_s: float) -> None:
        """Wait until the log has confirmed every event taken so far.

        Raises:
            UndeliveredError: as `Producer.flush` says.
        """
        with self._work:
            self._hurry = True
            self._work.notify()
            self._await(self._taken, timeout_s)
            self._raise_failure()

    def begin_close(self) -> None:
        """Take no more events; the thread ends when the buffer is empty."""
        with self._work:
            self._closing = True
            self._work.notify()
            self._room.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end; after `timeout_s` without further retries."""
        self._thread.join(timeout_s)
        self._abandon.set()
        self._thread.join()

    def raise_failure(self) -> None:
        """Raise the last failure that no call has raised yet.

        Raises:
            UndeliveredError: events were given up.
        """
        with self._work:
            self._raise_failure()

    # --- with the lock held ---

    def _make_room(self, size: int) -> bool:
        """Wait for room, as configured; False: the event is to be left out."""
        settings = self._settings
        deadline: float | None = None
        while True:
            self._raise_defect()
            if self._closing:
                raise ProducerError("the producer is closed; nothing was sent")
            waiting = self.waiting
            if not waiting or (
                waiting < settings.buffer_max and self._bytes + size <= settings.buffer_bytes_max
            ):
                return True
            if settings.when_full == "drop":
                return False
            now = self._clock.now_s()
            deadline = now + settings.full_wait_s if deadline is None else deadline
            if settings.when_full == "raise" or now >= deadline:
                raise BufferFullError(
                    f"{waiting:,} events ({self._bytes:,} bytes) wait for the log already, and "
                    f"{self._reason()}; this one was not taken"
                )
            self._clock.wait_on(self._room, deadline - now)

    def _await(self, number: int, timeout_s: float) -> None:
        """Wait until the first `number` events taken are acknowledged or given up."""
        deadline = self._clock.now_s() + timeout_s
        while self.acknowledged + self.failed < number:
            self._raise_defect()
            left_s = deadline - self._clock.now_s()
            if left_s <= 0.0:
                raise UndeliveredError(
                    f"after {timeout_s:g} s the log has not confirmed {self.waiting:,} events, and "
                    f"{self._reason()}; they still wait and are tried again"
                )
            self._clock.wait_on(self._room, left_s)

    def _reason(self) -> str:
        return self._trouble or "it does not keep up with what is sent"

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _raise_defect(self) -> None:
        if self._thread.failure is not None:
            raise ProducerError("the sending thread ended with an error") from self._thread.failure

    # --- the sending thread ---

    def _wake_callers(self, failure: BaseException) -> None:
        _logger.error("the producer has stopped", exc_info=failure)
        with self._work:
            self._room.notify_all()

    def _send_all(self, _: threading.Event) -> None:
        settings = self._settings
        while True:
            with self._work:
                while not self._buffer:
                    if self._closing:
                        return
                    self._hurry = False
                    self._work.wait()
                lingers_until = self._clock.now_s() + settings.linger_s
                while (
                    len(self._buffer) < settings.batch_max
                    and not self._hurry
                    and not self._closing
                    and (left_s := lingers_until - self._clock.now_s()) > 0.0
                ):
                    self._clock.wait_on(self._work, left_s)
                batch = self._take_batch()
            error = self._deliver(self._pack(batch))
            with self._work:
                self._bytes -= sum(len(entry.value) for entry in batch)
                if error is None:
                    self.acknowledged += len(batch)
                else:
                    self._give_up(batch, error)
                self._room.notify_all()
            if error is not None and self._on_failed is not None:
                self._on_failed([entry.event for entry in batch], error)

    def _take_batch(self) -> list[BufferedEvent]:
        batch = [self._buffer.popleft()]
        size = len(batch[0].value)
        while self._buffer and len(batch) < self._settings.batch_max:
            size += len(self._buffer[0].value)
            if size > self._settings.batch_bytes_max:
                break
            batch.append(self._buffer.popleft())
        return batch

    def _pack(self, batch: Sequence[BufferedEvent]) -> list[Outgoing]:
        """The messages of a batch, numbered: for each partition as few as its events fit into."""
        messages: list[Outgoing] = []
        for message in pack(
            [Outgoing(key_of_event(entry.event), entry.value) for entry in batch],
            self._partitions,
            BATCH_EVENTS_MAX if self._settings.pack else 1,
        ):
            messages.append(Outgoing(message.key, message.value, message.partition, self._name, self._seq))
            self._seq += 1
        return messages

    def _deliver(self, messages: Sequence[Outgoing]) -> LogError | None:
        """Append, again and again if need be; returns why not, in the end."""
        if self._abandon.is_set() and self._trouble:
            return LogError(self._trouble)
        backoff = Backoff(Pauses(RETRY_S, RETRY_S_MAX, self._settings.give_up_s), self._clock)
        while True:
            try:
                self._log.append(EVENTS, messages)
            except LogError as error:
                if not self._trouble:
                    _logger.warning("appending to the log fails, retrying: %s", error)
                self._trouble = f"it refuses: {error}"
                if not backoff.wait(self._abandon):
                    return error
            else:
                self._trouble = ""
                return None

    def _give_up(self, batch: Sequence[BufferedEvent], error: LogError) -> None:
        self.failed += len(batch)
        self._failure = UndeliveredError(
            f"{self.failed:,} events were given up so far; the last because the log did not take it for "
            f"{self._settings.give_up_s:g} s (give_up_s), or until the producer was closed: {error}"
        )
        _logger.error("%s", self._failure)
