"""What can go wrong in an embedding table, named by cause.

FreshetError
└── TableError            the table cannot do what was asked
    ├── TableSpecError    a table's settings do not fit together
    └── TableInputError   keys, slots, times or rows of the wrong shape or range
"""

from ground.errors import FreshetError


class TableError(FreshetError):
    """The table cannot do what was asked."""


class TableSpecError(TableError, ValueError):
    """A table's settings do not fit together; names the setting. A ValueError, so msgspec adds its path."""


class TableInputError(TableError):
    """Keys, slots, times or rows of the wrong shape or range."""
