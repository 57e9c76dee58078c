"""Bodies of many records for topic `events`: each is taken or refused on its own."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from ground import UNDECODABLE
from learner.errors import FeatureError
from learner.features.columns import declared_by
from serving.app.bodies import EntityRequest, EventsAnswer, Verdict, split_body
from serving.app.writer import Appended, EventWriter
from serving.http.frame import Call, Response, json_response, shortened
from serving.replica.status import Scorer
from stream.errors import RecordError
from stream.log.base import Outgoing
from stream.records.decoding import Decoder, decoders_of, is_msgpack
from stream.records.entities.checking import checked
from stream.records.entities.record import AnyEvent, EntityEvent, key_of_event
from stream.records.targets import Targets
from stream.records.types import Action, Exposure, Impression, encode

REASONS_MAX = 100
"""At most this many records of one body are answered with their error; the answer counts the others."""
REASON_CHARACTERS_MAX = 500
_OMITTED = Verdict(error="untold")
YIELD_EVERY = 256
"""After decoding this many records of one body, the event loop may run other tasks."""


class Taker:
    """Answers POST /v1/events and /v1/entities.

    Args:
        replica: knows the schema.
        writer: appends to topic `events`.
        targets: those that actions may be of.
    """

    def __init__(self, replica: Scorer, writer: EventWriter, targets: Targets) -> None:
        self._replica = replica
        self._writer = writer
        self._declared = declared_by(replica.features)
        self._decode = Decoder[AnyEvent](
            Impression, Action, Exposure, EntityEvent, declared=self._declared, targets=targets
        ).decode
        self._entity_json, self._entity_msgpack = decoders_of(EntityRequest)

    async def events(self, call: Call) -> Response:
        """POST /v1/events: one record, a JSON array of records, or one record per line."""
        return await self._take(call, self._event)

    async def entities(self, call: Call) -> Response:
        """POST /v1/entities: the same of what is true of entities."""
        return await self._take(call, self._entity)

    def _event(self, data: bytes) -> AnyEvent:
        event = self._decode(data)
        if isinstance(event, EntityEvent):
            self._replica.check_entity(event)
        elif isinstance(event, Impression):
            self._replica.check_types(event)
        return event

    def _entity(self, data: bytes) -> EntityEvent:
        try:
            said = (self._entity_msgpack if is_msgpack(data) else self._entity_json).decode(data)
        except UNDECODABLE as error:
            raise RecordError(f"the record is no entity: {error}") from None
        assert isinstance(said, EntityRequest)
        at = time.time() if said.time is None else said.time
        event = checked(EntityEvent(said.feature, said.id, at, said.set), self._declared)
        self._replica.check_entity(event)
        return event

    async def _take(self, call: Call, read: Callable[[bytes], AnyEvent]) -> Response:
        verdicts: list[Verdict | None] = []  # None: accepted
        good: list[Outgoing] = []
        for i, data in enumerate(split_body(call.body)):
            try:
                good.append(outgoing(read(data)))
                verdicts.append(None)
            except (RecordError, FeatureError) as error:
                rejected = len(verdicts) - len(good)
                verdicts.append(
                    Verdict(error=shortened(str(error), REASON_CHARACTERS_MAX))
                    if rejected < REASONS_MAX
                    else _OMITTED
                )
            if i % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
        places: list[Appended] = await self._writer.append(good) if good else []
        taken = iter(places)
        records = [Verdict(*next(taken)) if verdict is None else verdict for verdict in verdicts]
        rejected = len(records) - len(good)
        answer = EventsAnswer(len(good), rejected, max(rejected - REASONS_MAX, 0), records)
        if not good:
            first = records[0].error if records else "the body holds none"
            said = {"error": f"no record was accepted: {first}", "request_id": call.request_id}
            return json_response(400, said | msgspec.structs.asdict(answer))
        return json_response(207 if answer.rejected else 202, answer)


def outgoing(event: AnyEvent) -> Outgoing:
    """An event as a record of topic `events`."""
    return Outgoing(key=key_of_event(event), value=encode(event))
