"""The HTTP routes: scores, feedback, events, health and metrics.

    POST /v1/score      probabilities for the candidates of one request, before and after correction
    POST /v1/explain    the same scores, broken down into their parts
    POST /v1/nearest    the best items for a context (`serving.app.nearest`)
    POST /v1/feedback   what the person did with one of the candidates, and which were shown
    POST /v1/events     impressions, actions and exposures from other systems, one or many
    POST /v1/entities   what is true of items and people, one or many
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
import time
from collections.abc import Iterator

import msgspec
import xxhash

from ground import UNDECODABLE
from learner.features.columns import declared_by
from learner.features.labelled import number_of
from learner.model.forgetting import widened
from serving.app import routes
from serving.app.bodies import (
    AnyScoreRequest,
    BoundedScoreRequest,
    FeedbackRequest,
    ForgetAnswer,
    ForgetRequest,
    LiveAnswer,
    PlaceAnswer,
    ReadyAnswer,
    ScoreAnswer,
    ScoreRequest,
    decode_body,
    new_id,
)
from serving.app.inference import Inference, server_metadata
from serving.app.nearest import NearestRoute
from serving.app.taking import Taker, outgoing
from serving.app.writer import EventWriter
from serving.errors import RequestError, TooLargeError, UnavailableError
from serving.http import openapi
from serving.http.access import Access
from serving.http.frame import Call, Frame, Handler, Response, Route, json_response
from serving.http.idempotency import KeptAnswers
from serving.http.local_only import LocalOnly
from serving.nearest.index import Nearest
from serving.replica.explaining import ExplainAnswer, with_filled
from serving.replica.ranking import Ranking, ranking_by
from serving.replica.status import Scorer
from serving.settings import ServerSettings
from serving.watch.overview import Overview
from serving.watch.page import LivePage
from serving.watch.pulse import Pulse
from serving.watch.telemetry import CONTENT_TYPE, Telemetry
from stream.limits import RECORD_BYTES_MAX
from stream.log.base import EVENTS, Log
from stream.orders.names import BY_SHARES
from stream.records.decoding import check, tidy_request
from stream.records.forgetting import forget_records
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Action, Event, Exposure, Forget, Impression

DRAWN_AT_ONCE_MAX = 8_192
"""Candidates times draws that take about a millisecond; larger orders are drawn in a separate thread."""


class App(Frame):
    """The ASGI application.

    Args:
        replica: computes the scores.
        log: receives impressions and actions on topic `events`, which must exist.
        settings: the limits.
        targets: those that actions may be of.
        ranking: the order of candidates, if a request says none; None: by the first target.
        nearest: the index of items, if there is one.
    """

    def __init__(
        self,
        replica: Scorer,
        log: Log,
        settings: ServerSettings,
        targets: Targets = UNDECLARED,
        ranking: Ranking | None = None,
        nearest: Nearest | None = None,
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
        self._taker = Taker(replica, self.writer, targets)
        self._openapi: bytes | None = None
        super().__init__(
            [
                (routes.SCORE, self.score),
                (routes.EXPLAIN, self.explain),
                (
                    routes.NEAREST,
                    NearestRoute(nearest, replica, settings, ranking, self._log_impression).answer,
                ),
                (routes.FEEDBACK, self.feedback),
                (routes.EVENTS, self._taker.events),
                (routes.ENTITIES, self._taker.entities),
                (routes.FORGET, self.forget),
                (routes.MODEL_STATUS, self.model),
                (routes.LIVE, self.live),
                (routes.READY, self.ready),
                (routes.SERVER, self.server),
                *self._inference(),
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

    def _inference(self) -> Iterator[tuple[Route, Handler]]:
        """The routes of the Open Inference Protocol: of the model that answers, and of each by its name."""
        for name, scorer in {BY_SHARES: self.replica, **self.replica.by_name}.items():
            log = self._log_impression if name == BY_SHARES else None
            one = Inference(scorer, self.settings, log, name)
            yield from zip(routes.inference_routes(name), (one.metadata, one.ready, one.infer), strict=True)

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
        except UNDECODABLE:
            bounded = False
            request = decode_body(self._any_score_body, call.body)
        n = len(request.candidates)
        most = min(getattr(self.settings, limit), self.settings.candidates_max)
        if not 1 <= n <= most:
            text = f"candidates has {n} entries; expected 1 to {most} ({limit})"
            raise TooLargeError(text) if n else RequestError(text)
        impression = Impression(
            request_id=new_id() if request.request_id is None else request.request_id,
            time=time.time() if request.time is None else request.time,
            candidates=request.candidates,
            context=request.context,
        )
        if not bounded:
            impression = tidy_request(impression, self._declared)
            check(impression, declared=self._declared)
        return request, impression

    async def explain(self, call: Call) -> Response:
        """POST /v1/explain."""
        request, asked = self._asked(call, "explain_candidates_max")
        impression = self.replica.filled(asked)
        target = number_of(self._targets, request.target)
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
                candidates=with_filled(taken.candidates, asked, impression),
                model=taken.model or msgspec.UNSET,
                rate=taken.rate or msgspec.UNSET,
                units=taken.units,
            ),
        )

    async def score(self, call: Call) -> Response:
        """POST /v1/score."""
        request, asked = self._asked(call)
        impression = self.replica.filled(asked)
        ranking = self._ranking
        if request.rank is not None:
            ranking = ranking_by(request.rank.by, self._targets.names, self.replica.features)
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
            served = msgspec.structs.replace(scored.served, filled=self.replica.attributes)
            made = msgspec.structs.replace(impression, served=served, shown=first)
            if scored.propensity is not None:
                made = msgspec.structs.replace(
                    made, place=_places(scored.order), propensity=scored.propensity
                )
            logged = await self._log_impression(made, asked)
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
            model=scored.model or msgspec.UNSET,
            unknown=scored.coverage.of(impression.context, impression.candidates)
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
        places = await self.writer.append([outgoing(event) for event in events])
        return json_response(202, PlaceAnswer(*places[-1]))

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

    async def server(self, _: Call) -> Response:
        """GET /v2."""
        return server_metadata(openapi.release())

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

    async def _log_impression(self, impression: Impression, asked: Impression) -> bool:
        """Append an impression as it was scored; if that is too large for a record, with what was `asked`."""
        record = outgoing(impression)
        if len(record.value) > RECORD_BYTES_MAX and impression.served is not None:
            record = outgoing(
                msgspec.structs.replace(
                    impression,
                    context=asked.context,
                    candidates=asked.candidates,
                    served=msgspec.structs.replace(impression.served, filled=[]),
                )
            )
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


def _places(order: list[int]) -> list[int]:
    """The rank of each candidate in an order."""
    places = [0] * len(order)
    for place, candidate in enumerate(order):
        places[candidate] = place
    return places
