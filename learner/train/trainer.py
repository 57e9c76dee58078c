"""Test, then train: the part of the learner that trains the model, without logs and disks.

The fast part learns each chunk of requests event by event. The deep part learns the same requests in groups
of a fixed number of rows. Groups are cut by absolute counts, so chunk boundaries do not change the result.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.kernels import bayes
from ground.kernels.logistic import logits, sigmoids
from ground.rows import Rows, rows_where
from learner.deep.dcn_train import DCNTrainer
from learner.deep.networks import DCN, Network
from learner.deep.own.network import OwnNetwork
from learner.deep.trainer import DeepTrainer
from learner.features.labelled import CHUNK_ROWS, Labelled
from learner.lessons import Lessons
from learner.model.model import Model
from learner.train.groups import GroupLearner, placed_of
from learner.train.waiting import PendingRows
from stream.records.types import Example

LOOKED_UP_MAX = 4096
"""Sightings looked up to spare one cut: a range of requests costs about as much, whatever it holds."""


class Learnt(NamedTuple):
    """R requests of n rows, with the predictions that were made before they were learned."""

    requests: npt.NDArray[np.int64]  # (R + 1,)
    rows: Rows  # for an error memory, see `Model.memory_keys`
    z: npt.NDArray[np.float64]  # (n,), logit of the honest probability, of the stream as it is (thinned)
    p: npt.NDArray[np.float64]  # (n,), its probability; of a value the expectation
    scored: npt.NDArray[np.float64]  # (n,), the prediction for metrics: the served probability if it is known
    y: npt.NDArray[np.float64]  # (n,)
    s2: npt.NDArray[np.float64]  # (n,), variance of the fast logit
    group: npt.NDArray[np.uint64]  # (n,), the row's user
    time: npt.NDArray[np.float64]  # (n,), event time
    late: npt.NDArray[np.bool_]  # (n,)
    weight: npt.NDArray[np.float64]  # (n,), see `Lessons`
    before: npt.NDArray[np.float64]  # (n,)
    target: npt.NDArray[np.int32]  # (n,), its number
    spread: npt.NDArray[np.float64]  # (n, 3), see `FastOutputs`

    def of(self, target: int) -> Learnt:
        """The requests of one target."""
        if not (self.target != target).any():
            return self
        mine = self.target == target
        return Learnt(
            np.concatenate([[0], np.cumsum(np.diff(self.requests)[mine[self.requests[:-1]]])]),
            rows_where(self.rows, mine),
            *(array[mine] for array in self[2:]),
        )

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The numbers of the targets that its requests are of."""
        return np.unique(self.target).astype(np.int64)

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """Which candidates count in metrics, (n,): neither late ones nor those without a weight."""
        return ~self.late & (self.weight > 0.0) & np.isnan(self.before)


class Trainer:
    """Trains a model on examples, in order.

    Args:
        model: made with learning=True.
        beside: train the deep part in a thread of its own, one chunk behind the fast part. The results
            are the same, bit for bit, but `learn` returns them one call later. Call `settle` before
            reading the model's deep weights or vectors.
    """

    def __init__(self, model: Model, *, beside: bool = False) -> None:
        self.model = model
        self.dense_width = model.deep_width - model.embedding_width
        self.pending = self._empty()
        self.moments = np.zeros((2, len(model.deep_weights)), dtype=np.float32)
        self.steps = np.zeros(1, dtype=np.int64)
        self.quarantined = 0
        self.tick = -1
        # The tables' event time never goes back. So a late event cannot ask for a row that a sweep has
        # reclaimed, and the time of the sweep does not change the result.
        self.clock = 0.0
        self._deep: DeepTrainer | None = None
        self._thread = ThreadPoolExecutor(1, "deep part") if beside and model.network is not None else None
        self._running: tuple[GroupLearner, Future[None]] | None = None

    def _empty(self) -> PendingRows:
        return PendingRows.empty(self.dense_width, len(self.model.dims))

    def close(self) -> None:
        """Stop the training thread, if there is one."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def learn(self, examples: Sequence[Example]) -> list[Learnt]:
        """Predict, then learn.

        Returns:
            The groups that are complete. The last rows wait until their group is full.

        Raises:
            FeatureError: a value does not fit the schema; nothing of the call was learned.
        """
        if not examples:
            return []
        return self.learn_labelled(Labelled.of(self.model.encoder, examples, self.model.targets))

    def learn_labelled(self, labelled: Labelled) -> list[Learnt]:
        """`learn` for encoded examples."""
        if labelled.requests == 0:
            return []
        times = np.maximum.accumulate(np.maximum(labelled.batch.times, self.clock))
        labelled = labelled._replace(batch=self.model.learn_kept(labelled.batch, labelled.lessons, times))
        self.clock = float(times[-1])
        done = self.settle() if self.model.resting.due else []  # then its rows are not in use
        self.model.resting.prepare(labelled.batch.rows)
        ticks, first = self._ticks_of(times), 0
        while first < labelled.requests:
            evicts = self._may_evict(labelled, first)
            tick = int(ticks[first])
            if tick > self.tick:
                # Rows expire at ticks only; no rows may wait across a tick.
                if self.tick >= 0:
                    done += self.finish()
                self.tick = tick
            elif evicts:
                done += self.finish()  # nor across an eviction
            last = self._end_of_range(labelled, ticks, first, evicts)
            self._learn_fast(labelled.part(first, last))
            done += self._learn_groups()
            first = last
        return done

    @property
    def settled(self) -> bool:
        """Whether the training thread is idle."""
        return self._running is None

    def settle(self) -> list[Learnt]:
        """Wait for the groups that the deep part is training on; returns them."""
        if self._running is None:
            return []
        (groups, done), self._running = self._running, None
        done.result()
        return [self._close(groups)]

    def finish(self) -> list[Learnt]:
        """Learn the last, incomplete group."""
        done = self.settle()
        if self.pending.n:
            full, self.pending = self.pending, self._empty()
            done += self._learn_all(full, [0, len(full.requests) - 1])
        return done + self.settle()

    def restored(self) -> None:
        """Call this after the model's arrays were replaced from a checkpoint."""
        self._deep = None

    def _ticks_of(self, times: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        whole = times.astype(np.int64)
        return whole // self.model.tick_s if self.model.tick_s else np.zeros_like(whole)

    def _end_of_range(
        self, labelled: Labelled, ticks: npt.NDArray[np.int64], first: int, evicts: bool
    ) -> int:
        """The end of the requests from `first` on that are learned at once: at most CHUNK_ROWS rows, or one.

        The range lies within one tick, and rows are evicted in its first request only.

        Args:
            ticks: (R,), of the requests; ascending, as the times are.
            evicts: whether that request may evict rows.
        """
        batch = labelled.batch
        if evicts and labelled.quiet is not None:
            return first + 1  # `gather_some` could not tell a row from an evicted one
        most = int(np.searchsorted(batch.requests, batch.requests[first] + CHUNK_ROWS, side="right"))
        last = max(most - 1, first + 1)
        last = first + int(np.searchsorted(ticks[first:last], ticks[first], side="right"))
        begin, end = batch.rows.start[batch.requests[[first, last]]].tolist()
        for t, table in enumerate(self.model.tables):
            if table.evicts_within(end - begin):  # rare: only near its limit
                last = self._before_eviction(t, labelled, first, last, evicts)
        return last

    def _before_eviction(self, t: int, labelled: Labelled, first: int, last: int, evicts: bool) -> int:
        """The first request after `first` in which table t may evict rows, at most `last`.

        A table evicts at fixed numbers of its sightings only, and only after enough new rows.
        """
        table, batch, rows = self.model.tables[t], labelled.batch, labelled.batch.rows
        starts = rows.start[batch.requests[first : last + 1]]
        begin, end = int(starts[0]), int(starts[-1])
        mine = self._sightings(t, labelled, begin, end)
        before = np.searchsorted(mine, starts - begin)  # sightings before each request
        at = np.flatnonzero(np.diff(table.turns_within(before)) > 0)
        at = at[at > 0]
        after = before[at + 1]
        at = at[table.may_evict(after, after)]
        if len(at) * LOOKED_UP_MAX >= len(mine) and len(at) > 0 and not evicts:
            # A small table has many such numbers. How many new rows there can be tells most of them apart.
            times = np.repeat(batch.times[first:last].astype(np.uint32), np.diff(before))
            unknown = np.concatenate([[0], np.cumsum(table.find(rows.key[begin:end][mine], times) < 0)])
            after = before[at + 1]
            at = at[table.may_evict(after, unknown[after])]
        return first + int(at[0]) if len(at) else last

    def _sightings(self, t: int, labelled: Labelled, begin: int, end: int) -> npt.NDArray[np.int64]:
        """Which of the entries from `begin` to `end` are sightings of table t, counted from `begin`."""
        rows = labelled.batch.rows
        mine = self.model.table_of[rows.column[begin:end]] == t
        if labelled.quiet is not None:
            mine &= ~np.repeat(labelled.quiet, np.diff(rows.start))[begin:end]
        return np.flatnonzero(mine)

    def _may_evict(self, labelled: Labelled, request: int) -> bool:
        """Whether learning the next request may evict rows; depends on the requests before it alone."""
        batch = labelled.batch
        begin, end = batch.rows.start[batch.requests[request : request + 2]].tolist()
        for t, table in enumerate(self.model.tables):
            if not table.evicts_within(end - begin):
                continue
            mine = begin + self._sightings(t, labelled, begin, end)
            if table.evicts_within(len(mine)):
                now = np.uint32(batch.times[request])
                unknown = np.count_nonzero(table.find(batch.rows.key[mine], now) < 0)
                if table.may_evict(np.array([len(mine)]), np.array([unknown]))[0]:
                    return True
        return False

    def _learn_fast(self, labelled: Labelled) -> None:
        model = self.model
        batch = labelled.batch
        lessons = model.scales.on_scale(labelled.lessons)
        quiet = labelled.quiet
        gathered = model.gather(batch, insert=True) if quiet is None else model.gather_some(batch, quiet)
        outputs = model.fast.run(gathered.inputs, lessons)
        model.put_back(gathered)
        spread = outputs.spread if model.fast.any_value else np.tile([0.0, 1.0, 0.0], (batch.rows.n, 1))
        memory, left = model.memory_rows(batch.rows, outputs)
        known = np.ones(len(memory.key), dtype=np.bool_)
        entries = memory.column < model.encoder.columns
        known[entries] = gathered.place >= 0
        self.pending = self.pending.joined(
            PendingRows(
                requests=batch.requests,
                start=memory.start,
                column=memory.column,
                key=memory.key,
                x=memory.x,
                known=known,
                left=left,
                dense=model.dense_inputs(batch, outputs),
                embedding_scale=outputs.embedding_scale,
                z=model.scales.logits(outputs, lessons.target),
                s2=outputs.variance,
                shift=lessons.shift,
                y=lessons.y,
                served=labelled.served,
                group=model.users(batch),
                time=batch.times,
                late=labelled.late,
                weight=lessons.weight,
                before=lessons.before,
                target=lessons.target,
                centre=spread[:, 0],
                unit=spread[:, 1],
                noise=spread[:, 2],
                credit=outputs.credit,
            )
        )

    def _learn_groups(self) -> list[Learnt]:
        """Learn every full group; the remaining rows keep waiting."""
        size = self.model.settings.group
        pending = self.pending
        rows = pending.requests.tolist()
        cuts = [0]
        while rows[-1] - rows[cuts[-1]] >= size:
            cuts.append(bisect_left(rows, rows[cuts[-1]] + size))
        if len(cuts) == 1:
            return []
        full = pending.part(0, cuts[-1])
        self.pending = pending.part(cuts[-1], len(pending.requests) - 1).copy()
        return self._learn_all(full, cuts)

    def _learn_all(self, full: PendingRows, cuts: Sequence[int]) -> list[Learnt]:
        """Learn groups: the requests of `full`, cut at the request numbers `cuts` (first 0, last all)."""
        done = self.settle()
        z = full.z + full.shift
        if self.model.network is None:
            return [*done, self._learnt(full, z, full.requests[cuts].tolist())]
        groups = GroupLearner(self.model, full, full.requests[cuts], z, self._to_be_bettered(full))
        if self._thread is None:
            groups.run(self._trainer())
            return [*done, self._close(groups)]
        self._running = groups, self._thread.submit(lambda: groups.run(self._trainer()))
        return done

    def _close(self, groups: GroupLearner) -> Learnt:
        groups.close()
        self.quarantined += groups.quarantined
        self.steps[0] = self._trainer().steps
        return self._learnt(groups.chunk, groups.z, groups.cuts)

    def _learnt(self, full: PendingRows, z: npt.NDArray[np.float64], cuts: Sequence[int]) -> Learnt:
        said = z
        if len(self.model.place_columns):
            z = z - placed_of(self.model, full) / np.sqrt(1.0 + bayes.PROBIT * full.s2)
        z = self.model.trust.judge(full.requests, full.lessons, said, z)
        p, y, before, per_row = sigmoids(z), full.y, full.before, np.diff(full.requests)
        spread = np.stack([full.centre, full.unit, full.noise], axis=1)
        scales = self.model.scales
        if self.model.fast.any_value:
            y, before = (scales.off_scale(labels, full.target) for labels in (y, before))
            p = self._expect(full._replace(y=y, before=before), z, spread, cuts)
        use_served = ~np.isnan(full.served) & (self.model.settings.score == "served")
        return Learnt(
            requests=full.requests,
            rows=self.model.memory_keys(full.rows, full.left),
            z=z,
            p=p,
            scored=np.where(use_served, full.served, p),
            y=y,
            s2=full.s2,
            group=np.repeat(full.group, per_row),
            time=np.repeat(full.time, per_row),
            late=np.repeat(full.late, per_row),
            weight=full.weight,
            before=before,
            target=full.target,
            spread=spread,
        )

    def _expect(
        self,
        full: PendingRows,
        z: npt.NDArray[np.float64],
        spread: npt.NDArray[np.float64],
        cuts: Sequence[int],
    ) -> npt.NDArray[np.float64]:
        """What was expected of the rows, with labels as they came; calibrated by the groups before."""
        scales, values = self.model.scales, self.model.fast.dense.values
        p = scales.expectations(z, full.s2, spread, full.target)
        lessons = Lessons(full.y, full.shift, full.weight, full.before, full.target, full.noise)
        for first, last in itertools.pairwise(cuts):
            raw = p[first:last].copy()
            p[first:last] *= scales.factors(values)[full.target[first:last]]
            scales.calibrate(values, raw, lessons.part(first, last))
        return p

    def _to_be_bettered(self, full: PendingRows) -> npt.NDArray[np.float64] | None:
        """The reference logits for self-correction: the served ones, or the fast part's; None without it."""
        if not self.model.settings.self_correction:
            return None
        return np.where(np.isnan(full.served), full.z, logits(full.served, 1e-9)) + full.shift

    def _trainer(self) -> DeepTrainer:
        if self._deep is None:
            settings, network = self.model.settings, self.model.network
            assert network is not None
            self._deep = trainer_of(network, settings.device)(
                network,
                self.model.deep_weights,
                self.moments,
                int(self.steps[0]),
                settings.deep_rate,
                settings.deep_clip,
                settings.threads,
                settings.self_correction,
                **({"device": settings.device} if settings.device != "cpu" else {}),
            )
        return self._deep


def trainer_of(network: Network, device: str = "cpu") -> type[DeepTrainer]:
    """The class that trains it on a device."""
    if isinstance(network, DCN) and device == "cpu":
        return DCNTrainer
    if isinstance(network, OwnNetwork):
        from learner.deep.own.training import OwnTrainer

        return OwnTrainer
    from learner.deep.autograd import AutogradTrainer

    return AutogradTrainer
