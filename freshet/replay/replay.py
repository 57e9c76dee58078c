"""Replay: the live loop over a file or a range of the log.

Each request is predicted before the model trains on it, by the same code as live, so all metrics in the
report are out of sample. Base and corrected predictions are scored side by side.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from error_memory import ErrorMemory, make_memory
from freshet.config import Config
from freshet.errors import ReplayError
from freshet.files import Json, check_writable, readable_json, write_json
from freshet.progress import progress
from freshet.replay.baselines import Baselines
from freshet.replay.feed import open_feed
from freshet.replay.predictions import write_predictions
from freshet.replay.scored import Candidates, ScoredCandidates, Summaries
from freshet.replay.suspicion import warnings_of
from freshet.replay.tape import ReplayOptions, is_log, open_existing, replay_config
from freshet.replay.time_travel import restored
from freshet.roles.voice import printable
from freshet.version import code_version
from freshet.warmup import warm_up
from ground.kernels.logistic import sigmoids
from learner.deep.autograd import need_torch
from learner.features.labelled import Labelled
from learner.model.forgetting import forget_in_memory
from learner.model.identity import network_text
from learner.role.learner import Learner
from learner.train.trainer import Learnt
from stream.log.base import EXAMPLES
from stream.records.types import Forget
from stream.state.role_state import RoleState

RECLAIM_REQUESTS = 20_000
RECLAIM_SLOTS = 100_000
WINDOWS_MAX = 1_000
"""Windows in a report."""


class Replay:
    """One pass over a tape."""

    def __init__(
        self, config: Config, freeze_after: int | None = None, learner: Learner | None = None
    ) -> None:
        self.learner = learner or Learner(config.features, config.learner, beside=True)
        self.memory: ErrorMemory = make_memory(config.memory, self.learner.model.memory_columns)
        if learner is not None:
            self.memory.set_priors(*learner.model.memory_priors())
        # Requests that a restored learner had predicted and not yet trained on: they come first, unscored.
        self._before = self.learner.trainer.pending.n
        self.scored = ScoredCandidates()
        self.baselines = Baselines(self.learner.model)
        self.requests = 0
        self.memory_s = 0.0
        self._freeze_after = freeze_after
        self._frozen = False
        self._position = 0  # of the next request that the memory sees
        self._reclaimed = 0

    def take(self, labelled: Labelled) -> None:
        """Predict, score and train."""
        if self._freeze_after is not None and self.requests + labelled.requests > self._freeze_after:
            last = max(self._freeze_after - self.requests, 0)
            self._learn(labelled.part(0, last))
            self._freeze()
            self._answer(labelled.part(last, labelled.requests))
        else:
            self._learn(labelled)

    def forget(self, request: Forget) -> None:
        """Apply a forget request, as learners and servers do."""
        for learnt in self.learner.forget(request):
            self._observe(learnt)
        forget_in_memory(self.memory, self.learner.model, request.entity)

    def finish(self) -> str:
        """Return the hash of the state; then also score the requests that still wait."""
        for learnt in self.learner.settle():
            self._observe(learnt)
        digest = self.learner.digest()
        for learnt in self.learner.finish():
            self._observe(learnt)
        return digest

    def _learn(self, labelled: Labelled) -> None:
        self.requests += labelled.requests
        self.baselines.add(labelled)
        for learnt in self.learner.learn_labelled(labelled):
            self._observe(learnt)
        if self.requests - self._reclaimed >= RECLAIM_REQUESTS:
            self._reclaimed = self.requests
            self._reclaim()

    def _observe(self, learnt: Learnt) -> None:
        began = time.perf_counter()
        n = len(learnt.requests) - 1
        positions = np.arange(self._position, self._position + n, dtype=np.int64)
        self._position += n
        times = learnt.time[learnt.requests[:-1]]
        # The model has trained on all earlier requests, so the memory is empty, as behind a fast learner.
        self.memory.set_priors(*self.learner.model.memory_priors())
        self.memory.advance(self._position - 1)
        corrected = self.memory.observe(
            learnt.rows, learnt.p, learnt.y, positions, learnt.requests, times, learnt.weight, learnt.before
        )
        keep = learnt.measured
        keep[: self._before] = False
        self._before = max(self._before - len(keep), 0)
        request = np.repeat(positions.astype(np.uint64), np.diff(learnt.requests))
        taken = Candidates(learnt.p, corrected, learnt.y, learnt.group, learnt.time, request, learnt.weight)
        self.scored.add(taken.kept(keep))
        self.memory_s += time.perf_counter() - began

    def _freeze(self) -> None:
        """Stop training the base; the memory starts with the base's trained priors."""
        if self._frozen:
            return
        self._frozen = True
        for learnt in self.learner.finish():
            self._observe(learnt)
        self.memory.set_priors(*self.learner.model.memory_priors())
        self.memory.advance(self._position - 1)

    def _answer(self, labelled: Labelled) -> None:
        """Predict with the frozen base; only the memory learns from the labels."""
        if labelled.requests == 0:
            return
        self.requests += labelled.requests
        self.baselines.add(labelled)
        batch = labelled.batch
        scores = self.learner.model.score(batch)
        per_request = np.diff(batch.requests)
        base = sigmoids(scores.z + labelled.lessons.shift)
        n = labelled.requests
        positions = np.arange(self._position, self._position + n, dtype=np.int64)
        self._position += n
        lessons = labelled.lessons
        corrected = self.memory.observe(
            scores.rows,
            base,
            lessons.y,
            positions,
            batch.requests,
            batch.times,
            lessons.weight,
            lessons.before,
        )
        group = np.repeat(self.learner.model.users(batch), per_request)
        times = np.repeat(batch.times, per_request)
        keep = np.repeat(~labelled.late, per_request) & ~lessons.quiet
        request = np.repeat(positions.astype(np.uint64), per_request)
        taken = Candidates(base, corrected, lessons.y, group, times, request, lessons.weight)
        self.scored.add(taken.kept(keep))

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
    _print_summary(report)


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
    if options.begin is not None or options.journal is not None:
        raise ReplayError("--from-snapshot says where to begin; leave out --from and --journal")
    with restored(Path(options.from_snapshot), config, overrides) as (learner, origin):
        log = open_existing(options.data or config.log, config)
        offsets = [origin.offsets.get(p, first) for p, (first, _) in enumerate(log.ends(EXAMPLES))]
        log.close()
        resumed = msgspec.structs.replace(
            options,
            begin="offset:" + ",".join(map(str, offsets)),
            boundary=learner.boundary.encode() if learner.boundary is not None else b"",
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
        predictions: write each candidate's prediction to this file (`freshet.replay.predictions`).
        learner: a learner to continue with; None: a new one.

    Raises:
        FreshetError: the data cannot be read, or there is none.
    """
    if not config.features:
        raise ReplayError("the config declares no features; add a section [features.NAME] for each")
    need_torch(config.learner.deep)
    began = time.perf_counter()
    refused = 0
    with open_feed(config, options) as feed:
        warm_up()
        run = Replay(config, options.freeze_after, learner)
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
    state_hash = run.finish()
    ended = time.perf_counter()
    scored = run.scored.arrays()
    metrics = Summaries(scored, options.top)
    figures = metrics.report(_window(config, run))
    learnt_s = ended - started - feed.waited_s - run.memory_s
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
        **({"network": network} if (network := network_text(config.features, config.learner)) else {}),
        **figures,
        "baselines": run.baselines.summaries(metrics),
        "table_rows": run.learner.model.table_rows(),
        "quarantined": run.learner.trainer.quarantined,
        "memory": {"gate": run.memory.gate, "evidence": run.memory.evidence, "bytes": run.memory.nbytes},
        "seconds": {
            "start": started - began,
            "read": feed.waited_s,
            "learn": learnt_s,
            "memory": run.memory_s,
            "metrics": time.perf_counter() - ended,
        },
    }
    report["warnings"] = warnings_of(report, config, options)
    if predictions is not None:
        write_predictions(predictions, config, options, refused, scored.base, scored.corrected)
    if options.journal is not None:
        live = _live_hash(config, Path(options.journal))
        report["live_state_hash"] = live
        report["equals_live_state"] = live == state_hash
    return report


def _played(config: Config, options: ReplayOptions) -> Json:
    fields: Json = msgspec.to_builtins(options)
    del fields["last"], fields["boundary"]
    fields |= {"data": options.data or config.log}
    # JSON cannot hold a file name that is not UTF-8
    return {key: printable(value) if isinstance(value, str) else value for key, value in fields.items()}


def _live_hash(config: Config, folder: Path) -> str:
    with RoleState(folder, "learner", Learner.fingerprint(config.features, config.learner)) as state:
        return Learner(config.features, config.learner, state).digest()


def _window(config: Config, run: Replay) -> int:
    """Candidates per window: as configured, but so that there are 20 to 1,000 windows, a chart's worth."""
    examples = run.learner.meta.examples
    return max(min(config.learner.window, max(examples // 20, 500)), -(-examples // WINDOWS_MAX))


def _print_summary(report: Json) -> None:
    def line(name: str, part: Json) -> str:
        keys = ("auc", "request_auc", "ndcg", "logloss", "calibration")
        return f"  {name:<22}" + "".join(
            f"{key} {'–' if part.get(key) is None else format(part[key], '.4f')}   " for key in keys
        )

    print(
        f"{report['events']:,} requests, {report['candidates']:,} candidates, "
        f"{report['events_per_second']:,.0f} requests/s, state {report['state_hash']}",
        *(
            line(f"{name}, {part.replace('_', ' ')}", report[name][part])
            for part in ("overall", "last_half")
            for name in ("base", "corrected")
        ),
        *(line(name, found["last_half"]) for name, found in report["baselines"].items()),
        sep="\n",
        file=sys.stderr,
    )
    if report["skipped"]:
        first = f"; the first: {report['first_skipped']}" if report["first_skipped"] else ""
        print(f"  left out: {report['skipped']:,} that could not be used{first}", file=sys.stderr)
    if report["base"]["overall"]["auc"] is None:
        print(
            "  no auc: all labels are the same; is label in [data] the right column?",
            file=sys.stderr,
        )
    for warning in report["warnings"]:
        print(f"  warning: {warning}", file=sys.stderr)
    if "live_state_hash" in report:
        equal = "the very state" if report["equals_live_state"] else "NOT the state"
        print(f"  this is {equal} of the live learner ({report['live_state_hash']})", file=sys.stderr)
