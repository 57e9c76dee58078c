"""The fields of records, by their paths: each a column of cells, as of a table."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from freshet.init.column import Column
from stream.files.times import Cell
from stream.sources.paths import split_path

DEPTH_MAX = 6
FIELDS_MAX = 500
LIST_SHARE_MIN = 0.9  # of the records that have a field, in which it is a list of objects
NEEDS_QUOTES = set(".'?@ \t\n")
BARE_NAMES = {"id", "uuid", "key", "code", "name", "value"}
"""Names of fields that say too little without the name of their object."""
CANDIDATE_WORDS = {
    "items", "item", "candidates", "results", "slate", "products", "product", "skus", "sku", "articles",
    "article", "docs", "documents", "doc", "document", "shown", "ranking", "ranked", "recommendations",
    "recommended", "recs", "impressions", "offers", "listings", "ads", "ad", "videos", "video", "movies",
    "songs", "tracks", "posts",
}  # fmt: skip
"""Words of a list of ids that may be candidates."""
NO_CANDIDATE_WORDS = {
    "history", "past", "prior", "previous", "last", "clicked", "viewed", "bought", "liked", "tags", "genres",
    "categories", "keywords", "filters", "related",
}  # fmt: skip
INT_END = 1 << 63


class Field(NamedTuple):
    """A field, with one cell for each record.

    Attributes:
        path: as a config names it; it ends in `?` if some records lack the field.
        column: its values; named by the last step of the path, or the last two.
    """

    path: str
    column: Column

    @property
    def cells(self) -> Sequence[Cell]:
        """Its values; None where a record lacks it."""
        return self.column.cells

    @property
    def whole(self) -> bool:
        """Whether each record has a value."""
        return len(self.column.filled) == len(self.column.cells)


class Lists(NamedTuple):
    """A field that is a list of objects, as candidates are."""

    path: str
    items: list[list[object]]  # of each record
    fields: list[Field]  # of the objects, one cell for each of them


def fields_of(records: Sequence[object]) -> list[Field]:
    """The fields of records that are values: ids, numbers, texts, and lists of them.

    >>> [field.path for field in fields_of([{"a": {"b": 1}, "c.d": 2}, {"c.d": 3}])]
    ['a.b?', "'c.d'"]
    """
    cells: dict[tuple[str, ...], dict[int, Cell]] = {}
    for at, record in enumerate(records):
        for steps, value in _leaves(record, ()):
            if steps in cells or len(cells) < FIELDS_MAX:
                cells.setdefault(steps, {})[at] = value
    found = []
    for steps, values in cells.items():
        path = _path(steps)
        if path is not None:
            lacking = "" if len(values) == len(records) else "?"
            column = Column(_name(steps), [values.get(at) for at in range(len(records))])
            found.append(Field(path + lacking, column))
    return found


def lists_of(records: Sequence[object]) -> list[Lists]:
    """The fields that are lists of objects, the longest first."""
    found: dict[tuple[str, ...], dict[int, list[object]]] = {}
    seen: dict[tuple[str, ...], int] = {}
    for at, record in enumerate(records):
        for steps, value in _walk(record, ()):
            if isinstance(value, Sequence) and not isinstance(value, str | bytes):
                seen[steps] = seen.get(steps, 0) + 1
                if value and all(isinstance(item, Mapping) for item in value):
                    found.setdefault(steps, {})[at] = list(value)
    lists = []
    for steps, by_record in found.items():
        path = _path(steps)
        if path is not None and len(by_record) >= LIST_SHARE_MIN * seen[steps]:
            items = [by_record.get(at, []) for at in range(len(records))]
            lists.append(Lists(path, items, fields_of([item for some in items for item in some])))
    return sorted(lists, key=lambda one: -sum(map(len, one.items)))


def id_lists_of(fields: Sequence[Field]) -> list[Lists]:
    """The fields that are lists of ids and named like candidates, the longest first.

    >>> from freshet.init.column import Column
    >>> [one.fields[0].column.name for one in id_lists_of([Field("item_ids", Column("item_ids", [[3, 5]]))])]
    ['item_id']
    """
    lists = []
    for field in fields:
        words, cells = field.column.words, field.cells
        named = words & CANDIDATE_WORDS and not words & NO_CANDIDATE_WORDS
        rows = [cell if isinstance(cell, list) else [] for cell in cells]
        ids = [one for row in rows for one in row]
        if named and field.whole and ids and all(type(one) in (int, str) for one in ids):
            name = field.column.name
            inner = Field(".", Column(name[:-1] if name.endswith("s") else name, ids))
            lists.append(Lists(field.path, [list(row) for row in rows], [inner]))
    return sorted(lists, key=lambda one: -sum(map(len, one.items)))


def _name(steps: tuple[str, ...]) -> str:
    return "_".join(steps[-2:]) if steps[-1].lower() in BARE_NAMES else steps[-1]


def _leaves(value: object, steps: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Cell]]:
    for at, found in _walk(value, steps):
        if not isinstance(found, bytes | bytearray) and not _has_objects(found):
            yield at, _cell(found)


def _walk(value: object, steps: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """All values of a record that are no objects, with the steps to them."""
    if isinstance(value, Mapping):
        if len(steps) < DEPTH_MAX:
            for name, inner in value.items():
                if isinstance(name, str):
                    yield from _walk(inner, (*steps, name))
    elif steps and value is not None:
        yield steps, value


def _has_objects(value: object) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value)


def _cell(value: object) -> Cell:
    """A value as a table would have it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, int) and value >= INT_END and not isinstance(value, bool):
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, list | tuple):
        return [_cell(item) for item in value]
    if isinstance(value, str | int | float | bool | datetime):
        return value
    return str(value)


def _path(steps: tuple[str, ...]) -> str | None:
    """The steps as a path; None: it cannot be written."""
    text = ".".join(f"'{step}'" if set(step) & NEEDS_QUOTES or not step else step for step in steps)
    try:
        return text if split_path(text)[0] == steps else None
    except ValueError:
        return None
