"""Records that are one candidate each: consecutive ones of a request become its impression."""

import msgspec

from stream.errors import RecordError
from stream.limits import CANDIDATES_MAX, RECORD_BYTES_MAX
from stream.records.types import Features, Impression
from stream.sources.mapping import CandidateLine

CANDIDATES_BYTES_MAX = RECORD_BYTES_MAX // 2
CLOSED_MAX = 64  # requests of a partition that are remembered after their last record


class OpenRequest(msgspec.Struct):
    """A request that may get more candidates."""

    request_id: str
    time: float
    context: Features
    candidates: list[Features]
    labels: list[float]
    offset: int  # of its first record
    size: int = 0  # of its candidates, bytes


class Lines(msgspec.Struct):
    """The open request of a partition, and those closed last."""

    open: OpenRequest | None = None
    closed: list[str] = []

    def take(self, line: CandidateLine, offset: int) -> tuple[Impression, int] | None:
        """Take a record; returns the request that is complete by it, and the offset of its first record.

        Raises:
            RecordError: its request was complete already, or has too many candidates.
        """
        request = self.open
        if request is not None and request.request_id == line.request_id:
            if len(request.candidates) >= CANDIDATES_MAX:
                raise RecordError(f"request {line.request_id!r} has more than {CANDIDATES_MAX} candidates")
            size = request.size + len(msgspec.msgpack.encode(line.candidate))
            if size > CANDIDATES_BYTES_MAX:
                raise RecordError(
                    f"request {line.request_id!r}: its candidates have {size:,} bytes, more than "
                    f"{CANDIDATES_BYTES_MAX:,}"
                )
            request.size = size
            request.candidates.append(line.candidate)
            if line.label is not None:
                request.labels.append(line.label)
            return None
        if line.request_id in self.closed:
            raise RecordError(
                f"a candidate of request {line.request_id!r} came after the request was complete: records of "
                "a request must follow each other in their partition, each within lines_wait_s of the last"
            )
        complete = self.close()
        labels = [] if line.label is None else [line.label]
        self.open = OpenRequest(line.request_id, line.time, line.context, [line.candidate], labels, offset)
        return complete

    def close(self) -> tuple[Impression, int] | None:
        """The open request, if any, as complete."""
        request = self.open
        if request is None:
            return None
        self.open = None
        self.closed = [*self.closed[-(CLOSED_MAX - 1) :], request.request_id]
        impression = Impression(
            request.request_id,
            request.time,
            request.candidates,
            request.context,
            labels=request.labels or None,
        )
        return impression, request.offset
