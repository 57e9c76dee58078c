"""What can go wrong with an error memory, named by cause.

FreshetError
├── MemorySettingsError     settings that no memory can be made from
├── MemoryInputError        rows, probabilities, labels or positions that cannot be used
└── MemoryStateError        saved bytes that are damaged, or belong to other settings
"""

from ground import FreshetError


class MemorySettingsError(FreshetError):
    """Settings that no memory can be made from; names the setting and what it may be."""


class MemoryInputError(FreshetError):
    """Rows, probabilities, labels or positions that cannot be used; nothing was learnt from them."""


class MemoryStateError(FreshetError):
    """Saved bytes that are damaged, or were saved under other settings; names the difference."""
