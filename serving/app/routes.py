"""The routes of the server, as a table: what each path takes and answers. `serving.app.app` handles them.

The live page adds its own (`serving.watch.page`).
"""

from serving.app.bodies import (
    EntityList,
    EntityRequest,
    EventList,
    EventsAnswer,
    FeedbackRequest,
    ForgetAnswer,
    ForgetRequest,
    LiveAnswer,
    NearestAnswer,
    NearestRequest,
    PlaceAnswer,
    ReadyAnswer,
    ScoreAnswer,
    ScoreRequest,
)
from serving.app.inference import (
    InferAnswer,
    InferRequest,
    ModelMetadata,
    ModelReady,
    ServerMetadata,
)
from serving.http.frame import Route
from serving.replica.explaining import ExplainAnswer
from serving.replica.status import ModelStatus
from stream.records.entities.record import EntityEvent
from stream.records.types import Action, Exposure, Impression

SCORE = Route(
    "POST",
    "/v1/score",
    "score",
    about="Probabilities for the candidates of one request, before and after correction.",
    takes=ScoreRequest,
    gives={200: ScoreAnswer},
)
EXPLAIN = Route(
    "POST",
    "/v1/explain",
    "score",
    about="The same scores, broken down into their parts. Nothing is logged.",
    takes=ScoreRequest,
    gives={200: ExplainAnswer},
)
NEAREST = Route(
    "POST",
    "/v1/nearest",
    "score",
    about="The best items for a context, from the server's index, scored by the whole model.",
    takes=NearestRequest,
    gives={200: NearestAnswer},
)
FEEDBACK = Route(
    "POST",
    "/v1/feedback",
    "write",
    about="What the person did with a candidate, or was shown. The answer is sent once the log has it.",
    takes=FeedbackRequest,
    gives={202: PlaceAnswer},
    writes=True,
)
EVENTS = Route(
    "POST",
    "/v1/events",
    "write",
    about="Impressions, actions, exposures and entity events: one, a JSON array, or one per line.",
    takes=Impression | Action | Exposure | EntityEvent | EventList,
    gives={202: EventsAnswer, 207: EventsAnswer},
    writes=True,
)
ENTITIES = Route(
    "POST",
    "/v1/entities",
    "write",
    about="What is true of items and people from a time on: one, a JSON array, or one per line.",
    takes=EntityRequest | EntityList,
    gives={202: EventsAnswer, 207: EventsAnswer},
    writes=True,
)
FORGET = Route(
    "POST",
    "/v1/forget",
    "admin",
    about="Delete ids and everything the model has stored about them.",
    takes=ForgetRequest,
    gives={202: ForgetAnswer},
    writes=True,
)
MODEL_STATUS = Route(
    "GET",
    "/v1/model",
    bounded=False,
    about="The current model, its freshness and its metrics.",
    gives={200: ModelStatus},
)
LIVE = Route(
    "GET",
    "/v2/health/live",
    bounded=False,
    open=True,
    about="Whether the process responds.",
    gives={200: LiveAnswer},
)
READY = Route(
    "GET",
    "/v2/health/ready",
    bounded=False,
    open=True,
    about="Whether the server can take requests.",
    gives={200: ReadyAnswer, 503: ReadyAnswer},
)
SERVER = Route(
    "GET",
    "/v2",
    bounded=False,
    about="The server, by the Open Inference Protocol.",
    gives={200: ServerMetadata},
)
METRICS = Route("GET", "/metrics", bounded=False, about="All metrics, for Prometheus.", gives={200: str})
OPENAPI = Route("GET", "/openapi.json", bounded=False, about="This document.", gives={200: dict})


def inference_routes(name: str) -> tuple[Route, Route, Route]:
    """Metadata, readiness and scores of a model, by the Open Inference Protocol."""
    path = f"/v2/models/{name}"
    return (
        Route(
            "GET",
            path,
            bounded=False,
            about="The model's inputs and outputs, by the Open Inference Protocol.",
            gives={200: ModelMetadata},
        ),
        Route(
            "GET",
            f"{path}/ready",
            bounded=False,
            open=True,
            about="Whether the model can take requests.",
            gives={200: ModelReady, 503: ModelReady},
        ),
        Route(
            "POST",
            f"{path}/infer",
            "score",
            about="Scores by the Open Inference Protocol: a tensor for each feature, as JSON or binary.",
            takes=InferRequest,
            gives={200: InferAnswer},
        ),
    )
