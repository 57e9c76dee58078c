"""The Open Inference Protocol (v2), which the clients of Triton and KServe speak.

The model has one input for each declared feature, all optional, and the outputs `corrected`, `base` and
`order`. A request is a slate of n candidates: a tensor of n values is a feature of the candidates, one of a
single value a feature of the context.

`/v2/models/freshet` is whichever model answers this person. Of several models each is also there by its name.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from ground import UNDECODABLE
from learner.features.columns import declared_by
from learner.features.spec import FeatureSpec
from serving.app.tensors import (
    BINARY,
    HEADER,
    Parameter,
    Parameters,
    Tensor,
    TensorInput,
    TensorOutput,
    decode_tensors,
    encode_answer,
    split_binary,
)
from serving.errors import RequestError, TooLargeError
from serving.http.frame import JSON, Call, Response, json_response, new_request_id
from serving.replica.status import Scored, Scorer
from serving.settings import ServerSettings
from stream.orders.names import BY_SHARES
from stream.records.decoding import AnyFeatures, check, tidy_request
from stream.records.id_types import OF_NUMBERS
from stream.records.types import Impression

EXTENSIONS = ["binary_tensor_data"]
OUTPUTS = {"corrected": "FP64", "base": "FP64", "order": "INT64"}
LISTS = ("ids", "sequence", *OF_NUMBERS)
AS_NUMBERS = ("number", "calendar", "age", *OF_NUMBERS)

Json = dict[str, object]


class WantedOutput(msgspec.Struct, frozen=True):
    """One output that a request asks for."""

    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct, frozen=True):
    """Body of POST /v2/models/NAME/infer. `id` is the request id. null is the same as absent.

    `parameters`: `log` true appends the impression to topic `events`, as `/v1/score` does; `time` is event
    time in Unix seconds; `binary_data_output` true asks for outputs as bytes.
    """

    inputs: list[TensorInput]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[WantedOutput] | None = None


class TensorMetadata(msgspec.Struct, frozen=True):
    """The name, type and shape of a tensor; -1: any number."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(msgspec.Struct, frozen=True):
    """The server, and the extensions of the protocol that it knows."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(msgspec.Struct, frozen=True):
    """The model's inputs, one for each feature, and its outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the model can take requests, and if not, why."""

    name: str
    ready: bool
    error: str | None = None


class InferAnswer(msgspec.Struct, frozen=True):
    """The outputs of n candidates, in the order of the request."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, Parameter]
    outputs: list[TensorOutput]


class Asked(NamedTuple):
    """A decoded request."""

    impression: Impression
    log: bool
    outputs: list[tuple[str, bool]]  # name, and whether as bytes


def server_metadata(version: str) -> Response:
    """GET /v2: of Freshet at this version."""
    return json_response(200, ServerMetadata("freshet", version, EXTENSIONS))


class Inference:
    """Answers the protocol's routes of one name.

    Args:
        replica: computes the scores.
        settings: the limits.
        log_impression: appends an impression to the log, given what was asked; returns whether it is there.
            None: the caller has chosen the model, so nothing is logged.
        name: what clients call it.
    """

    def __init__(
        self,
        replica: Scorer,
        settings: ServerSettings,
        log_impression: Callable[[Impression, Impression], Awaitable[bool]] | None,
        name: str = BY_SHARES,
    ) -> None:
        self._replica = replica
        self._settings = settings
        self._log = log_impression
        self._name = name
        self._decode = msgspec.json.Decoder(InferRequest).decode

    async def metadata(self, _: Call) -> Response:
        """GET /v2/models/NAME."""
        inputs = [_input(name, spec) for name, spec in _taken(self._replica.features).items()]
        outputs = [TensorMetadata(name, datatype, [-1]) for name, datatype in OUTPUTS.items()]
        return json_response(200, ModelMetadata(self._name, [], "freshet", inputs, outputs))

    async def ready(self, _: Call) -> Response:
        """GET /v2/models/NAME/ready."""
        why_not = self._replica.unready()
        if why_not:
            return json_response(503, ModelReady(self._name, False, why_not), ((b"retry-after", b"1"),))
        return json_response(200, ModelReady(self._name, True))

    async def infer(self, call: Call) -> Response:
        """POST /v2/models/NAME/infer."""
        asked = self._asked(call)
        impression = self._replica.filled(asked.impression)
        (scored,) = self._replica.score([impression])
        logged = False
        if asked.log and self._log is not None and self._settings.log_impressions:
            show = self._settings.show
            first = scored.order[:show] if show else None
            served = msgspec.structs.replace(scored.served, filled=self._replica.attributes)
            made = msgspec.structs.replace(impression, served=served, shown=first)
            logged = await self._log(made, asked.impression)
        head: Json = {
            "model_name": self._name,
            "model_version": scored.version,
            "id": impression.request_id,
            "parameters": {"logged": logged, **({"model": scored.model} if scored.model else {})},
        }
        arrays = _arrays(scored)
        body, length = encode_answer(head, [(name, arrays[name], raw) for name, raw in asked.outputs])
        if length is None:
            return Response(200, body, JSON)
        return Response(200, body, BINARY, ((HEADER, str(length).encode()),))

    def _asked(self, call: Call) -> Asked:
        head, binary = split_binary(call.body, call.headers.get(HEADER))
        try:
            request = self._decode(head)
        except UNDECODABLE as error:
            raise RequestError(f"the body is no inference request: {error}") from None
        declared = _taken(self._replica.features)
        for one in request.inputs:
            if one.name not in declared:
                known = ", ".join(declared)
                raise RequestError(f"input {one.name[:200]!r} is no declared feature; the model has: {known}")
        tensors = decode_tensors(request.inputs, binary)
        rows = {tensor.rows for tensor in tensors.values()}
        n = max(rows, default=0)
        if rows - {1, n} or n == 0 or 0 in rows:
            sizes = ", ".join(f"{name} {tensor.rows}" for name, tensor in list(tensors.items())[:20])
            raise RequestError(
                "inputs need one common number of candidates, or 1 for a feature that all of them share; "
                f"these are {sizes or 'none'}"
            )
        if n > self._settings.candidates_max:
            most = self._settings.candidates_max
            raise TooLargeError(f"the inputs have {n} candidates; expected 1 to {most} (candidates_max)")
        context: AnyFeatures = {}
        candidates: list[AnyFeatures] = [{} for _ in range(n)]
        pads = {one.name: (one.parameters or {}).get("pad") for one in request.inputs}
        for name, tensor in tensors.items():
            values = _values(name, declared[name], tensor, pads[name])
            if tensor.rows == 1:
                context[name] = values[0]
                continue
            for candidate, value in zip(candidates, values, strict=True):
                candidate[name] = value
        impression = self._impression(request, context, candidates)
        log = _flag(request.parameters, "log")
        if log and self._log is None:
            raise RequestError(
                f"parameter log is true, but the request has chosen model {self._name} itself, and models "
                "are compared by what people did whom the shares have chosen; leave log out, or ask "
                f"/v2/models/{BY_SHARES}/infer"
            )
        return Asked(impression, log, _outputs(request))

    def _impression(
        self, request: InferRequest, context: AnyFeatures, candidates: list[AnyFeatures]
    ) -> Impression:
        at = (request.parameters or {}).get("time")
        if at is not None and (isinstance(at, bool) or not isinstance(at, int | float)):
            raise RequestError(f"parameter time is {at!r}; expected event time in Unix seconds")
        loose = Impression(
            request_id=request.id or new_request_id(),
            time=time.time() if at is None else float(at),
            candidates=candidates,
            context=context,
        )
        declared = declared_by(self._replica.features)
        impression = tidy_request(loose, declared)
        check(impression, declared=declared)
        self._replica.check_types(impression)
        return impression


def _taken(features: Mapping[str, FeatureSpec]) -> dict[str, FeatureSpec]:
    """What a request may say: each feature but places, which are said of examples only, and in place of one
    that is made of two coordinates, those."""
    found: dict[str, FeatureSpec] = {}
    for name, spec in features.items():
        if spec.coordinates is not None:
            found |= dict.fromkeys(spec.coordinates, FeatureSpec(kind="number"))
        elif spec.kind != "place":
            found[name] = spec
    return found


def _input(name: str, spec: FeatureSpec) -> TensorMetadata:
    shape = [-1, -1] if spec.kind in LISTS else [-1]
    datatype = "FP64" if spec.kind in AS_NUMBERS else "INT64" if spec.id_type == "int" else "BYTES"
    return TensorMetadata(name, datatype, shape)


def _values(name: str, spec: FeatureSpec, tensor: Tensor, pad: Parameter | None) -> list[object]:
    """A feature's value for each row; None where it is missing: an empty text, NaN, or the tensor's `pad`."""

    def missing(value: object) -> bool:
        return value == "" or value != value or (pad is not None and value == pad)

    values: list[object] = [None if missing(value) else value for value in tensor.values]
    if spec.kind not in LISTS:
        if tensor.width not in (None, 1):
            raise RequestError(
                f"input {name!r} has {tensor.width} values a row; expected shape [n] or [n, 1]"
            )
        return values
    width = 1 if tensor.width is None else tensor.width
    if spec.kind in OF_NUMBERS:
        rows = [list(tensor.values[row * width : (row + 1) * width]) for row in range(tensor.rows)]
        return [None if all(map(missing, row)) else row for row in rows]
    return [
        [value for value in values[row * width : (row + 1) * width] if value is not None]
        for row in range(tensor.rows)
    ]


def _outputs(request: InferRequest) -> list[tuple[str, bool]]:
    every = _flag(request.parameters, "binary_data_output")
    if not request.outputs:
        return [(name, every) for name in OUTPUTS]
    found: dict[str, bool] = {}
    for one in request.outputs:
        if one.name not in OUTPUTS:
            raise RequestError(f"output {one.name[:200]!r} is unknown; the model has {', '.join(OUTPUTS)}")
        found[one.name] = _flag(one.parameters, "binary_data", every)
    return list(found.items())


def _flag(parameters: Parameters | None, name: str, default: bool = False) -> bool:
    value = (parameters or {}).get(name)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise RequestError(f"parameter {name} is {value!r}; expected true or false")
    return value


def _arrays(scored: Scored) -> dict[str, np.ndarray]:
    return {
        "corrected": np.array(scored.corrected, dtype=np.float64),
        "base": np.array(scored.base, dtype=np.float64),
        "order": np.array(scored.order, dtype=np.int64),
    }
