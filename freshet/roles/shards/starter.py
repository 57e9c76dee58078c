"""Starts shards as processes of this machine, and all of them again when one is lost.

A shard that ends takes the others with it, since they have lost their place in the exchange. They are killed,
even if they hang, are started again, and return to the last update that all of them have committed. With
torchrun's variables this process starts the one shard that they name, and others start the others.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from freshet.config import Config
from freshet.errors import ConfigError, RoleError
from freshet.roles.children import RESTART_PAUSES, RESTARTS_MAX, RESTARTS_WINDOW_S
from freshet.roles.opening import check_unused, need_features, open_topics, shards_folder, wait_for_log
from freshet.roles.process import STOP_S_MAX as ORPHANS_S_MAX
from freshet.roles.shards.process import EXIT_AGAIN, EXIT_USER_ERROR
from freshet.roles.shards.resharding import name_of
from freshet.roles.shards.template import Copy, Template
from freshet.roles.voice import Voice
from freshet.warmup import warm_up
from ground.retry import Backoff, Pauses
from learner.shards.live.session import ShardPlace
from learner.shards.live.watch import check_partitions, shard_name
from learner.shards.reshard.folders import finish_resharding, numbers_there, place_folder
from stream.errors import StateLockedError
from stream.log.base import EXAMPLES
from stream.orders.names import own_name
from stream.state.folder_lock import FolderLock

LOOPBACK = "127.0.0.1"
WATCH_EVERY_S = 0.05
STOP_S_MAX = 7.0
"""Shards that were told to stop and have not stopped after so long are killed."""

LEFT_PAUSES = Pauses(first_s=0.1, longest_s=1.0, give_up_s=2 * ORPHANS_S_MAX)
"""Between looks whether shards of a starter that was killed still run."""

REASON_S_MAX = 0.5
"""How long to wait, when a shard has ended because another is lost, for one that says what is the matter."""

LIVED_S = 5.0
"""Shards that have lived so long are started again at once; the pauses are for those that cannot work."""

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def torchrun_place(environment: Mapping[str, str]) -> ShardPlace | None:
    """The place that torchrun's variables name; None: they are not all set.

    >>> torchrun_place({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"})
    ShardPlace(rank=1, shards=2, host='a', port=29500)

    Raises:
        ConfigError: one of them is not a number, or makes no sense.
    """
    if any(name not in environment for name in _TORCHRUN):
        return None
    local_rank(environment, 0)
    try:
        rank, shards, port = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    except ValueError:
        said = ", ".join(f"{name}={environment[name]}" for name in _TORCHRUN)
        raise ConfigError(f"torchrun's variables are {said}; all but MASTER_ADDR must be numbers") from None
    if not 0 <= rank < shards or not 0 < port < 65_535:
        raise ConfigError(
            f"RANK={rank}, WORLD_SIZE={shards}, MASTER_PORT={port}: expected a rank below the size"
        )
    # torchrun's own store may be at the port
    port += environment.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() == "true"
    return ShardPlace(rank, shards, environment["MASTER_ADDR"], port)


def local_rank(environment: Mapping[str, str], rank: int) -> int:
    """A shard's number among those of its machine, which tells their ports of metrics apart.

    Args:
        rank: the answer where torchrun's variable LOCAL_RANK is not set.

    >>> local_rank({"LOCAL_RANK": "0"}, 3), local_rank({}, 3)
    (0, 3)

    Raises:
        ConfigError: LOCAL_RANK is not a number from 0 on.
    """
    said = environment.get("LOCAL_RANK", str(rank))
    if not said.isdecimal():
        raise ConfigError(f"LOCAL_RANK={said}: expected the number of a shard on its machine, from 0 on")
    return int(said)


def in_shards(config: Config, environment: Mapping[str, str]) -> Config | None:
    """The config of a learner in shards, with their number; None: one process learns.

    Raises:
        ConfigError: the config and torchrun's variables name different numbers.
    """
    count = config.learner.shards.count
    torchrun = torchrun_place(environment)
    if torchrun is None or max(torchrun.shards, count) == 1:
        return config if count > 1 else None
    if count not in (1, torchrun.shards):
        raise ConfigError(
            f"learner.shards.count is {count}, and torchrun's WORLD_SIZE is {torchrun.shards}: start as many "
            "processes as the config says"
        )
    try:
        shards = msgspec.structs.replace(config.learner.shards, count=torchrun.shards)
    except ValueError as error:
        raise ConfigError(f"torchrun's WORLD_SIZE is {torchrun.shards}: {error}") from None
    return msgspec.structs.replace(config, learner=msgspec.structs.replace(config.learner, shards=shards))


def run_shards(
    config: Config, config_file: str, overrides: Sequence[str], template: str, stop: threading.Event
) -> None:
    """Run the shards of this process until `stop` is set, then stop them.

    Args:
        config: with the number of shards.
        config_file, overrides: what each shard is started with.
        template: the name of the process that shards are copies of.

    Raises:
        RoleError: a shard cannot run, or keeps crashing.
        FreshetError: the config or the log cannot be used.
    """
    need_features(config)
    check_one_kind(config)
    shards = config.learner.shards.count
    torchrun = torchrun_place(os.environ)
    ranks = range(shards) if torchrun is None else [torchrun.rank]
    voice = Voice(own_name("learn", config.model))
    held = hold_places([shards_folder(config, shards) / str(rank) for rank in ranks], stop, voice)

    def prepare() -> None:
        log = open_topics(config)
        try:
            check_partitions(shards, log.partitions(EXAMPLES))
        finally:
            log.close()

    wait_for_log(prepare, stop, voice)
    warm_up()
    command = ["learn", "--config", config_file]
    for override in [*overrides, f"learner.shards.count={shards}"]:
        command += ["--set", override]
    if config.model:
        command += ["--model", config.model]
    _Starter(command, dict(zip(ranks, held, strict=True)), shards, torchrun, voice, template).run(stop)


def hold_places(states: Sequence[Path], stop: threading.Event, voice: Voice) -> list[FolderLock]:
    """Hold the places of shards, which the shards hold too; wait for those whose starter was killed.

    These end by themselves soon after it, and may not have come to open their states.

    Args:
        states: their folders.

    Raises:
        StateLockedError: a process goes on holding one.
    """
    held: list[FolderLock] = []
    backoff = Backoff(LEFT_PAUSES)
    while len(held) < len(states):
        state = states[len(held)]
        try:
            check_unused(state)
            place_folder(state).mkdir(parents=True, exist_ok=True)
            held.append(FolderLock(place_folder(state)))
        except StateLockedError as error:
            if not backoff.failed:
                voice.log("waits for shards of an earlier start to end", level="warning", error=str(error))
            if not backoff.wait(stop):
                raise
    return held


def check_one_kind(config: Config) -> None:
    """Check that the state folder holds no state of a learner in another number of processes.

    Finishes a resharding first, if one was cut short when its new states were whole.

    Raises:
        ConfigError: it does.
    """
    folder, shards = config.state_of("learn"), config.learner.shards.count
    finish_resharding(folder, config.snapshots)
    if (folder / "anew").exists():
        return
    found = numbers_there(folder)
    if found and shards not in found:
        there = " and of one in ".join(name_of(number) for number in found)
        raise ConfigError(
            f"{folder} holds the state of a learner in {there}, and the config says {name_of(shards)}: "
            f"configure as many, let it go on in {name_of(shards)} with `freshet reshard --to {shards}`, or "
            "move the folder away and begin anew with `freshet learn --anew`"
        )


class _Starter:
    def __init__(
        self,
        command: Sequence[str],
        places: Mapping[int, FolderLock],
        shards: int,
        torchrun: ShardPlace | None,
        voice: Voice,
        template: str,
    ) -> None:
        self._command = command
        self._places, self._shards, self._torchrun, self._voice = places, shards, torchrun, voice
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self._template = Template(template, self._environment)
        self._processes: dict[int, Copy] = {}
        self._crashes: list[float] = []  # ends that are neither kills nor losses of others

    def run(self, stop: threading.Event) -> None:
        try:
            self._run(stop)
        finally:
            self._template.close()

    def _run(self, stop: threading.Event) -> None:
        backoff = Backoff(RESTART_PAUSES)
        while not stop.is_set():
            began = time.monotonic()
            try:
                self._start()
                while not stop.wait(WATCH_EVERY_S) and not self._ended():
                    self._template.look()
                if stop.is_set():
                    self._stop()
                    return
                said = self._collect()
            finally:
                self._kill()
            self._judge(said)
            if time.monotonic() - began >= LIVED_S:
                backoff.reset()
            ends = {f"shard {rank}": _how(status) for rank, status in said.items()}
            self._voice.log("the shards begin again", level="warning", **ends)
            backoff.wait(stop)

    def _start(self) -> None:
        place = self._torchrun
        host, port = (LOOPBACK, _free_port()) if place is None else (place.host, place.port)
        given = {} if place is None else os.environ
        loopback = {"GLOO_SOCKET_IFNAME": "lo"} if host in (LOOPBACK, "localhost") else {}
        for rank, place_held in self._places.items():
            self._processes[rank] = self._template.start(
                shard_name(rank, self._shards),
                [*self._command, "--shard", f"{rank}/{self._shards}@{host}:{port}"],
                {**self._environment, **loopback, "LOCAL_RANK": str(local_rank(given, rank))},
                [place_held.descriptor],
            )

    def _ended(self) -> dict[int, int]:
        """The shards that have ended, with their exit statuses."""
        found = {rank: process.poll() for rank, process in self._processes.items()}
        return {rank: status for rank, status in found.items() if status is not None}

    def _collect(self) -> dict[int, int]:
        """The ends of shards; one that has only lost another is given a moment to be explained."""
        deadline = time.monotonic() + REASON_S_MAX
        while set(self._ended().values()) == {EXIT_AGAIN} and time.monotonic() < deadline:
            time.sleep(WATCH_EVERY_S)
        return self._ended()

    def _judge(self, said: Mapping[int, int]) -> None:
        """Raises RoleError if there is no use in starting again."""
        for rank, status in said.items():
            if status == EXIT_USER_ERROR:
                raise RoleError(f"shard {rank} cannot run; see its message above")
        now = time.monotonic()
        if any(status not in (0, EXIT_AGAIN) and status > 0 for status in said.values()):
            self._crashes = [at for at in self._crashes if now - at < RESTARTS_WINDOW_S] + [now]
        if len(self._crashes) > RESTARTS_MAX:
            raise RoleError(
                f"shards crashed {len(self._crashes)} times within {RESTARTS_WINDOW_S:.0f} s; see above"
            )

    def _stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_S_MAX
        for process in self._processes.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes = {}


def _how(status: int) -> str:
    if status == EXIT_AGAIN:
        return "lost another, the log or room on the disk"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        return int(found.getsockname()[1])
