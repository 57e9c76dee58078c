"""The network between shards: each takes the mean of a slice of it, which all then have.

Its parts travel with everything else of an exchange. Where the network is trained on a GPU, they travel in
exchanges of their own, from GPU to GPU.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learner.model.model import Model
from learner.shards.dense import add_network
from learner.shards.messages import Bytes, NetworkMessages, Unpacking, packed, unpackings
from learner.train.trainer import Trainer

Floats32 = npt.NDArray[np.float32]
Swap = Generator[list[Bytes], list[Bytes], list[Bytes]]


class Made(NamedTuple):
    """What one shard made of this one's slice."""

    steps: int  # in this turn
    slice: Floats32  # (3, w)


class SharedNetwork:
    """One shard's end of it.

    Args:
        rank, shards: of this shard, and N.
    """

    def __init__(self, model: Model, trainer: Trainer, rank: int, shards: int) -> None:
        self._model, self._trainer, self._rank, self._shards = model, trainer, rank, shards
        self.device = model.settings.device
        self.apart = self.device != "cpu"  # exchanged by itself

    def read(self) -> Floats32:
        """The weights and both moments, (3, W), a copy."""
        return np.concatenate([self._model.deep_weights[None], self._trainer.moments])

    def write(self, network: Floats32) -> None:
        """The inverse of `read`."""
        self._model.deep_weights[:], self._trainer.moments[:] = network[0], network[1:]
        self._trainer.restored()

    def parts(self, trained: bool) -> list[list[Floats32]]:
        """The slice of each shard, if this one has trained the network: as arrays of the messages to them."""
        if not trained:
            return [[] for _ in range(self._shards)]
        now = self.read()
        return [[now[:, self._slice(owner)]] for owner in range(self._shards)]

    def swap_apart(self, trained: bool) -> Swap:
        """Send these slices by themselves, if they go so."""
        if not self.apart:
            return [np.zeros(0, dtype=np.uint8)] * self._shards
        return (yield NetworkMessages(self.device, [packed(part) for part in self.parts(trained)]))

    def made(self, message: Unpacking, alone: Bytes, steps: int, network: Floats32) -> Made:
        """What the sender of a message made of this shard's slice, in so many steps.

        Args:
            alone: what it sent by itself.
            network: (3, W) before the turn.
        """
        mine = self._slice(self._rank)
        if not steps:
            return Made(0, network[:, mine])
        if not self.apart:
            return Made(steps, message.take(np.float32, 3, mine.stop - mine.start))
        part = Unpacking(alone, message.sender)
        found = part.take(np.float32, 3, mine.stop - mine.start)
        part.end()
        return Made(steps, found)

    def add(self, network: Floats32, made: Sequence[Made]) -> Swap:
        """Add up this shard's slice of (3, W), send it to all, and take theirs."""
        mine = self._slice(self._rank)
        network[:, mine] = add_network(
            network[:, mine].copy(), [one.slice for one in made], [one.steps for one in made]
        )
        sent = [packed([network[:, mine]])] * self._shards
        got = yield NetworkMessages(self.device, sent) if self.apart else sent
        for message in unpackings(got):
            part = self._slice(message.sender)
            network[:, part] = message.take(np.float32, 3, part.stop - part.start)
            message.end()
        self.write(network)
        return got

    def _slice(self, rank: int) -> slice:
        """The part whose mean a shard takes."""
        size, shards = len(self._model.deep_weights), self._shards
        return slice(size * rank // shards, size * (rank + 1) // shards)
