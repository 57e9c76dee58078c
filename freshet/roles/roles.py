"""The roles, wired to a log: ingest, joiner, learner, server.

Roles share only the log. Each prints `ROLE: ready` when it is ready, runs until `stop` is set, and then
commits and returns.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator

import msgspec

from freshet.config import Config, all_features, each_model
from freshet.roles.opening import check_unused, need_features, open_topics, topics_of, wait_for_log
from freshet.roles.reporter import SAY_EVERY_S, Reporter, of_joiner, of_learner
from freshet.roles.role_metrics import RoleMetrics
from freshet.roles.voice import Voice, forwarding
from freshet.warmup import warm_up
from ground.threads import HelperThread
from stream.group.membership import Member
from stream.log.base import EVENTS, EXAMPLES, MATCHES, Log
from stream.orders.names import MAIN, own_name
from stream.orders.view import log_of
from stream.records.id_types import declared_of
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

Run = Callable[[Config, threading.Event], None]


def _role(name: str) -> Callable[[Callable[[Config, threading.Event, Voice], None]], Run]:
    """Set up a role's log lines, and restart the role while the log is away or its disk is full."""

    def decorate(run: Callable[[Config, threading.Event, Voice], None]) -> Run:
        @functools.wraps(run)
        def patient(config: Config, stop: threading.Event) -> None:
            voice = Voice(own_name(name, config.model) if name == "learn" else name)
            with forwarding(voice):
                wait_for_log(lambda: run(config, stop, voice), stop, voice)

        return patient

    return decorate


@_role("ingest")
def run_ingest(config: Config, stop: threading.Event, voice: Voice) -> None:
    """Records of others in, events out, until `stop` is set.

    Raises:
        FreshetError: the role cannot go on; uncommitted records are read again at the next start.
    """
    from freshet.roles.ingest.role import ingest

    ingest(config, stop, voice)


@_role("join")
def run_join(config: Config, stop: threading.Event, voice: Voice) -> None:
    """Events in, examples out, until `stop` is set.

    Raises:
        FreshetError: the role cannot go on; uncommitted records are read again at the next start.
    """
    from stream.join.assignment import Shares
    from stream.join.joiner import Joiner, joiner_fingerprint
    from stream.join.sharding.sent import check_outbox

    targets, settings = config.known_targets(), config.joining
    fingerprint = joiner_fingerprint(config.stream.partitions, targets, settings)
    with (
        contextlib.closing(open_topics(config)) as log,
        RoleState(config.state_of("join"), "joiner", fingerprint) as state,
        Member(log, "join", config.member, config.group, way=settings.shard_by) as member,
    ):
        check_outbox(log, state, settings.shard_by, member.held_up_by())
        joiner = Joiner(
            state,
            settings,
            declared=declared_of(all_features(config)),
            targets=targets,
            partitions=config.stream.partitions,
            forget_to=[MATCHES] if MATCHES in topics_of(config) else [],
        )
        runner = Runner(
            log, state, joiner, Subscription(EVENTS, "join", partitions=()), config.stream.runner
        ).open()
        source = of_joiner(joiner, runner)
        metrics = RoleMetrics(config.metrics, "join", log, EVENTS, runner, source)
        with Reporter(voice, log, member, runner, source, metrics) as reporter:
            if not stop.is_set():
                voice.ready()
            Shares(log, state, joiner, runner, member).run(stop, reporter.report)


@_role("learn")
def run_learn(config: Config, stop: threading.Event, voice: Voice) -> None:
    """Examples in, model updates out, until `stop` is set.

    Raises:
        FreshetError: the role cannot go on; uncommitted records are read again at the next start.
    """
    need_features(config)
    warm_up()
    from learner.role.learner import Learner
    from learner.role.setup import Callbacks, Folders, Learning
    from learner.role.succession import Succession
    from learner.updates.snapshots import Trimmer

    # Before it joins its group: a second process with the same name would stop the first.
    check_unused(config.state_of("learn"))
    with (
        contextlib.closing(open_topics(config)) as shared,
        Member(shared, own_name("learn", config.model), config.member, config.group) as member,
    ):
        log = log_of(shared, config.model)
        trim = Trimmer(log).trim

        @contextlib.contextmanager
        def reporting(runner: Runner, learner: Learner) -> Iterator[Callable[[], None]]:
            source = of_learner(learner)
            metrics = RoleMetrics(config.metrics_of_learner, "learn", log, EXAMPLES, runner, source)
            with Reporter(voice, log, member, runner, source, metrics, trim) as reporter:
                yield reporter.report

        def ready() -> None:
            if not stop.is_set():
                voice.ready()

        runner = msgspec.structs.replace(config.stream.runner, commit_every_s=config.learner.publish_every_s)
        Succession(
            log,
            member,
            Folders(config.state_of("learn"), config.snapshots),
            Learning(config.features, config.learner, runner, config.known_targets(), config.orders_to),
            Callbacks(ready, reporting),
        ).run(stop)


@_role("serve")
def run_serve(config: Config, stop: threading.Event, voice: Voice) -> None:
    """Answer requests from a live copy of the model, until `stop` is set.

    Raises:
        FreshetError: the address is in use, or the log or its updates cannot be read.
    """
    need_features(config)
    warm_up()
    from serving.app.server import serve
    from serving.models.guard import Guard, GuardWatch
    from serving.models.held import HeldModels
    from serving.nearest.index import Nearest
    from serving.replica.ranking import ranking_of
    from serving.replica.replica import Replica
    from serving.replica.status import RunningScorer

    def held(log: Log, one: Config) -> Replica:
        log = log_of(log, one.model)
        rest_in = one.state_of("serve")
        replica = Replica(
            log, one.features, one.learner, one.memory, one.server, one.known_targets(), rest_in=rest_in
        )
        name = one.model or MAIN
        if one.server.guard.enabled and name != one.server.guard.against:
            guards[name] = Guard(one.server.guard, name)
            replica.watch_by(guards[name])
        return replica

    guards: dict[str, Guard] = {}

    def watch(replica: RunningScorer, url: str) -> None:
        """Until the role ends: say when it is ready, and now and then how it does."""
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

    with contextlib.closing(open_topics(config)) as log:
        models = {name: held(log, one) for name, one in each_model(config).items()}
        replica: RunningScorer = (
            HeldModels(log, models, config.shares, config.route_by) if config.models else models[MAIN]
        )
        watching: list[HelperThread] = []
        if guards:
            watching.append(GuardWatch(log, guards, lambda _: stop.set()).thread)
            watching[0].start()

        def listening(url: str) -> None:
            thread = HelperThread("watch", lambda _: watch(replica, url), lambda _: stop.set())
            watching.append(thread)
            thread.start()

        try:
            targets = config.known_targets()
            ranking = ranking_of(config.rank.by, targets, config.features)
            nearest = None
            if config.server.nearest.of:
                (only,) = models.values()
                nearest = Nearest(log, only.live, config.server.nearest, lambda: only.loaded)
                only.attach(nearest)
            serve(replica, log, config.server, stop, listening, targets, ranking, nearest)
        finally:
            stop.set()
            for thread in watching:
                thread.stop()
        for thread in watching:
            thread.check()
        voice.log("stopped")


RUN: dict[str, Run] = {"ingest": run_ingest, "join": run_join, "learn": run_learn, "serve": run_serve}
