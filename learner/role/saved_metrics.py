"""Progressive metrics in a learner's state: a commit writes what has changed, however long the window is."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from learner.metrics import BLOCK, ROWS, Metrics
from learner.train.trainer import Learnt
from stream.records.targets import Targets
from stream.state.role_state import Commit, RoleState

_KEY = b"learner/metrics"


class SavedMetrics:
    """Metrics with their place in a state.

    Args:
        window: of the recent metrics, in examples.
        state: where to resume from; None: begin anew.
        target: the name of the target if it is not the first.
        value: whether it is a value.
    """

    def __init__(
        self, window: int, state: RoleState | None = None, target: str = "", value: bool = False
    ) -> None:
        self.metrics = Metrics(window, value)
        self._key = b"learner/target_metrics/" + target.encode() if target else _KEY
        self._blocks = self._key + b"/"  # + number: the blocks of the recent examples
        self._surplus: list[bytes] = []  # keys of a longer window's blocks
        saved = None if state is None else state.get(self._key)
        if state is None or saved is None:
            return
        head = msgspec.msgpack.decode(saved, type=dict[str, bytes])
        keys: list[bytes] = []
        if "r" in head:  # from a Freshet that saved all of them in one entry
            self.metrics.load(head)
            return
        rows = ROWS if "c" in head else ROWS - 1  # without weights, from an older Freshet
        recent = np.zeros((rows, int.from_bytes(head["w"], "little")))
        for key, block in state.scan(self._blocks):
            first = int.from_bytes(key[len(self._blocks) :], "big") * BLOCK
            recent[:, first : first + BLOCK] = np.frombuffer(block).reshape(rows, -1)
            keys.append(key)
        self.metrics.load({**head, "r": recent.tobytes()})
        if recent.shape == (ROWS, window):
            self.metrics.take_changed()  # the state has them as they are
        else:
            self._surplus = keys

    def renew(self) -> None:
        """Let the next `save` write everything, for a state that holds nothing yet."""
        self.metrics.mark_all()

    def save(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for key in self._surplus:
            commit.delete(key)
        self._surplus = []
        for number, block in self.metrics.take_changed():
            commit.put(self._blocks + number.to_bytes(4, "big"), block)
        window = self.metrics.window.to_bytes(8, "little")
        commit.put(self._key, msgspec.msgpack.encode({**self.metrics.head(), "w": window}))


class TargetMetrics:
    """Metrics by target.

    Args:
        targets: their names and kinds.
        window: of the recent metrics, in examples.
        state: where to resume from; None: begin anew.
    """

    def __init__(self, targets: Targets, window: int, state: RoleState | None = None) -> None:
        self._names = targets.names
        self._saved = [
            SavedMetrics(window, state, name if t else "", target.kind == "value")
            for t, (name, target) in enumerate(targets.items())
        ]

    @property
    def first(self) -> Metrics:
        """Those of the first target."""
        return self._saved[0].metrics

    @property
    def by_name(self) -> dict[str, Metrics]:
        """Those of each target."""
        return {name: saved.metrics for name, saved in zip(self._names, self._saved, strict=True)}

    def add(self, done: Sequence[Learnt]) -> None:
        """Score what was predicted before it was learned."""
        for group in done:
            for t in group.numbers.tolist():
                keep = group.measured & (group.target == t)
                metrics = self._saved[t].metrics
                metrics.add(group.scored[keep], group.y[keep], group.group[keep], group.weight[keep])

    def absorb(self, other: "TargetMetrics") -> None:
        """Add what another has scored, which is none of the recent examples here."""
        for mine, theirs in zip(self._saved, other._saved, strict=True):
            mine.metrics.absorb(theirs.metrics)

    def forget(self, users: npt.NDArray[np.uint64]) -> None:
        """Assign the recent examples of some users (k,) to user 0."""
        for saved in self._saved:
            saved.metrics.forget(users)

    def renew(self) -> None:
        """Let the next `save` write everything, for a state that holds nothing yet."""
        for saved in self._saved:
            saved.renew()

    def save(self, commit: Commit) -> None:
        """Write what has changed into the commit."""
        for saved in self._saved:
            saved.save(commit)
