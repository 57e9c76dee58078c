"""What the operating system knows of processes and folders."""

import os
from pathlib import Path


def memory_mb(pid: int | None = None) -> float:
    """Resident memory of a process; None: this one."""
    return _status_mb(pid, "VmRSS")


def peak_mb() -> float:
    """The most that this process has had since `reset_peak`."""
    return _status_mb(None, "VmHWM")


def reset_peak() -> None:
    """Begin anew with `peak_mb`."""
    Path("/proc/self/clear_refs").write_text("5")


def folder_mb(folder: Path) -> float:
    """Bytes on disk of everything in a folder, a file with several names once."""
    blocks: dict[int, int] = {}
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                found = (Path(root) / name).stat()
            except FileNotFoundError:  # a database removes files while it runs
                continue
            blocks[found.st_ino] = found.st_blocks
    return sum(blocks.values()) * 512 / 1e6


def _status_mb(pid: int | None, name: str) -> float:
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
