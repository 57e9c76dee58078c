"""How a score came about: the body of POST /v1/explain, and how a replica's numbers become it."""

from typing import NamedTuple

import msgspec

from error_memory import Explained
from learner.model.explain import BaseExplained, memory_names
from learner.model.model import Model


class Part(msgspec.Struct, frozen=True):
    """What the error memory's evidence on one key says of a candidate."""

    of: str  # a feature, a pair `a*b`, a feature's count; `a lately`: at its second speed
    logit: float  # before the gate
    evidence: float  # Σ x² p (1 - p) of the examples it stands on: a fair click counts a quarter


UNKNOWN_VALUES_MAX = 5
UNKNOWN_CHARACTERS_MAX = 64
"""Of unknown ids what is repeated for each candidate: a long list in the context would come with each one."""


class Unknown(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ids of a feature that the model has no row for: it answered by its default."""

    feature: str
    values: list[int | float | str]  # empty: a value that the request does not say, as the hour
    more: int = 0  # further ones, which are left out


class ExplainedCandidate(msgspec.Struct, frozen=True):
    """One candidate's score, taken apart.

    `logit` = `base_logit` + `gate` · (the sum of `parts`, in their order), exactly, and `corrected` is its
    logistic; without parts `corrected` is `base`. `base_logit` = (`bias` + Σ `weights`) · `share` + `deep`,
    to the rounding of float32 and within ±16.
    """

    base: float
    base_logit: float
    corrected: float
    logit: float
    parts: list[Part]
    weights: dict[str, float]  # of the fast part, by feature, pair or count
    share: float  # what the fast part's own doubt leaves of its logit, 0 to 1
    deep: float  # what the deep part adds
    unknown: list[Unknown]


class ExplainAnswer(msgspec.Struct, frozen=True):
    """Answer of POST /v1/explain: per candidate, in the order of the request, how its score came about."""

    request_id: str
    model_version: str
    order: list[int]  # candidates by corrected probability, best first
    freshness_s: float | None  # now - ingest time of the newest example in what answers; None: nothing learnt
    base_freshness_s: float | None  # the same for the weights alone
    memory: str  # the kind of the error memory; only `residual` has parts
    gate: float  # share of its correction that is applied, 0 to 1
    evidence: int  # examples it stands on, which the weights have not learnt
    bias: float  # of the fast part
    candidates: list[ExplainedCandidate]


class Taken(NamedTuple):
    """A score taken apart by a replica."""

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
    """Each of n candidates, from what the model and the memory said."""
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
