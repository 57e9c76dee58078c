"""Decodes and encodes records of topic `examples` for the error memory, in batches."""

import logging
from collections.abc import Callable
from typing import NamedTuple

from learner.entities.filling import filled
from learner.errors import FeatureError
from learner.features.encoder import Batch
from learner.features.labelled import Labelled, number_of
from learner.model.model import Model
from stream.errors import RecordError
from stream.log.base import Record
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
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
        model: returns the current model.
        targets: that the examples may be of.
    """

    def __init__(self, model: Callable[[], Model], targets: Targets) -> None:
        self._targets = targets
        self.bad = 0  # records that could not be read or encoded
        self._model = model
        self._decoder = Decoder[Example | Forget | EntityEvent](Example, Forget, EntityEvent, targets=targets)
        self._refusals = Refusals()

    def read(self, record: Record) -> Seen | Forget | None:
        """An example or a request to forget; None for a record that is left out."""
        try:
            found: Example | Forget | EntityEvent = self._decoder.decode(record.value)
            if isinstance(found, EntityEvent):
                return None  # updates bring what the learner made of it
            if isinstance(found, Forget):
                self._refusals.add(found)
                return found
            example = self._refusals.admit(found)
            if example is None:
                return None
            model = self._model()
            example = filled(model.entities, example)
            labelled = Labelled.of(model.encoder, [example], self._targets)
        except (RecordError, FeatureError) as error:
            self.bad += 1
            logger.warning("example %d of partition %d: %s", record.offset, record.partition, error)
            return None
        return Seen(record, example, labelled.batch, number_of(self._targets, example.target))
