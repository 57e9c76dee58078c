"""POST /v1/nearest: the best items for a context."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from learner.features.columns import declared_by
from learner.features.encoder import Request
from serving.app.bodies import AnyNearestRequest, NearestAnswer, NearestRequest, decode_body, new_id
from serving.errors import RequestError
from serving.http.frame import Call, Response, json_response
from serving.nearest.index import FoundItems, Nearest
from serving.replica.explaining import ExplainedCandidate
from serving.replica.ranking import Ranking, ranking_by
from serving.replica.status import Scorer
from serving.settings import ServerSettings
from stream.limits import TEXT_MAX
from stream.records.decoding import check, tidy_request
from stream.records.fields import ID_END, ID_MIN, TOO_LARGE
from stream.records.types import Impression


class NearestRoute:
    """The route.

    Args:
        index: the items; None: the server has none, and says so.
        replica: breaks scores down.
        settings: the server's limits.
        ranking: the order of items, if a request says none.
        log_impression: appends an impression as it was scored, or, if that is too large, as it was asked;
            returns whether the log confirmed it.
    """

    def __init__(
        self,
        index: Nearest | None,
        replica: Scorer,
        settings: ServerSettings,
        ranking: Ranking | None,
        log_impression: Callable[[Impression, Impression], Awaitable[bool]],
    ) -> None:
        self._index = index
        self._replica = replica
        self._settings = settings
        self._ranking = ranking
        self._log_impression = log_impression
        self._declared = declared_by(replica.features)
        self._body = msgspec.json.Decoder(AnyNearestRequest)

    async def answer(self, call: Call) -> Response:
        """POST /v1/nearest. The search takes milliseconds, and runs in a thread of its own."""
        request = decode_body(self._body, call.body)
        index = self._checked(request)
        # checked as an impression; nobody looks at its candidate
        asked = tidy_request(
            Impression(
                request_id=new_id() if request.request_id is None else request.request_id,
                time=time.time() if request.time is None else request.time,
                candidates=[{}],
                context=request.context,
            ),
            self._declared,
        )
        check(asked, declared=self._declared)
        wanted = self._replica.filled(asked)
        ranking = self._ranking
        if request.rank is not None:
            ranking = ranking_by(request.rank.by, self._replica.targets.names, self._replica.features)
        search = Request(wanted.time, wanted.context, [])
        found = await asyncio.to_thread(index.find, search, request.k, request.exclude, ranking)
        return json_response(200, await self._told(request, wanted, found))

    def _checked(self, request: NearestRequest) -> Nearest:
        if self._index is None:
            raise RequestError(
                "this server has no index of items; name their feature in its config: "
                '[server.nearest] of = "…"'
            )
        of = self._index.settings.of
        if request.feature not in ("", of):
            raise RequestError(f"feature is {request.feature!r}; this server's index is of {of!r}")
        for one in request.exclude:
            if isinstance(one, str) and len(one) > TEXT_MAX:
                raise RequestError(f"exclude: {one[:60]!r}… has {len(one)} characters, more than {TEXT_MAX}")
            if isinstance(one, int) and not ID_MIN <= one < ID_END:
                raise RequestError(f"exclude: {TOO_LARGE}")
        most = self._settings.explain_candidates_max
        if request.explain and request.k > most:
            raise RequestError(f"k is {request.k}; to explain, expected 1 to {most} (explain_candidates_max)")
        return self._index

    async def _told(self, request: NearestRequest, asked: Impression, found: FoundItems) -> NearestAnswer:
        scored = found.scored
        show = self._settings.show if request.show is None else request.show
        first = scored.order[:show] if show else None
        served = msgspec.structs.replace(scored.served, filled=self._replica.attributes)
        impression = msgspec.structs.replace(asked, candidates=found.candidates, served=served, shown=first)
        logged = False
        if request.log and self._settings.log_impressions and found.items:
            logged = await self._log_impression(impression, impression)
        explained: list[ExplainedCandidate] | msgspec.UnsetType = msgspec.UNSET
        if request.explain:
            taken = await asyncio.to_thread(self._replica.explain, impression) if found.items else None
            explained = taken.candidates if taken else []
        return NearestAnswer(
            request_id=asked.request_id,
            prediction_id=asked.request_id,
            model_version=scored.version,
            items=found.items,
            candidates=found.candidates,
            base=scored.base,
            corrected=scored.corrected,
            scored=found.tried,
            freshness_s=scored.freshness_s,
            logged=logged,
            shown=msgspec.UNSET if first is None else first,
            targets=msgspec.UNSET if scored.targets is None else scored.targets,
            explained=explained,
        )
