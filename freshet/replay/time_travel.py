"""Restores a learner from a snapshot for a replay with other settings.

The replay uses a copy: it changes neither the snapshot nor the log.
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
from learner.features.spec import FeatureSpec
from learner.role.learner import Learner
from stream.log.base import EXAMPLES
from stream.state.repeats import last_numbers
from stream.state.role_state import RoleState

CHANGEABLE = ("rate", "admit_after", "admit_share", "rows_max", "length")
"""Settings of a feature that may differ from the snapshot's: the saved rows keep their meaning."""
STARTS = ("speed_tau", "count_tau", "pair_tau")
"""Initial values of priors: a snapshot has already moved them."""


class SnapshotPosition(NamedTuple):
    """The position of a snapshot in the log."""

    offsets: dict[int, int]  # the next offset of each partition of topic examples
    last: dict[tuple[int, str], int]  # the last number of each producer
    requests: int
    event_time: float


@contextmanager
def restored(
    snapshot: Path, config: Config, overrides: Sequence[str] = ()
) -> Iterator[tuple[Learner, SnapshotPosition]]:
    """Restore a snapshot's learner with the settings of `config`.

    Args:
        snapshot: a snapshot, the folder `snapshots` (the newest is used), or the state folder of a learner
            that is not running.
        overrides: the settings of the command line; those without effect are refused.

    Raises:
        ReplayError: there is no snapshot, or it does not fit the config.
        StateError: it is damaged.
    """
    for override in overrides:
        key = override.partition("=")[0].strip().removeprefix("learner.")
        if key in STARTS:
            raise ReplayError(
                f"--set {override}: is the initial value of a prior, which the snapshot has already "
                "moved; to try it, replay from the beginning (without --from-snapshot)"
            )
    with tempfile.TemporaryDirectory(prefix="freshet-replay-") as folder:
        copy = Path(folder)
        try:
            shutil.copytree(_database(snapshot), copy / "db")
        except OSError as error:
            raise ReplayError(f"{snapshot}: the snapshot cannot be copied: {error}") from None
        with RoleState(copy, "learner", None) as state:
            check_fits(snapshot, state.fingerprint, config)
            learner = Learner(config.features, config.learner, state, config.known_targets(), beside=True)
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
            learner.rest_apart()
        yield learner, origin


def check_fits(snapshot: Path, saved: Mapping[str, str], config: Config) -> None:
    """Check that a snapshot with this fingerprint fits the config.

    Raises:
        ReplayError: the setting that does not fit, and what to do.
    """
    then = dict(msgspec.json.decode(saved["features"], type=list[tuple[str, FeatureSpec]]))
    if list(then) != list(config.features):
        raise ReplayError(
            f"{snapshot}: its model has the features {', '.join(then)}, the config "
            f"{', '.join(config.features)}; a model cannot gain, lose or reorder features: to try others, "
            "replay from the beginning"
        )
    now_saved = Learner.fingerprint(config.features, config.learner, config.known_targets())
    specs = msgspec.json.decode(now_saved["features"], type=list[tuple[str, FeatureSpec]])
    for name, spec in specs:  # as a fingerprint has them: what stands for a default may be written otherwise
        for field in msgspec.structs.fields(FeatureSpec):
            was, now = getattr(then[name], field.name), getattr(spec, field.name)
            if was != now and field.name not in CHANGEABLE:
                raise _cannot(snapshot, f"features.{name}.{field.name}", was, now)
    if saved.get("network") != now_saved.get("network"):
        raise _cannot(snapshot, "network", saved.get("network"), now_saved.get("network"))
    was_shape, now_shape = (msgspec.json.decode(identity["learner"]) for identity in (saved, now_saved))
    for name in sorted(was_shape.keys() | now_shape.keys()):
        if was_shape.get(name) != now_shape.get(name):
            raise _cannot(snapshot, f"learner.{name}", was_shape.get(name), now_shape.get(name))


def _cannot(snapshot: Path, key: str, was: object, now: object) -> ReplayError:
    return ReplayError(
        f"{snapshot}: was made with {key} = {was}, and cannot go on with {now}: the numbers in its "
        "rows would mean something else; to try it, replay from the beginning (without --from-snapshot)"
    )


def _database(snapshot: Path) -> Path:
    """The folder of a snapshot's database."""
    if not snapshot.is_dir():
        raise ReplayError(
            f"{snapshot}: there is no such snapshot; they lie in the state folder, in `snapshots`"
        )
    if (snapshot / "CURRENT").is_file():
        return snapshot
    if (snapshot / "db" / "CURRENT").is_file():
        with RoleState(snapshot, "learner", None):  # refuse it while a learner runs
            return snapshot / "db"
    newest = max((path for path in snapshot.glob("learn-*-*") if (path / "CURRENT").is_file()), default=None)
    if newest is None:
        raise ReplayError(
            f"{snapshot}: holds no learner's state; name a folder such as .freshet/snapshots/learn-…, or "
            "that of a learner that is stopped"
        )
    return newest


def live_hash(config: Config, folder: Path) -> str:
    """The hash of a live learner's state."""
    targets = config.known_targets()
    with RoleState(folder, "learner", Learner.fingerprint(config.features, config.learner, targets)) as state:
        return Learner(config.features, config.learner, state, targets).digest()
