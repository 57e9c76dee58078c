"""What a source's runner is given: it reads and commits in the log of others, and writes only into ours."""

import pytest

from stream.ingest.two_logs import TwoLogs
from stream.log.base import Outgoing
from stream.log.testing import MemoryLog


def test_each_call_goes_to_the_log_that_it_is_of() -> None:
    theirs, ours = MemoryLog(), MemoryLog()
    both = TwoLogs(theirs, ours)
    theirs.create_topic("shop", 3)
    theirs.append("shop", [Outgoing(b"", b"%d" % i, 1) for i in range(5)])
    both.create_topic("events", 2)
    assert ours.topics() == {"events": 2} and theirs.topics() == {"shop": 3}
    assert both.partitions("shop") == 3 and both.ends("shop") == theirs.ends("shop")
    both.append("events", [Outgoing(b"k", b"v", 1)])
    assert [record.value for record in ours.read("events", 1, 0)] == [b"v"]
    both.commit("g", "shop", {1: 4})
    assert both.committed("g", "shop") == theirs.committed("g", "shop") == {1: 4}
    assert both.record_bytes_max("events") == ours.record_bytes_max("events")
    with pytest.raises(NotImplementedError):
        both.trim("shop", 1, 2)
    both.close()
    assert theirs.ends("shop")[1] == (0, 5) and ours.ends("events")[1] == (0, 1), "both are open still"


def test_what_was_read_and_not_taken_is_given_again() -> None:
    theirs = MemoryLog()
    theirs.create_topic("shop", 1)
    theirs.append("shop", [Outgoing(b"", b"%d" % i) for i in range(5)])
    both = TwoLogs(theirs, MemoryLog())

    def read(offset: int, most: int) -> list[int]:
        return [record.offset for record in both.read_any("shop", {0: offset}, most).get(0, [])]

    assert read(0, 3) == [0, 1, 2]
    theirs.trim("shop", 0, 3)
    assert read(1, 9) == [1, 2, 3, 4], "the first of them are gone, and were kept"
    assert read(5, 9) == [] and read(3, 9) == [3, 4]
