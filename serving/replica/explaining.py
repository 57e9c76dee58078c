"""The explanation of a score: the response of POST /v1/explain, built from a replica's numbers."""

from typing import NamedTuple

import msgspec

from error_memory import Explained
from learner.model.explain import BaseExplained, memory_names
from learner.model.model import Model


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


class ExplainedCandidate(msgspec.Struct, frozen=True):
    """One candidate's score and its parts.

    `logit` = `base_logit` + `gate` · (the sum of `parts`, in their order), exactly, and `corrected` is its
    logistic; without parts `corrected` is `base`. `base_logit` = (`bias` + Σ `weights`) · `share` + `deep`,
    to the rounding of float32 and within ±16.
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


class ExplainAnswer(msgspec.Struct, frozen=True):
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


def candidates_of(model: Model, base: BaseExplained, corrected: Explained) -> list[ExplainedCandidate]:
    """Build the explanation of each candidate from those of the model and the memory."""
    names = memory_names(model)
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
            )
        )
    return found


def _unknown(feature: str, values: list[int | float | str]) -> Unknown:
    shown = [
        f"{value[:UNKNOWN_CHARACTERS_MAX]}…"
        if isinstance(value, str) and len(value) > UNKNOWN_CHARACTERS_MAX
        else value
        for value in values[:UNKNOWN_VALUES_MAX]
    ]
    return Unknown(feature, shown, len(values) - len(shown))
