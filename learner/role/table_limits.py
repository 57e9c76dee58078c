"""Counters of the rows of a model's tables, and a warning when a table reaches its limit."""

import logging
from collections.abc import Sequence

from embeddings import Table
from learner.model.tables import PAIRS

_log = logging.getLogger("freshet.learner")


class TableLimits:
    """Counts per table since it was made. Warns once when a table first evicts, and first refuses, an id."""

    def __init__(self, names: Sequence[str], tables: Sequence[Table]) -> None:
        self._tables = list(zip(names, tables, strict=True))
        self._warned: set[tuple[str, str]] = set()

    def counts(self) -> dict[str, list[int]]:
        """Per table: rows now; and since it was made the ids admitted, refused, expired and evicted."""
        found = {}
        for name, table in self._tables:
            stats = table.stats
            refused = stats.refused + stats.full
            found[name] = [stats.rows, stats.inserted, refused, stats.expired, stats.evicted]
        return found

    @property
    def full(self) -> int:
        """Sightings of new ids that a full table refused."""
        return sum(table.stats.full for _, table in self._tables)

    @property
    def evicted(self) -> int:
        """Rows that were evicted."""
        return sum(table.stats.evicted for _, table in self._tables)

    def look(self) -> None:
        """Warn of tables that have reached their limit since the last call."""
        for name, table in self._tables:
            stats = table.stats
            if stats.full:
                self._warn(name, table, "is full: new ids are not learned")
            if stats.evicted:
                self._warn(name, table, "has reached its limit: the least used rows make room for new ids")

    def _warn(self, name: str, table: Table, what: str) -> None:
        if (name, what) not in self._warned:
            self._warned.add((name, what))
            setting = "learner.pairs_rows_max" if name == PAIRS else f"features.{name}.rows_max"
            needs = "a larger one needs more memory, a ttl_s needs less"
            _log.warning("the table of %s %s. %s = %d: %s", name, what, setting, table.spec.rows_max, needs)
