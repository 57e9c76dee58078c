"""N shards as processes of this machine, which a replay feeds: with the bits of N shards in one process.

A process reads commands on its stdin and answers on its stdout, both pickled. It ends when its parent closes
the pipe. Between themselves the processes exchange rows over gloo.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from ground import FreshetError
from learner.errors import ShardError
from learner.features.encoder import FeatureSpec
from learner.features.labelled import Labelled
from learner.settings import LearnerSettings
from learner.shards.gloo import Gloo, drive
from learner.shards.owners import Owners
from learner.shards.shard import Shard
from learner.train.trainer import Learnt
from stream.records.targets import UNDECLARED, Targets

HOST = "127.0.0.1"
TIMEOUT_S = 300.0
"""For one exchange: longer than any turn takes, and than kernels take to be compiled the first time."""

ENDING_S = 4.0
"""How long to wait, all processes together, for one that has been killed to be gone."""

R = TypeVar("R")


class _Start(NamedTuple):
    """What a process is told first."""

    rank: int
    shards: int
    port: int
    features: dict[str, FeatureSpec]
    settings: LearnerSettings
    targets: Targets


class Processes:
    """The shards of a learner, each a process. Arguments are those of `Shard`; close it when done.

    Raises:
        FreshetError: a process cannot start, or does not find the others.
    """

    def __init__(
        self,
        owners: Owners,
        features: Mapping[str, FeatureSpec],
        settings: LearnerSettings,
        targets: Targets = UNDECLARED,
    ) -> None:
        self.shards = owners.shards
        self.mirror = Shard(0, owners, features, settings, targets)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", "from learner.shards.processes import work; work()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            for _ in range(self.shards)
        ]
        try:
            port = 0
            for rank in range(self.shards):
                self._send(rank, _Start(rank, self.shards, port, dict(features), settings, targets))
                if rank == 0:
                    port = self._receive(0)
            self._answers()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The processes' numbers, by rank."""
        return [process.pid for process in self._processes]

    def turn(self, shares: Sequence[Labelled | None]) -> tuple[list[list[Learnt]], int]:
        """Run one turn, see `Crew`.

        Raises:
            ShardError: a process has ended.
        """
        for rank, share in enumerate(shares):
            self._send(rank, ("turn", share))
        answers = self._answers()
        self.mirror.agree(answers[0][2])
        return [learnt for learnt, _, _ in answers], sum(size for _, size, _ in answers)

    def ask(self, what: Callable[[Shard], R]) -> list[R]:
        """The answer of each shard; `what` is pickled.

        Raises:
            ShardError: a process has ended.
        """
        for rank in range(self.shards):
            self._send(rank, ("ask", what))
        return self._answers()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):
                process.stdin.close()

    def _send(self, rank: int, message: object) -> None:
        stdin = self._processes[rank].stdin
        assert stdin is not None
        try:
            pickle.dump(message, stdin, protocol=5)
            stdin.flush()
        except BrokenPipeError:
            raise self._ended(rank) from None

    def _answers(self) -> list[Any]:
        return [self._receive(rank) for rank in range(self.shards)]

    def _receive(self, rank: int) -> Any:
        """The answer of one process.

        Raises:
            FreshetError: the error that it met, or that it has ended.
        """
        stdout = self._processes[rank].stdout
        assert stdout is not None
        try:
            answer = pickle.load(stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._ended(rank) from None
        if isinstance(answer, FreshetError):
            self._blame()
            raise answer
        return answer

    def _blame(self) -> None:
        """Look for a process whose end explains the errors of others: they end with status 0.

        Raises:
            ShardError: there is one.
        """
        for rank, process in enumerate(self._processes):
            with suppress(subprocess.TimeoutExpired):
                if process.wait(ENDING_S / self.shards):
                    raise self._ended(rank)

    def _ended(self, rank: int) -> ShardError:
        status = self._processes[rank].wait()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return ShardError(
            f"the process of shard {rank} ended {how}, and with it the replay; its last words are above, if "
            "it had any; start again, with fewer shards if memory is short"
        )


def work() -> None:
    """One shard's process: takes a `_Start`, then turns and questions, until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    commands, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer

    def answer(value: object) -> None:
        pickle.dump(value, answers, protocol=5)
        answers.flush()

    try:
        start: _Start = pickle.load(commands)
        shard = Shard(start.rank, Owners(start.shards), start.features, start.settings, start.targets)
        gloo = Gloo(start.rank, start.shards, HOST, start.port, TIMEOUT_S)
        if start.rank == 0:
            answer(gloo.port)
        gloo.join()
        answer(True)
        while True:
            kind, what = pickle.load(commands)
            answer((*drive(shard.turn(what), gloo), shard.common) if kind == "turn" else what(shard))
    except FreshetError as error:
        answer(error)
    except (EOFError, BrokenPipeError):
        pass
    os._exit(0)  # gloo's threads may wait for shards that are gone
