"""Requests that are not finished: all on disk, the latest in memory, bounded in number and in bytes."""

from pathlib import Path

import pytest

from stream.join.pending import Entry, PendingRequests
from stream.state.role_state import RoleState


@pytest.mark.slow
def test_memory_is_bounded_in_bytes_and_what_leaves_it_is_read_again(tmp_path: Path) -> None:
    with RoleState(tmp_path, "joiner", {}, sync=False) as state:
        pending = PendingRequests(state, b"p/", memory_max=1000, count=0, bytes_max=10 << 20)
        for i in range(40):
            pending.add(f"r{i}", Entry(float(i), 1, False, bytes([i]) * (1 << 20)))
        commit = state.begin()
        pending.flush(commit)
        state.commit(commit)
        held = pending.in_memory
        assert held == [f"r{i}" for i in range(30, 40)]
        for i in range(40):
            entry = pending.get(f"r{i}")
            assert entry is not None and entry.original == bytes([i]) * (1 << 20)
