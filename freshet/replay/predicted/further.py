"""What a replay predicts of further targets for all candidates of the first one, and how they turned out.

A further target is scored among the candidates for which its `of` happened. An order by several targets needs
its predictions of all candidates, though, and what became of each. So these are collected beside the replay.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from error_memory import ErrorMemory
from freshet.replay.growing import Growing
from learner.features.labelled import Labelled
from learner.model.model import Model
from learner.model.scales import joint
from serving.replica.target_scores import predict_all
from stream.records.targets import Targets
from stream.records.types import Example

Floats = npt.NDArray[np.float64]

PART_REQUESTS = 128
"""So many requests are predicted at once: the model may be that many behind, as that of a server is."""


def further_columns(targets: Targets) -> tuple[str, ...]:
    """The names of the columns of numbers that a predictions file has of further targets."""
    return tuple(f"{what}.{name}" for name in targets.names[1:] for what in ("base", "corrected", "label"))


class FurtherPredictions:
    """Joint predictions of further targets, in the order in which the first target's candidates are scored.

    Args:
        targets: two or more.
    """

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._base = {name: Growing(np.float64) for name in targets.names[1:]}
        self._corrected = {name: Growing(np.float64) for name in targets.names[1:]}

    def parts(self, labelled: Labelled) -> Iterator[Labelled]:
        """The requests in parts, each of which is predicted before it is learned."""
        for first in range(0, labelled.requests, PART_REQUESTS):
            yield labelled.part(first, min(first + PART_REQUESTS, labelled.requests))

    def add(self, labelled: Labelled, model: Model, memories: Sequence[ErrorMemory]) -> None:
        """Predict the candidates of the first target that the replay scores; changes nothing of the model."""
        mine = labelled.only(0)
        keep = np.repeat(~mine.late, np.diff(mine.batch.requests)) & ~mine.lessons.quiet
        if not keep.any() or mine.lessons.target.any():
            return
        said = predict_all(model, memories, mine.batch)
        base = joint(self._targets, {name: one.base for name, one in said.items()})
        corrected = joint(self._targets, {name: one.corrected for name, one in said.items()})
        for name in self._targets.names[1:]:
            self._base[name].add(base[name][keep])
            self._corrected[name].add(corrected[name][keep])

    def arrays(self) -> dict[str, Floats]:
        """The predictions of all candidates, by column."""
        found = {f"base.{name}": column.array() for name, column in self._base.items()}
        return found | {f"corrected.{name}": column.array() for name, column in self._corrected.items()}


class OutcomesOfTape:
    """How candidates turned out for further targets, as their newest examples say.

    It holds 16 bytes for each candidate of an example, on disk if they are many.
    """

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._keys = {name: Growing(np.uint64) for name in targets.names[1:]}
        self._labels = {name: Growing(np.float64) for name in targets.names[1:]}
        self._sorted: dict[str, tuple[npt.NDArray[np.uint64], Floats]] = {}

    def add(self, example: Example) -> None:
        """Take an example of a further target; of equal candidates the newest label counts."""
        self._keys[example.target].add(_keys_of(example))
        self._labels[example.target].add(np.array(example.labels, dtype=np.float64))

    def joint(self, example: Example) -> dict[str, Floats]:
        """Of an example of the first target, by further target, what each candidate turned out to be worth.

        Arrays (n,): 0 if the target's `of` did not happen, NaN if it did and nothing is known of the target.
        """
        keys = _keys_of(example)
        found: dict[str, Floats] = {self._targets.primary: np.array(example.labels, dtype=np.float64)}
        for name in self._targets.ordered:
            if name == self._targets.primary:
                continue
            own = self._known(name, keys)
            of = self._targets[name].of
            unknown = np.where(found[of] == 0.0, 0.0, np.nan) if of else np.full(len(keys), np.nan)
            found[name] = np.where(np.isnan(own), unknown, own)
        del found[self._targets.primary]
        return found

    def _known(self, name: str, keys: npt.NDArray[np.uint64]) -> Floats:
        """The newest label of each key, (n,); NaN: none."""
        if name not in self._sorted:
            known = self._keys[name].array()
            order = np.argsort(known, kind="stable")
            self._sorted[name] = known[order], self._labels[name].array()[order]
        known, labels = self._sorted[name]
        at = np.searchsorted(known, keys, side="right") - 1  # the last of equal keys is the newest
        if not len(known):
            return np.full(len(keys), np.nan)
        return np.where((at >= 0) & (known[at] == keys), labels[at], np.nan)


def written(
    outcomes: OutcomesOfTape, predicted: Mapping[str, Floats], example: Example, part: slice
) -> dict[str, list[float]]:
    """The values of an example's further columns, by column."""
    found = {name: array[part].tolist() for name, array in predicted.items()}
    return found | {f"label.{name}": labels.tolist() for name, labels in outcomes.joint(example).items()}


def _keys_of(example: Example) -> npt.NDArray[np.uint64]:
    """A key for each candidate, (n,), the same in the examples of all targets of one request."""
    seen: dict[bytes, int] = {}
    found = np.empty(len(example.candidates), dtype=np.uint64)
    request = example.request_id.encode()
    for i, candidate in enumerate(example.candidates):
        named = msgspec.msgpack.encode([request, sorted(candidate.items())])
        again = seen[named] = seen.get(named, -1) + 1
        found[i] = xxhash.xxh3_64_intdigest(named, seed=again)
    return found
