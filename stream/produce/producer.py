"""Send impressions, actions and exposures from a Python program, without waiting for the log at each of them.

A call checks its event and puts it into a bounded buffer; a thread of its own appends what has
gathered. Appends keep the order of the calls, and each message carries the producer's name and a
number, so that a retry after a lost answer is recognised and counts once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from ground.clock import SYSTEM_CLOCK, Clock
from ground.retry import Backoff, Pauses
from stream.errors import BufferFullError, LogError, ProducerError, RecordError, UndeliveredError
from stream.limits import BATCH_EVENTS_MAX, RECORD_BYTES_MAX
from stream.log.base import EVENTS, Log, Outgoing
from stream.log.open import open_log
from stream.produce.numpy_values import without_numpy
from stream.produce.settings import PRODUCER_DEFAULTS, ProducerSettings
from stream.records.batching import pack
from stream.records.decoding import check, tidy_request
from stream.records.id_types import DeclaredFeature, check_id_types
from stream.records.types import Action, Event, Exposure, Features, Impression, Served, encode

RETRY_S = 0.02  # before the first retry
RETRY_S_MAX = 5.0  # before any

_logger = logging.getLogger("freshet.producer")


class _Waiting(NamedTuple):
    event: Event
    value: bytes


class Producer:
    """Sends events to a log. All methods may be called from several threads, not across a fork.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with Producer(f"sqlite:{folder.name}/log.db", partitions=1) as producer:
    ...     shown = producer.impression([{"item": 7}, {"item": 9}], context={"user": "ann"})
    ...     producer.action(shown, candidate=1)
    ...     producer.flush()  # both are in the log now
    ...     producer.acknowledged
    2
    >>> folder.cleanup()
    """

    def __init__(
        self,
        log: Log | str,
        *,
        name: str = "",
        partitions: int | None = None,
        settings: ProducerSettings = PRODUCER_DEFAULTS,
        features: Collection[str] | Mapping[str, DeclaredFeature] | None = None,
        on_failed: Callable[[Sequence[Event], LogError], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Connect to a log.

        Args:
            log: an open log, which stays the caller's, or the URL of one.
            name: for people; a unique suffix is added each time.
            partitions: of topic `events`, which is made if it is not there; None: it must be there.
            features: those that the config declares, by name: no others are looked at. With their settings
                (`load_config(FILE).features`), ids are checked against the declared `type` too. None: all may
                be declared, so every value that is of a feature's type is checked.
            on_failed: called, by the sending thread, with events that are given up and why. It may
                write them elsewhere; it must not call this producer, nor raise.
            clock: event times, waiting and names come from it.

        Raises:
            LogError: the log cannot be reached, has no topic `events`, or one of other partitions.
        """
        self.settings = settings
        self._clock = clock
        self.name = f"{name or 'producer'}-{clock.token()[:12]}"
        self.acknowledged = 0  # events that the log has confirmed
        self.failed = 0  # events given up
        self.dropped = 0  # events left out because the buffer was full
        self._features = None if features is None else frozenset(features)
        self._specs = features if isinstance(features, Mapping) else {}
        self._own_log = isinstance(log, str)
        self._log = open_log(log) if isinstance(log, str) else log
        try:
            if partitions is not None:
                self._log.create_topic(EVENTS, partitions)
            self._partitions = self._log.partitions(EVENTS)
        except BaseException:
            if self._own_log:
                self._log.close()
            raise
        self._on_failed = on_failed
        self._pid = os.getpid()
        self._buffer: deque[_Waiting] = deque()
        self._bytes = 0  # of the events that wait, those being appended included
        self._taken = 0  # events ever put into the buffer
        self._seq = 0  # of the next message
        self._hurry = False  # a caller waits: send without lingering
        self._closing = False
        self._abandon = threading.Event()  # no more retries
        self._trouble = ""  # why the last append failed; "" after one that did not
        self._failure: UndeliveredError | None = None
        self._defect: Exception | None = None  # what ended the sending thread before its time
        lock = threading.Lock()
        self._work = threading.Condition(lock)  # the sending thread waits here
        self._room = threading.Condition(lock)  # callers wait here, for room or for the log
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Producer {self.name}: {self.acknowledged:,} events acknowledged, {self.waiting:,} waiting>"

    @property
    def waiting(self) -> int:
        """Events taken that are neither acknowledged nor given up."""
        return self._taken - self.acknowledged - self.failed

    def impression(
        self,
        candidates: list[Features],
        *,
        context: Features | None = None,
        request_id: str | None = None,
        time_s: float | None = None,
        served: Served | None = None,
        labels: list[float] | None = None,
        place: list[int] | None = None,
        propensity: list[float] | None = None,
        shown: list[int] | None = None,
    ) -> str:
        """Send an impression; returns the request id, which its actions refer to.

        Args:
            candidates: each one's own features.
            context: the features that all candidates share.
            request_id: None: a random one.
            time_s: event time, Unix seconds; None: now.
            served: the prediction that was answered with them.
            labels: one per candidate, if they are known already.
            place: where each was shown, 0 for the first; None: in the order of `candidates`.
            propensity: how likely each was to be shown there; None: the order was not drawn.
            shown: the candidates that are shown, from the first place down; None: all.

        Raises:
            RecordError: a value that the joiner would refuse.
            BufferFullError: there is no room, as configured.
            UndeliveredError: with acks="each", the log did not take it.
        """
        event = Impression(
            request_id=self._clock.token() if request_id is None else request_id,
            time=self._clock.unix_s() if time_s is None else time_s,
            candidates=candidates,
            context=context or {},
            served=served,
            labels=labels,
            place=place,
            propensity=propensity,
            shown=shown,
        )
        self.send(event)
        return event.request_id

    def action(
        self,
        request_id: str,
        candidate: int,
        *,
        label: float = 1.0,
        name: str = "click",
        time_s: float | None = None,
    ) -> None:
        """Send an action: what the person did with one candidate (counted from 0) of a request.

        Args:
            label: 1 for what counts, 0 to take it back.
            name: what it was, for people.
            time_s: event time, Unix seconds; None: now.

        Raises:
            RecordError: a value that the joiner would refuse.
            BufferFullError: there is no room, as configured.
            UndeliveredError: with acks="each", the log did not take it.
        """
        now_s = self._clock.unix_s() if time_s is None else time_s
        self.send(Action(request_id=request_id, time=now_s, candidate=candidate, label=label, name=name))

    def exposure(
        self,
        request_id: str,
        shown: list[int] | None = None,
        *,
        examined: int | None = None,
        time_s: float | None = None,
    ) -> None:
        """Send an exposure: which candidates of a request the person was shown.

        Args:
            shown: the candidates, counted from 0, from the first place down; None: as was said before.
            examined: how many of these places the person looked at, from the first down; None: all.
            time_s: event time, Unix seconds; None: now.

        Raises:
            RecordError: a value that the joiner would refuse.
            BufferFullError: there is no room, as configured.
            UndeliveredError: with acks="each", the log did not take it.
        """
        now_s = self._clock.unix_s() if time_s is None else time_s
        self.send(Exposure(request_id=request_id, time=now_s, shown=shown, examined=examined))

    def _encoded(self, event: Event) -> bytes:
        """Check an event and encode it; a TypeError means that a value has a type that no record has."""
        if self._features is not None and isinstance(event, Impression):
            declared = tidy_request(event, self._features)
            check(declared)
            check_id_types(self._specs, declared)
        else:
            check(event)
        return encode(event)

    def send(self, event: Event) -> None:
        """Send an event made elsewhere. NumPy scalars and arrays are sent as plain numbers and lists.

        Raises as `impression` does.
        """
        try:
            value = self._encoded(event)
        except (TypeError, RecordError) as error:
            plain = without_numpy(event)
            if plain is None:  # the event itself is wrong
                if isinstance(error, RecordError):
                    raise
                raise RecordError(
                    f"the event cannot be sent: {error}; expected plain Python values"
                ) from None
            event, value = plain, self._encoded(plain)
        if len(value) > RECORD_BYTES_MAX:
            raise RecordError(
                f"the event has {len(value):,} bytes, more than the {RECORD_BYTES_MAX:,} allowed"
            )
        if os.getpid() != self._pid:
            raise ProducerError(
                "this producer was made before the process forked, and its thread stayed behind; "
                "make one in each process, after the fork"
            )
        each = self.settings.acks == "each"
        with self._work:
            if not self._make_room(len(value)):
                self.dropped += 1
                return
            self._buffer.append(_Waiting(event, value))
            self._bytes += len(value)
            self._taken += 1
            mine = self._taken
            if each:
                self._hurry = True
            if each or len(self._buffer) in (1, self.settings.batch_max):
                self._work.notify()
            if each:
                # a batch that fails has been tried for give_up_s, perhaps behind one that failed before it
                self._await(mine, 2.0 * self.settings.give_up_s + 1.0)
                self._raise_failure()

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until the log has confirmed every event taken so far.

        Raises:
            UndeliveredError: it has not within `timeout_s` (they still wait, and go on being tried), or
                events were given up since the last `flush`.
        """
        with self._work:
            self._hurry = True
            self._work.notify()
            self._await(self._taken, timeout_s)
            self._raise_failure()

    def close(self, timeout_s: float = 30.0) -> None:
        """Send what waits, for up to `timeout_s`, and end. Safe to call twice.

        Raises:
            UndeliveredError: events were given up.
        """
        with self._work:
            self._closing = True
            self._work.notify()
            self._room.notify_all()
        if self._pid == os.getpid():
            self._thread.join(timeout_s)
            self._abandon.set()
            self._thread.join()
        if self._own_log:
            self._log.close()
            self._own_log = False
        with self._work:
            self._raise_failure()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # an error of the body is not to be hidden by one of ours, which is in the log of warnings too
        with contextlib.suppress(*(() if error is None else (UndeliveredError,))):
            self.close()

    # --- with the lock held ---

    def _make_room(self, size: int) -> bool:
        """Wait for room, as configured; False: the event is to be left out."""
        settings = self.settings
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
        if self._defect is not None:
            raise ProducerError("the sending thread ended with an error") from self._defect

    # --- the sending thread ---

    def _run(self) -> None:
        try:
            self._send_all()
        except Exception as error:
            _logger.exception("the producer has stopped")
            with self._work:
                self._defect = error
                self._room.notify_all()

    def _send_all(self) -> None:
        settings = self.settings
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

    def _take_batch(self) -> list[_Waiting]:
        batch = [self._buffer.popleft()]
        size = len(batch[0].value)
        while self._buffer and len(batch) < self.settings.batch_max:
            size += len(self._buffer[0].value)
            if size > self.settings.batch_bytes_max:
                break
            batch.append(self._buffer.popleft())
        return batch

    def _pack(self, batch: Sequence[_Waiting]) -> list[Outgoing]:
        """The messages of a batch, numbered: for each partition as few as its events fit into."""
        messages: list[Outgoing] = []
        for message in pack(
            [Outgoing(entry.event.request_id.encode(), entry.value) for entry in batch],
            self._partitions,
            BATCH_EVENTS_MAX if self.settings.pack else 1,
        ):
            messages.append(Outgoing(message.key, message.value, message.partition, self.name, self._seq))
            self._seq += 1
        return messages

    def _deliver(self, messages: Sequence[Outgoing]) -> LogError | None:
        """Append, again and again if need be; returns why not, in the end."""
        if self._abandon.is_set() and self._trouble:
            return LogError(self._trouble)
        backoff = Backoff(Pauses(RETRY_S, RETRY_S_MAX, self.settings.give_up_s), self._clock)
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

    def _give_up(self, batch: Sequence[_Waiting], error: LogError) -> None:
        self.failed += len(batch)
        self._failure = UndeliveredError(
            f"{self.failed:,} events were given up so far; the last because the log did not take it for "
            f"{self.settings.give_up_s:g} s (give_up_s), or until the producer was closed: {error}"
        )
        _logger.error("%s", self._failure)
