"""The OpenAPI 3.1 document of the server, generated from the routes and the types of their bodies.

It lists the features that this server's config declares. One rule cannot be expressed in it: the lists of an
impression (`labels`, `served`, ...) must have as many entries as its `candidates`.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import msgspec

from learner.features.spec import FeatureSpec
from learner.model.forgetting import FORGETTABLE
from serving.http.frame import Route
from stream.limits import FORGET_IDS_MAX, LONG_TEXT_MAX
from stream.records.id_types import OF_NUMBERS, owners_of
from stream.records.schema import one_of_these
from stream.records.types import Id, Ids, Text

Json = dict[str, Any]

_KINDS: dict[str, Any] = {
    "id": Id | Text,
    "hour": Id | Text,
    "ids": Ids,
    "sequence": Ids,
    "history": Ids,
    "number": float,
    "rate": float,
    "text": Annotated[str, msgspec.Meta(max_length=LONG_TEXT_MAX)],
    "vector": list[float],
    "calendar": float,
    "age": float,
    "geo": list[float],
}


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The response to every failed request."""

    error: Annotated[str, msgspec.Meta(description="A sentence that says what was expected.")]
    request_id: Annotated[str, msgspec.Meta(description="By which the server's log names the request.")]


_ERRORS = {
    400: "The body is not JSON, or does not fit.",
    401: "There is no token, or it is not known.",
    403: "The token is not for this; or, on a server without tokens, a page of another site asks.",
    408: "The body did not arrive in time.",
    413: "The body is over the limit, or has too many candidates.",
    415: "The body is of a type that is not taken.",
    422: "The idempotency key was used with another body before.",
    431: "The head of the request is over the limit.",
    429: "The token's requests come faster than allowed.",
    503: "Not now: too much at once, the log does not answer, or the model is still loading.",
}
_WITH_BODY = (400, 408, 413, 415)
_OPEN = (403,)
_GUARDED = (401, 403, 429)


def document(routes: Sequence[Route], features: Mapping[str, FeatureSpec], candidates_max: int) -> bytes:
    """The document, as JSON.

    Args:
        features: the declared features, by name; requests may have others, which are ignored.
        candidates_max: in one request.
    """
    bodies = [route.takes for route in routes if route.takes is not None]
    answers = [t for route in routes for t in route.gives.values() if t not in (str, dict)]
    kinds = [*bodies, *answers, ErrorAnswer]
    refs, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    of = {id(kind): ref for kind, ref in zip(kinds, refs, strict=True)}
    _declare(schemas, features, candidates_max)
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Freshet",
                "version": release(),
                "description": "Scores that have learnt from a click a moment later.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": {route.path: {route.method.lower(): _operation(route, of)} for route in routes},
            "components": {
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    ).encode()


def release() -> str:
    """The version of Freshet; "0": it is not installed as a package."""
    try:
        return version("freshet")
    except PackageNotFoundError:
        return "0"


def _operation(route: Route, of: Mapping[int, Json]) -> Json:
    """The operation of one route. `of` maps the id() of each type to its schema."""
    operation: Json = {
        "operationId": route.path.strip("/").replace("/", "_").replace(".", "_") or "page",
        "summary": route.about,
    }
    if route.open:
        operation["security"] = []
    else:
        # {}: a server without tokens requires none
        scopes = [route.scope] if route.scope else []
        operation["security"] = [{"token": scopes}, {}]
    if route.takes is not None:
        content: Json = {"application/json": {"schema": of[id(route.takes)]}}
        operation["requestBody"] = {"required": True, "content": content}
    responses = {status: _answer(kind, of, route.media) for status, kind in route.gives.items()}
    failing = [*(_WITH_BODY if route.takes is not None else ()), *(_OPEN if route.open else _GUARDED)]
    failing += [422] if route.writes else []
    failing += [431] + ([503] if route.bounded else [])
    error = {"application/json": {"schema": of[id(ErrorAnswer)]}}
    for status in failing:
        responses.setdefault(status, {"description": _ERRORS[status], "content": error})
    operation["responses"] = {str(status): responses[status] for status in sorted(responses)}
    return operation


def _answer(kind: Any, of: Mapping[int, Json], media: str) -> Json:
    if kind is str:
        return {"description": "As text.", "content": {media: {"schema": {"type": "string"}}}}
    schema = {"type": "object"} if kind is dict else of[id(kind)]
    text = " ".join((kind.__doc__ or "").split()) if kind is not dict else "The document."
    return {"description": text or "The answer.", "content": {"application/json": {"schema": schema}}}


def _declare(schemas: Json, features: Mapping[str, FeatureSpec], candidates_max: int) -> None:
    """Add the declared features to the schemas of requests."""
    # null: the feature, or the list's entry, is absent; true and false are the ids 1 and 0
    loose = {"type": ["boolean", "null"]}
    declared: Json = {}
    for name, spec in features.items():
        if spec.kind == "place" or spec.coordinates is not None:
            # a place is said of examples only; of two coordinates each is a value of its own
            number = {"anyOf": [msgspec.json.schema(float), {"type": "null"}]}
            declared |= dict.fromkeys(spec.coordinates or (), number)
            continue
        value = msgspec.json.schema(_KINDS[spec.kind])
        if spec.kind in OF_NUMBERS:
            length = 2 if spec.kind == "geo" else spec.length
            value |= {"minItems": length, "maxItems": length}
            declared[name] = {"anyOf": [value, {"type": "null"}]}
        elif "items" in value:
            value["items"] = {"anyOf": [value["items"], loose]}
            declared[name] = {"anyOf": [value, {"type": "null"}]}
        else:
            declared[name] = {"anyOf": [value, loose]}
    body = schemas["ScoreRequest"]["properties"]
    body["candidates"]["maxItems"] = candidates_max
    event = schemas["Impression"]["properties"]
    for said in (event["candidates"]["items"], event["context"]):
        said["additionalProperties"] = True
        said.pop("maxProperties", None)
    for said in (body["candidates"]["items"], body["context"]):
        said["properties"] = declared
        said["additionalProperties"] = True  # what is not declared is not looked at
        said.pop("maxProperties", None)
    asked = schemas["NearestRequest"]["properties"]["context"]
    asked |= {"properties": declared, "additionalProperties": True}
    asked.pop("maxProperties", None)
    schemas["Exposure"]["anyOf"] = one_of_these(shown="array", examined="integer")
    said_in_feedback = one_of_these(candidate="integer", shown="array", examined="integer")
    schemas["FeedbackRequest"]["anyOf"] = said_in_feedback
    owners = list(owners_of(features))
    for kind in ("EntityRequest", "EntityEvent") if owners else ():
        schemas[kind]["properties"]["feature"]["enum"] = owners
    ids = {**msgspec.json.schema(Ids), "minItems": 1, "maxItems": FORGET_IDS_MAX}
    schemas["ForgetRequest"]["properties"]["entity"] = {
        "type": "object",
        "description": f"The ids, by feature; 1 to {FORGET_IDS_MAX} of each.",
        "properties": {name: ids for name, spec in features.items() if spec.kind in FORGETTABLE},
        "additionalProperties": False,
        "minProperties": 1,
    }
