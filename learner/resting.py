"""The tables of a model whose rows rest on disk: rows come back before kernels need them, all in one read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from embeddings import Table
from embeddings.rest.folder import RestFolder
from embeddings.rest.table import RestingTable
from ground.rows import Rows
from learner.features.spec import FeatureSpec
from learner.settings import LearnerSettings

RELIEVED_MAX = 4096
"""Rows of a table that leave memory at once while requests wait for the model."""


def rows_rest(features: Mapping[str, FeatureSpec], settings: LearnerSettings) -> bool:
    """Whether rows of a table rest on disk."""
    found = [settings.pairs_memory_rows, *(spec.memory_rows for spec in features.values())]
    return any(rows is not msgspec.UNSET for rows in found)


class RestingTables:
    """Of a model's tables those whose rows rest; often none.

    Args:
        tables: all tables of the model, in order.
        table_of: (columns,) the number of each column's table.
    """

    def __init__(self, tables: Sequence[Table], table_of: npt.NDArray[np.int32]) -> None:
        self.tables = {t: table for t, table in enumerate(tables) if isinstance(table, RestingTable)}
        self._table_of = table_of
        self._folder: RestFolder | None = None

    def __bool__(self) -> bool:
        return bool(self.tables)

    def rest_apart(self, parent: Path | None = None) -> None:
        """Let the rows rest in a folder that is removed with the model, wherever they rested until now.

        Args:
            parent: the folder in which it is made; None: the system's for temporary files.

        Raises:
            SnapshotError: it cannot be made or written.
        """
        if self.tables:
            folder = RestFolder(parent)
            folder.hold(list(self.tables.values()))
            self._folder = folder

    def bring(self, rows: Rows) -> None:
        """Bring back what is at rest of the rows' ids."""
        if self.tables:
            table_of = self._table_of[rows.column]
            for t, table in self.tables.items():
                table.bring(rows.key[table_of == t])

    def prepare(self, rows: Rows) -> None:
        """`relieve`, then `bring`: before rows are learned."""
        self.relieve()
        self.bring(rows)

    def counts(self) -> dict[str, int]:
        """Rows at rest, and rows that came back since the tables were made; empty where no rows rest."""
        if not self.tables:
            return {}
        tables = self.tables.values()
        return {
            "rows_at_rest": sum(table.at_rest for table in tables),
            "rows_read": sum(table.reads for table in tables),
        }

    @property
    def crowded(self) -> bool:
        """Whether rows should be sent to rest now: a commit does so, or `relieve`."""
        return any(table.crowded for table in self.tables.values())

    @property
    def due(self) -> bool:
        """Whether `relieve` is due: rows rest in a folder of their own, and memory holds too many."""
        return self._folder is not None and self.crowded

    def relieve(self, rows: int | None = None) -> None:
        """Send rows to rest, if they rest in a folder of their own. No slot may be in use.

        Args:
            rows: of one table, at most; None: until `memory_rows` are in memory.

        Raises:
            SnapshotError: the disk is full or failing; nothing is lost.
        """
        if self._folder is not None:
            self._folder.relieve(rows)

    def close(self) -> None:
        """Remove the folder, if rows rest in one of their own."""
        if self._folder is not None:
            self._folder.close()
