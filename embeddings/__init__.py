"""A collisionless, expirable embedding table: 64-bit keys to rows of float32, one CPU thread, batches only.

from embeddings import Table, TableSpec

table = Table(TableSpec(name="item", dim=16))
slots = table.upsert(keys, times)
vectors = table.vectors(slots)
table.apply_gradients(slots, gradients)
"""

from typing import TYPE_CHECKING, Any

from embeddings.errors import TableError, TableInputError, TableSpecError

if TYPE_CHECKING:
    from embeddings.results import Block, Delta, TableStats
    from embeddings.spec import TableSpec
    from embeddings.table import Table

__all__ = [
    "Block",
    "Delta",
    "Table",
    "TableError",
    "TableInputError",
    "TableSpec",
    "TableSpecError",
    "TableStats",
]


def __getattr__(name: str) -> Any:
    """Import on first use: the table brings numba, which a command line should not pay for."""
    if name == "TableSpec":
        from embeddings.spec import TableSpec

        return TableSpec
    if name in __all__:
        from embeddings import table

        return getattr(table, name)
    raise AttributeError(f"module 'embeddings' has no attribute {name!r}")
