"""The peers of benchmarks/table.py: torch in this process, FBGEMM in an interpreter of its own."""

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from table_parts.workload import DIM, FEATURES, IDS, Keys, milliseconds


class TorchPeer:
    """torch.nn.EmbeddingBag with sparse gradients and Adagrad, a vector for each id, ids hashed to `rows`."""

    def __init__(self, rows: int) -> None:
        self._rows = np.uint64(rows)
        self._bag = torch.nn.EmbeddingBag(rows, DIM, mode="sum", sparse=True)
        parameters = self._bag.parameters()
        self._optimizer = torch.optim.Adagrad(parameters, lr=0.1, initial_accumulator_value=1e-4)
        self._gradient = torch.full((IDS, DIM), 0.01)

    def _hashed(self, keys: Keys) -> torch.Tensor:
        return torch.from_numpy((keys % self._rows).astype(np.int64)).view(IDS, 1)

    def step(self, keys: Keys) -> None:
        """Hash, look up, take a gradient for each id, apply Adagrad."""
        self._optimizer.zero_grad()
        self._bag(self._hashed(keys)).backward(self._gradient)
        self._optimizer.step()

    def lookup_ms(self, keys: Keys) -> float:
        """Time of a lookup alone, the ids hashed beforehand."""
        hashed = self._hashed(keys)
        with torch.no_grad():
            return milliseconds(lambda: self._bag(hashed))


class FbgemmPeer:
    """FBGEMM's CPU table in `python`; asked for one repeat at a time, so that both take turns.

    Raises:
        RuntimeError: that interpreter cannot run it.
    """

    def __init__(self, python: Path, steps: Keys, rows: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        ids = Path(self._folder.name) / "ids.npy"
        np.save(ids, steps)
        script = Path(__file__).resolve().parents[1] / "foreign" / "fbgemm.py"
        command = [str(python), str(script), str(ids), "--rows", str(rows)]
        command += ["--dim", str(DIM), "--features", str(FEATURES)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def repeat(self) -> dict[str, list[float]]:
        """Milliseconds of each step, by optimizer and layout."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the peer's interpreter ended; see benchmarks/README.md for its environment")
        result: dict[str, list[float]] = json.loads(answer)
        return result

    def __enter__(self) -> "FbgemmPeer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=60)
        self._folder.cleanup()
