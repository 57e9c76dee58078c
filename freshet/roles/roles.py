"""The roles, wired to a log: joiner, learner, server.

Roles share nothing but the log. Each prints `ROLE: ready` once it is at work, runs until `stop` is
set, and then commits what it has taken and returns.
"""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from freshet.config import Config
from freshet.errors import ConfigError
from freshet.roles.process import Voice
from freshet.roles.role_metrics import RoleMetrics
from freshet.warmup import warm_up
from stream.errors import LogAwayError, StateFullError
from stream.group.membership import Member, Told
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Log
from stream.log.open import missing_log, open_log
from stream.run.runner import Progress, Runner
from stream.state.folder_lock import FolderLock
from stream.state.role_state import RoleState

SAY_EVERY_S = 10.0
TELL_EVERY_S = 1.0
RETENTION_EVERY_S = 60.0
READY_S_MAX = 600.0  # a replica that has a long log of updates to read
AWAY_S_MIN = 0.25  # until a log that is away is tried again; doubled each time
AWAY_S_MAX = 5.0

Run = Callable[[Config, threading.Event], None]


def _role(name: str) -> Callable[[Run], Run]:
    """A role says what lower floors log, and begins anew while the log is away or its disk full."""

    def decorate(run: Run) -> Run:
        @functools.wraps(run)
        def patient(config: Config, stop: threading.Event) -> None:
            voice = Voice(name)
            with _forwarding(voice):
                wait_for_log(lambda: run(config, stop), stop, voice)

        return patient

    return decorate


def wait_for_log(action: Callable[[], None], stop: threading.Event, voice: Voice) -> None:
    """Do `action`, again and again while the log is away or the disk full, until it is done or `stop` set."""
    pause_s = AWAY_S_MIN
    while not stop.is_set():
        try:
            return action()
        except (LogAwayError, StateFullError) as error:
            what = "the log" if isinstance(error, LogAwayError) else "room on the disk"
            voice.log(f"waiting for {what}", level="warning", error=str(error), again_s=pause_s)
            stop.wait(pause_s)
            pause_s = min(2.0 * pause_s, AWAY_S_MAX)
    return None


def open_used(config: Config) -> Log:
    """The configured log, for who looks into it: nothing is to be found in one that is made for it.

    Raises:
        ConfigError: the config names an embedded log that is not there.
        LogError: as `open_topics`.
    """
    if (path := missing_log(config.log)) is not None:
        raise ConfigError(
            f"there is no log {path}: name the config that the roles run with by --config FILE, or start them"
        )
    return open_topics(config)


def open_topics(config: Config) -> Log:
    """The configured log, with all topics in place.

    Raises:
        LogError: it cannot be opened, or has topics with another number of partitions.
    """
    log = open_log(config.log, config.stream.log)
    try:
        for topic in (EVENTS, EXAMPLES):
            log.create_topic(topic, config.stream.partitions)
        for topic in (UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
            log.create_topic(topic, 1)
    except BaseException:
        log.close()
        raise
    return log


@_role("join")
def run_join(config: Config, stop: threading.Event) -> None:
    """Events in, examples out, until `stop` is set.

    Raises:
        FreshetError: whatever stops the role; what was not committed is read again next time.
    """
    from stream.join.assignment import Shares
    from stream.join.joiner import Joiner

    voice = Voice("join")
    log = open_topics(config)
    try:
        fingerprint = {"partitions": str(config.stream.partitions)}
        with (
            RoleState(config.state_of("join"), "joiner", fingerprint) as state,
            Member(log, "join", config.member, config.group) as member,
        ):
            joiner = Joiner(state, config.join)

            def figures() -> Mapping[str, Any]:
                counts = msgspec.to_builtins(joiner.counts)
                return {
                    "undecided": joiner.undecided,
                    "partitions": len(runner.held),
                    **{k: v for k, v in counts.items() if v},
                }

            told = _Told(voice, log, member, figures)
            runner = Runner(log, state, joiner, EVENTS, "join", config.stream.runner, told.progress, ())

            def clocks() -> Mapping[int, float]:
                return {p: clock for p in runner.positions() if (clock := joiner.clock(p))}

            told.clocks = clocks
            with RoleMetrics(
                config.metrics, "join", log, EVENTS, runner, figures(), clocks, joiner.ahead.counts
            ) as told.metrics:
                told.ready(stop)
                Shares(log, state, joiner, runner, member).run(stop)
            told.end(runner.progress)
    finally:
        log.close()


@_role("learn")
def run_learn(config: Config, stop: threading.Event) -> None:
    """Examples in, updates of the model out, until `stop` is set.

    Raises:
        FreshetError: whatever stops the role; what was not committed is read again next time.
    """
    need_features(config)
    warm_up()
    from learner.role.learner import Learner
    from learner.role.succession import Succession
    from learner.updates.snapshots import Trimmer

    voice = Voice("learn")
    # before its group hears of it: there a name that comes again ends the process that had it
    check_unused(config.state_of("learn"))
    log = open_topics(config)
    try:
        with Member(log, "learn", config.member, config.group) as member:
            told = _Told(voice, log, member, dict, Trimmer(log).trim)

            @contextlib.contextmanager
            def at_work(runner: Runner, learner: Learner) -> Iterator[Callable[[Progress], None]]:
                told.figures, told.tables = learner.figures, _counted_from_here(learner.table_counts)
                figures = learner.figures()
                with RoleMetrics(config.metrics, "learn", log, EXAMPLES, runner, figures) as told.metrics:
                    yield told.progress
                told.end(runner.progress)

            Succession(
                log,
                member,
                config.state_of("learn"),
                config.snapshots,
                config.features,
                config.learner,
                msgspec.structs.replace(config.stream.runner, commit_every_s=config.learner.publish_every_s),
                lambda: told.ready(stop),
                at_work,
            ).run(stop)
    finally:
        log.close()


@_role("serve")
def run_serve(config: Config, stop: threading.Event) -> None:
    """Answer requests from a live copy of the model, until `stop` is set.

    Raises:
        FreshetError: the address is taken, or the log or its updates cannot be read.
    """
    need_features(config)
    warm_up()
    from serving.app.server import serve
    from serving.replica.replica import Replica

    voice = Voice("serve")
    log = open_topics(config)
    watching: list[threading.Thread] = []
    try:
        replica = Replica(log, config.features, config.learner, config.memory, config.server)

        def listening(url: str) -> None:
            watching.append(threading.Thread(target=watch, args=(url,), name="watch", daemon=True))
            watching[0].start()

        def watch(url: str) -> None:
            voice.log("listening", url=url)
            while not replica.wait_ready(0.2):
                if stop.is_set() or replica.failure is not None:
                    return
            voice.ready(url)
            while not stop.wait(SAY_EVERY_S):
                status = replica.status()
                voice.log(
                    "serving",
                    version=status.version,
                    learnt=status.examples_learnt,
                    observed=status.examples_observed,
                    memory=status.memory.evidence,
                    auc_base=status.base.recent["auc"],
                    auc_corrected=status.corrected.recent["auc"],
                    freshness_s=status.freshness_s,
                )

        serve(replica, log, config.server, stop, listening)
        stop.set()
        for thread in watching:
            thread.join()
        voice.log("stopped")
    finally:
        log.close()


RUN: dict[str, Run] = {
    "join": run_join,
    "learn": run_learn,
    "serve": run_serve,
}


class _Told:
    """Tells how a log-reading role is doing, and applies the log's retention now and then.

    `figures`, `tables` and `clocks` are called in the role's thread, about once a second.
    """

    def __init__(
        self,
        voice: Voice,
        log: Log,
        member: Member,
        figures: Callable[[], Mapping[str, Any]],
        trim: Callable[[], None] = lambda: None,
    ) -> None:
        self.metrics: RoleMetrics | None = None
        self.figures = figures
        self.tables: Callable[[], dict[str, list[int]]] = dict
        self.clocks: Callable[[], Mapping[int, float]] = dict
        self._trim = trim
        self._voice = voice
        self._log = log
        self._member = member
        self._told = float("-inf")
        self._said = self._kept = time.monotonic()
        self._records = 0

    def ready(self, stop: threading.Event) -> None:
        if not stop.is_set():
            self._voice.ready()

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_S:
            self._told = now
            self._tell(progress)
        if now - self._kept >= RETENTION_EVERY_S:
            self._kept = now
            self._log.enforce_retention()
            self._trim()
        if now - self._said >= SAY_EVERY_S and progress.records != self._records:
            rate = (progress.records - self._records) / (now - self._said)
            self._said, self._records = now, progress.records
            self._say("working", progress, per_second=round(rate, 1))

    def _tell(self, progress: Progress) -> None:
        """For Prometheus, and in the log for whoever watches there."""
        figures, tables = self.figures(), self.tables()
        if self.metrics is not None:
            self.metrics.refresh(figures, tables)
        numbers = {"records": progress.records, "skipped": progress.skipped, **figures}
        if clocks := self.clocks():
            numbers["clock"] = min(clocks.values())
        known = {name: float(value) for name, value in numbers.items() if value is not None}
        self._member.tell(Told(known, tables))

    def end(self, progress: Progress) -> None:
        self._say("stopped", progress)

    def _say(self, event: str, progress: Progress, **more: object) -> None:
        told: dict[str, object] = {
            "records": progress.records,
            **more,
            "lag": progress.lag_records,
            "duplicates": progress.duplicates,
            "commits": progress.commits,
            **self.figures(),
        }
        self._voice.log(event, "info", **told)


def _counted_from_here(
    table_counts: Callable[[], dict[str, list[int]]],
) -> Callable[[], dict[str, list[int]]]:
    """The same counts less what they are now, but for rows: a table counts what it was loaded with, too."""
    before = table_counts()

    def counts() -> dict[str, list[int]]:
        return {
            name: [rows, *(n - then for n, then in zip(counted, before[name][1:], strict=True))]
            for name, (rows, *counted) in table_counts().items()
        }

    return counts


@contextlib.contextmanager
def _forwarding(voice: Voice) -> Iterator[None]:
    """What lower floors log is said in the role's voice."""
    logger = logging.getLogger("freshet")
    handler, level = _Forward(voice), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Forward(logging.Handler):
    """What lower floors log, in the role's voice."""

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        more = {"error": str(record.exc_info[1])} if record.exc_info else {}
        self._voice.log(record.getMessage(), record.levelname.lower(), **more)


def check_unused(state: Path) -> None:
    """Check that no other process holds a state's folder.

    Raises:
        StateLockedError: one does.
    """
    if state.is_dir():
        FolderLock(state).release()


def need_features(config: Config) -> None:
    """Check that a model can be made by this config.

    Raises:
        ConfigError: it declares no features.
    """
    if not config.features:
        raise ConfigError(
            "the config declares no features; add a section [features.NAME] for each feature of your events"
        )
