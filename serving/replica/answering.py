"""Scores from the current model and error memory, under one lock.

`serving.replica.replica` updates both from the log; this module only reads them.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from error_memory import ErrorMemory, MemorySettings
from ground.clock import SYSTEM_CLOCK, Clock
from ground.kernels.logistic import logits, sigmoids
from learner.deep.own.network import OwnNetwork
from learner.features.encoder import Batch, Encoder, Request, Requestlike
from learner.memories import expected, memories_of
from learner.model.explain import explain, read
from learner.model.explore import beliefs_of, draw, known_weights, seeds_of, slate_of
from learner.model.model import Model
from learner.model.scales import joint
from learner.model.trust import blend
from serving.replica.coverage import CoverageCounts
from serving.replica.explaining import Explanation, candidates_of, units_of
from serving.replica.ranking import Ranking, numbers_in
from serving.replica.status import NetworkStatus, Scored
from serving.replica.target_scores import Floats, answered, predict_all, predict_one
from stream.records.targets import Targets
from stream.records.types import Impression, ServedTarget

DRAWN_MAX = 1 << 20
"""Limit of candidates times draws of one order. Each takes 24 bytes and about 0.6 µs."""

P_MIN = 1e-12
"""Probabilities are clipped to P_MIN and 1 - P_MIN before the logit."""


class LiveModel:
    """Scores requests. Hold `lock` to change the model, the memory or their ingest times.

    Args:
        model: the initial model; a snapshot may replace it.
        settings: the error memory's.
        clock: gives the time by which ages are measured.
    """

    def __init__(self, model: Model, settings: MemorySettings, clock: Clock = SYSTEM_CLOCK) -> None:
        # Requests acquire it in the event loop, so hold it only briefly.
        self.lock = threading.Lock()
        self.model = model
        self.base_ingest_ms = 0  # of the newest example in the weights, Unix ms; 0: none
        self.memory_ingest_ms = 0  # of the newest example in the memory
        self.held = False  # the learner learns nothing since it went back, and so does the memory
        self.coverage = CoverageCounts(model.encoder)
        self._settings = settings
        self._clock = clock
        self.memories = self.new_memories()
        # What a score needs of `filled`: the request by which it is asked for next.
        self._encoded: tuple[Requestlike, Encoder, Batch] | None = None

    def new_memories(self) -> list[ErrorMemory]:
        """A new, empty error memory for each target."""
        return memories_of(self._settings, self.model)

    def hold(self, held: bool) -> None:
        """Whether nothing is learned. Call with `lock` held."""
        if held and not self.held:
            self.memories = self.new_memories()  # what they hold is what the model went back from
        self.held = held

    @property
    def memory(self) -> ErrorMemory:
        """The error memory of the first target."""
        return self.memories[0]

    @property
    def freshness_s(self) -> float | None:
        """Age of the newest example in the weights or the memory; None: no example yet."""
        return self._age_s(max(self.base_ingest_ms, self.memory_ingest_ms))

    @property
    def base_freshness_s(self) -> float | None:
        """Age of the newest example in the weights; None: no example yet."""
        return self._age_s(self.base_ingest_ms)

    def filled(self, request: Impression) -> Impression:
        """A request with the histories and rates that it lacks."""
        if self.model.filler is None:
            return request
        batch = self.model.encoder.encode([request], shared=True)
        with self.lock:
            batch, told = self.model.filler.fill_and_tell(batch)
        context, candidates = told[0].put_into(request.context, request.candidates)
        filled = msgspec.structs.replace(request, context=context, candidates=candidates)
        self._encoded = filled, self.model.encoder, batch
        return filled

    def _encode(self, requests: Sequence[Requestlike]) -> Batch:
        """Requests as a batch; the newest that `filled` has made need not be encoded again.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        encoder = self.model.encoder
        if self._encoded is not None and len(requests) == 1:
            request, by, batch = self._encoded
            if request is requests[0] and by is encoder:
                return batch
        return encoder.encode(requests, shared=True)

    def score(
        self, requests: Sequence[Requestlike], ranking: Ranking | None = None, batch: Batch | None = None
    ) -> list[Scored]:
        """Score each request, base and corrected. Changes only the coverage counts.

        Args:
            ranking: says the order; None: that of the first target.
            batch: the requests, if they are encoded already.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
            RankError: a candidate lacks a number of the ranking.
        """
        batch = batch or self._encode(requests)
        numbers = [numbers_in(request, ranking.numbers if ranking else ()) for request in requests]
        with self.lock:
            targets = self.model.targets
            said = predict_all(self.model, self.memories, batch)
            version = self.model.version
            freshness_s = self.freshness_s
        primary = said[targets.primary]
        coverage = self.coverage.count(primary.predicted.inputs)
        answers = []
        for i, (first, end) in enumerate(itertools.pairwise(batch.requests.tolist())):
            mine = primary.corrected[first:end]
            if ranking is not None:
                given = {name: one.corrected[first:end] for name, one in said.items()}
                mine = ranking({**joint(targets, given), **numbers[i]})
            scored = Scored(
                base=primary.base[first:end].tolist(),
                corrected=primary.corrected[first:end].tolist(),
                order=np.argsort(-mine, kind="stable").tolist(),
                version=version,
                freshness_s=freshness_s,
                coverage=coverage.part(first, end),
            )
            if len(targets) > 1:
                all_of_them, further = answered(targets, said, first, end)
                scored = scored._replace(targets=all_of_them, further=further)
            answers.append(scored)
        return answers

    def predictions(self, batch: Batch) -> ServedTarget:
        """What `score` would say of the first target for an encoded batch. Nothing is counted."""
        with self.lock:
            said = predict_one(self.model, self.memories, batch, 0)
        return ServedTarget(said.base.tolist(), said.corrected.tolist())

    def rank_values(self, request: Requestlike, ranking: Ranking | None = None) -> Floats:
        """The numbers by which `score` orders the candidates, (n,); without a ranking on the scale of logits.

        Raises:
            FeatureError, RankError: as `score`.
        """
        batch = self._encode([request])
        numbers = numbers_in(request, ranking.numbers if ranking else ())
        with self.lock:
            targets = self.model.targets
            if ranking is None:
                primary = predict_one(self.model, self.memories, batch, 0).corrected
                value = bool(self.model.scales.is_value[0])
                return primary if value else logits(primary, P_MIN)
            said = predict_all(self.model, self.memories, batch)
        given: dict[str, Floats] = {name: one.corrected for name, one in said.items()}
        return np.broadcast_to(ranking({**joint(targets, given), **numbers}), len(request.candidates))

    def explore(
        self,
        request: Requestlike,
        seed: int,
        draws: int,
        ranking: Ranking | None = None,
        batch: Batch | None = None,
    ) -> Scored:
        """Score one request as `score` does, but draw the order by Thompson sampling.

        The base is sampled, and the error memory's correction is added to it. The same seed, weights and
        memory give the same order. A value's means are sampled, and ordered by what is expected of them.

        Args:
            draws: sampled orders for the propensities, see `learner.model.explore.sample_slate`; fewer
                if there are many candidates, see `draws_for`.
            ranking: as for `score`; each of its targets is sampled.
            batch: the request, if it is encoded already.

        Raises:
            FeatureError, RankError: as `score`.
        """
        batch = batch or self._encode([request])
        numbers = numbers_in(request, ranking.numbers if ranking else ())
        draws = draws_for(len(request.candidates), draws)
        with self.lock:
            model = self.model
            targets = model.targets
            said = predict_all(model, self.memories, batch)
            drawn_of = set(_with_their_of(targets, ranking.targets if ranking else (targets.primary,)))
            beliefs = {
                name: beliefs_of(model, batch, said[name].predicted, t)
                for t, name in enumerate(targets)
                if name in drawn_of
            }
            values = model.fast.dense.values.copy()
            version = model.version
            freshness_s = self.freshness_s
        # by far the longest part, so it runs without the lock
        seeds = seeds_of(seed, draws + 1)
        given: dict[str, Floats] = {name: one.corrected for name, one in said.items()}
        for name, belief in beliefs.items():
            mine, t = said[name], targets.names.index(name)
            drawn = blend(draw(belief, seeds), *belief.trust)
            if targets[name].kind == "value":
                outputs = known_weights(mine.predicted.outputs)
                given[name] = model.scales.expected(drawn + mine.z - mine.predicted.z, outputs, t, values)
            else:
                given[name] = drawn + logits(mine.corrected, P_MIN) - logits(mine.base, P_MIN)
        if ranking is None:
            drawn = given[targets.primary]
        else:
            events = [name for name in beliefs if targets[name].kind == "event"]
            given |= {name: sigmoids(given[name]) for name in events}
            drawn = ranking({**joint(targets, given), **numbers})
        slate = slate_of(np.broadcast_to(drawn, (draws + 1, len(request.candidates))))
        primary = said[targets.primary]
        scored = Scored(
            base=primary.base.tolist(),
            corrected=primary.corrected.tolist(),
            order=slate.order,
            version=version,
            freshness_s=freshness_s,
            propensity=slate.propensity,
            coverage=self.coverage.count(primary.predicted.inputs),
        )
        if len(targets) > 1:
            all_of_them, further = answered(targets, said, 0, len(request.candidates))
            scored = scored._replace(targets=all_of_them, further=further)
        return scored

    def explain(self, request: Requestlike, target: int = 0) -> Explanation:
        """Score one request as `score` does and break the scores of one target down, given that its `of`
        happens. Changes nothing.

        Args:
            target: the number of the target.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
        """
        batch = self.model.encoder.encode([request])
        with self.lock:
            model = self.model
            memory = self.memories[target]
            batch, known = _with_known(model, request, batch)
            reading = read(model, batch, target)
            value = bool(model.scales.is_value[target])
            said = reading.scores.z if value else reading.scores.p
            corrected = memory.explain(reading.scores.rows, said)
            if value:
                p = expected(model, target, corrected.p, reading.predicted)
                corrected = corrected._replace(p=p)
            version, evidence, units = model.version, memory.evidence, units_of(model, target)
            freshness_s, base_freshness_s = self.freshness_s, self.base_freshness_s
        # most of the time is spent here, without the lock
        base = explain(model, request, batch, reading)
        return Explanation(
            candidates=candidates_of(model, known, base, corrected),
            order=np.argsort(-corrected.p, kind="stable").tolist(),
            version=version,
            freshness_s=freshness_s,
            base_freshness_s=base_freshness_s,
            memory=self._settings.kind,
            gate=corrected.gate,
            evidence=evidence,
            bias=base.bias,
            rate=base.rate,
            units=units,
        )

    def _age_s(self, ingest_ms: int) -> float | None:
        return max(self._clock.unix_s() - ingest_ms / 1e3, 0.0) if ingest_ms else None


def draws_for(candidates: int, wanted: int) -> int:
    """The number of draws for an order of so many candidates: `wanted`, limited by `DRAWN_MAX`.

    >>> draws_for(50, 127), draws_for(2_000, 10_000)
    (127, 524)
    """
    return max(1, min(wanted, DRAWN_MAX // max(candidates, 1)))


def _with_known(model: Model, request: Requestlike, batch: Batch) -> tuple[Batch, Request]:
    """A request, encoded as `batch`, with the histories and rates that it lacks."""
    context, candidates = request.context, request.candidates
    if model.filler is not None:
        batch, told = model.filler.fill_and_tell(batch)
        context, candidates = told[0].put_into(context, candidates)
    return batch, Request(request.time, context, candidates)


def _with_their_of(targets: Targets, names: Sequence[str]) -> Iterator[str]:
    """The names, and those of the targets that they are of."""
    for name in names:
        while name:
            yield name
            name = targets[name].of


def network_status(model: Model) -> NetworkStatus | msgspec.UnsetType:
    """The status of a model's own network; absent if it is built in."""
    network = model.network
    if not isinstance(network, OwnNetwork):
        return msgspec.UNSET
    troubles = network.troubles
    return NetworkStatus(network.name, network.version, troubles.count, troubles.last)
