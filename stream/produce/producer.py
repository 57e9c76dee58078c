"""Send impressions, actions and exposures from a Python program, without waiting for the log at each of them.

A call checks its event and puts it into a bounded buffer; a thread appends what is there
(`stream.produce.sender`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Self

from ground.clock import SYSTEM_CLOCK, Clock
from stream.errors import LogError, ProducerError, RecordError, UndeliveredError
from stream.limits import RECORD_BYTES_MAX
from stream.log.base import EVENTS, Log
from stream.log.open import open_log
from stream.produce.numpy_values import without_numpy
from stream.produce.sender import BufferedEvent, Sender
from stream.produce.settings import PRODUCER_DEFAULTS, ProducerSettings
from stream.records.decoding import check, tidy_request
from stream.records.entities.record import AnyEvent, EntityEvent, Told
from stream.records.id_types import DeclaredFeature, check_id_types, declared_of
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Action, Exposure, Features, Impression, Served, encode


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
        on_failed: Callable[[Sequence[AnyEvent], LogError], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        targets: Targets = UNDECLARED,
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
            targets: those that the config declares (`load_config(FILE).known_targets()`): actions and
                outcomes are checked against them.

        Raises:
            LogError: the log cannot be reached, has no topic `events`, or one of other partitions.
        """
        self.settings = settings
        self._clock = clock
        self.name = f"{name or 'producer'}-{clock.token()[:12]}"
        self._targets = targets
        self._specs = features if isinstance(features, Mapping) else {}
        self._features = None if features is None else declared_of(features)
        self._own_log = isinstance(log, str)
        self._log = open_log(log) if isinstance(log, str) else log
        try:
            if partitions is not None:
                self._log.create_topic(EVENTS, partitions)
            found = self._log.partitions(EVENTS)
        except BaseException:
            if self._own_log:
                self._log.close()
            raise
        self._pid = os.getpid()
        self._sender = Sender(self._log, found, self.name, settings, on_failed, clock)

    def __repr__(self) -> str:
        return f"<Producer {self.name}: {self.acknowledged:,} events acknowledged, {self.waiting:,} waiting>"

    @property
    def waiting(self) -> int:
        """Events taken that are neither acknowledged nor given up."""
        return self._sender.waiting

    @property
    def acknowledged(self) -> int:
        """Events that the log has confirmed."""
        return self._sender.acknowledged

    @property
    def failed(self) -> int:
        """Events given up."""
        return self._sender.failed

    @property
    def dropped(self) -> int:
        """Events left out because the buffer was full."""
        return self._sender.dropped

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
        weight: list[float] | float | None = None,
        outcomes: dict[str, list[float | None]] | None = None,
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
            weight: how much a candidate counts: one for each, or one for all; None: 1.
            outcomes: beside `labels`: of further targets, by name; None where its `of` did not happen.

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
            weight=weight,
            outcomes=outcomes,
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
        value: float | None = None,
        time_s: float | None = None,
    ) -> None:
        """Send an action: what the person did with one candidate (counted from 0) of a request.

        Args:
            label: 1 for what counts, 0 to take it back.
            name: what it was; if targets are declared, it says which of them this is of.
            value: how much, for a target that is a value.
            time_s: event time, Unix seconds; None: now.

        Raises:
            RecordError: a value that the joiner would refuse.
            BufferFullError: there is no room, as configured.
            UndeliveredError: with acks="each", the log did not take it.
        """
        now_s = self._clock.unix_s() if time_s is None else time_s
        self.send(Action(request_id, now_s, candidate, label, name, value=value))

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

    def entity(
        self, feature: str, entity: int | str, told: dict[str, Told], *, time_s: float | None = None
    ) -> None:
        """Send what is true of an item or a person, so that requests need not say it.

        Args:
            feature: whose id `entity` is.
            told: the attributes by name; None takes one away, those that are not named stay.
            time_s: from when on it is true, Unix seconds; None: now. 0: it always was.

        Raises:
            RecordError: a value that the joiner would refuse.
            BufferFullError: there is no room, as configured.
            UndeliveredError: with acks="each", the log did not take it.
        """
        now_s = self._clock.unix_s() if time_s is None else time_s
        self.send(EntityEvent(feature, entity, now_s, told))

    def _encoded(self, event: AnyEvent) -> bytes:
        """Check an event and encode it; a TypeError means that a value has a type that no record has."""
        if self._features is not None and isinstance(event, Impression):
            declared = tidy_request(event, self._features)
            check(declared, self._targets, self._features)
            check_id_types(self._specs, declared)
        else:
            check(event, self._targets)
        return encode(event)

    def send(self, event: AnyEvent) -> None:
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
        self._sender.put(BufferedEvent(event, value), wait=self.settings.acks == "each")

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until the log has confirmed every event taken so far.

        Raises:
            UndeliveredError: it has not within `timeout_s` (they still wait, and go on being tried), or
                events were given up since the last `flush`.
        """
        self._sender.flush(timeout_s)

    def close(self, timeout_s: float = 30.0) -> None:
        """Send what waits, for up to `timeout_s`, and end. Safe to call twice.

        Raises:
            UndeliveredError: events were given up.
        """
        self._sender.begin_close()
        if self._pid == os.getpid():
            self._sender.join(timeout_s)
        if self._own_log:
            self._log.close()
            self._own_log = False
        self._sender.raise_failure()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # an error of the body is not to be hidden by one of ours, which is in the log of warnings too
        with contextlib.suppress(*(() if error is None else (UndeliveredError,))):
            self.close()
