"""One of N shards: it owns the rows of its buckets, and learns its own requests with rows on loan.

A turn has four exchanges, in each of which every shard sends one message to every other:

    1  which keys it needs, and how often it sees them
    2  the rows of these keys
    3  what it made of the rows; its priors, biases and counts; the network, a slice to each
    4  its slice of the network, added up

With histories and rates two more come first: which keepers it needs, and what is kept of them. What these
tell of the requests says which other rows they need.

The first also says what a shard wants (`Said`), which ids are forgotten before the turn, and what is news of
entities. For pairs to forget one more exchange follows, of the ids that all shards know. If no shard has a
request, a turn ends there.

After a turn all shards have the same dense weights, and each row is at its owner alone. What is added up
depends on the old state, on each shard's requests and on the order of ranks, and on nothing else.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ground.distinct import distinct
from learner.errors import ShardError
from learner.features.encoder import FeatureSpec
from learner.features.known.filling import filler_of
from learner.features.labelled import Labelled
from learner.model.forgetting import keys_by_column, pair_keys
from learner.model.model import Model
from learner.model.tables import memory_rows_of
from learner.settings import LearnerSettings
from learner.shards.adding import RowParts
from learner.shards.asking import AskedKeys, Needs, ask, needs_of, needs_of_keepers, read_ask
from learner.shards.dense import DenseState, add_dense
from learner.shards.known.asked import partner_columns
from learner.shards.known.merging import WINDOWS
from learner.shards.messages import NOTHING_SAID, Bytes, News, Said, Unpacking, packed, unpackings
from learner.shards.network import Made, SharedNetwork
from learner.shards.owners import Owners
from learner.shards.owning import OwnedTable
from learner.shards.working import WorkingModel, working_spec
from learner.train.trainer import Learnt, Trainer
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Forget

Exchange = Generator[list[Bytes], list[Bytes], "list[Learnt]"]
"""Yields a message to each shard, and is sent that of each."""

_HEAD = 5  # numbers with which the first message begins: see `_head`
_WORD_BITS = 4  # of the head's last number, above them the number of requests


class _Counters(NamedTuple):
    """What a shard tells of a turn beside its weights."""

    clock: float
    tick: float
    steps: float
    quarantined: float


class Common(NamedTuple):
    """What is equal at all shards between turns, but for the network."""

    dense: DenseState
    counters: _Counters


class _Loan(NamedTuple):
    """The keys of one table whose rows are on loan, sorted by owner."""

    keys: npt.NDArray[np.uint64]
    bounds: npt.NDArray[np.int64]  # (shards + 1,), where the keys of each owner begin


class Shard:
    """One shard of a learner, in memory.

    Args:
        rank: its number, from 0.
        owners: says which of the N shards owns a key.
        features, settings, targets: how to learn, and what; the same at all shards.
    """

    def __init__(
        self,
        rank: int,
        owners: Owners,
        features: Mapping[str, FeatureSpec],
        settings: LearnerSettings,
        targets: Targets = UNDECLARED,
    ) -> None:
        self.rank = rank
        self.owners = owners
        self.model = WorkingModel(features, settings, targets, learning=True)
        self.trainer = Trainer(self.model)
        self.network = SharedNetwork(self.model, self.trainer, rank, owners.shards)
        self.tables = [
            OwnedTable(spec, _row_parts(self.model, t), owners.shards, memory_rows)
            for t, (spec, memory_rows) in enumerate(
                zip(self.model.specs.values(), memory_rows_of(self.model.encoder, settings), strict=True)
            )
        ]
        self._kept = sorted(self.model.encoder.states)  # tables of histories and rates
        self._others = [t for t in range(len(self.tables)) if t not in self._kept]
        self.turns = 0
        self.heard: list[Said] = []  # in the last turn, of each shard
        learns = self.model.identity + self.model.learning_identity
        self._learns = xxhash.xxh3_64_intdigest(learns.encode()) >> 1

    def turn(self, labelled: Labelled | None, said: Said = NOTHING_SAID) -> Exchange:
        """Learn one turn's requests, None for none of them; returns them as predicted before that.

        Args:
            said: to the other shards; what they say is in `heard` afterwards.

        Raises:
            ShardError: a message is damaged, or comes from a shard that learns otherwise.
        """
        needs = self._needs(labelled, needs_of_keepers if self._kept else needs_of)
        said = said._replace(requests=0 if labelled is None else labelled.requests)
        tail = [said.news.packed()] if said.news else []
        head, targets = self._head(said), len(self.model.targets)
        got = yield [packed([head, ask(needs, owner), *tail]) for owner in range(self.owners.shards)]
        asked, heard = [], []
        for message in unpackings(got):
            one, has_news = self._check_head(message)
            asked.append(read_ask(message, len(self.tables), targets))
            heard.append(one._replace(news=News.read(message)) if has_news else one)
            message.end()
        self.heard = heard
        for request in [request for one in heard for request in one.news.forgets]:
            yield from self._forget(request)
        if not any(one.requests for one in heard):
            self.turns += 1
            return []
        old = DenseState.of(self.model).copy()
        loans: dict[int, _Loan] = {}
        if self._kept:
            yield from self._lend(self._kept, needs, asked, loans)
            labelled = None if labelled is None else self._with_known(labelled)
            needs = self._needs(labelled, needs_of)
            got = yield [ask(needs, owner) for owner in range(self.owners.shards)]
            asked = [read_ask(message, len(self.tables), targets) for message in unpackings(got)]
        yield from self._lend(self._others, needs, asked, loans)
        network = self.network.read()
        before = self._counters()
        learnt: list[Learnt] = []
        if labelled is not None:
            learnt = self.trainer.learn_labelled(labelled)
            learnt += self.trainer.finish()
        trained = self._counters().steps > before.steps
        got = yield self._changes(labelled, loans, trained)
        alone = yield from self.network.swap_apart(trained)
        made = self._add(old, network, before, got, alone)
        yield from self.network.add(network, made)
        self.turns += 1
        return learnt

    @property
    def common(self) -> Common:
        """What is equal at all shards between turns, but for the network."""
        counters = self._counters()
        return Common(DenseState.of(self.model), counters)

    def agree(self, common: Common) -> None:
        """Take over what is equal at all shards, in a shard that learns nothing itself."""
        common.dense.write(DenseState.of(self.model))
        said, trainer = common.counters, self.trainer
        trainer.clock, trainer.tick, trainer.quarantined = said.clock, int(said.tick), int(said.quarantined)

    def ids(self, t: int) -> npt.NDArray[np.uint64]:
        """The keys of the rows of table t that this shard owns and that exist at the clock, (n,)."""
        pages = self.tables[t].table.pages(int(self.trainer.clock))
        return np.concatenate([np.zeros(0, dtype=np.uint64), *(keys for keys, _ in pages)])

    def row_counts(self) -> list[int]:
        """How many rows of each table this shard owns."""
        return [len(owned.table) for owned in self.tables]

    def drop(self, t: int, keys: npt.NDArray[np.uint64]) -> None:
        """Forget those of the keys (n,) that this shard owns: ids of a feature, or possible pairs."""
        mine = distinct(keys[self.owners.of(keys) == self.rank])
        table = self.tables[t].table
        table.forget(
            mine if t < len(self.model.encoder.names) else mine[table.has(mine)], int(self.trainer.clock)
        )

    def _forget(self, request: Forget) -> Generator[list[Bytes], list[Bytes], None]:
        """Drop this shard's rows of an entity, and of its pairs with the ids of all shards."""
        keys = keys_by_column(self.model, request.entity)
        sides = partner_columns(self.model)
        known = {side: np.zeros(0, dtype=np.uint64) for side in sides}
        if any(side in keys for side in sides):
            mine = [self.ids(side) for side in sides]
            counts = np.array([len(ids) for ids in mine], dtype=np.int64)
            got = yield [packed([counts, *mine])] * self.owners.shards
            for message in unpackings(got):
                for side, count in zip(sides, message.take(np.int64, len(sides)).tolist(), strict=True):
                    known[side] = np.concatenate([known[side], message.take(np.uint64, count)])
                message.end()
        for _, candidates in pair_keys(self.model, keys, lambda column: [known[column]]):
            self.drop(len(self.tables) - 1, candidates)
        self.drop_kept(keys, known)
        for column, ids in keys.items():
            self.drop(column, ids)

    def drop_kept(
        self, keys: Mapping[int, npt.NDArray[np.uint64]], known: Mapping[int, npt.NDArray[np.uint64]]
    ) -> None:
        """Take ids (k,) by column out of histories and rates.

        Args:
            known: the ids of all shards, by column, of those whose ids are joined with others.
        """
        tables, model = [owned.table for owned in self.tables], self.model
        owned = filler_of(model.encoder, model.targets, tables, model.tick_s)
        if owned is not None:
            owned.forget(keys, lambda column: [known[column]], int(self.trainer.clock))

    def digests(self) -> list[tuple[int, bytes]]:
        """Of each table, a sum over the rows that this shard owns, and the state of its filter."""
        now = int(self.trainer.clock)
        return [(owned.table.digest(now), owned.table.filter.state()) for owned in self.tables]

    def common_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All that is in no table, by name, which is equal at all shards between turns."""
        model, trainer = self.model, self.trainer
        arrays = {**model.arrays(), **model.unpublished}
        return arrays | {"moments": trainer.moments, "steps": trainer.steps}

    def arrays(self) -> dict[str, bytes]:
        """The same as bytes."""
        return {name: array.tobytes() for name, array in self.common_arrays().items()}

    def reclaim(self, slots: int) -> None:
        """Expire rows among the next `slots` slots of each table, and drop the lists of changes."""
        for owned in self.tables:
            owned.table.expire(int(self.trainer.clock), slots)
            owned.table.drain_delta()
        for table in self.model.tables:
            table.drain_delta()

    def _head(self, said: Said) -> npt.NDArray[np.int64]:
        bits = said.more | said.commit << 1 | said.stop << 2 | bool(said.news) << 3
        word = said.requests << _WORD_BITS | bits
        return np.array([self.owners.shards, self.rank, self.turns, self._learns, word], dtype=np.int64)

    def _check_head(self, message: Unpacking) -> tuple[Said, bool]:
        """Check that the sender is in the same turn of the same learner; returns what it says.

        Returns:
            What it says but for its news, and whether there are any.

        Raises:
            ShardError: it is not.
        """
        shards, rank, turns, learns, word = message.take(np.int64, _HEAD).tolist()
        mine = (self.owners.shards, message.sender, self.turns, self._learns)
        names = ("the number of shards", "the rank", "the turn", "the hash of features and settings")
        for name, here, there in zip(names, mine, (shards, rank, turns, learns), strict=True):
            if here != there:
                raise ShardError(
                    f"shard {message.sender} does not fit shard {self.rank}: {name} is {there} there and "
                    f"{here} here; start all shards with one config and as many processes as it says"
                )
        more, commit, stop, news = (bool(word >> bit & 1) for bit in range(_WORD_BITS))
        return Said(word >> _WORD_BITS, more, commit, stop), news

    def _needs(self, labelled: Labelled | None, of: Callable[..., list[Needs]]) -> list[Needs]:
        if labelled is None:
            labelled = Labelled.of(self.model.encoder, [], self.model.targets)
        return of(self.model, self.owners, labelled, self._times(labelled))

    def _times(self, labelled: Labelled) -> npt.NDArray[np.float64]:
        return np.maximum.accumulate(np.maximum(labelled.batch.times, self.trainer.clock))

    def _with_known(self, labelled: Labelled) -> Labelled:
        """The requests with histories and rates, which have learned from their labels."""
        batch = self.model.learn_kept(labelled.batch, labelled.lessons, self._times(labelled))
        return labelled._replace(batch=batch)

    def _lend(
        self,
        tables: Sequence[int],
        needs: Sequence[Needs],
        asked: Sequence[Sequence[AskedKeys]],
        loans: dict[int, _Loan],
    ) -> Generator[list[Bytes], list[Bytes], None]:
        """Give out what all have asked of some tables; adds to the loans what this shard needs."""
        lent = [self.tables[t].lend([of[t] for of in asked]) for t in tables]
        got = yield [
            packed([array for answers in lent for array in answers[shard]])
            for shard in range(self.owners.shards)
        ]
        messages = list(unpackings(got))
        for t in tables:
            need = needs[t]
            width = self.model.tables[t].width
            has, rows = [], []
            for message, count in zip(messages, np.diff(need.bounds).tolist(), strict=True):
                has.append(message.take(np.bool_, count))
                rows.append(message.take(np.float32, int(np.count_nonzero(has[-1])), width))
            there = np.concatenate(has)
            keys, without = need.wanted.keys[there], need.wanted.keys[~there]
            self.model.lend(t, keys, np.concatenate(rows), without)
            loans[t] = _Loan(keys, np.cumsum([0, *(len(part) for part in rows)]))
        for message in messages:
            message.end()

    def _changes(self, labelled: Labelled | None, loans: Mapping[int, _Loan], trained: bool) -> list[Bytes]:
        """The messages with what this shard has learned."""
        targets = len(self.model.targets)
        sightings = np.zeros(targets, dtype=np.int64)
        if labelled is not None:
            lessons = labelled.lessons
            sightings += np.bincount(lessons.target[~lessons.quiet], minlength=targets)
        dense = [np.array(self._counters()), sightings, *DenseState.of(self.model)]
        messages = []
        parts = self.network.parts(trained and not self.network.apart)
        made = [table.export(loans[t].keys)[0] for t, table in enumerate(self.model.tables)]
        for owner in range(self.owners.shards):
            rows = [array[slice(*loans[t].bounds[owner : owner + 2])] for t, array in enumerate(made)]
            messages.append(packed([*dense, *parts[owner], *rows]))
        return messages

    def _add(
        self,
        old: DenseState,
        network: npt.NDArray[np.float32],
        before: _Counters,
        got: Sequence[Bytes],
        alone: Sequence[Bytes],
    ) -> list[Made]:
        """Add up the changes of all shards: rows and dense weights; returns those of the network's slice."""
        counters, sightings, states, made, rows = [], [], [], [], []
        for message in unpackings(got):
            said = _Counters(*message.take(np.float64, len(_Counters._fields)).tolist())
            counters.append(said)
            sightings.append(message.take(np.int64, len(self.model.targets)))
            states.append(old.read(message))
            steps = int(said.steps - before.steps)
            made.append(self.network.made(message, alone[message.sender], steps, network))
            rows.append(
                [
                    message.take(np.float32, table.lent_to(message.sender), table.parts.spec.width)
                    for table in self.tables
                ]
            )
            message.end()
        for t, table in enumerate(self.tables):
            table.add([of[t] for of in rows])
        add_dense(self.model, old, states, sightings)
        self.trainer.clock = max(said.clock for said in counters)
        self.trainer.tick = int(max(said.tick for said in counters))
        self.trainer.steps[0] = int(before.steps) + max(one.steps for one in made)
        more = sum(said.quarantined - before.quarantined for said in counters)
        self.trainer.quarantined = int(before.quarantined + more)
        return made

    def _counters(self) -> _Counters:
        trainer = self.trainer
        return _Counters(trainer.clock, trainer.tick, int(trainer.steps[0]), trainer.quarantined)


def _row_parts(model: Model, t: int) -> RowParts:
    """What the columns of table t mean."""
    spec = working_spec(list(model.specs.values())[t])
    fast = model.fast
    column = t if t < len(model.encoder.names) else len(model.encoder.names)
    log_keep, target = np.zeros(spec.extra), np.zeros(spec.extra, dtype=np.int64)
    at = fast.columns.weight_at.reshape(fast.targets, -1)[:, column]
    for number in range(fast.targets if spec.extra else 0):
        for k in range(fast.speeds_of(number)[column]):
            weight = slice(at[number] + 2 * k, at[number] + 2 * k + 2)
            prior = number * fast.width + fast.columns.first_tau[column] + k
            log_keep[weight], target[weight] = np.log(fast.priors.keep[prior]), number
    ring = 0
    if t in model.encoder.states:
        feature = model.encoder.known[model.encoder.features[model.encoder.feature_of[t]]]
        ring = WINDOWS if feature.kind == "rate" else feature.length
    return RowParts(spec, log_keep, target, ring)
