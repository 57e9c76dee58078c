"""What can go wrong in an embedding table, named by cause.

FreshetError
└── TableError            the table cannot do what was asked
    ├── TableSpecError    a table's settings do not fit together
    ├── TableInputError   keys, slots, times or rows of the wrong shape or range
    ├── DeltaError        a delta that cannot be read or does not fit the table
    │   └── DeltaGapError deltas before this one are missing
    └── SnapshotError     a snapshot that is missing, damaged, or does not fit the table
"""

from ground.errors import FreshetError


class TableError(FreshetError):
    """The table cannot do what was asked."""


class TableSpecError(TableError, ValueError):
    """A table's settings do not fit together; names the setting. A ValueError, so msgspec adds its path."""


class TableInputError(TableError):
    """Keys, slots, times or rows of the wrong shape or range."""


class DeltaError(TableError):
    """A delta cannot be read, or does not fit the table."""


class DeltaGapError(DeltaError):
    """Deltas before this one are missing."""


class SnapshotError(TableError):
    """A snapshot is missing, damaged, or does not fit the table; names the file or the entry."""
