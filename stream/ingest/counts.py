"""What ingest counts of a source, and of topic `matches`."""

import msgspec


class SourceCounts(msgspec.Struct):
    """Counts of one source since its state was created, over all partitions."""

    records: int = 0
    impressions: int = 0
    actions: int = 0
    skipped: int = 0  # left out by `only`
    deletions: int = 0  # ignored
    dead_letters: int = 0
    entities: int = 0


class MatchCounts(msgspec.Struct):
    """Counts of a matcher since its state was created."""

    showings: int = 0
    seeking: int = 0  # actions that looked for their impression
    matched: int = 0
    unmatched: int = 0  # dead letters too
    early: int = 0  # of them, given up because waiting_max was reached
    forgotten: int = 0  # actions that waited and were removed by a request to forget
    dead_letters: int = 0
