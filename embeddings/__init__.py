"""A collisionless, expirable embedding table: 64-bit keys to rows of float32, one CPU thread, batches only.

from embeddings import Table, TableSpec

table = Table(TableSpec(name="item", dim=16))
slots = table.upsert(keys, times)
vectors = table.vectors(slots)
table.apply_gradients(slots, gradients)
"""

import importlib
from typing import TYPE_CHECKING, Any

from embeddings.errors import (
    DeltaError,
    DeltaGapError,
    SnapshotError,
    TableError,
    TableInputError,
    TableSpecError,
)

if TYPE_CHECKING:
    from embeddings.save.delta import DeltaReader, DeltaWriter
    from embeddings.save.folder import SnapshotFolder
    from embeddings.spec import TableSpec
    from embeddings.table.table import Table
    from embeddings.types import Block, Delta, TableStats
    from embeddings.views.features import FeatureTables, Ids, Pooled, TableFeature

__all__ = [
    "Block",
    "Delta",
    "DeltaError",
    "DeltaGapError",
    "DeltaReader",
    "DeltaWriter",
    "FeatureTables",
    "Ids",
    "Pooled",
    "SnapshotError",
    "SnapshotFolder",
    "Table",
    "TableError",
    "TableFeature",
    "TableInputError",
    "TableSpec",
    "TableSpecError",
    "TableStats",
]

_HOMES = {
    "Block": "types",
    "Delta": "types",
    "DeltaReader": "save.delta",
    "DeltaWriter": "save.delta",
    "FeatureTables": "views.features",
    "Ids": "views.features",
    "Pooled": "views.features",
    "SnapshotFolder": "save.folder",
    "Table": "table.table",
    "TableFeature": "views.features",
    "TableSpec": "spec",
    "TableStats": "types",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the table imports numba, which would slow the start of a command line."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"embeddings.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'embeddings' has no attribute {name!r}")
