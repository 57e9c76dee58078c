"""Replay: the live loop over a file or a range of the log.

Each request is predicted before the model trains on it, by the same code as live, so all metrics in the
report are out of sample. Base and corrected predictions are scored side by side.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from freshet.config import Config
from freshet.errors import ReplayError
from freshet.files import Json, check_writable, readable_json, write_json
from freshet.progress import progress
from freshet.replay.baselines import Baselines
from freshet.replay.feed import open_feed
from freshet.replay.new_state import new_shards
from freshet.replay.predicted.further import FurtherPredictions
from freshet.replay.predicted.writing import write_predictions
from freshet.replay.scored import Candidates, ScoredCandidates, Summaries, print_summary, window_of
from freshet.replay.suspicion import warnings_of
from freshet.replay.tape import ReplayOptions, is_log, open_existing, replay_config
from freshet.replay.time_travel import live_hash, restored
from freshet.roles.voice import printable
from freshet.version import code_version
from freshet.warmup import warm_up
from learner.deep.autograd import need_torch
from learner.fast.spread import spread_of
from learner.features.labelled import Labelled
from learner.memories import memories_of, observe, observe_learnt, set_priors
from learner.model.digest import with_entities
from learner.model.forgetting import forget_in_memory
from learner.model.identity import network_text
from learner.role.learner import Learner
from learner.shards.together import ShardedLearner
from learner.train.trainer import Learnt
from stream.log.base import EXAMPLES
from stream.records.types import Forget

RECLAIM_REQUESTS = 20_000
RECLAIM_SLOTS = 100_000


class Replay:
    """One pass over a tape."""

    def __init__(
        self, config: Config, freeze_after: int | None = None, learner: Learner | ShardedLearner | None = None
    ) -> None:
        self.learner = learner or Learner(
            config.features, config.learner, None, config.known_targets(), beside=True
        )
        model = self.learner.model
        self.targets = model.targets
        self.memories = memories_of(config.memory, model)
        if learner is not None:
            set_priors(self.memories, model)
        # Requests that a restored learner had predicted and not yet trained on: they come first, unscored.
        self._before = self.learner.trainer.pending.n
        self.scored = [ScoredCandidates(value=t.kind == "value") for t in self.targets.values()]
        self.baselines = [Baselines(model) for _ in self.targets]
        self.further: FurtherPredictions | None = None  # of several targets, if they are wanted
        self.requests = 0
        self.memory_s = 0.0
        self._freeze_after = freeze_after
        self._frozen = False
        self._position = 0  # of the next request that the memory sees
        self._reclaimed = 0

    def take(self, labelled: Labelled) -> None:
        """Predict, score and train."""
        if self.further is None:
            self._take(labelled)
            return
        for part in self.further.parts(labelled):
            self._observe_all(self.learner.settle())  # the deep part is not read while it learns
            self.further.add(part, self.learner.model, self.memories)
            self._take(part)

    def _take(self, labelled: Labelled) -> None:
        if self._freeze_after is not None and self.requests + labelled.requests > self._freeze_after:
            last = max(self._freeze_after - self.requests, 0)
            self._learn(labelled.part(0, last))
            self._freeze()
            self._answer(labelled.part(last, labelled.requests))
        else:
            self._learn(labelled)

    def forget(self, request: Forget) -> None:
        """Apply a forget request, as learners and servers do."""
        self._observe_all(self.learner.forget(request))
        for memory in self.memories:
            forget_in_memory(memory, self.learner.model, request.entity)

    def finish(self) -> str:
        """Return the hash of the state; then also score the requests that still wait."""
        self._observe_all(self.learner.settle())
        digest = self.learner.digest()
        self._observe_all(self.learner.finish())
        return digest

    def table_rows(self) -> dict[str, int]:
        """How many rows each table has."""
        learner = self.learner
        return learner.table_rows() if isinstance(learner, ShardedLearner) else learner.model.table_rows()

    def _learn(self, labelled: Labelled) -> None:
        self.requests += labelled.requests
        self._add_to_baselines(labelled)
        self._observe_all(self.learner.learn_labelled(labelled))
        if self.requests - self._reclaimed >= RECLAIM_REQUESTS:
            self._reclaimed = self.requests
            self._reclaim()

    def _add_to_baselines(self, labelled: Labelled) -> None:
        for t in np.unique(labelled.lessons.target).tolist():
            self.baselines[t].add(labelled.only(t))

    def _observe_all(self, done: Sequence[Learnt]) -> None:
        for learnt in done:
            self._observe(learnt)

    def _observe(self, learnt: Learnt) -> None:
        began = time.perf_counter()
        measured = learnt.measured
        measured[: self._before] = False
        self._before = max(self._before - len(measured), 0)
        n = len(learnt.requests) - 1
        model = self.learner.model
        for t in learnt.numbers.tolist():
            mine = learnt.of(t)
            positions = self._position + np.flatnonzero(learnt.target[learnt.requests[:-1]] == t)
            # The model has trained on all earlier requests, so the memory is empty, as behind a fast learner.
            self.memories[t].set_priors(*model.memory_priors(t))
            self.memories[t].advance(self._position + n - 1)
            base, corrected, z = observe_learnt(self.memories[t], model, t, mine, positions)
            request = np.repeat(positions.astype(np.uint64), np.diff(mine.requests))
            taken = Candidates(base, corrected, mine.y, mine.group, mine.time, request, mine.weight)
            keep = measured[learnt.target == t]
            self.scored[t].add(taken.kept(keep))
            self.scored[t].add_densities(model.scales, t, (mine.z, z), mine.s2, mine.spread, mine.y, keep)
        self._position += n
        self.memory_s += time.perf_counter() - began

    def _freeze(self) -> None:
        """Stop training the base; the memory starts with the base's trained priors."""
        if self._frozen:
            return
        self._frozen = True
        self._observe_all(self.learner.finish())
        set_priors(self.memories, self.learner.model)
        for memory in self.memories:
            memory.advance(self._position - 1)

    def _answer(self, labelled: Labelled) -> None:
        """Predict with the frozen base; only the memory learns from the labels."""
        if labelled.requests == 0:
            return
        self.requests += labelled.requests
        self._add_to_baselines(labelled)
        model = self.learner.model
        request_targets = labelled.lessons.target[labelled.batch.requests[:-1]]
        for t in np.unique(labelled.lessons.target).tolist():
            mine = labelled.only(t)
            batch, lessons = mine.batch, mine.lessons
            predicted = model.predict(batch, t)
            per_request = np.diff(batch.requests)
            positions = self._position + np.flatnonzero(request_targets == t)
            base, corrected, z = observe(self.memories[t], model, t, predicted, lessons, positions, batch)
            group = np.repeat(model.users(batch), per_request)
            times = np.repeat(batch.times, per_request)
            keep = np.repeat(~mine.late, per_request) & ~lessons.quiet
            request = np.repeat(positions.astype(np.uint64), per_request)
            taken = Candidates(base, corrected, lessons.y, group, times, request, lessons.weight)
            self.scored[t].add(taken.kept(keep))
            spread = np.tile(spread_of(model.fast.dense.values, t), (len(base), 1))
            both, s2 = (predicted.z, z), predicted.outputs.variance
            self.scored[t].add_densities(model.scales, t, both, s2, spread, lessons.y, keep)
        self._position += labelled.requests

    def _reclaim(self) -> None:
        """The part of a commit without writes: expire rows, and drop the list of touched rows."""
        for table in self.learner.model.tables:
            table.expire(int(self.learner.trainer.clock), RECLAIM_SLOTS)
            table.drain_delta()


def run_replay(
    config_file: str | None,
    overrides: Sequence[str],
    options: ReplayOptions,
    report_to: str = "-",
    html: Path | None = None,
    predictions: Path | None = None,
) -> None:
    """`freshet replay`: play the tape, write the report.

    Raises:
        FreshetError: the config, the data, or a file to be written.
    """
    config = replay_config(config_file, overrides, options)
    for path in (None if report_to == "-" else Path(report_to), html, predictions):
        if path is not None:
            check_writable(path, ReplayError)
    if options.from_snapshot is None:
        report = replay(config, options, predictions)
    else:
        report = replay_from_snapshot(config, options, predictions, overrides)
    if predictions is not None:
        at = Path(os.path.relpath(predictions.resolve(), Path(report_to).resolve().parent))
        report["predictions"] = printable(str(predictions.resolve() if report_to == "-" else at))
    if report_to == "-":
        sys.stdout.write(readable_json(report).decode())
    else:
        write_json(Path(report_to), report, ReplayError)
    if html is not None:
        from freshet.show.replay_report import replay_page
        from freshet.show.report import write_html

        write_html(replay_page(report, Path(options.data or config.log).name), html)
    print_summary(report)


def replay_from_snapshot(
    config: Config, options: ReplayOptions, predictions: Path | None = None, overrides: Sequence[str] = ()
) -> Json:
    """Continue from `options.from_snapshot`, and return the report of the later requests.

    Raises:
        ReplayError: the snapshot does not fit the config, or the log has dropped later examples.
    """
    assert options.from_snapshot is not None
    if options.data is not None and not is_log(options.data):
        raise ReplayError("--from-snapshot continues in the snapshot's log: give its URL as --data")
    if options.begin is not None or options.journal is not None or options.shards is not None:
        raise ReplayError("--from-snapshot says where to begin; leave out --from, --journal and --shards")
    with restored(Path(options.from_snapshot), config, overrides) as (learner, origin):
        with closing(open_existing(options.data or config.log, config)) as log:
            offsets = [origin.offsets.get(p, first) for p, (first, _) in enumerate(log.ends(EXAMPLES))]
        resumed = msgspec.structs.replace(
            options,
            begin="offset:" + ",".join(map(str, offsets)),
            boundary=b"" if learner.boundary is None else learner.boundary.encode(),
            known=learner.model.entities.take_all(),  # the reader of the tape goes on with them
            last={f"{partition}/{producer}": seq for (partition, producer), seq in origin.last.items()},
        )
        report = replay(config, resumed, predictions, learner)
    report["snapshot"] = {"requests": origin.requests, "event_time": origin.event_time, "offsets": offsets}
    return report


def replay(
    config: Config,
    options: ReplayOptions,
    predictions: Path | None = None,
    learner: Learner | None = None,
) -> Json:
    """Play the examples in the range of `options` and return the report.

    Args:
        predictions: write each candidate's prediction to this file (`freshet.replay.predicted.writing`).
        learner: a learner to continue with; None: a new one.

    Raises:
        FreshetError: the data cannot be read, or there is none.
    """
    with new_shards(config, options) as sharded:
        return _replay(config, options, predictions, learner or sharded)


def _replay(
    config: Config, options: ReplayOptions, predictions: Path | None, learner: Learner | ShardedLearner | None
) -> Json:
    if not config.features:
        raise ReplayError("the config declares no features; add a section [features.NAME] for each")
    need_torch(config.learner.deep, config.learner.device)
    began, refused = time.perf_counter(), 0
    with open_feed(config, options) as feed:
        warm_up()
        run = Replay(config, options.freeze_after, learner)
        if predictions is not None and len(run.targets) > 1:
            run.further = FurtherPredictions(run.targets)
        run.learner.warm()
        started = time.perf_counter()
        with progress("replaying", feed.total) as advance:
            try:
                for chunk in feed:
                    run.take(chunk.labelled)
                    for forget in chunk.forgets:
                        run.forget(forget)
                    refused += chunk.refused
                    advance(chunk.labelled.requests + chunk.refused)
            except KeyboardInterrupt:
                done = f"{run.requests:,} requests were replayed"
                raise KeyboardInterrupt(
                    f"{done}; no report is written (--limit N stops after N and writes it)"
                ) from None
    if run.requests == 0:
        raise ReplayError("there is nothing to replay: no example of this data and range fits the config")
    state_hash = with_entities(run.finish(), feed.ended.entities)
    ended = time.perf_counter()
    metrics = Summaries.of_target(run.scored[0], options.top)
    window = window_of(config.learner.window, run.learner.meta.examples)
    figures = metrics.report(window)
    learnt_s = ended - started - feed.waited_s - run.memory_s
    network = network_text(config.features, config.learner, run.targets)
    report = {
        "events": run.requests + refused,
        "candidates": figures["base"]["overall"]["examples"],
        "events_per_second": run.requests / (ended - started),
        "state_hash": state_hash,
        "config_hash": config.digest(),
        "data_hash": feed.ended.data_hash,
        "code_version": code_version(),
        "skipped": feed.ended.skipped + refused,
        "first_skipped": feed.ended.first_bad,
        "shuffled_labels": options.shuffle_labels,
        "frozen_after": options.freeze_after,
        "played": _played(config, options),
        "config": config.deciding(),
        **({"rank_by": config.rank.by} if config.rank.by else {}),
        **({"network": network} if network else {}),
        **figures,
        "baselines": run.baselines[0].summaries(metrics),
        "exposure": run.baselines[0].exposure(metrics),
        "trust": dict(zip(run.targets, run.learner.model.trust.shares.tolist(), strict=True)),
        "table_rows": run.table_rows(),
        **({"shards": run.learner.report()} if isinstance(run.learner, ShardedLearner) else {}),
        "quarantined": run.learner.trainer.quarantined,
        "memory": {
            "gate": run.memories[0].gate,
            "evidence": run.memories[0].evidence,
            "bytes": sum(memory.nbytes for memory in run.memories),
        },
        "seconds": {
            "start": started - began,
            "read": feed.waited_s,
            "learn": learnt_s,
            "memory": run.memory_s,
            "metrics": time.perf_counter() - ended,
        },
    }
    if len(run.targets) > 1:
        report["targets"] = {n: _of_target(run, t, options.top, window) for t, n in enumerate(run.targets)}
    report["warnings"] = warnings_of(report, config, options)
    if predictions is not None:
        further = run.further.arrays() if run.further else None
        write_predictions(predictions, config, options, refused, *metrics.candidates[:2], further)
    if options.journal is not None:
        live = live_hash(config, Path(options.journal))
        report["live_state_hash"] = live
        report["equals_live_state"] = live == state_hash
    return report


def _of_target(run: Replay, target: int, top: int, window: int) -> Json:
    """The part of the report on one target: metrics among the candidates that it was learned of."""
    name = run.targets.names[target]
    told: Json = {"kind": run.targets[name].kind, "of": run.targets[name].of}
    return told | run.baselines[target].report(run.scored[target], top, window)


def _played(config: Config, options: ReplayOptions) -> Json:
    fields: Json = {**msgspec.to_builtins(options), "data": options.data or config.log}
    del fields["last"], fields["boundary"], fields["known"]
    # JSON cannot hold a file name that is not UTF-8
    return {key: printable(value) if isinstance(value, str) else value for key, value in fields.items()}
