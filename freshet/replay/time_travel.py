"""A live learner as it was at some moment, taken up again by a replay with other settings.

What is restored is a copy: the snapshot stays as it is, and nothing goes into any log.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from freshet.config import Config
from freshet.errors import ReplayError
from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from stream.log.base import EXAMPLES
from stream.state.repeats import last_numbers
from stream.state.role_state import RoleState

CHANGEABLE = ("rate", "admit_after", "admit_share", "rows_max", "length")
"""What of a feature may differ from what the snapshot was made with: its rows stay what they are."""
STARTS = ("speed_tau", "count_tau", "pair_tau")
"""Settings that say where priors start: a snapshot is past that."""


class SnapshotPosition(NamedTuple):
    """Where a snapshot was in the log."""

    offsets: dict[int, int]  # the next of each partition of topic examples
    last: dict[tuple[int, str], int]  # the last number of each producer
    requests: int
    event_time: float


@contextmanager
def restored(
    snapshot: Path, config: Config, overrides: Sequence[str] = ()
) -> Iterator[tuple[Learner, SnapshotPosition]]:
    """The learner that a snapshot holds, made to go on as `config` says.

    Args:
        snapshot: one of the folder `snapshots`, that folder (its newest is taken), or the state folder of a
            learner that is not running.
        overrides: what was set on the command line, to refuse what would have no effect.

    Raises:
        ReplayError: there is no snapshot, or it cannot take the config.
        StateError: it is damaged.
    """
    for override in overrides:
        key = override.partition("=")[0].strip().removeprefix("learner.")
        if key in STARTS:
            raise ReplayError(
                f"--set {override}: says where a model's priors start, and the snapshot's have moved on "
                "since; to try it, replay from the beginning (without --from-snapshot)"
            )
    with tempfile.TemporaryDirectory(prefix="freshet-replay-") as folder:
        copy = Path(folder)
        try:
            shutil.copytree(_database(snapshot), copy / "db")
        except OSError as error:
            raise ReplayError(f"{snapshot}: the snapshot cannot be copied: {error}") from None
        with RoleState(copy, "learner", None) as state:
            check_fits(snapshot, state.fingerprint, config)
            learner = Learner(config.features, config.learner, state, beside=True)
            partitions = state.partitions(EXAMPLES)
            origin = SnapshotPosition(
                {p: state.offset(EXAMPLES, p) or 0 for p in partitions},
                {
                    (p, producer): seq
                    for p in partitions
                    for producer, seq in last_numbers(state, EXAMPLES, p).items()
                },
                learner.meta.requests,
                learner.meta.event_time,
            )
        yield learner, origin


def check_fits(snapshot: Path, saved: Mapping[str, str], config: Config) -> None:
    """Check that a snapshot with this fingerprint can be gone on with.

    Raises:
        ReplayError: what the snapshot cannot take, and what to do.
    """
    then = dict(msgspec.json.decode(saved["features"], type=list[tuple[str, FeatureSpec]]))
    if list(then) != list(config.features):
        raise ReplayError(
            f"{snapshot}: its model has the features {', '.join(then)}, the config "
            f"{', '.join(config.features)}; a model cannot gain, lose or reorder features: to try others, "
            "replay from the beginning"
        )
    for name, spec in config.features.items():
        for field in msgspec.structs.fields(FeatureSpec):
            was, now = getattr(then[name], field.name), getattr(spec, field.name)
            if was != now and field.name not in CHANGEABLE:
                raise _cannot(snapshot, f"features.{name}.{field.name}", was, now)
    now_saved = Learner.fingerprint(config.features, config.learner)
    was_shape, now_shape = (msgspec.json.decode(told["learner"]) for told in (saved, now_saved))
    for name in sorted(was_shape.keys() | now_shape.keys()):
        if was_shape.get(name) != now_shape.get(name):
            raise _cannot(snapshot, f"learner.{name}", was_shape.get(name), now_shape.get(name))


def _cannot(snapshot: Path, key: str, was: object, now: object) -> ReplayError:
    return ReplayError(
        f"{snapshot}: was made with {key} = {was}, and cannot go on with {now}: the numbers in its "
        "rows would mean something else; to try it, replay from the beginning (without --from-snapshot)"
    )


def _database(snapshot: Path) -> Path:
    """The database of a snapshot, however it was named."""
    if not snapshot.is_dir():
        raise ReplayError(
            f"{snapshot}: there is no such snapshot; they lie in the state folder, in `snapshots`"
        )
    if (snapshot / "CURRENT").is_file():
        return snapshot
    if (snapshot / "db" / "CURRENT").is_file():
        with RoleState(snapshot, "learner", None):  # not while a learner works in it
            return snapshot / "db"
    newest = max((path for path in snapshot.glob("learn-*-*") if (path / "CURRENT").is_file()), default=None)
    if newest is None:
        raise ReplayError(
            f"{snapshot}: holds no learner's state; name a folder such as .freshet/snapshots/learn-…, or "
            "that of a learner that is stopped"
        )
    return newest
