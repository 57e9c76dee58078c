"""One shard's process: it learns with the others, until it is stopped or one of them is lost."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import msgspec

from freshet.config import Config
from freshet.roles.opening import goes_back_as, need_features, open_topics, shards_folder
from freshet.roles.reporter import Reporter, of_learner
from freshet.roles.role_metrics import RoleMetrics
from freshet.roles.voice import Voice, forwarding
from freshet.warmup import warm_up
from ground import FreshetError
from ground.clock import SYSTEM_CLOCK
from learner.errors import ShardLostError
from learner.role.setup import Folders, Learning
from learner.shards.live.kept import KeptShard
from learner.shards.live.session import ShardCallbacks, ShardPlace, ShardSession, TurnMeter
from learner.shards.live.watch import shard_name
from learner.updates.snapshots import Trimmer
from stream.errors import LogAwayError, StateFullError
from stream.group.membership import Member
from stream.log.base import EXAMPLES, Log
from stream.orders.names import own_name
from stream.orders.view import log_of
from stream.run.runner import Runner
from stream.state.disk import ROCKS_DISK, Disk

EXIT_AGAIN = 75
"""The shards have lost one of them, the log or room on the disk: all of them begin again."""

EXIT_USER_ERROR = 2


def place_of(text: str) -> ShardPlace:
    """A place, written RANK/SHARDS@HOST:PORT.

    >>> place_of("1/4@127.0.0.1:2900")
    ShardPlace(rank=1, shards=4, host='127.0.0.1', port=2900)
    """
    numbers, _, address = text.partition("@")
    rank, _, shards = numbers.partition("/")
    host, _, port = address.rpartition(":")
    return ShardPlace(int(rank), int(shards), host, int(port))


def run_shard(config: Config, place: ShardPlace, stop: threading.Event, disk: Disk = ROCKS_DISK) -> NoReturn:
    """Run one shard, and end the process: threads of gloo may still wait for others.

    Args:
        disk: where its state is.
    """
    voice = Voice(own_name("learn", config.model), shard=place.rank)
    with forwarding(voice):
        status = 0
        try:
            with contextlib.closing(open_topics(config)) as log:
                learn_in_shard(config, log, place, stop, voice, disk)
            voice.log("stopped")
        except FreshetError as error:
            status = _end(error, voice, stop)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def learn_in_shard(
    config: Config, shared: Log, place: ShardPlace, stop: threading.Event, voice: Voice, disk: Disk
) -> None:
    """Meet the other shards and learn, until `stop` is set.

    Raises:
        ShardLostError: another shard is gone, or was stopped.
        FreshetError: this one cannot go on.
    """
    need_features(config)
    warm_up()
    log = log_of(shared, config.model)
    trim = Trimmer(log).trim if place.rank == 0 else lambda: None
    port = config.metrics_of_learner.learn_port
    if port:
        port += int(os.environ.get("LOCAL_RANK", place.rank))
    metrics_at = msgspec.structs.replace(config.metrics_of_learner, learn_port=port)
    group = own_name("learn", config.model)

    @contextlib.contextmanager
    def reporting(runner: Runner, kept: KeptShard, meter: TurnMeter) -> Iterator[Callable[[], None]]:
        source = of_learner(kept, lambda: meter.values(place.shards))
        metrics = RoleMetrics(metrics_at, "learn", log, EXAMPLES, runner, source)
        with Reporter(voice, log, member, runner, source, metrics, trim) as reporter:
            yield reporter.report

    def ready() -> None:
        if not stop.is_set():
            voice.ready()

    def end_now(error: FreshetError) -> None:
        os._exit(_end(error, voice, stop))

    runner = msgspec.structs.replace(config.stream.runner, commit_every_s=config.learner.publish_every_s)
    learning = Learning(config.features, config.learner, runner, config.known_targets(), goes_back_as(config))
    state = shards_folder(config, place.shards) / str(place.rank)
    folders = Folders(state, config.snapshots, disk)
    callbacks = ShardCallbacks(ready, reporting, end_now)
    with Member(shared, group, shard_name(place.rank, place.shards), config.group) as member:
        ShardSession(log, member, place, folders, learning, callbacks, SYSTEM_CLOCK).run(stop)


def _end(error: FreshetError, voice: Voice, stop: threading.Event) -> int:
    """Say why this shard ends; returns its exit status."""
    if stop.is_set():
        voice.log("stopped", error=str(error))
        return 0
    if isinstance(error, ShardLostError | LogAwayError | StateFullError):
        voice.log("begins again", level="warning", error=str(error))
        return EXIT_AGAIN
    print(f"freshet: {error}", file=sys.stderr, flush=True)
    return EXIT_USER_ERROR
