"""The long run through replay: its learner keeps a state on disk, as the live one does.

Every 20,000 requests the learner commits what changed. At each mark (a million requests) the run stands still
and measures. The time of measuring counts nowhere; that of commits is in `whole_per_s`, not in `per_s`.
A run that was interrupted goes on from its last commit: the state says how many requests it has taken.
`cpu_us` is this process's processor time for a request, commits included, without the process that reads the
file: on a machine that does other things it says more than the requests a second.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from freshet.config import Config
from freshet.replay.feed import open_feed
from freshet.replay.replay import Replay
from freshet.replay.scored import Candidates, ScoredCandidates
from freshet.replay.tape import ReplayOptions
from learner.features.encoder import Request
from learner.metrics import auc
from learner.role.learner import Learner
from soak_parts import system, world
from stream.log.base import EXAMPLES
from stream.state.role_state import RoleState

Row = dict[str, Any]

CANDIDATES = 50  # of a request that is scored
SCORES = 300


class _Remembered(ScoredCandidates):
    """What a replay keeps for its report; and apart, what came since the last mark."""

    def __init__(self) -> None:
        super().__init__()
        self.since: list[Candidates] = []

    def add(self, candidates: Candidates) -> None:
        super().add(candidates)
        self.since.append(candidates)

    def auc(self) -> float | None:
        """Of the base predictions since the last call."""
        p = np.concatenate([part.base for part in self.since])
        y = np.concatenate([part.y for part in self.since])
        self.since.clear()
        return auc(p, y)


class KeptReplay(Replay):
    """A replay that commits to a state where others only reclaim."""

    learner: Learner

    def __init__(self, config: Config, state: RoleState) -> None:
        self.state = state
        self.commits: list[float] = []  # seconds of each since the last mark
        super().__init__(config, learner=Learner(config.features, config.learner, state, beside=True))
        self.learner.leads = False  # there is nobody to publish to
        self.requests = self._reclaimed = state.offset(EXAMPLES, 0) or 0
        self.remembered = _Remembered()
        self.scored = [self.remembered]

    def commit(self) -> None:
        """Write what has changed."""
        began = time.perf_counter()
        commit = self.state.begin()
        self.learner.flush(commit)
        commit.set_offset(EXAMPLES, 0, self.requests)
        self.state.commit(commit)
        self.commits.append(time.perf_counter() - began)

    def _reclaim(self) -> None:
        self.commit()


ROWS_MAX = 1 << 24  # of pairs, the default


def config_table(folder: Path, rows_max: int = ROWS_MAX) -> dict[str, Any]:
    """People and items have a budget that is full before the tenth million; all else is as by default.

    Args:
        rows_max: the budget of pairs; that of people changes in proportion.
    """
    features: dict[str, dict[str, Any]] = {name: {"kind": "id"} for name in world.FEATURES}
    features["user"]["rows_max"] = 300_000 * rows_max // ROWS_MAX
    features["item"]["rows_max"] = 30_000
    features["campaign"]["rows_max"] = 600
    return {
        "state": str(folder / "state"),
        "data": {"time": "time", "label": "label"},
        "features": features,
        "learner": {"pairs_rows_max": rows_max},
    }


def run(config: Config, folder: Path, requests: int, mark: int) -> Iterator[Row]:
    """Play so many requests, without those that the state in the folder has had; gives the marks' rows."""
    data = folder / "stream.csv"
    with RoleState(
        folder / "state", "learner", Learner.fingerprint(config.features, config.learner)
    ) as state:
        replay = KeptReplay(config, state)
        counted = replay.requests
        if counted >= requests:
            return
        world.write_csv(data, requests, counted)
        with open_feed(config, ReplayOptions(data=str(data))) as feed:
            began, used = time.perf_counter(), time.process_time()
            for chunk in feed:
                replay.take(chunk.labelled)
                if replay.requests // mark > counted // mark or replay.requests >= requests:
                    took, cpu = time.perf_counter() - began, time.process_time() - used
                    done = replay.requests - counted
                    counted = replay.requests
                    yield {
                        "cpu_us": cpu / done * 1e6,
                        **_measure(replay, config, folder, done, took, feed.waited_s),
                    }
                    feed.waited_s = 0.0
                    replay.memory_s = 0.0
                    began, used = time.perf_counter(), time.process_time()
        replay.learner.close()
    data.unlink()


def _measure(
    replay: KeptReplay, config: Config, folder: Path, done: int, took: float, waited_s: float
) -> Row:
    commits = replay.commits
    learner = replay.learner
    row: Row = {
        "requests": replay.requests,
        "per_s": done / (took - sum(commits)),
        "whole_per_s": done / took,
        "waited_s": waited_s,
        "error_memory_s": replay.memory_s,
        "commit_p50_ms": statistics.median(commits or [0.0]) * 1e3,  # none in a short rest
        "commit_max_ms": max(commits, default=0.0) * 1e3,
        "memory_mb": system.memory_mb(),
        "reader_mb": system.children_mb(),
        "auc": replay.remembered.auc(),
        "rows": learner.model.table_rows(),
        "counts": learner.table_counts(),
    }
    replay.commit()
    replay.commits = []
    row["score_p50_us"], row["score_p99_us"] = _score(replay)
    row["disk_mb"] = system.folder_mb(folder / "state")
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    began = time.perf_counter()
    replay.state.copy_to(copy / "db")
    row["snapshot_s"] = time.perf_counter() - began
    system.reset_peak()
    before, seq, size = system.memory_mb(), learner.meta.record_seq, learner.meta.snapshot_bytes
    began = time.perf_counter()
    learner.publish_whole(replay.state.begin())  # thrown away: there is no log
    row["publish_s"] = time.perf_counter() - began
    row["publish_mb"] = system.peak_mb() - before
    row["published_mb"] = learner.meta.snapshot_bytes / 1e6
    learner.meta.record_seq, learner.meta.snapshot_bytes = seq, size
    row |= _restart(config.learner.pairs_rows_max, copy)
    shutil.rmtree(copy)
    return row


def _score(replay: KeptReplay) -> tuple[float, float]:
    """µs of a score of 50 candidates, base and corrected: median and 99th percentile of 300."""
    model, took = replay.learner.model, []
    part = world.block(replay.requests, SCORES * CANDIDATES)
    ids = {name: values.tolist() for name, values in part.ids.items()}
    for n in range(SCORES):
        at = n * CANDIDATES
        context = {name: ids[name][at] for name in (*world.OF_USER, "publisher", "hour")}
        candidates = [
            {name: ids[name][at + k] for name in ("item", "campaign", "category")} for k in range(CANDIDATES)
        ]
        request = Request(float(part.time()[at]), context, candidates)
        began = time.perf_counter()
        scores = model.score_requests([request])
        replay.memories[0].correct(scores.rows, scores.p)
        took.append((time.perf_counter() - began) * 1e6)
    return statistics.median(took), float(np.quantile(took, 0.99))


def _restart(rows_max: int, copy: Path) -> Row:
    """Start a process on a copy of the state, and see how long it takes until its learner could go on."""
    began = time.perf_counter()
    command = [sys.executable, str(Path(__file__).parents[1] / "soak.py"), "--restart", str(copy)]
    command += ["--rows-max", str(rows_max)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    whole = time.perf_counter() - began
    result: Row = json.loads(said)
    return {"restart_s": whole, "restore_s": result["restore_s"], "restart_memory_mb": result["memory_mb"]}


def restart(config: Config, folder: Path) -> Row:
    """What the process of `--restart` does."""
    from freshet.warmup import warm_up

    warm_up()
    began = time.perf_counter()
    with RoleState(folder, "learner", Learner.fingerprint(config.features, config.learner)) as state:
        learner = Learner(config.features, config.learner, state)
        took = time.perf_counter() - began
        return {"restore_s": took, "examples": learner.meta.examples, "memory_mb": system.memory_mb()}
