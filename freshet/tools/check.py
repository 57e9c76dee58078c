"""`freshet check`: find errors that would stop the roles, before they start; one line per check.

It creates nothing and does not disturb running roles.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from freshet.config import Config, all_features, each_model, load_config
from freshet.errors import ConfigError
from freshet.roles.ingest.role import need_topic, open_source, source_of
from freshet.roles.opening import check_unused, need_features, topics_of
from freshet.roles.states import read_state
from freshet.roles.voice import printable
from freshet.tools.rights import missing_rights
from freshet.tools.status import ask_server
from ground import FreshetError
from learner.deep.autograd import need_torch
from learner.features.columns import declared_by
from learner.features.encoder import Encoder
from learner.model.identity import network_text
from learner.role.learner import Learner
from serving.app.server import check_address
from serving.http.access import Access
from stream.errors import LogError, StateLockedError
from stream.files.sources import LeftOut, read_examples
from stream.join.joiner import joiner_fingerprint
from stream.log.base import EXAMPLES, Log
from stream.log.open import missing_log, open_log
from stream.sources.opening import open_format
from stream.state.meta import StateMeta

FREE_BYTES_MIN = 1 << 30
LINES = 10_000  # of a data file


class Check(NamedTuple):
    """One line: whether the check passed, and its finding or the remedy."""

    ok: bool
    what: str
    found: str


def run_checks(file: str, overrides: Sequence[str], data: Path | None) -> Iterator[Check]:
    """All checks, in the order of a start; if the config is wrong, only the first."""
    try:
        config = load_config(file, overrides)
        need_features(config)
    except FreshetError as error:
        yield Check(False, "config", str(error))
        return
    yield Check(True, "config", f"{file}: {len(config.features)} features")
    for what, check in (
        ("log", _log),
        ("state", _state),
        ("joiner", _joiner),
        ("learner", _learner),
        *((("sources", _sources),) if config.sources else ()),
        ("network", _network),
        ("server", _server),
        ("access", _access),
    ):
        yield _checked(what, check, config)
    if data is not None:
        yield _checked("data", lambda c: _data(c, data), config)


def print_checks(file: str, overrides: Sequence[str], data: Path | None, as_json: bool) -> bool:
    """Print each check as a line; returns whether all passed."""
    fine = True
    for check in run_checks(file, overrides, data):
        fine = fine and check.ok
        if as_json:
            sys.stdout.write(msgspec.json.encode(check._asdict()).decode() + "\n")
        else:
            print(f"{'ok' if check.ok else 'not ok':<8}{check.what:<9}{printable(check.found)}")
    return fine


def _checked(what: str, check: Callable[[Config], str], config: Config) -> Check:
    try:
        return Check(True, what, check(config))
    except FreshetError as error:
        return Check(False, what, str(error))


def _log(config: Config) -> str:
    if (path := missing_log(config.log)) is not None:
        folder = _writable(path.parent, "log")
        return f"{config.log} does not exist yet: the first start creates it in {folder}"
    log = open_log(config.log, config.stream.log)
    try:
        rights = _rights(log, config)
        missing = []
        for topic, partitions in topics_of(config).items():
            try:
                found = log.partitions(topic)
            except LogError:
                missing.append(topic)
                continue
            if found != partitions:
                section = "join" if topic == EXAMPLES and config.joining.shard_by else "stream"
                raise ConfigError(
                    f"topic {topic!r} has {found} partitions, and the config asks for {partitions}: set "
                    f"{section}.partitions = {found}, or name another log"
                )
    finally:
        log.close()
    path = Path(config.log.partition(":")[2]) if config.log.startswith("sqlite:") else None
    if path is not None and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise ConfigError(
            f"{path} cannot be written by this user: it can be replayed, exported and inspected, but no role "
            "can run on it; change the permissions of the file and of its folder"
        )
    later = f"; the first start creates {', '.join(sorted(missing))}" if missing else ""
    return f"{config.log} answers{later}{rights}"


def _rights(log: Log, config: Config) -> str:
    """What to say of rights that the roles can do without.

    Raises:
        ConfigError: others are missing.
    """
    allowed = log.allowed(list(topics_of(config)))
    if allowed is None:
        return ""
    needed, helpful = missing_rights(config, allowed)
    if needed:
        raise ConfigError(
            f"the cluster's access rules do not allow: {'; '.join(needed)}. `freshet rights` prints the "
            "commands that allow it"
        )
    return f"; not allowed, and the roles go on without: {'; '.join(helpful)}" if helpful else ""


def _sources(config: Config) -> str:
    """Whether each source's topic, libraries and schema files are there; `ingest --check` reads records."""
    for name in config.sources:
        source = source_of(config, name)
        open_format(source, config.ingest.registry)
        log = open_source(config, source.log)
        try:
            need_topic(log, name, source)
        finally:
            log.close()
    names = ", ".join(config.sources)
    return f"the topics of {names} are there; `freshet ingest --check` shows what they become"


def _state(config: Config) -> str:
    folder = _writable(Path(config.state), "state")
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_MIN:
        raise ConfigError(
            f"only {free / 1e9:.2f} GB are free for {config.state}: free some disk space, or name another "
            "folder (state)"
        )
    return f"{config.state} can be written, {free / 1e9:,.0f} GB are free"


def _role_state(config: Config, folder: str, role: str, fingerprint: dict[str, str]) -> str:
    state = config.state_of(folder)
    if not (state / "db" / "CURRENT").is_file():
        return f"{state} does not exist yet: the first start creates it"
    try:
        check_unused(state)
        used = ""
    except StateLockedError:
        used = ", and is in use by a running role"
    found = read_state(state)
    meta = StateMeta(format=found["format"], role=found["role"], fingerprint=found["made_for"])
    meta.check(state, role, fingerprint)
    return f"{state} fits the config{used}"


def _joiner(config: Config) -> str:
    fingerprint = joiner_fingerprint(config.stream.partitions, config.known_targets(), config.joining)
    return _role_state(config, "join", "joiner", fingerprint)


def _learner(config: Config) -> str:
    found = [
        _role_state(
            one, "learn", "learner", Learner.fingerprint(one.features, one.learner, one.known_targets())
        )
        for one in each_model(config).values()
    ]
    return "; ".join(found)


def _network(config: Config) -> str:
    for one in each_model(config).values():
        need_torch(one.learner.deep, one.learner.device)
        network_text(one.features, one.learner, one.known_targets())
    return f"learner.deep = {config.learner.deep!r} can be trained with the installed packages"


def _server(config: Config) -> str:
    where = f"{config.server.host} port {config.server.port}"
    state, url = ask_server(config)
    if state in ("ready", "not ready"):
        return f"a server runs already at {url}: {state}"
    check_address(config.server)
    return f"{where} is free"


def _access(config: Config) -> str:
    access = Access(config.server.tokens or None)
    if not access.required and config.server.host not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(
            f"server.host = {config.server.host!r} can be reached from other machines, and there are no "
            "tokens: name a file of tokens in server.tokens, set FRESHET_TOKENS, or listen on 127.0.0.1"
        )
    return "requests need a token" if access.required else "no tokens: only this machine is answered"


def _data(config: Config, data: Path) -> str:
    """Read and encode the beginning of a data file, without training."""
    encoder = Encoder(config.features, config.learner.pairs_max)
    left_out = LeftOut()
    fitting = refused = 0
    first = ""
    declared = declared_by(all_features(config))
    for example in islice(
        read_examples(data, config.data, left_out, declared, config.known_targets()), LINES
    ):
        try:
            encoder.encode([example])
            fitting += 1
        except FreshetError as error:
            refused += 1
            first = first or str(error)
    bad = refused + left_out.lines
    first = left_out.first or first
    if not fitting:
        raise ConfigError(f"{data}: no request can be used; the first: {first or 'none'}")
    if refused:
        raise ConfigError(
            f"{data}: {bad:,} of the first {fitting + bad:,} requests would be refused; the first: {first}"
        )
    return f"{data}: the first {fitting:,} requests can be used{left_out.phrase()}"


def _writable(folder: Path, what: str) -> Path:
    """The folder, or its nearest existing parent; checks that this user may write there."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{there} cannot be written by this user, and {what} belongs in {folder}: change the "
            f"permissions, or set another path ({what} in the config)"
        )
    return there
