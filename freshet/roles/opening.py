"""Preparations for a role: check the config, open the log, create its topics."""

import threading
from collections.abc import Callable
from pathlib import Path

from freshet.config import Config
from freshet.errors import ConfigError
from freshet.roles.voice import Voice
from ground.retry import Backoff
from stream.errors import LogAwayError, StateFullError
from stream.group.membership import SNAPSHOTS_KEPT
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, MATCHES, ROLES, SNAPSHOTS, UPDATES, Log
from stream.log.open import missing_log, open_log
from stream.orders.names import OWN_TOPICS, own_name
from stream.orders.orders import MODELS
from stream.run.runner import AWAY_PAUSES
from stream.state.folder_lock import FolderLock


def wait_for_log(action: Callable[[], None], stop: threading.Event, voice: Voice) -> None:
    """Retry `action` while the log is away or the disk is full, until it succeeds or `stop` is set."""
    backoff = Backoff(AWAY_PAUSES)
    while not stop.is_set():
        try:
            return action()
        except (LogAwayError, StateFullError) as error:
            what = "the log" if isinstance(error, LogAwayError) else "room on the disk"
            voice.log(f"waiting for {what}", level="warning", error=str(error))
            backoff.wait(stop)
    return None


def open_used(config: Config) -> Log:
    """Open the configured log for a command that reads it; a missing log is not created.

    Raises:
        ConfigError: the config names an embedded log that does not exist.
        LogError: as `open_topics`.
    """
    if (path := missing_log(config.log)) is not None:
        raise ConfigError(
            f"there is no log {path}: name the config of the roles with --config FILE, or start them with "
            "`freshet up`"
        )
    return open_topics(config)


def topics_of(config: Config) -> dict[str, int]:
    """The topics that the roles use, in the order in which they are created, and their partitions."""
    divided = dict.fromkeys([EVENTS, EXAMPLES], config.stream.partitions)
    divided[EXAMPLES] = config.joining.partitions or config.stream.partitions
    if any(source.match for source in config.sources.values()):
        divided[MATCHES] = config.stream.partitions
    whole = [UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES]
    whole += [own_name(topic, model) for model in config.models for topic in OWN_TOPICS]
    if config.takes_orders:
        whole.append(MODELS)
    return {**divided, **dict.fromkeys(whole, 1)}


def open_topics(config: Config) -> Log:
    """Open the configured log and create missing topics.

    Raises:
        LogError: it cannot be opened, or has topics with another number of partitions.
    """
    log = open_log(config.log, config.stream.log)
    try:
        for topic, partitions in topics_of(config).items():
            log.create_topic(topic, partitions)
    except BaseException:
        log.close()
        raise
    return log


def check_unused(state: Path) -> None:
    """Check that no other process holds a state's folder.

    Raises:
        StateLockedError: one does.
    """
    if state.is_dir():
        FolderLock(state).release()


def goes_back_as(config: Config) -> str | None:
    """The name under which a learner can be told to go back; None: it keeps no snapshots for that."""
    return config.orders_to if config.group.snapshots_kept > SNAPSHOTS_KEPT else None


def shards_folder(config: Config, shards: int) -> Path:
    """Where the states of a learner in so many shards are, each in a folder named by its rank."""
    return config.state_of("learn") / f"shards-{shards}"


def begin_anew(config: Config) -> list[Path]:
    """Let this config's learner train a new model from its next start; returns the folders put aside.

    Raises:
        StateLockedError: the learner is running.
    """
    from learner.role import anew
    from learner.shards.reshard.folders import finish_resharding

    finish_resharding(config.state_of("learn"), config.snapshots)
    shards = config.learner.shards.count
    parts = [shards_folder(config, shards) / str(rank) for rank in range(shards)]
    folders = [config.state_of("learn")] if shards == 1 else parts
    for folder in folders:
        check_unused(folder)
    return [aside for folder in folders for aside in anew.begin_anew(folder, config.snapshots)]


def need_features(config: Config) -> None:
    """Check that a model can be made from this config.

    Raises:
        ConfigError: it declares no features.
        TorchMissingError: its network needs torch, which is not installed.
    """
    from learner.deep.autograd import need_torch

    if not config.features:
        raise ConfigError(
            "the config declares no features; add a section [features.NAME] for each feature of your events"
        )
    need_torch(config.learner.deep, config.learner.device)
