"""`freshet sweep`: many configurations over one stream, on as many processes as there are cores.

Each trial is a `freshet replay` in its own process, which writes its report to the sweep's folder atomically;
the file name has the config's hash and the number of requests. So the same command resumes a sweep that was
killed.

With halving (Jamieson & Talwalkar 2016, "Non-stochastic best arm identification") all trials play the
beginning of the stream, the best third plays three times as much, and so on to the whole stream: most bad
configurations can be recognised early.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from freshet.config import Config
from freshet.decide.trials import Trial
from freshet.errors import SweepError
from freshet.files import Json
from freshet.progress import progress
from freshet.replay.tape import ReplayOptions, open_tape, replay_config
from freshet.version import code_version
from ground import UNDECODABLE
from stream.files.record_files import whole_or_nothing

HALVING = 3
PREFIX_MIN = 1_000  # requests; fewer are too noisy
LOOK_EVERY_S = 0.05
HIGHER_IS_BETTER = ("auc", "request_auc", "gauc", "loglik")
METRICS = {"logloss": "log loss", "auc": "AUC", "request_auc": "in reqs", "ece": "ECE"}
VALUE_METRICS = {"mae": "MAE", "rmse": "RMSE", "loglik": "loglik", "calibration": "calibr."}
BY = (*METRICS, "gauc", "brier", "mae", "rmse", "loglik")
"""What trials may be ranked by."""
MANIFEST = "sweep.json"
DEFAULT_UNDEFINED = (
    "this metric is not defined over this data (all labels are the same), so nothing is ranked"
)
UNDEFINED = {
    "request_auc": "no request has candidates with both labels, so AUC within requests is not defined and "
    "nothing is ranked; use --by logloss or --by auc"
}
BIASED = (
    "AUC per user (gauc) is biased over a replay: a model that learns each user's click rate scores lower by "
    "it. Prefer --by request_auc where requests have several candidates, else --by logloss"
)


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a sweep."""

    config_file: str | None
    overrides: list[str]
    options: ReplayOptions
    folder: Path
    by: str = ""  # "": log loss, of a value the mean absolute error
    target: str = ""  # whose metrics; "": the first
    prediction: str = "corrected"
    jobs: int = 1
    halving: bool = False


class Result(NamedTuple):
    """The report of a trial's longest run, or the reason of its failure."""

    trial: Trial
    requests: int
    metrics: dict[str, float | None]
    per_second: float
    report: Path | None
    failed: str = ""


class _Running(NamedTuple):
    process: subprocess.Popen[bytes]
    trial: Trial
    report: Path
    log: Path


Play = Callable[[Sweep, Sequence[tuple[Trial, Config]], int | None, str], Sequence[Result]]
"""Plays (trial, config) up to a number of requests (None: all); the text names the rung."""


def run_sweep(sweep: Sweep, trials: Sequence[Trial], play: Play | None = None) -> list[Result]:
    """Run all trials; returns their results, the best first.

    Args:
        play: plays trials up to a number of requests; None: one replay process per trial.

    Raises:
        SweepError: the folder belongs to another sweep, or all trials failed.
        FreshetError: a trial's config or the data is wrong; raised before any trial runs.
    """
    different: dict[str, tuple[Trial, Config]] = {}  # config hash -> result
    for trial in trials:
        config = replay_config(sweep.config_file, _sets(sweep, trial), sweep.options)
        ranked_by(sweep, config)
        different.setdefault(config.digest(), (trial, config))
    left = list(different.values())
    sweep = msgspec.structs.replace(sweep, by=ranked_by(sweep, left[0][1]))
    _claim(sweep)
    rungs = _rungs(sweep, left[0][1], len(left))
    results: dict[Trial, Result] = {}
    for number, limit in enumerate(rungs):
        doing = f"rung {number + 1} of {len(rungs)}" if len(rungs) > 1 else "trials"
        for result in (play or _run_all)(sweep, left, limit, doing):
            results[result.trial] = result
        ranked = sorted(left, key=lambda pair: _rank(sweep, results[pair[0]]))
        keep = -(-len(left) // HALVING) if number + 1 < len(rungs) else len(left)
        # The unchanged config always continues: it is the baseline.
        left = [pair for i, pair in enumerate(ranked) if i < keep or not pair[0].values]
    if all(result.metrics.get(sweep.by) is None for result in results.values() if not result.failed):
        print(f"warning: {UNDEFINED.get(sweep.by, DEFAULT_UNDEFINED)}", file=sys.stderr)
    found = sorted(results.values(), key=lambda result: (-result.requests, *_rank(sweep, result)))
    if all(result.failed for result in found):
        raise SweepError(f"no trial could be run; the first said: {found[0].failed}")
    return found


def ranked_by(sweep: Sweep, config: Config) -> str:
    """The metric that a sweep ranks by.

    Raises:
        SweepError: the config has no such target, or the target no such metric.
    """
    targets = config.known_targets()
    name = sweep.target or targets.primary
    if name not in targets:
        raise SweepError(f"--target {name}: the config has no such target; it has {', '.join(targets)}")
    kind, known = targets[name].kind, ["mae", "rmse", "loglik"]
    if kind == "event":
        known = [metric for metric in BY if metric not in known]
    if sweep.by and sweep.by not in known:
        raise SweepError(
            f"--by {sweep.by}: target {name} is of kind {kind}; expected one of {', '.join(known)}"
        )
    return sweep.by or known[0]


def print_table(sweep: Sweep, results: Sequence[Result]) -> None:
    """One line a trial, the best first."""
    metrics = VALUE_METRICS if any("mae" in result.metrics for result in results) else METRICS
    by = sweep.by or next(iter(metrics))
    varied = sorted({key for result in results for key, _ in result.trial.values})
    print(
        "  ".join(
            [f"{'':>3}", f"{'requests':>9}", *(f"{title:>8}" for title in metrics.values()), f"{'req/s':>8}"]
        )
    )
    for rank, result in enumerate(results, 1):
        settings = ", ".join(f"{key}={value}" for key, value in result.trial.values) or "(as it is)"
        if result.failed:
            print(f"{rank:>3}  {settings}   failed: {result.failed}")
            continue
        values = [result.metrics.get(metric) for metric in metrics]
        shown = ["–".rjust(8) if value is None else f"{value:8.5f}" for value in values]
        cells = [f"{rank:>3}", f"{result.requests:>9,}", *shown, f"{result.per_second:>8,.0f}", settings]
        print("  ".join(cells))
    if sweep.by == "gauc":
        print(f"warning: {BIASED}", file=sys.stderr)
    whose = ", ".join(part for part in (sweep.target, sweep.prediction) if part)
    print(
        f"by {by} of the last half ({whose}), over {', '.join(varied)}; reports are in {sweep.folder}. The "
        "result of the best of many trials is too optimistic: compare it with the current config on data "
        "that this sweep has not used (freshet replay --predictions, freshet compare)"
    )


def _sets(sweep: Sweep, trial: Trial) -> list[str]:
    return [*sweep.overrides, *trial.overrides()]


def _claim(sweep: Sweep) -> None:
    """Write the sweep's options to its folder; refuse the folder of another sweep."""
    content = msgspec.json.encode(
        {"options": msgspec.to_builtins(sweep.options), "config": sweep.config_file or ""}, order="sorted"
    )
    manifest = sweep.folder / MANIFEST
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        if not manifest.exists():
            with whole_or_nothing(manifest) as making:
                making.write_bytes(content)
        elif manifest.read_bytes() != content:
            raise SweepError(
                f"{sweep.folder} holds the results of other data or another config file; name another folder "
                "with --out, or remove it"
            )
    except OSError as error:
        raise SweepError(f"{sweep.folder}: cannot be written: {error.strerror}") from None


def _rungs(sweep: Sweep, config: Config, trials: int) -> list[int | None]:
    """The number of requests of each rung; None: all."""
    if not sweep.halving:
        return [sweep.options.limit]
    tape = open_tape(config, sweep.options)
    try:
        total = sum(1 for _ in tape)
    finally:
        tape.close()
    rungs: list[int | None] = [sweep.options.limit]
    prefix, left = total // HALVING, trials
    while left > 1 and prefix >= PREFIX_MIN:
        rungs.insert(0, prefix)
        prefix //= HALVING
        left = -(-left // HALVING)
    return rungs


def _run_all(
    sweep: Sweep, trials: Sequence[tuple[Trial, Config]], limit: int | None, doing: str
) -> list[Result]:
    """Results of all trials over the first `limit` requests; existing reports are reused."""
    found: list[Result] = []
    waiting: list[tuple[Trial, Path]] = []
    for trial, config in trials:
        report = sweep.folder / f"{config.digest()}-{limit or 'all'}.json"
        known = _read(sweep, trial, report)
        if known is None:
            waiting.append((trial, report))
        else:
            found.append(known)
    waiting.reverse()
    running: list[_Running] = []
    try:
        with progress(doing, len(trials)) as advance:
            advance(len(found))
            while waiting or running:
                while waiting and len(running) < sweep.jobs:
                    running.append(_start(sweep, *waiting.pop(), limit))
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    found.append(_ended(sweep, one))
                    advance(1)
                time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        done = f"{len(found)} of {len(trials)} {doing} are in {sweep.folder}"
        raise KeyboardInterrupt(f"{done}; the same command resumes the sweep") from None
    finally:
        for one in running:
            one.process.kill()
            one.process.wait()
    return found


def _start(sweep: Sweep, trial: Trial, report: Path, limit: int | None) -> _Running:
    options = sweep.options
    command = [sys.executable, "-m", "freshet", "replay", "--report", str(report)]
    command += ["--with-parent", str(os.getpid())]
    for name, value in (
        ("--config", sweep.config_file),
        ("--data", options.data),
        ("--from", options.begin),
        ("--to", options.end),
        ("--limit", limit),
        ("--freeze-after", options.freeze_after),
        ("--entities", options.entities),
    ):
        if value is not None:
            command += [name, str(value)]
    command += ["--through-rollbacks"] * options.through_rollbacks
    for override in _sets(sweep, trial):
        command += ["--set", override]
    log = report.with_suffix(".log")
    # one thread per process, because there is one process per core
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env={**os.environ, **one}
        )
    return _Running(process, trial, report, log)


def _ended(sweep: Sweep, one: _Running) -> Result:
    result = _read(sweep, one.trial, one.report)
    if one.process.returncode == 0 and result is not None:
        one.log.unlink(missing_ok=True)
        return result
    lines = one.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    why = lines[-1] if lines else f"exit status {one.process.returncode}"
    return Result(one.trial, 0, {}, 0.0, None, why.removeprefix("freshet: "))


def _read(sweep: Sweep, trial: Trial, path: Path) -> Result | None:
    """A trial's report; None if there is none from this version of the code."""
    try:
        report: Json = msgspec.json.decode(path.read_bytes())
    except (OSError, *UNDECODABLE):
        return None
    if report["code_version"] != code_version():
        return None
    # a target without candidates has no metrics, and a report on one target is of that
    part = report.get("targets", {}).get(sweep.target, report) if sweep.target else report
    metrics = part[sweep.prediction]["last_half"] if sweep.prediction in part else {}
    shown = VALUE_METRICS if "mae" in metrics else METRICS
    return Result(
        trial,
        report["events"],
        {name: metrics.get(name) for name in {*shown, sweep.by}},
        report["events_per_second"],
        path,
    )


def _rank(sweep: Sweep, result: Result) -> tuple[bool, float]:
    """Sort key: the best first; failed trials and undefined metrics last."""
    value = result.metrics.get(sweep.by)
    if value is None:
        return (True, 0.0)
    return (False, -value if sweep.by in HIGHER_IS_BETTER else value)
