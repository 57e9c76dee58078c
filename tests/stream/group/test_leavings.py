"""What a state has of partitions that another member reads is erased after a while, and not before."""

from ground.clock import ManualClock
from stream.group.leavings import KEPT_S, Leavings


class Kept:
    """The partitions of a state."""

    def __init__(self, *partitions: int) -> None:
        self.partitions = set(partitions)

    def keeps(self, partition: int) -> bool:
        return partition in self.partitions

    def erase(self, partition: int) -> None:
        self.partitions.remove(partition)


def test_partition_is_erased_a_while_after_it_was_left_and_stays_if_it_comes_back() -> None:
    clock, kept = ManualClock(), Kept(0, 1, 2)
    leavings = Leavings(kept, clock)
    leavings.erase_due(3, {0, 1})
    clock.advance(KEPT_S - 1.0)
    leavings.erase_due(3, {0, 1})
    assert kept.partitions == {0, 1, 2}
    leavings.leave(0)
    leavings.leave(1)
    clock.advance(1.0)
    leavings.erase_due(3, set())
    assert kept.partitions == {0, 1}, "2 was another member's from the start"
    clock.advance(KEPT_S - 2.0)
    leavings.erase_due(3, {1})
    assert kept.partitions == {0, 1}
    clock.advance(1.0)
    leavings.erase_due(3, {1})
    assert kept.partitions == {1}
    clock.advance(10 * KEPT_S)
    leavings.erase_due(3, set())
    assert kept.partitions == {1}, "it was read since, and has not been left again"
