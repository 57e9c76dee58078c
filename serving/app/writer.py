"""Group commit: the records of concurrent requests are appended to the log together.

A durable append costs about the same for one record as for a hundred. So the records of all waiting
requests are appended at once, packed into one message per partition. Each request is answered once its
own records are in the log. A separate thread does the work, so the event loop never waits for a disk.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ground.threads import HelperThread
from serving.errors import UnavailableError
from stream.errors import LogError
from stream.log.base import EVENTS, Log, Outgoing
from stream.records.batching import pack

BATCH_RECORDS_MAX = 1_000

logger = logging.getLogger("freshet.serving")

Appended = tuple[int, int]
"""(partition, offset) of a record in the log."""


class _Job(NamedTuple):
    records: Sequence[Outgoing]
    future: asyncio.Future[list[Appended]]


class EventWriter:
    """Appends to one topic, from any coroutine. At most `queue_max` records are pending at once."""

    def __init__(self, log: Log, topic: str = EVENTS, queue_max: int = 10_000, wait_s: float = 5.0) -> None:
        self.log = log
        self.topic = topic
        self.queue_max = queue_max
        self.wait_s = wait_s
        self.batches = 0
        self.records = 0
        self.failures = 0
        self._jobs: deque[_Job] = deque()
        self._partitions = 0  # of the topic; 0: not read yet
        self._waiting = 0  # records in the queue or in the running append
        self._wake = threading.Condition()
        self._stopping = False
        self._abandoned = False  # the pending requests were already answered with an error
        self._thread = HelperThread("log-writer", self._run, self._refuse_all)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """Pending records: queued, or in the running append."""
        return self._waiting

    def start(self) -> None:
        """Start the thread. Call this, like `append`, in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def check(self) -> None:
        """Re-raise the exception that ended the thread, if any."""
        self._thread.check()

    def stop(self, within_s: float = 5.0) -> None:
        """Write the pending records and end the thread; refuse the records not written in time.

        Args:
            within_s: the time limit for these writes. An append still running after it is not waited
                for, and its result is ignored; the log's own settings limit its time.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(within_s)
        if not self._thread.alive:
            return
        with self._wake:
            self._abandoned = True
            left = list(self._jobs)
            self._jobs.clear()
            waiting = self._waiting
        logger.warning("stopped with %d records on their way to the log, which does not answer", waiting)
        self._answer(left, [UnavailableError("the server is stopping; nothing was written")] * len(left))

    async def append(self, records: Sequence[Outgoing]) -> list[Appended]:
        """Append all records or none; returns (partition, offset) of each once they are durable in the log.

        Raises:
            UnavailableError: too many records are pending, the log failed, or it took longer than `wait_s`
                (then the append may still succeed: retry with the same `request_id`).
        """
        future: asyncio.Future[list[Appended]] = asyncio.get_running_loop().create_future()
        with self._wake:
            if self._stopping or self._loop is None:
                raise UnavailableError("the server is stopping; nothing was written")
            if self._waiting and self._waiting + len(records) > self.queue_max:
                raise UnavailableError(
                    f"{self._waiting:,} records are on their way to the log already (log_queue_max "
                    f"{self.queue_max:,}); nothing was written, try again in a moment"
                )
            self._waiting += len(records)
            self._jobs.append(_Job(records, future))
            self._wake.notify()
        try:
            async with asyncio.timeout(self.wait_s):
                return await future
        except TimeoutError:
            raise UnavailableError(
                f"the log did not confirm within {self.wait_s:g} s (log_wait_s); it may yet have the "
                "records, so send them again unchanged: repeated ones are recognised"
            ) from None

    def _refuse_all(self, failure: BaseException) -> None:
        """Answer all pending requests, and take no more: the thread has ended with an error."""
        with self._wake:
            self._stopping = True
            left = list(self._jobs)
            self._jobs.clear()
        self._answer(left, [UnavailableError(f"the server is stopping: {failure}")] * len(left))

    def _run(self, _: threading.Event) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._stopping:
                    self._wake.wait()
                if not self._jobs:
                    return
                jobs = [self._jobs.popleft()]
                size = len(jobs[0].records)
                while self._jobs and size + len(self._jobs[0].records) <= BATCH_RECORDS_MAX:
                    size += len(self._jobs[0].records)
                    jobs.append(self._jobs.popleft())
            self._write(jobs)
            with self._wake:
                self._waiting -= size

    def _write(self, jobs: list[_Job]) -> None:
        answers: list[list[Appended] | Exception] = []
        records = [record for job in jobs for record in job.records]
        try:
            appended = self._append(records)
            self.records += len(appended)
            self.batches += 1
            at = 0
            for job in jobs:
                answers.append(appended[at : at + len(job.records)])
                at += len(job.records)
        except LogError as error:
            self.failures += 1
            if len(jobs) > 1:
                # the log may refuse the record of one request only: append each job alone
                for job in jobs:
                    if not job.future.done() and not self._abandoned:
                        self._write([job])
                return
            answers.append(UnavailableError(f"the log took nothing: {error}"))
        except Exception as error:  # a bug: pass it to the requests, or they would hang
            self.failures += 1
            answers = [error] * len(jobs)
        self._answer(jobs, answers)

    def _answer(self, jobs: Sequence[_Job], answers: Sequence[list[Appended] | Exception]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: no request waits
            self._loop.call_soon_threadsafe(_resolve, jobs, answers)

    def _append(self, records: Sequence[Outgoing]) -> list[Appended]:
        """Append all, packed; returns (partition, offset) of each event. Events of one message share it."""
        if len(records) == 1:
            return self.log.append(self.topic, records)
        if not self._partitions:
            self._partitions = self.log.partitions(self.topic)
        messages = pack(records, self._partitions)
        outgoing = [Outgoing(message.key, message.value, message.partition) for message in messages]
        appended: list[Appended] = [(0, 0)] * len(records)
        for message, where in zip(messages, self.log.append(self.topic, outgoing), strict=True):
            for i in message.events:
                appended[i] = where
        return appended


def _resolve(jobs: Sequence[_Job], answers: Sequence[list[Appended] | Exception]) -> None:
    for job, answer in zip(jobs, answers, strict=True):
        if job.future.done():  # the request timed out or was cancelled
            continue
        if isinstance(answer, Exception):
            job.future.set_exception(answer)
        else:
            job.future.set_result(answer)
