"""The HTTP routes: scores, feedback, events, health and metrics.

    POST /v1/score      probabilities for the candidates of one request, before and after correction
    POST /v1/explain    the same scores, broken down into their parts
    POST /v1/feedback   what the person did with one of the candidates, and which were shown
    POST /v1/events     impressions, actions and exposures from other systems, one or many
    POST /v1/forget     delete ids and everything the model has stored about them
    GET  /v1/model      the current model, its freshness and its metrics
    GET  /v2/health/live, /v2/health/ready
    /v2, /v2/models/…   the Open Inference Protocol (`serving.app.inference`)
    GET  /metrics       for Prometheus
    GET  /              the live page, which reads /v1/live and /v1/live/history (`serving.watch.page`)
    GET  /openapi.json  the OpenAPI document of these routes

Scoring takes well under a millisecond and runs in the event loop. A separate thread writes the log
(`serving.app.writer`); an answer is sent once the log has confirmed the records of its request.
"""

from __future__ import annotations

import asyncio
import os
import time

import msgspec
import xxhash

from learner.errors import FeatureError
from learner.features.columns import declared_by
from learner.features.labelled import number_of
from learner.model.forgetting import widened
from serving.app import routes
from serving.app.bodies import (
    AnyScoreRequest,
    BoundedScoreRequest,
    EventsAnswer,
    FeedbackRequest,
    ForgetAnswer,
    ForgetRequest,
    LiveAnswer,
    PlaceAnswer,
    Rank,
    ReadyAnswer,
    ScoreAnswer,
    ScoreRequest,
    Verdict,
    decode_body,
    split_body,
)
from serving.app.inference import Inference
from serving.app.writer import Appended, EventWriter
from serving.errors import RequestError, TooLargeError, UnavailableError
from serving.http import openapi
from serving.http.access import Access
from serving.http.frame import Call, Frame, Response, json_response, shortened
from serving.http.idempotency import KeptAnswers
from serving.http.local_only import LocalOnly
from serving.replica.explaining import ExplainAnswer
from serving.replica.ranking import Ranking, numbers_of
from serving.replica.status import Scorer
from serving.settings import ServerSettings
from serving.watch.overview import Overview
from serving.watch.page import LivePage
from serving.watch.pulse import Pulse
from serving.watch.telemetry import CONTENT_TYPE, Telemetry
from stream.errors import RecordError
from stream.limits import RECORD_BYTES_MAX
from stream.log.base import EVENTS, Log, Outgoing
from stream.records.decoding import Decoder, check, tidy_request
from stream.records.forgetting import forget_records
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Action, Event, Exposure, Forget, Impression, Served, encode

REASONS_MAX = 100
"""At most this many records of one body are answered with their error; the answer counts the others."""
REASON_CHARACTERS_MAX = 500
_OMITTED = Verdict(error="untold")
DRAWN_AT_ONCE_MAX = 8_192
"""Candidates times draws that take about a millisecond; larger orders are drawn in a separate thread."""
YIELD_EVERY = 256
"""After decoding this many records of one body, the event loop may run other tasks."""


class App(Frame):
    """The ASGI application.

    Args:
        replica: computes the scores.
        log: receives impressions and actions on topic `events`, which must exist.
        settings: the limits.
        targets: those that actions may be of.
        ranking: the order of candidates, if a request says none; None: by the first target.
    """

    def __init__(
        self,
        replica: Scorer,
        log: Log,
        settings: ServerSettings,
        targets: Targets = UNDECLARED,
        ranking: Ranking | None = None,
    ) -> None:
        self._targets = targets
        self._ranking = ranking
        self.replica = replica
        self.settings = settings
        self.writer = EventWriter(log, queue_max=settings.log_queue_max, wait_s=settings.log_wait_s)
        self.telemetry = Telemetry(replica, self.writer)
        self.overview = Overview(log, Pulse(replica, self.telemetry).take)
        self._bounded_score_body = msgspec.json.Decoder(BoundedScoreRequest)
        self._any_score_body = msgspec.json.Decoder(AnyScoreRequest)
        self._feedback_body = msgspec.json.Decoder(FeedbackRequest)
        self._forget_body = msgspec.json.Decoder(ForgetRequest)
        self._declared = declared_by(replica.features)
        self._event = Decoder[Event](Impression, Action, Exposure, declared=self._declared, targets=targets)
        self._openapi: bytes | None = None
        self.inference = Inference(replica, settings, self._log_impression, openapi.release())
        super().__init__(
            [
                (routes.SCORE, self.score),
                (routes.EXPLAIN, self.explain),
                (routes.FEEDBACK, self.feedback),
                (routes.EVENTS, self.events),
                (routes.FORGET, self.forget),
                (routes.MODEL_STATUS, self.model),
                (routes.LIVE, self.live),
                (routes.READY, self.ready),
                (routes.SERVER, self.inference.server),
                (routes.METADATA, self.inference.metadata),
                (routes.MODEL_READY, self.inference.ready),
                (routes.INFER, self.inference.infer),
                (routes.METRICS, self.metrics),
                *LivePage(self.overview).routes(),
                (routes.OPENAPI, self.openapi),
            ],
            access=Access(settings.tokens or None, settings.rate_max),
            local=LocalOnly([settings.host, *settings.hosts]),
            body_bytes_max=settings.body_bytes_max,
            read_timeout_s=settings.read_timeout_s,
            concurrency_max=settings.concurrency_max,
            answers=KeptAnswers(
                settings.idempotency_max, settings.idempotency_bytes_max, settings.idempotency_s
            ),
            watch=self.telemetry,
        )

    async def started(self) -> None:
        self.writer.start()
        self.overview.start()

    def check(self) -> None:
        """Re-raise the exception that ended one of the threads, if any."""
        self.writer.check()
        self.overview.check()

    async def stopped(self) -> None:
        within_s = self.settings.stop_s
        await asyncio.gather(
            asyncio.to_thread(self.overview.stop, within_s), asyncio.to_thread(self.writer.stop, within_s)
        )

    def _asked(
        self, call: Call, limit: str = "candidates_max"
    ) -> tuple[ScoreRequest | AnyScoreRequest, Impression]:
        """The decoded body of a score request, and its impression; `limit` names the setting to check."""
        bounded = True
        try:
            request: ScoreRequest | AnyScoreRequest = self._bounded_score_body.decode(call.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            bounded = False
            request = decode_body(self._any_score_body, call.body)
        n = len(request.candidates)
        most = min(getattr(self.settings, limit), self.settings.candidates_max)
        if not 1 <= n <= most:
            text = f"candidates has {n} entries; expected 1 to {most} ({limit})"
            raise TooLargeError(text) if n else RequestError(text)
        impression = Impression(
            request_id=_new_id() if request.request_id is None else request.request_id,
            time=time.time() if request.time is None else request.time,
            candidates=request.candidates,
            context=request.context,
        )
        if not bounded:
            impression = tidy_request(impression, self._declared)
            check(impression, declared=self._declared)
        return request, impression

    def _asked_ranking(self, rank: Rank) -> Ranking:
        return Ranking(rank.by, self._targets.names, numbers_of(self.replica.features))

    async def explain(self, call: Call) -> Response:
        """POST /v1/explain."""
        request, impression = self._asked(call, "explain_candidates_max")
        target = number_of(self._targets, request.target)
        if self._targets[request.target].kind == "value":
            raise RequestError("only targets that are events are explained, not values")
        taken = await asyncio.to_thread(self.replica.explain, impression, target)
        return json_response(
            200,
            ExplainAnswer(
                request_id=impression.request_id,
                model_version=taken.version,
                order=taken.order,
                freshness_s=taken.freshness_s,
                base_freshness_s=taken.base_freshness_s,
                memory=taken.memory,
                gate=taken.gate,
                evidence=taken.evidence,
                bias=taken.bias,
                candidates=taken.candidates,
            ),
        )

    async def score(self, call: Call) -> Response:
        """POST /v1/score."""
        request, impression = self._asked(call)
        ranking = self._ranking if request.rank is None else self._asked_ranking(request.rank)
        explore = request.explore or self.settings.explore
        if explore == "greedy":
            (scored,) = self.replica.score([impression], ranking)
        else:
            seed = xxhash.xxh3_64_intdigest(
                impression.request_id.encode(), self.settings.explore_seed & 0xFFFFFFFFFFFFFFFF
            )
            draws = self.settings.explore_draws
            if len(impression.candidates) * draws <= DRAWN_AT_ONCE_MAX:
                scored = self.replica.explore(impression, seed, draws, ranking)
            else:
                scored = await asyncio.to_thread(self.replica.explore, impression, seed, draws, ranking)
        self.telemetry.candidates.inc(len(impression.candidates))
        show = self.settings.show if request.show is None else request.show
        first = scored.order[:show] if show else None
        logged = False
        if request.log and self.settings.log_impressions:
            served = Served(scored.base, scored.corrected, scored.version, scored.further or {})
            made = msgspec.structs.replace(impression, served=served, shown=first)
            if scored.propensity is not None:
                made = msgspec.structs.replace(
                    made, place=_places(scored.order), propensity=scored.propensity
                )
            logged = await self._log_impression(made)
        answer = ScoreAnswer(
            request_id=impression.request_id,
            prediction_id=impression.request_id,
            model_version=scored.version,
            base=scored.base,
            corrected=scored.corrected,
            order=scored.order,
            explore=explore,
            propensity=scored.propensity,
            freshness_s=scored.freshness_s,
            logged=logged,
            shown=msgspec.UNSET if first is None else first,
            targets=msgspec.UNSET if scored.targets is None else scored.targets,
            unknown=scored.coverage.of(request.context, request.candidates)
            if request.unknown and scored.coverage is not None
            else msgspec.UNSET,
        )
        return json_response(200, answer)

    async def feedback(self, call: Call) -> Response:
        """POST /v1/feedback."""
        request = decode_body(self._feedback_body, call.body)
        time_s = time.time() if request.time is None else request.time
        events: list[Event] = []
        if request.shown is not None or request.examined is not None:
            # before the action, which may decide the request
            events.append(Exposure(request.request_id, time_s, request.shown, request.examined))
        if request.candidate is not None:
            events.append(
                Action(
                    request.request_id,
                    time_s,
                    request.candidate,
                    request.label,
                    request.name,
                    value=request.value,
                )
            )
        if not events:
            raise RequestError("the feedback says neither candidate nor shown nor examined")
        for event in events:
            check(event, self._targets)
        places = await self.writer.append([_outgoing(event) for event in events])
        return json_response(202, PlaceAnswer(*places[-1]))

    async def events(self, call: Call) -> Response:
        """POST /v1/events: one record, a JSON array of records, or one record per line."""
        verdicts: list[Verdict | None] = []  # None: accepted
        good: list[Outgoing] = []
        for i, data in enumerate(split_body(call.body)):
            try:
                event = self._event.decode(data)
                if isinstance(event, Impression):
                    self.replica.check_types(event)
                good.append(_outgoing(event))
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
        places: list[Appended] = await self.writer.append(good) if good else []
        taken = iter(places)
        records = [Verdict(*next(taken)) if verdict is None else verdict for verdict in verdicts]
        rejected = len(records) - len(good)
        answer = EventsAnswer(len(good), rejected, max(rejected - REASONS_MAX, 0), records)
        if not good:
            first = records[0].error if records else "the body holds none"
            said = {"error": f"no record was accepted: {first}", "request_id": call.request_id}
            return json_response(400, said | msgspec.structs.asdict(answer))
        return json_response(207 if answer.rejected else 202, answer)

    async def forget(self, call: Call) -> Response:
        """POST /v1/forget."""
        request = decode_body(self._forget_body, call.body)
        refuse_s = self.settings.forget_refuse_s
        record = Forget(
            forget_id=call.request_id,
            time=time.time(),
            entity=widened(self.replica.features, request.entity),
            refuse_s=refuse_s,
        )
        check(record)
        partitions = await asyncio.to_thread(self.writer.log.partitions, EVENTS)
        places = await self.writer.append(forget_records(record, partitions))
        answer = ForgetAnswer(
            forget_id=record.forget_id,
            refused_until=record.time + refuse_s if refuse_s else None,
            records=[PlaceAnswer(*place) for place in places],
        )
        return json_response(202, answer)

    async def model(self, _: Call) -> Response:
        """GET /v1/model."""
        status = await asyncio.to_thread(self.replica.status)  # slow: it sorts a window of metrics
        return json_response(200, status)

    async def live(self, _: Call) -> Response:
        """GET /v2/health/live: the process responds."""
        return json_response(200, LiveAnswer(live=True))

    async def ready(self, _: Call) -> Response:
        """GET /v2/health/ready: the server can take requests."""
        why_not = self.replica.unready()
        if why_not:
            return json_response(503, ReadyAnswer(ready=False, error=why_not), ((b"retry-after", b"1"),))
        return json_response(200, ReadyAnswer(ready=True))

    async def metrics(self, _: Call) -> Response:
        """GET /metrics."""
        return Response(200, await asyncio.to_thread(self.telemetry.render), CONTENT_TYPE)

    async def openapi(self, _: Call) -> Response:
        """GET /openapi.json."""
        if self._openapi is None:
            self._openapi = openapi.document(self.routes, self.replica.features, self.settings.candidates_max)
        return Response(200, self._openapi)

    async def _log_impression(self, impression: Impression) -> bool:
        record = _outgoing(impression)
        if len(record.value) > RECORD_BYTES_MAX:
            raise TooLargeError(
                f"the request takes {len(record.value):,} bytes in the log, over the {RECORD_BYTES_MAX:,} "
                'of a record; send less at once, or "log": false'
            )
        try:
            await self.writer.append([record])
        except UnavailableError:
            # an answer without its log record is better for the waiting client than an error
            self.telemetry.unlogged.inc()
            return False
        return True


def _outgoing(record: Event) -> Outgoing:
    return Outgoing(key=record.request_id.encode(), value=encode(record))


def _places(order: list[int]) -> list[int]:
    """The rank of each candidate in an order."""
    places = [0] * len(order)
    for place, candidate in enumerate(order):
        places[candidate] = place
    return places


def _new_id() -> str:
    return os.urandom(16).hex()
