"""The role that reads the sources of others, a thread for each, and topic `matches` if it is needed."""

import contextlib
import threading
from collections.abc import Iterator

import msgspec

from freshet.config import Config
from freshet.errors import ConfigError
from freshet.roles.ingest.metrics import IngestMetrics, SourceView
from freshet.roles.opening import open_topics, topics_of
from freshet.roles.voice import Voice
from ground.threads import HelperThread
from stream.errors import LogAwayError, LogError
from stream.group.membership import Member
from stream.ingest.ingestor import SCHEMAS_KEY, Ingestor
from stream.ingest.matcher import Matcher
from stream.ingest.pace import Pace
from stream.ingest.share import ShareWork
from stream.ingest.two_logs import TwoLogs
from stream.ingest.ways import ways_of
from stream.log.base import MATCHES, Log
from stream.log.open import missing_log, open_log, prefix_of, without_prefix
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.sources.opening import open_around, open_format
from stream.sources.settings import SourceSettings
from stream.state.role_state import RoleState

SAY_EVERY_S = 10.0
LOOK_EVERY_S = 0.2


def need_sources(config: Config) -> None:
    """Check that there is something to ingest.

    Raises:
        ConfigError: there is not.
    """
    if not config.sources:
        raise ConfigError(
            "the config declares no sources; add a section [sources.NAME] for each topic to be read, or "
            "leave this role out: producers may write to topic 'events' themselves"
        )


def ingest(config: Config, stop: threading.Event, voice: Voice) -> None:
    """Records of others in, events out, until `stop` is set.

    Raises:
        FreshetError: the role cannot go on; uncommitted records are read again at the next start.
    """
    need_sources(config)
    ended = threading.Event()
    pace = Pace(config.ingest.ahead_of_others_s, sources=list(config.sources))
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(contextlib.closing(open_topics(config)))
        theirs = {
            url: stack.enter_context(contextlib.closing(open_source(config, url))) for url in _urls(config)
        }
        views = []
        threads = []
        for name in config.sources:
            source = source_of(config, name)
            work, view = stack.enter_context(_source(config, name, source, theirs[source.log], log, pace))
            views.append(view)
            threads.append(HelperThread(f"source {name}", work.run, lambda _: ended.set()))
        if MATCHES in topics_of(config):
            work, view = stack.enter_context(_matcher(config, log, pace))
            views.append(view)
            threads.append(HelperThread("matches", work.run, lambda _: ended.set()))
        with IngestMetrics(config.metrics, voice, views) as metrics:
            for thread in threads:
                thread.start()
            try:
                if not stop.is_set():
                    voice.ready()
                while not stop.wait(LOOK_EVERY_S) and not ended.is_set():
                    metrics.report()
            finally:
                for thread in threads:  # not `stop`: after some errors the role is to start again
                    thread.stopping.set()
                for thread in threads:
                    thread.join()
        for thread in threads:
            thread.check()


def source_of(config: Config, name: str) -> SourceSettings:
    """A source's settings with what the rest of the config says."""
    source = config.sources[name]
    return msgspec.structs.replace(
        source,
        log=source.log or without_prefix(config.log),
        within_s=source.within_s or max(target.window_s for target in config.known_targets().values()),
    )


def open_source(config: Config, url: str) -> Log:
    """The log of a source.

    Raises:
        ConfigError: it is an embedded log that is not there.
        LogError: it cannot be opened.
    """
    if (path := missing_log(url)) is not None and url != config.log:
        raise ConfigError(
            f"there is no log {path}: name the one that has the source's topic (sources.NAME.log)"
        )
    return open_log(url, config.stream.log, grows=True)


def need_topic(log: Log, name: str, source: SourceSettings) -> None:
    """Check that a source's topic is there.

    Raises:
        ConfigError: it is not.
        LogAwayError: the log does not answer.
    """
    try:
        log.partitions(source.topic)
    except LogAwayError:
        raise
    except LogError as error:
        raise ConfigError(
            f"sources.{name}.topic = {source.topic!r}: {error.args[0].partition(';')[0]}; name a topic that "
            "is there, by its full name"
        ) from None


def group_of(name: str) -> str:
    """The name of a source's group, in the beats and for lag tools."""
    return f"ingest.{name}"


def _urls(config: Config) -> list[str]:
    return sorted({source_of(config, name).log for name in config.sources})


@contextlib.contextmanager
def _source(
    config: Config, name: str, source: SourceSettings, theirs: Log, log: Log, pace: Pace
) -> Iterator[tuple[ShareWork, SourceView]]:
    """One source, ready to be read."""
    need_topic(theirs, name, source)
    fingerprint = {"topic": source.topic, "log": source.log}
    runner_settings = msgspec.structs.replace(
        config.stream.runner, commit_every_s=config.ingest.commit_every_s
    )
    with (
        RoleState(config.state_of("ingest") / name, "ingest", fingerprint) as state,
        Member(log, group_of(name), config.member, config.group) as member,
        contextlib.ExitStack() as stack,
    ):
        saved = state.get(SCHEMAS_KEY)
        known = {} if saved is None else msgspec.msgpack.decode(saved, type=dict[int, bytes])
        decoder = open_format(source, config.ingest.registry, known)
        stack.callback(decoder.close)
        around = open_around(source, config.ingest.registry, known)
        if around is not None:
            stack.callback(around.close)
        ways = ways_of(config.sources)
        ingestor = Ingestor(
            state, name, source, decoder, config.ingest, ways, pace, declared=config.features, around=around
        )
        both = TwoLogs(theirs, log)
        group = prefix_of(config.log) + group_of(name)  # the source's log has no prefix
        subscription = Subscription(source.topic, group, partitions=(), commits_offsets=False)
        runner = Runner(both, state, ingestor, subscription, runner_settings).open()
        newest = source.begin == "newest"
        work = ShareWork(both, state, ingestor, runner, member, source.topic, newest)
        yield (
            work,
            SourceView(
                name, member, runner, theirs, source.topic, lambda: msgspec.to_builtins(ingestor.counts)
            ),
        )


@contextlib.contextmanager
def _matcher(config: Config, log: Log, pace: Pace) -> Iterator[tuple[ShareWork, SourceView]]:
    """What finds the impressions of actions that name no request or no candidate."""
    matching = [source_of(config, name) for name, source in config.sources.items() if source.match]
    reach_s = max(source.within_s + source.wait_s for source in matching)
    settings = msgspec.structs.replace(config.stream.runner, commit_every_s=config.ingest.commit_every_s)
    with (
        RoleState(config.state_of("ingest") / MATCHES, "matcher", {"reach_s": str(reach_s)}) as state,
        Member(log, MATCHES, config.member, config.group) as member,
    ):
        matcher = Matcher(log, state, config.ingest, reach_s, pace=pace)
        subscription = Subscription(MATCHES, MATCHES, partitions=(), commits_offsets=False)
        runner = Runner(log, state, matcher, subscription, settings).open()
        work = ShareWork(log, state, matcher, runner, member, MATCHES)
        yield (
            work,
            SourceView(MATCHES, member, runner, log, MATCHES, lambda: msgspec.to_builtins(matcher.counts)),
        )
