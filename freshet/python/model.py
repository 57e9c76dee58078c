"""`freshet.Model`: the learner's model in three lines of Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from freshet.config import load_config, parse_config
from freshet.errors import ModelError
from freshet.python.infer import ROWS_MAX, find_features
from freshet.python.labels import by_target, examples_of
from freshet.python.rows import RowReader, candidates_of, rows_of
from freshet.python.saving import (
    Front,
    Saved,
    decode,
    encode,
    pack_learner,
    read_file,
    unpack_learner,
    write_file,
)
from ground.clock import SYSTEM_CLOCK
from learner.deep.autograd import need_torch
from learner.entities.filling import fill
from learner.features.columns import declared_by
from learner.features.encoder import FeatureSpec, Request
from learner.features.labelled import Labelled
from learner.metrics import Summary
from learner.model.identity import network_text
from learner.model.scales import joint
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.records.entities.checking import checked
from stream.records.entities.record import EntityEvent
from stream.records.targets import Target

RECLAIM_REQUESTS = 20_000
RECLAIM_SLOTS = 100_000
PREDICT_REQUESTS = 4096

Features = Mapping[str, FeatureSpec | Mapping[str, object]]


class OnlineModel:
    """A model that predicts, and learns each example once, in the order in which examples come.

    It is the learner of the roles: the same examples in the same order give the same weights, bit for bit, as
    `freshet replay` or a live learner has. One thread at a time may use it.

    >>> model = OnlineModel(features={"user": {"kind": "id"}, "item": {"kind": "id"}})
    >>> rows = [{"user": "ann", "item": "tea"}, {"user": "ann", "item": "coffee"}]
    >>> for _ in range(50):
    ...     model.learn(rows, [1, 0])
    >>> (model.predict(rows) > 0.5).tolist()
    [True, False]

    Args:
        features: the schema: by name what `[features.NAME]` of a config holds. None: found in the rows of the
            first `learn`, as `freshet init` finds it in a file.
        learner: settings as of a config's section `[learner]`.
        time: the column with the event time, Unix seconds or a datetime. A request without one comes a second
            after the newest that was learned.
        request: a column; consecutive rows that have the same value there are one request, and are predicted
            before one of them is learned. None: each row is a request.
        targets: what is predicted, in order: by name what `[targets.NAME]` of a config holds. Times in them
            mean nothing here. None: one, `click`.

    Raises:
        ConfigError: a feature or setting is unknown or out of range.
        TorchMissingError: the network needs PyTorch, which is not installed.
        NetworkError: `learner.deep` names a class that cannot be used.
    """

    def __init__(
        self,
        features: Features | None = None,
        *,
        learner: LearnerSettings | Mapping[str, object] | None = None,
        time: str = "time",
        request: str | None = None,
        targets: Mapping[str, Target | Mapping[str, object]] | None = None,
    ) -> None:
        sections = {
            "features": features or {},
            "learner": {} if learner is None else learner,
            "targets": targets or {},
        }
        config = parse_config(msgspec.to_builtins(sections), "Model")
        need_torch(config.learner.deep, config.learner.device)
        self._settings = config.learner
        self._targets = config.known_targets()
        self._front = Front(time, request, inferred=features is None)
        self._learner: Learner | None = None
        if features is not None:
            self._begin(config.features)

    @classmethod
    def from_config(cls, path: str | Path) -> Self:
        """A model with the features, targets and learner settings of a config file.

        Raises:
            ConfigError: the file is missing, or a key or value is wrong.
        """
        config = load_config(path)
        return cls(config.features, learner=config.learner, targets=config.targets)

    @property
    def features(self) -> dict[str, FeatureSpec] | None:
        """The schema; None if it is to be found in the first rows."""
        return None if self._learner is None else dict(self._learner.model.features)

    @property
    def targets(self) -> dict[str, Target]:
        """What is predicted, in order, with every default filled in."""
        return dict(self._targets)

    def predict(self, requests: object, target: str = "") -> npt.NDArray[np.float64]:
        """The predictions of rows for one target, (n,), one for each candidate. Changes nothing.

        They are joint, of all candidates: of `buy` of `click` the probability of a click and then of a
        purchase; of a value what is expected.

        Args:
            requests: a list of dicts from feature to value, one for each candidate; or of dicts with
                `candidates` (a list of dicts) and `context`; or a frame of pandas or polars. Columns that are
                no features are ignored; a missing value (None, NaN) is a missing feature.
            target: its name; empty: the first.

        Raises:
            ModelError: a row cannot be used; the message names it. Or no features are known yet.
            FeatureError: a value is not of its feature's kind.
        """
        name = self._named(target)
        wanted = [name]
        while self._targets[wanted[-1]].of:
            wanted.append(self._targets[wanted[-1]].of)
        said = self._predict(requests, wanted)
        return np.prod([said[one] for one in wanted], axis=0)

    def predict_targets(self, requests: object) -> dict[str, npt.NDArray[np.float64]]:
        """The predictions of rows for each target, by name (n,) as of `predict`, which raises the same."""
        return joint(self._targets, self._predict(requests, self._targets.names))

    def _predict(self, requests: object, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """The predictions for some targets, given that their `of` happens."""
        learner = self._known()
        read = self._reader().read(requests, lambda: learner.trainer.clock)
        read = list(fill(learner.model.entities, read))
        learner.model.resting.relieve()
        model = learner.model
        numbers = [self._targets.names.index(name) for name in names]
        parts: list[list[npt.NDArray[np.float64]]] = [[np.zeros(0)] for _ in names]
        for first in range(0, len(read), PREDICT_REQUESTS):
            batch = model.encoder.encode(read[first : first + PREDICT_REQUESTS], shared=True)
            for part, number in zip(parts, numbers, strict=True):
                part.append(model.predict(batch, number).p)
        return {name: np.concatenate(part) for name, part in zip(names, parts, strict=True)}

    def learn(
        self,
        requests: object,
        labels: object,
        target: str = "",
        *,
        before: object = None,
        weight: object = None,
    ) -> None:
        """Learn rows in their order.

        Args:
            requests: as for `predict`, in the order of time.
            labels: 0 or 1 for each candidate, (n,), of a value a number of at least 0; or for each request a
                list of them. By target (a dict or frame): those of the first target and of further ones,
                which are learned where their `of` happened and their label is not None.
            target: the target of labels that came later, of rows for which its `of` happened; empty: the
                first.
            before: labels as they were learned before, (n,), which these correct; None: these are the first.
            weight: how much each candidate counts, (n,); with 0 it is predicted only. None: 1.

        Raises:
            ModelError: a row or label cannot be used; nothing of the call was learned.
            FeatureError: a value is not of its feature's kind; nothing of the call was learned.
        """
        if self._learner is None:
            self._infer(requests, labels)
        learner = self._known()
        clock = learner.trainer.clock

        def later() -> float:
            nonlocal clock
            clock += 1.0
            return clock

        read = list(fill(learner.model.entities, self._reader().read(requests, later), see=True))
        name = self._named(target) if target else ""
        examples = examples_of(read, labels, self._targets, name, before, weight)
        if examples:
            learner.learn_labelled(Labelled.of(learner.model.encoder, examples, self._targets))
        if learner.meta.requests - self._front.reclaimed >= RECLAIM_REQUESTS:
            self._front.reclaimed = learner.meta.requests
            for table in learner.model.tables:
                table.expire(int(learner.trainer.clock), RECLAIM_SLOTS)
                table.drain_delta()

    def tell(self, feature: str, entity: int | str, values: Mapping[str, object], time: float = 0.0) -> None:
        """Say what is true of an item or a person from a time on, so that rows need not have it.

        Args:
            feature: whose id `entity` is; its attributes are declared with `of`.
            values: by attribute; None takes one away, those that are not named stay.
            time: event time, Unix seconds; 0: it was always true.

        Raises:
            RecordError, FeatureError: a value is not one of its attribute; nothing has changed.
            ModelError: no features are known yet.
        """
        learner = self._known()
        said = {"feature": feature, "id": entity, "time": float(time), "set": dict(values)}
        try:
            event = msgspec.convert(said | {"type": "entity"}, EntityEvent)
        except msgspec.ValidationError as error:
            raise ModelError(f"entity {feature} {entity!r}: {error}") from None
        event = checked(event, declared_by(learner.model.features))
        learner.model.entities.tell(event)

    def warm(
        self,
        vectors: Mapping[str, str | Path] | None = None,
        network: str | Path | None = None,
        time: float | None = None,
    ) -> list[str]:
        """Begin with vectors and weights in files; returns a line for each, which says what matched.

        Args:
            vectors: by feature the file of its ids' vectors: Parquet, "FILE.npy,IDS", or
                "CHECKPOINT#TENSOR,IDS".
            network: a file with the network's weights: a state_dict of torch, or .npz.
            time: event time at which the ids count as last seen, Unix seconds; None: now.

        Raises:
            WarmError: a file cannot be read or does not fit; what came before it is kept.
            ModelError: the model has learned already, or no features are known yet.
        """
        from freshet.warm.filling import warm  # it imports pyarrow

        learner = self._known()
        if learner.meta.examples:
            raise ModelError(f"the model has learned {learner.meta.examples:,} rows already; warm a new one")
        files = {name: str(file) for name, file in (vectors or {}).items()}
        at = SYSTEM_CLOCK.unix_s() if time is None else time
        done = warm(learner, files.items(), None if network is None else str(network), at, Path())
        return [str(line) for line in done]

    def metrics(self, target: str = "") -> Summary:
        """How good the predictions were, each made before its label was learned: AUC, log loss and more; of a
        value its errors. Those of a target with `of` are of the candidates for which that happened.

        The last rows, which wait until their group of the deep part is full, are not in it yet.

        Raises:
            ModelError: nothing was learned yet, or there is no such target.
        """
        return self._known().saved_metrics.by_name[self._named(target)].summary()

    def state_hash(self) -> str:
        """A hash of everything that later results depend on, as in the report of `freshet replay`.

        Raises:
            ModelError: no features are known yet.
        """
        return self._known().digest()

    def save(self, path: str | Path) -> None:
        """Write the model into one file, at once. It is in memory about twice meanwhile.

        Raises:
            ModelError: the file cannot be written.
        """
        write_file(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model of a file; it continues as if it had never stopped.

        Raises:
            ModelError: there is no such file, it holds no model, or it is damaged.
        """
        return cls._from(decode(read_file(Path(path)), str(path)))

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        return encode(
            Saved(
                features=self.features,
                learner=self._settings,
                front=self._front,
                entries={} if self._learner is None else pack_learner(self._learner),
                targets=dict(self._targets) if self._targets.declared else {},
                network=""
                if self.features is None
                else network_text(self.features, self._settings, self._targets),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The model of `to_bytes`.

        Raises:
            ModelError: the bytes hold no model, or are damaged.
        """
        return cls._from(decode(data, "bytes"))

    def __getstate__(self) -> dict[str, bytes]:
        return {"bytes": self.to_bytes()}

    def __setstate__(self, state: dict[str, bytes]) -> None:
        self.__dict__.update(self.from_bytes(state["bytes"]).__dict__)

    def __repr__(self) -> str:
        names = "not known yet" if self.features is None else ", ".join(self.features)
        examples = 0 if self._learner is None else self._learner.meta.examples
        return f"freshet.Model(features: {names}; {examples:,} rows learned)"

    @classmethod
    def _from(cls, saved: Saved) -> Self:
        model = cls(None, learner=saved.learner, targets=saved.targets)
        model._front = saved.front
        if saved.features is not None:
            model._learner = unpack_learner(saved, saved.features)
        return model

    def _begin(self, features: Mapping[str, FeatureSpec]) -> None:
        self._learner = Learner(features, self._settings, None, self._targets)

    def _known(self) -> Learner:
        if self._learner is None:
            raise ModelError(
                "no features are known yet: learn rows first, or declare them: "
                'Model(features={"NAME": {"kind": "id"}})'
            )
        return self._learner

    def _named(self, target: str) -> str:
        """The name of a target; that of the first if it is empty.

        Raises:
            ModelError: there is none of that name.
        """
        if target and target not in self._targets:
            raise ModelError(f"{target!r} is no target; declared: {', '.join(self._targets)}")
        return target or self._targets.primary

    def _reader(self) -> RowReader:
        front = self._front
        return RowReader(self._known().model.features, front.time, front.request, whole_ids=front.inferred)

    def _infer(self, requests: object, labels: object) -> None:
        """Find the features of the first rows."""
        rows = rows_of(requests).rows
        if any("candidates" in row for row in rows):
            rows = [cells for row in rows for cells in candidates_of(row)]
        named = by_target(labels)
        first = labels if named is None else named.get(self._targets.primary)
        wanted = examples_of([Request(0.0, {}, [{} for _ in rows])], first, self._targets)
        flat = wanted[0].labels if wanted else []
        if self._targets[""].kind == "value":
            flat = [float(label > np.mean(flat)) for label in flat]
        time, request = self._front.time, self._front.request
        found = dict(find_features(rows[:ROWS_MAX], flat, frozenset({time, str(request)})))
        if any(time in row for row in rows[:1]) and "hour" not in found:
            found["hour"] = FeatureSpec(kind="hour")
        self._begin(found)
