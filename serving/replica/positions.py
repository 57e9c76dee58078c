"""Maps a watermark (an offset per partition) to the single position that an error memory uses."""

from collections.abc import Mapping

Mark = tuple[int, dict[int, int]]
"""(position, {partition: next offset}): a watermark with these offsets covers all up to the position."""


class Positions:
    """Numbers examples in the order of observation, across all partitions.

    A base with a watermark includes the longest prefix of positions whose offsets all lie below the
    watermark. At most `marks_max` marks are kept. When the list is full, neighbours are joined in
    pairs, so the positions of a base that is far behind become coarser.

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
        """Add an observed example; returns its position, from 1 on."""
        self.last += 1
        if len(self._marks) == self.marks_max:
            self._join_pairs()
        self._marks.append((self.last, {partition: offset + 1}))
        return self.last

    def learnt(self, watermark: Mapping[int, int]) -> int:
        """The last position up to which a base with this watermark includes all examples; 0: none."""
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
            # offsets only increase: where both marks have one, the later is greater
            joined.append((marks[i + 1][0], {**early, **late}))
        if len(marks) % 2:
            joined.append(marks[-1])
        self._marks = joined
