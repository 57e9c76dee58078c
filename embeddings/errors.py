"""Errors of the embedding table, named by cause.

FreshetError
└── TableError            the table cannot do what was asked
    ├── TableSpecError    a setting of a table is out of range or contradicts another one
    ├── TableInputError   keys, slots, times or rows of the wrong shape or range
    ├── DeltaError        a delta cannot be read, or does not fit the table
    │   └── DeltaGapError deltas before this one are missing
    └── SnapshotError     a snapshot is missing, damaged, or does not fit the table
"""

from ground.errors import FreshetError


class TableError(FreshetError):
    """The table cannot do what was asked."""


class TableSpecError(TableError, ValueError):
    """A setting is out of range or contradicts another; the message names it. A ValueError for msgspec."""


class TableInputError(TableError):
    """Keys, slots, times or rows have the wrong shape or range."""


class DeltaError(TableError):
    """A delta cannot be read, or does not fit the table."""


class DeltaGapError(DeltaError):
    """Deltas before this one are missing."""


class SnapshotError(TableError):
    """A snapshot is missing, damaged, or does not fit the table; the message names the file or entry."""
