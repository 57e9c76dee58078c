"""A model in one file, or in bytes: the state of its learner, with the schema that it depends on."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from freshet.errors import ModelError
from ground import UNDECODABLE
from ground.sealed import seal, unseal
from learner.features.spec import FeatureSpec
from learner.model.identity import network_text
from learner.role.learner import Learner
from learner.role.whole import write_whole
from learner.settings import LearnerSettings
from stream.records.targets import Target, Targets
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

_HEAD = b"freshet model 1\n"


class Front(msgspec.Struct):
    """How rows are read."""

    time: str
    request: str | None
    inferred: bool
    reclaimed: int = 0  # requests that were learned when expired rows were last reclaimed


class Saved(msgspec.Struct):
    """What a file holds."""

    features: dict[str, FeatureSpec] | None  # None: not known yet
    learner: LearnerSettings
    front: Front
    entries: dict[bytes, bytes]  # of the learner's state
    targets: dict[str, Target] = {}  # none: one, `click`
    network: str = ""  # see `learner.model.identity.network_text`


def pack_learner(learner: Learner) -> dict[bytes, bytes]:
    """The entries of a learner's state."""
    with _state(learner.model.features, learner.settings, learner.model.targets) as state:
        commit = state.begin()
        write_whole(learner, commit)
        state.commit(commit)
        return dict(state.scan())


def unpack_learner(saved: Saved, features: dict[str, FeatureSpec]) -> Learner:
    """The learner of `pack_learner`.

    Raises:
        FreshetError: the entries are damaged, or of another schema, or of another version of the user's
            network.
    """
    targets = Targets(saved.targets)
    network = network_text(features, saved.learner, targets)
    if network != saved.network:
        raise ModelError(
            f"the model was saved with the network {saved.network}, but now its code is {network}: put the "
            "code back, or train a new model"
        )
    with _state(features, saved.learner, targets) as state:
        commit = state.begin()
        for key, value in saved.entries.items():
            commit.put(key, value)
        state.commit(commit)
        learner = Learner(features, saved.learner, state, targets)
        learner.rest_apart()  # nobody takes the changes that its snapshots would gather
        return learner


def _state(features: Mapping[str, FeatureSpec], settings: LearnerSettings, targets: Targets) -> RoleState:
    return RoleState("model", "model", Learner.fingerprint(features, settings, targets), disk=MemoryDisk())


def encode(saved: Saved) -> bytes:
    """Bytes with a checksum."""
    return _HEAD + seal(msgspec.msgpack.encode(saved))


def decode(data: bytes, where: str) -> Saved:
    """The inverse of `encode`.

    Raises:
        ModelError: they are not such bytes, or damaged.
    """
    if not data.startswith(_HEAD):
        later = data.startswith(_HEAD.rpartition(b" ")[0])
        raise ModelError(
            f"{where}: was written by a later Freshet: use that one" if later else f"{where}: holds no model"
        )
    try:
        return msgspec.msgpack.decode(unseal(data[len(_HEAD) :]), type=Saved)
    except (ValueError, *UNDECODABLE) as error:
        raise ModelError(f"{where}: the model cannot be read: {error}") from None


def write_file(path: Path, data: bytes) -> None:
    """Write a file at once: an interruption leaves the file that was there.

    Raises:
        ModelError: it cannot be written.
    """
    making = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with making.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            making.replace(path)
        finally:
            making.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{path}: the model cannot be written: {error.strerror}") from None


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: the model cannot be read: {error.strerror}") from None
