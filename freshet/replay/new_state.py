"""Where learning begins anew: a new state of a config's learner, and new shards for a replay.

A state is made in a temporary folder, and is there whole or not at all.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from freshet.config import Config
from freshet.errors import ReplayError, TrainError
from freshet.replay.tape import ReplayOptions
from freshet.roles.opening import need_features, open_topics
from freshet.warmup import warm_up
from learner.resting import rows_rest
from learner.role.learner import Learner
from learner.shards.owners import Owners
from learner.shards.processes import Processes
from learner.shards.together import ShardedLearner, Together, check_turn
from learner.updates.chain import UpdatePosition
from learner.updates.format import decode_update
from stream.log.base import SNAPSHOTS, UPDATES, Log
from stream.state.role_state import RoleState

LOOK_BACK = (1, 10, 1_000)  # records at the end of a topic among which the newest is looked for


@contextmanager
def new_state(config: Config) -> Iterator[tuple[RoleState, UpdatePosition, Log]]:
    """Gives an empty state to fill, the end of topic `updates`, and the log; then puts the state in place.

    After an exception nothing is there.

    Raises:
        TrainError: the config's learner has a state or snapshots already, or the state cannot be written.
        FreshetError: the config has no features, or the log cannot be opened.
    """
    folder = config.state_of("learn")
    need_features(config)
    _check_free(config, folder)
    warm_up()
    log = open_topics(config)
    making = folder.with_name(f"{folder.name}.training")
    try:
        shutil.rmtree(making, ignore_errors=True)
        fingerprint = Learner.fingerprint(config.features, config.learner, config.known_targets())
        with RoleState(making, "learner", fingerprint) as state:
            yield state, _position(log), log
        shutil.rmtree(folder, ignore_errors=True)  # it holds only the files of a failed start
        making.rename(folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written; the same command starts again") from None
    except OSError as error:
        raise TrainError(f"{making}: the state cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
        log.close()


def commit_new(learner: Learner, state: RoleState, last: bool) -> None:
    """Commit a new learner; with `last` a snapshot for servers and other learners goes out with it."""
    commit = state.begin()
    learner.flush(commit, rest=not last)
    if last:
        learner.publish_whole(commit)
    state.commit(commit)


def _position(log: Log) -> UpdatePosition:
    """The end of topic `updates`: the updates before it belong to another model."""
    _, end = log.ends(UPDATES)[0]
    terms = [0]
    for topic in (UPDATES, SNAPSHOTS):
        first, after = log.ends(topic)[0]
        for back in LOOK_BACK:  # offsets may have gaps
            records = log.read(topic, 0, max(first, after - back), back) if after > first else []
            if records:
                terms.append(decode_update(records[-1].value).term)
                break
    return UpdatePosition(offset=end, term=max(terms), made_in=max(terms))


def _check_free(config: Config, folder: Path) -> None:
    if (folder / "db" / "CURRENT").exists():
        raise TrainError(
            f"{folder} holds a learner's state already, which would be lost; use another folder "
            "(--set state=DIR), or remove it"
        )
    if any(config.snapshots.glob("learn-*-*")):
        raise TrainError(
            f"{config.snapshots} holds snapshots of a learner, from which others would begin; remove them, "
            "or name another folder (--set state=DIR)"
        )


@contextmanager
def new_shards(config: Config, options: ReplayOptions) -> Iterator[ShardedLearner | None]:
    """Gives the shards that a replay's options ask for, and ends them; None: they ask for none.

    Raises:
        ReplayError: other options do not go with shards.
        ShardError: there cannot be so many, or turns cannot be so long.
    """
    if options.shards is None:
        if options.processes:
            raise ReplayError("--processes says where shards are: give their number by --shards")
        yield None
        return
    if options.freeze_after is not None or options.journal is not None:
        raise ReplayError("--shards learns all from the beginning: leave out --freeze-after and --journal")
    if rows_rest(config.features, config.learner):
        raise ReplayError("--shards keeps all rows in memory: leave out memory_rows and pairs_memory_rows")
    check_turn(options.turn)
    crew = Processes if options.processes else Together
    learner = ShardedLearner(
        crew(Owners(options.shards), config.features, config.learner, config.known_targets()), options.turn
    )
    try:
        yield learner
    finally:
        learner.close()
