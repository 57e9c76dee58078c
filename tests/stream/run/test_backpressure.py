"""A role that is slower than its producers: it reads when it has room, and what it holds stays bounded."""

import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from patience import patient

from stream.log.base import Outgoing, Record
from stream.log.open import open_log
from stream.log.settings import LogSettings
from stream.run.contract import Handler, RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import Commit, RoleState

RECORD_BYTES = 100_000
RECORDS = 1_500  # 150 MB in all
HELD_BYTES_MAX = 60 << 20


class Slow(Handler):
    """Takes its time over each call."""

    def __init__(self) -> None:
        self.taken = 0

    def handle(self, records: Sequence[Record], commit: Commit) -> None:
        self.taken += len(records)
        time.sleep(0.01)

    def flush(self, commit: Commit) -> None:
        commit.put(b"taken", b"%d" % self.taken)


@pytest.mark.parametrize("kind", ["sqlite", "kafka"])
@pytest.mark.process
def test_slow_role_holds_a_bounded_part_of_what_waits(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "kafka":
        broker, prefix = (request.getfixturevalue(name) for name in ("kafka_broker", "kafka_prefix"))
        url = f"kafka://{broker}/{prefix}"
    else:
        url = f"sqlite:{tmp_path / 'log.db'}"
    log = open_log(url, patient(LogSettings(sync=False)))
    log.create_topic("t", 2)
    for i in range(RECORDS // 50):
        log.append("t", [Outgoing(b"", b"x" * RECORD_BYTES, i % 2)] * 50)
    handler = Slow()
    tracemalloc.start()
    try:
        with RoleState(tmp_path / "state", "slow", {}, sync=False) as state:
            runner = Runner(
                log, state, handler, Subscription("t", "slow"), RunnerSettings(read_bytes_max=1 << 20)
            ).open()
            while handler.taken < RECORDS:
                runner.step(1.0)
            runner.commit()
            assert [state.offset("t", p) for p in (0, 1)] == [RECORDS // 2] * 2
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        log.close()
    assert peak < HELD_BYTES_MAX, f"{peak >> 20} MiB of {RECORDS * RECORD_BYTES >> 20} MiB were held at once"
