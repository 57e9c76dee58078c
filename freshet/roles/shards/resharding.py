"""`freshet reshard`: a learner that is stopped goes on in another number of processes."""

import contextlib
import threading
from pathlib import Path

import msgspec

from freshet.config import Config
from freshet.errors import ConfigError
from freshet.roles.opening import goes_back_as, need_features, open_used
from freshet.warmup import warm_up
from learner.role.setup import Folders, Learning
from learner.shards.live.session import check_shardable
from learner.shards.live.watch import check_partitions
from learner.shards.reshard.folders import finish_resharding, numbers_there
from learner.shards.reshard.group import learn_last_group
from learner.shards.reshard.states import reshard
from stream.group.membership import Member
from stream.log.base import EXAMPLES
from stream.orders.names import own_name
from stream.orders.view import log_of


def run_reshard(config: Config, to: int, stop: threading.Event) -> None:
    """Let the states of the config's learner become those of so many processes.

    Raises:
        ConfigError: there is no state, or one of two learners.
        FreshetError: see `learner.shards.reshard.states.reshard`.
    """
    need_features(config)
    folder = config.state_of("learn")
    finish_resharding(folder, config.snapshots)
    before = _number(folder)
    told = f"now set learner.shards.count = {to}, and start the learner"
    if before == to:
        print(f"freshet: {folder} holds the state of {name_of(to)} already; {told}")
        return
    try:
        shards = msgspec.structs.replace(config.learner.shards, count=to)
    except ValueError as error:
        raise ConfigError(f"--to {to}: {error}") from None
    settings = msgspec.structs.replace(config.learner, shards=shards)
    runner = msgspec.structs.replace(config.stream.runner, commit_every_s=config.learner.publish_every_s)
    learning = Learning(config.features, settings, runner, config.known_targets(), goes_back_as(config))
    with contextlib.closing(open_used(config)) as shared:
        log = log_of(shared, config.model)
        check_shardable(learning)
        check_partitions(to, log.partitions(EXAMPLES))
        warm_up()
        if before == 1:
            with Member(shared, own_name("learn", config.model), config.member, config.group) as member:
                learn_last_group(log, member, Folders(folder, config.snapshots), learning, stop)
        made = reshard(log, folder, learning, before, to)
    finish_resharding(folder, config.snapshots)
    rows = ", ".join(f"{count:,}" for count in made.rows)
    print(
        f"freshet: {name_of(before)} became {name_of(to)} after update {made.seq}, with {rows} rows; {told}"
    )


def name_of(shards: int) -> str:
    """So many processes, for a message."""
    return "one process" if shards == 1 else f"{shards} shards"


def _number(folder: Path) -> int:
    found = numbers_there(folder)
    if not found:
        raise ConfigError(
            f"{folder} holds no learner's state: nothing is to be resharded; set learner.shards.count"
        )
    if len(found) > 1:
        names = " and of one in ".join(name_of(shards) for shards in found)
        raise ConfigError(f"{folder} holds the state of a learner in {names}: move the older one away first")
    return found[0]
