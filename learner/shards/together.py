"""N shards in one process, in lockstep: what N processes compute, bit for bit."""

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Protocol, TypeVar

import msgspec
import numpy as np
import xxhash

from ground.rows import joined_offsets, ranges, rows_at, rows_joined
from learner.deep.autograd import import_beside
from learner.errors import ShardError
from learner.features.encoder import FeatureSpec
from learner.features.labelled import Labelled, joined
from learner.meta import LearnerMeta
from learner.model.forgetting import Keys, keys_by_column, pair_keys
from learner.model.model import Model
from learner.settings import TURN_REQUESTS_MAX, LearnerSettings
from learner.shards.known.asked import partner_columns
from learner.shards.owners import Ints, Owners
from learner.shards.shard import Exchange, Shard
from learner.shards.working import WorkingModel
from learner.train.trainer import Learnt, Trainer
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Forget

R = TypeVar("R")

_ROWS = 1  # of `Learnt`: after the offsets
RECLAIM_TURNS, RECLAIM_SLOTS = 16, 100_000
"""Every so many turns each table's owner looks for expired rows in so many slots."""


def lockstep(exchanges: Sequence[Exchange]) -> tuple[list[list[Learnt]], int]:
    """Run one turn of all shards, each a step at a time.

    Returns:
        What each has learned, and how many bytes went from any of them to another.
    """
    sent = [next(exchange) for exchange in exchanges]
    size = 0
    while True:
        size += sum(
            len(message) for a, messages in enumerate(sent) for b, message in enumerate(messages) if a != b
        )
        got = [[messages[rank].copy() for messages in sent] for rank in range(len(exchanges))]
        sent, ended = [], []
        for exchange, messages in zip(exchanges, got, strict=True):
            try:
                sent.append(exchange.send(messages))
            except StopIteration as end:
                ended.append(end.value)
        if ended:
            return ended, size


def in_order(parts: Sequence[Learnt], numbers: Ints) -> Learnt:
    """The requests that several shards have learned in a turn, in the order in which they came.

    Args:
        numbers: (R,), of the requests, in the order of the parts; each once, from 0 on.
    """
    offsets = joined_offsets([part.requests for part in parts])
    order = np.argsort(numbers)
    sizes = np.diff(offsets)[order]
    places = ranges(offsets[order], sizes)
    rows = rows_joined([part.rows for part in parts])
    columns = zip(*(part[_ROWS + 1 :] for part in parts), strict=True)
    return Learnt(
        np.concatenate([[0], np.cumsum(sizes)]),
        rows_at(rows, places),
        *(np.concatenate(arrays)[places] for arrays in columns),
    )


class Crew(Protocol):
    """The N shards of a learner, wherever they are."""

    @property
    def shards(self) -> int:
        """N."""

    def turn(self, shares: Sequence[Labelled | None]) -> tuple[list[list[Learnt]], int]:
        """Run one turn, with the requests of each shard.

        Returns:
            What each has learned, and how many bytes went from any of them to another.
        """

    def ask(self, what: Callable[[Shard], R]) -> list[R]:
        """The answer of each shard, between turns."""

    @property
    def mirror(self) -> Shard:
        """A shard that holds, between turns, what is equal at all shards but for the network."""

    def close(self) -> None:
        """End them."""


class Together:
    """All shards, `members`, in this process, a step at a time. Arguments are those of `Shard`."""

    def __init__(
        self,
        owners: Owners,
        features: Mapping[str, FeatureSpec],
        settings: LearnerSettings,
        targets: Targets = UNDECLARED,
    ) -> None:
        self.members = [Shard(rank, owners, features, settings, targets) for rank in range(owners.shards)]
        self.shards = owners.shards
        self.mirror = self.members[0]

    def turn(self, shares: Sequence[Labelled | None]) -> tuple[list[list[Learnt]], int]:
        """Run one turn, see `Crew`."""
        return lockstep([shard.turn(share) for shard, share in zip(self.members, shares, strict=True)])

    def ask(self, what: Callable[[Shard], R]) -> list[R]:
        """The answer of each shard."""
        return [what(shard) for shard in self.members]

    def close(self) -> None:
        """Nothing is open."""


class ShardedLearner:
    """A learner of N shards for a replay: turns of a fixed number of requests, given out by user.

    Args:
        crew: the shards.
        turn: requests of a turn, at all shards together.

    Raises:
        ShardError: one of the numbers is out of range.
    """

    def __init__(self, crew: Crew, turn: int) -> None:
        check_turn(turn)
        self.crew = crew
        self.owners = Owners(crew.shards)
        self.meta = LearnerMeta(epoch=0, makes_room=True)
        self.turn = turn
        self.turns = 0
        self.busiest = 0  # requests of the shard that had most of them, summed over all turns
        self.bytes_sent = 0  # from any shard to another
        self._waiting: list[Labelled] = []
        self._waiting_requests = 0

    @property
    def model(self) -> WorkingModel:
        """The model of one shard: its priors are those of all."""
        return self.crew.mirror.model

    @property
    def trainer(self) -> Trainer:
        """The trainer of one shard; between turns all have the same clock and counters."""
        return self.crew.mirror.trainer

    @property
    def skew(self) -> float:
        """Requests of the busiest shard of each turn, over its fair share: 1 is best, N is worst."""
        learned = self.meta.requests - self._waiting_requests
        return self.busiest * self.crew.shards / learned if learned else 1.0

    def warm(self) -> None:
        """Start importing torch in a thread if the network needs it."""
        import_beside(self.model.settings.deep)

    def learn_labelled(self, labelled: Labelled) -> list[Learnt]:
        """Predict and learn encoded examples; returns the complete turns, in the order of requests."""
        self.meta.examples += len(labelled.y)
        self.meta.requests += labelled.requests
        done = []
        first = 0
        while first < labelled.requests:
            last = min(first + self.turn - self._waiting_requests, labelled.requests)
            self._waiting.append(labelled.part(first, last))
            self._waiting_requests += last - first
            first = last
            if self._waiting_requests == self.turn:
                done.append(self._run_turn())
        return done

    def settle(self) -> list[Learnt]:
        """Nothing runs beside."""
        return []

    def finish(self) -> list[Learnt]:
        """Learn the requests of the last, shorter turn."""
        return [self._run_turn()] if self._waiting_requests else []

    def forget(self, request: Forget) -> list[Learnt]:
        """Take an entity's ids out of all owners' tables; returns the turn that this ended."""
        done = self.finish()
        keys = keys_by_column(self.model, request.entity)

        sides = partner_columns(self.model)
        needed = sides if any(side in keys for side in sides) else []
        partners = {side: self.crew.ask(methodcaller("ids", side)) for side in needed}  # of each owner
        # pairs first: both ids of one may be among those to forget
        for _, candidates in pair_keys(self.model, keys, lambda column: partners[column]):
            self._drop(len(self.model.tables) - 1, candidates)
        known = {column: np.concatenate(ids) for column, ids in partners.items()}
        self.crew.ask(methodcaller("drop_kept", keys, known))
        for column, mine in keys.items():
            self._drop(column, mine)
        self.meta.forgets += 1
        return done

    def report(self) -> dict[str, int | float]:
        """What the shards cost beside the learning, for a report."""
        learned = max(self.meta.requests - self._waiting_requests, 1)
        return {
            "shards": self.crew.shards,
            "turn": self.turn,
            "turns": self.turns,
            "busiest_over_fair_share": self.skew,
            "bytes_per_request": self.bytes_sent / learned,
        }

    def table_rows(self) -> dict[str, int]:
        """How many rows each table has, at all owners together."""
        counts = np.sum(self.crew.ask(methodcaller("row_counts")), axis=0).tolist()
        return dict(zip(self.model.table_names, counts, strict=True))

    def digest(self) -> str:
        """A hash of everything that later results depend on, but for requests that wait for their turn."""
        hasher = xxhash.xxh3_128()
        for parts in zip(*self.crew.ask(methodcaller("digests")), strict=True):
            total = sum(rows for rows, _ in parts) & ((1 << 64) - 1)
            hasher.update(total.to_bytes(8, "little"))
            for _, filter_state in parts:
                hasher.update(filter_state)
        arrays = self.crew.ask(methodcaller("arrays"))[0]
        for name in sorted(arrays):
            hasher.update(name.encode())
            hasher.update(arrays[name])
        counts = (self.meta.examples - sum(len(part.y) for part in self._waiting), self.trainer.tick)
        hasher.update(msgspec.msgpack.encode(counts))
        return hasher.hexdigest()

    def close(self) -> None:
        """End the shards."""
        self.crew.close()

    def _run_turn(self) -> Learnt:
        labelled = joined(self._waiting)
        self._waiting, self._waiting_requests = [], 0
        shares = given_out(self.model, self.owners, labelled)
        self.busiest += max(len(share) for share in shares)
        learnt, sent = self.crew.turn([_those(labelled, share) if len(share) else None for share in shares])
        self.turns += 1
        self.bytes_sent += sent
        if self.turns % RECLAIM_TURNS == 0:
            self.crew.ask(methodcaller("reclaim", RECLAIM_SLOTS))
        return in_order([one for each in learnt for one in each], np.concatenate(shares))

    def _drop(self, t: int, keys: Keys) -> None:
        self.crew.ask(methodcaller("drop", t, keys))


def check_turn(turn: int) -> None:
    """Check how many requests a turn has.

    Raises:
        ShardError: too few or too many.
    """
    if not 1 <= turn <= TURN_REQUESTS_MAX:
        raise ShardError(f"a turn has 1 to {TURN_REQUESTS_MAX:,} requests, not {turn}")


def given_out(model: Model, owners: Owners, labelled: Labelled) -> list[Ints]:
    """The numbers of the requests that each shard learns, ascending: those whose user it owns.

    Requests without a user are given out in turn.
    """
    users = model.users(labelled.batch)
    rank = np.where(users == 0, np.arange(len(users)) % owners.shards, owners.of(users))
    return [np.flatnonzero(rank == shard) for shard in range(owners.shards)]


def _those(labelled: Labelled, numbers: Ints) -> Labelled:
    kept = np.zeros(labelled.requests, dtype=np.bool_)
    kept[numbers] = True
    return labelled.where(kept)
