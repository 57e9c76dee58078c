"""Several models in one server: each request is answered by one of them, and all of them predict it.

Which one answers follows from a hash of an entity and the shares (`serving.models.routing`). The shares are
those of the newest order in topic `models`, or of the config. The predictions of all models go into the log
with the impression, before its labels are known, so they can be compared on the same requests.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock
from ground.errors import FreshetError
from ground.threads import HelperThread
from learner.features.encoder import Batch, Encoder
from learner.features.spec import FeatureSpec
from serving.errors import UnavailableError
from serving.models.duel import DuelWatch
from serving.models.looking import keep_looking
from serving.models.routing import model_for
from serving.replica.answering import LiveModel
from serving.replica.explaining import Explanation
from serving.replica.ranking import Ranking
from serving.replica.replica import IDLE_S, Replica
from serving.replica.status import HeldModel, ModelStatus, Scored
from stream.log.base import Log
from stream.orders.orders import OrderReader, Traffic
from stream.records.entities.record import EntityEvent
from stream.records.targets import Targets
from stream.records.types import Impression, ServedTarget

LOOK_EVERY_S = 0.2
FROM_CONFIG = -1

logger = logging.getLogger("freshet.serving")


class ModelShares(NamedTuple):
    """Which share of the entities each model answers; replaced as a whole."""

    shares: Mapping[str, float]
    order: int  # offset in topic `models`; FROM_CONFIG: there is no order


class HeldModels:
    """A `Scorer` that holds several models. Its threads run inside a `with`.

    Args:
        log: with topic `models`.
        replicas: by the model's name.
        shares: of the config, for a log without an order.
        by: the feature of the context whose value decides who answers; a request without it goes by its id.
    """

    def __init__(
        self,
        log: Log,
        replicas: Mapping[str, Replica],
        shares: Mapping[str, float],
        by: str,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.replicas = dict(replicas)
        self._encodes_as = _first_alike({name: one.model.encoder for name, one in replicas.items()})
        self._by = by
        self._clock = clock
        self._orders = OrderReader(log)
        self._shares = ModelShares(dict(shares), FROM_CONFIG)
        self._next: ModelShares | None = None  # ordered, but a model that is to answer is not ready yet
        self._read = False  # the topic, once
        self._lock = threading.Lock()
        self._answered: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._duels = DuelWatch(log, by)
        self._begin_duels()
        self._thread = HelperThread("models", self._run, clock=clock)

    # --- scores ---

    @property
    def features(self) -> Mapping[str, FeatureSpec]:
        """The features that any of the models has."""
        found: dict[str, FeatureSpec] = {}
        for replica in self.replicas.values():
            found = {**replica.features, **found}
        return found

    @property
    def targets(self) -> Targets:
        """What is predicted, by all of them."""
        return next(iter(self.replicas.values())).targets

    def check_types(self, request: Impression) -> None:
        """Check a request's ids against the declared types of the features of all models.

        Raises:
            FeatureError: an id is not of its feature's declared type.
        """
        for replica in self.replicas.values():
            replica.check_types(request)

    def check_entity(self, event: EntityEvent) -> None:
        """Check what is told of an entity against the schemas of all models.

        Raises:
            FeatureError: its feature has no attributes, or a value is not of its attribute's kind.
        """
        having = [r for r in self.replicas.values() if event.feature in r.model.entities.owners]
        for replica in having or self.replicas.values():
            replica.check_entity(event)

    @property
    def attributes(self) -> list[str]:
        """The values that `filled` adds for any of the models, sorted by name."""
        return sorted({name for replica in self.replicas.values() for name in replica.attributes})

    def filled(self, request: Impression) -> Impression:
        """A request with the attributes of its entities that it lacks, of all models, as of its time."""
        for replica in self.replicas.values():
            request = replica.filled(request)
        return request

    @property
    def by_name(self) -> Mapping[str, Replica]:
        """The models, for requests that name one."""
        return self.replicas

    def score(self, requests: Sequence[Impression], ranking: Ranking | None = None) -> list[Scored]:
        """Score each request by the model that answers it, and note what all models predict.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
            UnavailableError: the model that answers is still loading.
        """
        return [
            self._answer(one, lambda live, r, batch: live.score([r], ranking, batch)[0]) for one in requests
        ]

    def explore(self, request: Impression, seed: int, draws: int, ranking: Ranking | None = None) -> Scored:
        """Score one request and draw its order by Thompson sampling; raises as `score` does."""
        return self._answer(request, lambda live, r, batch: live.explore(r, seed, draws, ranking, batch))

    def explain(self, request: Impression, target: int = 0) -> Explanation:
        """Break the scores of the model that answers down; raises as `score` does."""
        name = self._who(request)
        return self.replicas[name].explain(request, target)._replace(model=name)

    def _who(self, request: Impression) -> str:
        if not self._read:
            raise UnavailableError("the server does not know yet which model answers; try again in a moment")
        entity = request.context.get(self._by)
        return model_for(self._shares.shares, request.request_id if entity is None else str(entity))

    def _answer(self, request: Impression, ask: Callable[[LiveModel, Impression, Batch], Scored]) -> Scored:
        name = self._who(request)  # once: the whole answer is of this model
        live = self.replicas[name].loaded_live()
        batches = {self._encodes_as[name]: live.model.encoder.encode([request], shared=True)}
        scored = ask(live, request, batches[self._encodes_as[name]])
        models = {name: ServedTarget(scored.base, scored.corrected)}
        failed = []
        for other, replica in self.replicas.items():
            if other == name:
                continue
            try:
                shadow, kind = replica.loaded_live(), self._encodes_as[other]
                if kind not in batches:
                    batches[kind] = shadow.model.encoder.encode([request], shared=True)
                models[other] = shadow.predictions(batches[kind])
            except FreshetError:  # of no concern to whoever asked: another model answers
                failed.append(other)
        with self._lock:
            self._answered[name] += 1
            self._failed.update(failed)
        return scored._replace(model=name, models=models)

    # --- status ---

    @property
    def leading(self) -> str:
        """The model with the largest share; of equal ones, the first in the config."""
        shares = self._shares.shares
        return max(self.replicas, key=lambda name: shares.get(name, 0.0))

    def status(self) -> ModelStatus:
        """The state of the model with the largest share, and in short that of each."""
        shares, order = self._shares
        leading = self.leading
        statuses = {name: replica.status() for name, replica in self.replicas.items()}
        with self._lock:
            answered, failed = dict(self._answered), dict(self._failed)
        why_not = self.unready()
        duels = self._duels.statuses()
        return msgspec.structs.replace(
            statuses[leading],
            ready=not why_not,
            why_not_ready=why_not,
            models={
                name: HeldModel(
                    share=shares.get(name, 0.0),
                    ready=status.ready,
                    why_not_ready=status.why_not_ready,
                    version=status.version,
                    freshness_s=status.freshness_s,
                    examples_learnt=status.examples_learnt,
                    answered=answered.get(name, 0),
                    failed=failed.get(name, 0),
                    base=status.base,
                    corrected=status.corrected,
                    held=status.held,
                    guard=status.guard,
                    duel=duels.get(name),
                )
                for name, status in statuses.items()
            },
            shares_from=order,
        )

    def unready(self) -> str:
        """Why the server cannot take requests now; "" if it can: models that answer nobody may be loading."""
        if self.failure is not None:
            return f"the server has stopped following the log: {self.failure}"
        if not self._read:
            return "the server does not know yet which model answers"
        for name, share in self._shares.shares.items():
            if share > 0.0 and (why_not := self.replicas[name].unready()):
                return f"model {name}: {why_not}"
        return ""

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the server can take requests; False after a timeout or a failure."""
        deadline = self._clock.now_s() + timeout_s
        while self.unready():
            if self.failure is not None or self._clock.now_s() > deadline:
                return False
            self._clock.sleep(IDLE_S)
        return True

    # --- threads ---

    def __enter__(self) -> Self:
        for replica in self.replicas.values():
            replica.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.stop()
        for replica in self.replicas.values():
            replica.__exit__(kind, error, trace)

    @property
    def failure(self) -> BaseException | None:
        """The error that ended a thread; None: they run."""
        failures = [self._thread.failure, *(replica.failure for replica in self.replicas.values())]
        return next((failure for failure in failures if failure is not None), None)

    def check(self) -> None:
        """Raise the error that ended a thread, if there is one."""
        if self.failure is not None:
            raise self.failure

    def _run(self, stop: threading.Event) -> None:
        keep_looking(self.look, LOOK_EVERY_S, stop, self._clock, "cannot read which model answers")

    def look(self) -> None:
        """Read new orders, and follow the newest one once the models that it names are ready; then examples.

        Raises:
            LogError: the log fails.
        """
        self._follow_orders()
        self._duels.look()

    def _begin_duels(self) -> None:
        first = self.leading
        others = [name for name in self.replicas if name != first]
        # log losses are those of probabilities
        self._duels.begin(first, others if self.targets[""].kind == "event" else [])

    def _follow_orders(self) -> None:
        for placed in self._orders.read():
            if not isinstance(placed.order, Traffic):
                continue
            unknown = sorted(name for name in placed.order.shares if name not in self.replicas)
            if unknown:
                logger.warning(
                    "order %d names models that this server does not hold (%s): the shares stay as they are",
                    placed.offset,
                    ", ".join(unknown),
                )
                continue
            self._next = ModelShares(placed.order.shares, placed.offset)
        ordered = self._next
        if ordered is None:
            self._read = True
            return
        answering = [name for name, share in ordered.shares.items() if share > 0.0]
        # at the start nobody has been answered yet, so there is nobody to go on answering
        if self._read and any(self.replicas[name].unready() for name in answering):
            return
        self._shares, self._next, self._read = ordered, None, True
        self._begin_duels()
        logger.info("model shares by order %d: %s", ordered.order, dict(ordered.shares))


def _first_alike(encoders: Mapping[str, Encoder]) -> dict[str, str]:
    """For each name the first one whose encoder makes the same batches: a request is encoded once for all."""
    return {
        name: next(other for other, known in encoders.items() if encoder.encodes_as(known))
        for name, encoder in encoders.items()
    }
