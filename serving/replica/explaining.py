"""The explanation of a score: the response of POST /v1/explain, built from a replica's numbers."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from error_memory import Explained
from ground.id_types import IdType
from ground.keys import key_of
from learner.fast.spread import spread_of
from learner.features.encoder import Encoder, Requestlike
from learner.features.known.given import GivenHistory, GivenRate, as_signed, given_in, value_names
from learner.model.explain import BaseExplained, memory_names
from learner.model.model import Model
from stream.records.types import Features, Impression, Value


class Part(msgspec.Struct, frozen=True):
    """What the error memory's evidence on one key adds to a candidate's score."""

    of: str  # a feature, a pair `a*b` or a count; `a lately`: the second learning speed of `a`
    logit: float  # before the gate
    evidence: float  # Σ x² p (1 - p) over its examples: an example with p = 0.5 counts 0.25


UNKNOWN_VALUES_MAX = 5
UNKNOWN_CHARACTERS_MAX = 64
"""Limits on the unknown ids in the answer: each candidate repeats those of the context."""


class Unknown(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ids of a feature without a row in the model, which used its default."""

    feature: str
    values: list[int | float | str]  # empty: the value is not in the request, as the hour may be
    more: int = 0  # number of ids left out


HISTORY_SHOWN_MAX = 10
"""Limit on the ids of a history in the answer: each candidate repeats those of its person."""
SURELY_INT = 1 << 53
"""Of ids without a declared type: the hash of a text is as small once in a thousand times."""


class PastId(msgspec.Struct, frozen=True, omit_defaults=True):
    """One id of a history."""

    id: int | str | msgspec.UnsetType = msgspec.UNSET  # absent: a text of which only the key is kept
    key: int | msgspec.UnsetType = msgspec.UNSET  # then
    age_s: float | None = None  # at the request; None: nobody said when


class KnownHistory(msgspec.Struct, frozen=True, omit_defaults=True):
    """A history as a score read it."""

    ids: list[PastId]  # the newest first
    more: int = 0  # older ones, which were read too


class KnownRate(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rate, a count or a sum as a score read it."""

    value: float
    of_all: float | None = None  # the mean of all ids, against which it was read


class ValueUnits(msgspec.Struct, frozen=True):
    """The units in which a value is learned: on its scale a candidate's label is expected around `centre` +
    `unit` · `logit`, with the variance `unit`² · `noise` beside that of the weights."""

    scale: str  # linear or log1p
    centre: float  # mean of all labels
    unit: float  # their deviation
    noise: float  # variance of a label around its prediction, in units


class ExplainedCandidate(msgspec.Struct, frozen=True):
    """One candidate's score and its parts.

    `logit` = `base_logit` + `gate` · (the sum of `parts`, in their order), exactly, and `corrected` is its
    logistic; without parts `corrected` is `base`. `base_logit` = (`bias` + Σ `weights`) · `share` + `deep`
    + the answer's `rate`, to the rounding of float32 and within ±16.

    Of a value all of these are in the answer's `units`, to the rounding of floats; `base` and `corrected` are
    what is expected on its original scale.
    """

    base: float
    base_logit: float
    corrected: float
    logit: float
    parts: list[Part]
    weights: dict[str, float]  # weights of the fast part, by feature, pair or count
    share: float  # factor on the fast part's logit, 0 to 1: small if it is uncertain
    deep: float  # logit of the deep part
    unknown: list[Unknown]
    filled: Features | msgspec.UnsetType = msgspec.UNSET  # attributes that the request did not say
    histories: dict[str, KnownHistory] | msgspec.UnsetType = msgspec.UNSET  # by feature, as they were read
    rates: dict[str, KnownRate] | msgspec.UnsetType = msgspec.UNSET


class ExplainAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Response of POST /v1/explain: the parts of each score, by candidate in the order of the request."""

    request_id: str
    model_version: str
    order: list[int]  # candidates by corrected probability, best first
    freshness_s: float | None  # age of the newest example in weights or memory; None: no example
    base_freshness_s: float | None  # the same for the weights alone
    memory: str  # the kind of the error memory; only `residual` has parts
    gate: float  # factor on the correction of the memory, 0 to 1
    evidence: int  # examples in the memory that are not in the weights
    bias: float  # of the fast part
    candidates: list[ExplainedCandidate]
    model: str | msgspec.UnsetType = msgspec.UNSET  # the name of the one that answered, if there are several
    # part of the running rate; left out if 0, as while the model is trusted wholly
    rate: float | msgspec.UnsetType = msgspec.UNSET
    units: ValueUnits | msgspec.UnsetType = msgspec.UNSET  # of a value


class Explanation(NamedTuple):
    """The parts of the scores of one request, from a replica."""

    candidates: list[ExplainedCandidate]
    order: list[int]
    version: str
    freshness_s: float | None
    base_freshness_s: float | None
    memory: str
    gate: float
    evidence: int
    bias: float
    model: str = ""  # the name of the one that answered, where there are several
    rate: float = 0.0
    units: ValueUnits | msgspec.UnsetType = msgspec.UNSET  # of a value


def units_of(model: Model, target: int) -> ValueUnits | msgspec.UnsetType:
    """The units of a target that is a value; absent of an event."""
    name = model.targets.names[target]
    if model.targets[name].kind != "value":
        return msgspec.UNSET
    return ValueUnits(model.targets[name].scale, *spread_of(model.fast.dense.values, target))


def candidates_of(
    model: Model, request: Requestlike, base: BaseExplained, corrected: Explained
) -> list[ExplainedCandidate]:
    """Build the explanation of each candidate from those of the model and the memory.

    Args:
        request: with its histories and rates.
    """
    names = memory_names(model)
    known = known_values(model.encoder, request)
    rows = base.scores.rows
    found = []
    for r in range(rows.n):
        entries = range(rows.start[r], rows.start[r + 1])
        parts = [
            Part(names[rows.column[e]], float(corrected.part[e]), float(corrected.evidence[e]))
            for e in entries
            if corrected.part[e] == corrected.part[e]
        ]
        f = 0.0
        for part in parts:
            f += part.logit
        z = float(corrected.z[r])
        found.append(
            ExplainedCandidate(
                base=float(base.scores.p[r]),
                base_logit=z,
                corrected=float(corrected.p[r]),
                logit=z + corrected.gate * f,
                parts=parts,
                weights=base.weights[r],
                share=float(base.share[r]),
                deep=float(base.deep[r]),
                unknown=[_unknown(name, values) for name, values in base.unknown[r].items()],
                histories=known[r].histories or msgspec.UNSET,
                rates=known[r].rates or msgspec.UNSET,
            )
        )
    return found


def with_filled(
    candidates: list[ExplainedCandidate], asked: Impression, filled: Impression
) -> list[ExplainedCandidate]:
    """The explanations with the attributes that a request lacked as it was asked; long ones shortened."""
    shared = _added(asked.context, filled.context)
    found = []
    for explained, before, after in zip(candidates, asked.candidates, filled.candidates, strict=True):
        elsewhere = names_in(explained.histories or (), explained.rates or ())
        added = {**shared, **_added(before, after)}
        added = {name: value for name, value in added.items() if name not in elsewhere}
        found.append(msgspec.structs.replace(explained, filled=added) if added else explained)
    return found


def _added(before: Features, after: Features) -> Features:
    return {name: _shortened(value) for name, value in after.items() if name not in before}


def _shortened(value: Value) -> Value:
    if isinstance(value, str) and len(value) > UNKNOWN_CHARACTERS_MAX:
        return f"{value[:UNKNOWN_CHARACTERS_MAX]}…"
    return value[:UNKNOWN_VALUES_MAX] if isinstance(value, list) else value


def _unknown(feature: str, values: list[int | float | str]) -> Unknown:
    shown = [
        f"{value[:UNKNOWN_CHARACTERS_MAX]}…"
        if isinstance(value, str) and len(value) > UNKNOWN_CHARACTERS_MAX
        else value
        for value in values[:UNKNOWN_VALUES_MAX]
    ]
    return Unknown(feature, shown, len(values) - len(shown))


class KnownValues(NamedTuple):
    """Those of one candidate, by feature."""

    histories: dict[str, KnownHistory]
    rates: dict[str, KnownRate]


def known_values(encoder: Encoder, request: Requestlike) -> list[KnownValues]:
    """The histories and rates of each candidate of a request that has them filled in."""
    names = {spec.held: _names(encoder, spec.held, request) for spec in encoder.known.values() if spec.held}
    found = []
    for candidate in request.candidates:
        values, mine = {**request.context, **candidate}, KnownValues({}, {})
        for name, spec in encoder.known.items():
            given = given_in(name, spec.kind, values)
            if isinstance(given, GivenRate) and isinstance(given.value, int | float):
                mean = given.mean if isinstance(given.mean, int | float) else None
                mine.rates[name] = KnownRate(given.value, mean)
            elif isinstance(given, GivenHistory):
                ids = encoder.specs[encoder.column_of(spec.held)].id_type
                mine.histories[name] = _history(given, spec.length, ids, request.time, names[spec.held])
        found.append(mine)
    return found


def names_in(histories: Iterable[str], rates: Iterable[str]) -> set[str]:
    """The names of the values that these features are made of."""
    told = [(name, "history") for name in histories] + [(name, "rate") for name in rates]
    return {value for name, kind in told for value in value_names(name, kind)}


def _names(encoder: Encoder, feature: str, request: Requestlike) -> dict[int, int | str]:
    """The ids of a feature that the request itself names, by their keys."""
    column = encoder.column_of(feature)
    found: dict[int, int | str] = {}
    for values in (request.context, *request.candidates):
        value = values.get(feature)
        if isinstance(value, int | str):
            found[as_signed(key_of(encoder.as_declared(column, [value])[0]))] = value
    return found


def _history(
    given: GivenHistory, length: int, ids: IdType | None, time: float, names: Mapping[int, int | str]
) -> KnownHistory:
    taken = given.ids if given.keys is None else given.keys
    assert isinstance(taken, list)  # the encoder has read it
    taken = taken[-length:]
    at = given.at[-length:] if isinstance(given.at, list) else [None] * len(taken)
    newest = [
        _past(one, given.keys is not None, ids, names, None if second is None else max(int(time) - second, 0))
        for one, second in list(zip(taken, at, strict=True))[: -HISTORY_SHOWN_MAX - 1 : -1]
    ]
    return KnownHistory(newest, len(taken) - len(newest))


def _past(
    one: int | str, is_key: bool, ids: IdType | None, names: Mapping[int, int | str], age_s: float | None
) -> PastId:
    named = names.get(one) if is_key and isinstance(one, int) else one
    if named is None and isinstance(one, int) and ids != "text" and (ids == "int" or abs(one) < SURELY_INT):
        named = one
    if named is None:
        return PastId(key=int(one), age_s=age_s)
    if isinstance(named, str) and len(named) > UNKNOWN_CHARACTERS_MAX:
        named = f"{named[:UNKNOWN_CHARACTERS_MAX]}…"
    return PastId(named, age_s=age_s)
