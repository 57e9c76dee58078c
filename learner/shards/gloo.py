"""The exchange between shards in processes of their own, on one machine or many: torch.distributed with gloo.

torch moves bytes and nothing else. Lengths go first, then messages: `all_to_all_single` with uneven parts.
Messages of a network that lies on GPUs go between these, by nccl.
"""

from __future__ import annotations

import json
import platform
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from importlib import import_module
from typing import TypeVar

import msgspec
import numpy as np

from learner.deep.autograd import have_torch
from learner.deep.placing import Placing
from learner.errors import ShardError, ShardLostError, TorchMissingError
from learner.shards.messages import Bytes, Exchanges, NetworkMessages
from learner.shards.shard import Exchange
from learner.train.trainer import Learnt

T = TypeVar("T")

MESSAGE_BYTES_MAX = 1 << 31
"""Of one shard's messages of one exchange together."""


class Gloo(Exchanges):
    """One shard's end of the exchange. One per process.

    Args:
        rank: of this shard, from 0; rank 0 waits for the others at `port`.
        shards: N.
        host: where rank 0 is.
        port: there; 0 for rank 0: any that is free, see `port`.
        timeout_s: for each exchange, and for all shards to come.
        waiting: entered while it waits for others, again and again.

    Raises:
        TorchMissingError: torch is not installed.
        ShardError: the port is taken, or rank 0 cannot be reached.
    """

    def __init__(
        self,
        rank: int,
        shards: int,
        host: str,
        port: int,
        timeout_s: float,
        waiting: AbstractContextManager[object] | None = None,
    ) -> None:
        if not have_torch():
            raise TorchMissingError(
                "shards in processes of their own exchange rows by PyTorch, which is not installed: "
                "pip install 'freshet[torch]'"
            )
        self._torch = import_module("torch.distributed")
        self._rank, self._shards = rank, shards
        self._timeout = timedelta(seconds=timeout_s)
        self._joined = False
        self._networks: dict[str, tuple[Placing, object]] = {}  # device -> where, and the group of all shards
        self._waiting = nullcontext() if waiting is None else waiting
        try:
            with self._waiting:
                self._store = self._torch.TCPStore(
                    host, port, shards, rank == 0, self._timeout, wait_for_workers=False
                )
        except (RuntimeError, ValueError) as error:  # DistNetworkError and others are RuntimeErrors
            what = (
                f"port {port} of {host} cannot be used: is it taken?" if rank == 0
                else f"shard 0 is not at {host}:{port}"
            )  # fmt: skip
            raise ShardLostError(f"shard {rank}: {what} ({_line(error)})") from None

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def shards(self) -> int:
        return self._shards

    @property
    def port(self) -> int:
        """Where the other shards find this one, if its rank is 0."""
        return int(self._store.port)

    def join(self) -> None:
        with self._waiting:
            self._join()

    def _join(self) -> None:
        if self._store.add(f"rank {self.rank}", 1) > 1:
            raise ShardLostError(
                f"there are two shards of rank {self.rank}: give each process a rank of its own"
            )
        mine = versions(self.shards)
        try:
            self._store.set(f"versions {self.rank}", json.dumps(mine))
            for rank in range(self.shards):
                check_versions(self.rank, mine, rank, json.loads(self._store.get(f"versions {rank}")))
            self._torch.init_process_group(
                "gloo", store=self._store, rank=self.rank, world_size=self.shards, timeout=self._timeout
            )
        except RuntimeError as error:
            raise ShardLostError(
                f"shard {self.rank}: not all of {self.shards} shards came within "
                f"{self._timeout.total_seconds():g} s ({_line(error)})"
            ) from None
        self._joined = True

    def swap(self, messages: list[Bytes]) -> list[Bytes]:
        import torch

        mine = np.array([len(message) for message in messages], dtype=np.int64)
        if mine.sum() > MESSAGE_BYTES_MAX:
            raise ShardError(
                f"shard {self.rank} would send {mine.sum():,} bytes at once, more than "
                f"{MESSAGE_BYTES_MAX:,}: make turns shorter"
            )
        theirs = np.empty_like(mine)
        try:
            with self._waiting:
                self._torch.all_to_all_single(torch.from_numpy(theirs), torch.from_numpy(mine))
                place, group = self._of(messages)
                found = torch.empty(int(theirs.sum()), dtype=torch.uint8, device=place.device)
                self._torch.all_to_all_single(
                    found, place.put(np.concatenate(messages)), theirs.tolist(), mine.tolist(), group=group
                )
                got = found.cpu().numpy()
        except RuntimeError as error:
            raise ShardLostError(
                f"shard {self.rank}: an exchange failed: a shard is gone or did not answer within "
                f"{self._timeout.total_seconds():g} s ({_line(error)})"
            ) from None
        ends = np.cumsum(theirs)
        return [got[end - size : end] for end, size in zip(ends.tolist(), theirs.tolist(), strict=True)]

    def _of(self, messages: list[Bytes]) -> tuple[Placing, object]:
        """Where messages lie when they are sent, and the group of processes that sends them."""
        device = messages.device if isinstance(messages, NetworkMessages) else ""
        if device not in self._networks:
            # all shards come here at once: each turn begins with a check that they learn alike
            backend = "nccl" if device == "cuda" else "gloo"
            group = self._torch.new_group(backend=backend, timeout=self._timeout) if device else None
            self._networks[device] = Placing(device or "cpu"), group
        return self._networks[device]

    def gather(self, value: T) -> list[T]:
        message = np.frombuffer(msgspec.msgpack.encode(value), dtype=np.uint8)
        return [
            msgspec.msgpack.decode(got.tobytes(), type=type(value))
            for got in self.swap([message] * self.shards)
        ]

    def close(self) -> None:
        if self._joined:
            self._torch.destroy_process_group()
            self._joined = False


def drive(exchange: Exchange, others: Exchanges) -> tuple[list[Learnt], int]:
    """Run one turn of this process's shard; returns what it has learned, and how many bytes it sent.

    Raises:
        ShardError: the exchange failed.
    """
    size = 0
    messages = next(exchange)
    while True:
        size += sum(map(len, messages)) - len(messages[others.rank])
        try:
            messages = exchange.send(others.swap(messages))
        except StopIteration as end:
            learnt: list[Learnt] = end.value
            return learnt, size


def load_torch() -> None:
    """Import PyTorch now, which takes seconds, if it is installed."""
    if have_torch():
        import_module("torch.distributed")


def versions(shards: int) -> dict[str, str]:
    """What must be equal at all shards, so that their bits are."""
    import numba
    import torch

    return {
        "the number of shards": str(shards),
        "the version of Python": platform.python_version(),
        "the version of numpy": np.__version__,
        "the version of numba": numba.__version__,
        "the version of torch": torch.__version__,
        "the processor": platform.machine(),
    }


def check_versions(rank: int, mine: dict[str, str], other: int, theirs: dict[str, str]) -> None:
    """Check that another shard has the versions of this one.

    Raises:
        ShardError: it has not; names both values.
    """
    for name, value in mine.items():
        if theirs.get(name) != value:
            raise ShardError(
                f"shard {other} does not fit shard {rank}: {name} is {theirs.get(name)} there and {value} "
                "here; bits would differ"
            )


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
