"""`freshet train`: train on history in files, then continue with the live log (Monolith, section 2.2).

The result is a learner's state that records up to which event time it has used the files
(`learner.role.boundary`). `freshet learn` or `up` continues from it with the log and skips examples of the
history. After an interruption the same command starts again (`freshet.replay.new_state`).
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from freshet.config import Config
from freshet.errors import TrainError
from freshet.progress import progress
from freshet.replay.new_state import commit_new, new_state
from freshet.replay.tapes.entities import entities_of
from learner.features.columns import declared_by
from learner.role.boundary import IDS_MAX, Boundary
from learner.role.learner import Learner
from learner.updates.chain import UpdatePosition
from stream.files.sources import LeftOut, count_examples, read_examples
from stream.log.base import EXAMPLES, Log
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.targets import UNKNOWN
from stream.records.types import Example, Forget
from stream.state.role_state import RoleState

CHUNK_REQUESTS = 512
COMMIT_REQUESTS = 50_000


class Trained(NamedTuple):
    """What was learnt."""

    requests: int
    beyond: int  # examples of the files at or after the boundary, left to the log
    overlap: int  # requests near the boundary, whose ids are stored
    state: Path
    left_out: str = ""  # a sentence about unusable lines


def train(
    config: Config, files: Sequence[Path], until: float, overlap_s: float, entities: str | None = None
) -> Trained:
    """Train on the files' examples before `until`, and write the state of this config's learner.

    Args:
        files: in order of time.
        until: event time, Unix seconds.
        overlap_s: see `learner.role.boundary`.
        entities: a file of entities, beside those of the config.

    Raises:
        TrainError: a state exists already, the log has dropped later examples, or there are no examples.
        FreshetError: the files, or the log.
    """
    boundary = Boundary(until, overlap_s)
    with new_state(config) as (state, position, log):
        _check_kept(log, until - overlap_s)
        found = _learn(config, files, entities, boundary, state, position, log)
    return found._replace(state=config.state_of("learn"))


def _learn(
    config: Config,
    files: Sequence[Path],
    entities: str | None,
    boundary: Boundary,
    state: RoleState,
    position: UpdatePosition,
    log: Log,
) -> Trained:
    learner = Learner(config.features, config.learner, state, config.known_targets(), beside=True)
    learner.publish_to(log)
    learner.warm()
    left_out = LeftOut()
    try:
        learner.go_on_in_log(boundary, position)
        events = deque(entities_of(config, entities))
        read = beyond = committed = 0
        counts = [count_examples(file, config.data) for file in files]
        total = sum(n for n in counts if n is not None) if None not in counts else None
        with progress("learning", total) as advance:
            examples = _examples(config, files, left_out)
            while chunk := list(islice(examples, CHUNK_REQUESTS)):
                mine = [example for example in chunk if boundary.of_history(example)]
                if boundary.ids > IDS_MAX:
                    raise TrainError(
                        f"over {IDS_MAX:,} requests of history lie within the overlap of "
                        f"{boundary.overlap_s:g} s; give a shorter --overlap"
                    )
                while events and mine and events[0].time <= mine[-1].time:
                    learner.intake.tell(events.popleft())
                learner.learn(mine)
                read, beyond = read + len(mine), beyond + len(chunk) - len(mine)
                advance(len(chunk))
                if read - committed >= COMMIT_REQUESTS:
                    committed = read
                    commit_new(learner, state, last=False)
        if read == 0:
            raise TrainError(
                "there is nothing to train on: no example of these files comes before --until; it is event "
                "time, as ISO 8601 or Unix seconds"
            )
        commit_new(learner, state, last=True)
    finally:
        learner.close()
    return Trained(read, beyond, boundary.ids, state.path, left_out.phrase())


def _examples(config: Config, files: Sequence[Path], left_out: LeftOut) -> Iterator[Example]:
    """The files' examples, one file after the other."""
    newest, newest_file = float("-inf"), Path()
    for file in files:
        first = True
        for example in read_examples(
            file, config.data, left_out, declared_by(config.features), config.known_targets()
        ):
            if first and example.decided < newest:
                raise TrainError(
                    f"{file} begins before {newest_file} ends; name the files in the order of their time"
                )
            first = False
            newest = max(newest, example.decided)
            yield example
        newest_file = file


def _check_kept(log: Log, begin: float) -> None:
    """Check that the log still has the examples after `begin`."""
    for partition, (first, end) in enumerate(log.ends(EXAMPLES)):
        if first == 0:
            continue
        if _first_decided(log, partition, first, end) > begin:
            raise TrainError(
                f"the log has dropped examples of partition {partition} that came after --until less "
                "--overlap; give a later --until with history up to it, or keep records longer (retain_s, "
                "retain_bytes)"
            )


def _first_decided(log: Log, partition: int, first: int, end: int) -> float:
    """When the first example of a partition was decided, that is not a request to forget or an entity's."""
    decode = Decoder[Example | Forget | EntityEvent](Example, Forget, EntityEvent, targets=UNKNOWN).decode
    while first < end and (records := log.read(EXAMPLES, partition, first)):
        for record in records:
            if isinstance(found := decode(record.value), Example):
                return found.decided
        first = records[-1].offset + 1
    return float("inf")


def run_train(
    config: Config, files: Sequence[Path], until: float, overlap_s: float, entities: str | None = None
) -> None:
    """`freshet train`: train, and print the next step.

    Raises:
        FreshetError: as `train`.
    """
    found = train(config, files, until, overlap_s, entities)
    targets = config.known_targets()
    longest = max(targets, key=lambda name: targets[name].window_s)
    if targets[longest].window_s > overlap_s:
        print(
            f"warning: target {longest} waits up to {targets[longest].window_s:g} s, longer than --overlap "
            f"({overlap_s:g} s): what became of requests before --until less --overlap after the files were "
            "written is not learned",
            file=sys.stderr,
        )
    print(
        f"trained on {found.requests:,} requests of history, state in {found.state}; {found.beyond:,} at or "
        f"after the boundary are left to the log, the ids of {found.overlap:,} before it are stored"
        f"{found.left_out}.\n"
        "Start `freshet up` (or `freshet learn`): it continues with the log and skips these requests.",
        file=sys.stderr,
    )
