"""What the operating system knows of processes and folders."""

import os
import socket
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


def children_mb() -> float:
    """Resident memory of the processes that this one has started."""
    found = 0.0
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            found += memory_mb(int(pid))
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


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
