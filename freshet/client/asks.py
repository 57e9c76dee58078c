"""What each method of a client asks: its arguments and the type of its answer; for sync and async."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from freshet.errors import CallRefusedError
from serving.app.bodies import (
    EntityRequest,
    EventsAnswer,
    Explore,
    FeedbackRequest,
    ForgetAnswer,
    ForgetRequest,
    NearestAnswer,
    NearestRequest,
    PlaceAnswer,
    Rank,
    ReadyAnswer,
    ScoreAnswer,
    ScoreRequest,
)
from serving.replica.explaining import ExplainAnswer
from serving.replica.status import ModelStatus
from stream.records.entities.record import AnyEvent
from stream.records.types import Candidates, Context

T = TypeVar("T")


class Ask(NamedTuple, Generic[T]):
    """One request, and the type of its answer."""

    method: str
    path: str
    gives: type[T]
    body: bytes | None = None
    writes: bool = False
    fine: tuple[int, ...] = ()  # further statuses whose body is an answer


class Asks:
    """The requests of a client's methods, under their names and with their arguments."""

    def score(
        self,
        candidates: Candidates,
        context: Context | None = None,
        *,
        request_id: str | None = None,
        time: float | None = None,
        log: bool = True,
        explore: Explore | None = None,
        unknown: bool = False,
        show: int | None = None,
        rank: str | None = None,
    ) -> Ask[ScoreAnswer]:
        """Probabilities and an order for n candidates; see `ScoreRequest` for the arguments.

        Args:
            rank: arithmetic over targets and numbers, by which candidates are ordered.
        """
        return _with_id(
            "/v1/score",
            ScoreAnswer,
            ScoreRequest(
                candidates,
                context or {},
                time,
                request_id,
                log,
                explore,
                unknown,
                show,
                None if rank is None else Rank(rank),
            ),
        )

    def explain(
        self,
        candidates: Candidates,
        context: Context | None = None,
        *,
        request_id: str | None = None,
        time: float | None = None,
        target: str = "",
    ) -> Ask[ExplainAnswer]:
        """The parts of each candidate's score. Nothing is logged.

        Args:
            target: the name of the one that is explained; "": the first.
        """
        request = ScoreRequest(candidates, context or {}, time, request_id, target=target)
        return _with_id("/v1/explain", ExplainAnswer, request)

    def nearest(
        self,
        context: Context | None = None,
        k: int = 10,
        *,
        exclude: Sequence[int | str] = (),
        request_id: str | None = None,
        time: float | None = None,
        log: bool = False,
        show: int | None = None,
        rank: str | None = None,
        feature: str = "",
        explain: bool = False,
    ) -> Ask[NearestAnswer]:
        """The best k items for a context; see `NearestRequest` for the arguments."""
        by = None if rank is None else Rank(rank)
        request = NearestRequest(
            context or {}, k, list(exclude), time, request_id or _new_id(), log, show, by, feature, explain
        )
        return Ask("POST", "/v1/nearest", NearestAnswer, _encode(request))

    def feedback(
        self,
        request_id: str,
        candidate: int | None = None,
        label: float = 1.0,
        *,
        name: str = "click",
        value: float | None = None,
        shown: list[int] | None = None,
        examined: int | None = None,
        time: float | None = None,
    ) -> Ask[PlaceAnswer]:
        """What the person did with a candidate of a request, or was shown.

        Args:
            name: of the target that the action is of.
            value: how much, where that target is a value.
        """
        request = FeedbackRequest(request_id, candidate, label, time, name, shown, examined, value)
        return Ask("POST", "/v1/feedback", PlaceAnswer, _encode(request), writes=True)

    def events(self, events: Sequence[AnyEvent]) -> Ask[EventsAnswer]:
        """Send impressions, actions, exposures and entity events; the answer has a verdict for each."""
        return Ask("POST", "/v1/events", EventsAnswer, _encode(list(events)), writes=True)

    def entities(self, entities: Sequence[EntityRequest]) -> Ask[EventsAnswer]:
        """Say what is true of items and people; the answer has a verdict for each."""
        return Ask("POST", "/v1/entities", EventsAnswer, _encode(list(entities)), writes=True)

    def forget(self, entity: Mapping[str, Sequence[int | str]]) -> Ask[ForgetAnswer]:
        """Delete ids, by feature, and what was learned about them."""
        body = _encode(ForgetRequest({name: list(ids) for name, ids in entity.items()}))
        return Ask("POST", "/v1/forget", ForgetAnswer, body, writes=True)

    def model(self) -> Ask[ModelStatus]:
        """The current model, its freshness and its metrics."""
        return Ask("GET", "/v1/model", ModelStatus)

    def ready(self) -> Ask[ReadyAnswer]:
        """Whether the server can take requests, and if not, why."""
        return Ask("GET", "/v2/health/ready", ReadyAnswer, fine=(503,))


ASKS = Asks()


def _with_id(path: str, gives: type[T], request: ScoreRequest) -> Ask[T]:
    """A request about candidates, with an id of its own if it has none: a retry then has the same."""
    if request.request_id is None:
        request = msgspec.structs.replace(request, request_id=_new_id())
    return Ask("POST", path, gives, _encode(request))


def _new_id() -> str:
    return os.urandom(16).hex()


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise CallRefusedError(
        f"a value of type {type(value).__name__} cannot be sent; expected numbers, texts and lists"
    )
