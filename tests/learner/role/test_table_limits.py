"""Tables at their limits: what was refused and evicted is counted over all of them, and told once each."""

import numpy as np
import pytest

from embeddings import Table, TableSpec
from embeddings.spec import EVICT_ROWS_MIN
from learner.role.table_limits import TableLimits


def test_full_tables_are_counted_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    keys = np.arange(EVICT_ROWS_MIN + 40, dtype=np.uint64)
    small = [Table(TableSpec(dim=2, rows_max=rows, evict="none")) for rows in (10, 30)]
    evicting = Table(TableSpec(dim=2, rows_max=EVICT_ROWS_MIN, evict="least_recent"))
    limits = TableLimits(("user", "pairs", "item"), (*small, evicting))
    limits.look()
    assert (limits.full, limits.evicted) == (0, 0) and not caplog.records
    for time in (1, 2):
        for table in small:
            table.upsert(keys[:50], np.full(50, time, np.uint32))
        evicting.upsert(keys, np.full(len(keys), time, np.uint32))
        limits.look()
    assert limits.full == sum(table.stats.full for table in small) == 2 * (40 + 20)
    assert limits.evicted == evicting.stats.evicted >= 40
    assert limits.counts()["user"] == [10, 10, 80, 0, 0] and limits.counts()["pairs"][2] == 40
    assert limits.counts()["item"][4] == limits.evicted
    assert sorted(record.message.partition(":")[0] for record in caplog.records) == [
        "the table of item has reached its limit",
        "the table of pairs is full",
        "the table of user is full",
    ]
    assert "features.user.rows_max = 10" in caplog.text
