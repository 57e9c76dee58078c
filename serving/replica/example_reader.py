"""Decodes and encodes records of topic `examples` for the error memory, in batches."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.rows import Rows
from learner.errors import FeatureError
from learner.features.encoder import Batch, Encoder
from learner.features.labelled import Labelled, number_of
from stream.errors import RecordError
from stream.log.base import Record
from stream.records.decoding import Decoder
from stream.records.refusals import Refusals
from stream.records.targets import Targets
from stream.records.types import Example, Forget

logger = logging.getLogger("freshet.serving")


class Seen(NamedTuple):
    """An example encoded for the model."""

    record: Record
    example: Example
    batch: Batch  # of this example alone
    target: int  # its number


class ExampleReader:
    """Decodes records. Leaves out invalid records and refused ids.

    Args:
        encoder: returns the encoder of the current model.
        targets: that the examples may be of.
    """

    def __init__(self, encoder: Callable[[], Encoder], targets: Targets) -> None:
        self._targets = targets
        self.bad = 0  # records that could not be read or encoded
        self._encoder = encoder
        self._decoder = Decoder[Example | Forget](Example, Forget, targets=targets)
        self._refusals = Refusals()

    def read(self, record: Record) -> Seen | Forget | None:
        """An example or a request to forget; None for a record that is left out."""
        try:
            found: Example | Forget = self._decoder.decode(record.value)
            if isinstance(found, Forget):
                self._refusals.add(found)
                return found
            example = self._refusals.admit(found)
            if example is None:
                return None
            labelled = Labelled.of(self._encoder(), [example], self._targets)
        except (RecordError, FeatureError) as error:
            self.bad += 1
            logger.warning("example %d of partition %d: %s", record.offset, record.partition, error)
            return None
        return Seen(record, example, labelled.batch, number_of(self._targets, example.target))


def join(batches: Sequence[Batch]) -> Batch:
    """Concatenate several batches."""
    if len(batches) == 1:
        return batches[0]
    rows = [batch.rows for batch in batches]
    return Batch(
        requests=_join_offsets([batch.requests for batch in batches]),
        times=np.concatenate([batch.times for batch in batches]),
        rows=Rows(
            start=_join_offsets([r.start for r in rows]),
            column=np.concatenate([r.column for r in rows]),
            key=np.concatenate([r.key for r in rows]),
            x=np.concatenate([r.x for r in rows]),
        ),
        numbers=np.concatenate([batch.numbers for batch in batches]),
    )


def _join_offsets(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    ends = np.cumsum([0] + [part[-1] for part in parts[:-1]])
    return np.concatenate([[0], *(part[1:] + end for part, end in zip(parts, ends, strict=True))])
