"""From a watermark, an offset per partition, to the one position that an error memory understands."""

from collections.abc import Mapping

Mark = tuple[int, dict[int, int]]
"""(position, {partition: next offset}): a watermark with these offsets has learnt all up to the position."""


class Positions:
    """Numbers examples in the order in which they were observed, whatever their partition.

    A base that has learnt offsets up to its watermark has learnt the longest prefix of positions
    whose offsets all lie below it. At most `marks_max` marks are kept: when there are more,
    neighbours are joined in pairs, so that a base that is far behind is followed more coarsely.

    >>> positions = Positions(marks_max=100)
    >>> [positions.add(partition, offset) for partition, offset in ((0, 7), (1, 3), (0, 8))]
    [1, 2, 3]
    >>> positions.learnt({0: 9}), positions.learnt({0: 9, 1: 4})
    (1, 3)
    """

    def __init__(self, marks_max: int) -> None:
        if marks_max < 2:
            raise ValueError("marks_max must be at least 2")
        self.marks_max = marks_max
        self.last = 0
        self._learnt = 0
        self._marks: list[Mark] = []

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, partition: int, offset: int) -> int:
        """The position of the next example observed, from 1 on."""
        self.last += 1
        if len(self._marks) == self.marks_max:
            self._join_pairs()
        self._marks.append((self.last, {partition: offset + 1}))
        return self.last

    def learnt(self, watermark: Mapping[int, int]) -> int:
        """The last position up to which a base with this watermark has learnt everything; 0: none."""
        done = 0
        for position, offsets in self._marks:
            if any(watermark.get(partition, 0) < offset for partition, offset in offsets.items()):
                break
            self._learnt = position
            done += 1
        del self._marks[:done]
        return self._learnt

    def _join_pairs(self) -> None:
        marks = self._marks
        joined = []
        for i in range(0, len(marks) - 1, 2):
            early, late = marks[i][1], marks[i + 1][1]
            # offsets only rise, so the later mark's are the greater where both have one
            joined.append((marks[i + 1][0], {**early, **late}))
        if len(marks) % 2:
            joined.append(marks[-1])
        self._marks = joined
