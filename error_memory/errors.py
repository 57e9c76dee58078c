"""The errors of an error memory, named by cause.

FreshetError
├── MemorySettingsError     settings that are invalid
├── MemoryInputError        rows, probabilities, labels or positions that cannot be used
└── MemoryStateError        saved bytes that are damaged, or belong to other settings
"""

from ground import FreshetError


class MemorySettingsError(FreshetError):
    """The settings are invalid; the message names the setting and its range."""


class MemoryInputError(FreshetError):
    """Rows, probabilities, labels or positions cannot be used; nothing was learned from them."""


class MemoryStateError(FreshetError):
    """The saved bytes are damaged or have other settings; the message names the difference."""
