"""Which processor this is, and how wide the vectors are that the table's kernels were compiled to."""

import re
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import njit

from embeddings import Table, TableSpec
from embeddings.kernels.optimizers import step_adagrad


def machine() -> dict[str, Any]:
    """The processor's name, LLVM's name for its kind, and the width of its kernels' vectors."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": names[0] if names else "unknown processor",
        "target": llvm.get_host_cpu_name(),
        "vector_bits": vector_bits(),
    }


def vector_bits() -> int:
    """Width of the registers that the kernel computes with: 512 (zmm), 256 (ymm) or 128 (xmm).

    Compiled anew: a kernel that comes out of the cache has no assembly to look at.
    """
    table = Table(TableSpec(dim=16, rows_max=64))
    slots = table.upsert([1], 0)
    fresh = njit(nogil=True, error_model="numpy")(step_adagrad.py_func)
    fresh(table.arrays, slots, np.ones((1, 16), dtype=np.float32), 16, np.array([0.1, 1e-10]))
    assembly = "".join(fresh.inspect_asm().values())
    return next((bits for name, bits in (("zmm", 512), ("ymm", 256)) if f"%{name}" in assembly), 128)
