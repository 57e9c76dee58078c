"""Progressive metrics in a learner's state: a commit writes what has changed, however long the window is."""

import msgspec
import numpy as np

from learner.metrics import BLOCK, ROWS, Metrics
from stream.state.role_state import Commit, RoleState

KEY = b"learner/metrics"
_BLOCKS = KEY + b"/"  # + number: the blocks of the recent examples


class SavedMetrics:
    """Metrics with their place in a state.

    Args:
        window: of the recent metrics, in examples.
        state: where to resume from; None: begin anew.
    """

    def __init__(self, window: int, state: RoleState | None = None) -> None:
        self.metrics = Metrics(window)
        self._surplus: list[bytes] = []  # keys of a longer window's blocks
        saved = None if state is None else state.get(KEY)
        if state is None or saved is None:
            return
        head = msgspec.msgpack.decode(saved, type=dict[str, bytes])
        keys: list[bytes] = []
        if "r" in head:  # from a Freshet that saved all of them in one entry
            self.metrics.load(head)
            return
        rows = ROWS if "c" in head else ROWS - 1  # without weights, from an older Freshet
        recent = np.zeros((rows, int.from_bytes(head["w"], "little")))
        for key, block in state.scan(_BLOCKS):
            first = int.from_bytes(key[len(_BLOCKS) :], "big") * BLOCK
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
            commit.put(_BLOCKS + number.to_bytes(4, "big"), block)
        window = self.metrics.window.to_bytes(8, "little")
        commit.put(KEY, msgspec.msgpack.encode({**self.metrics.head(), "w": window}))
