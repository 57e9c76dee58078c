"""Errors of a disk that say nothing about the data on it: what helps, and then it can be gone on with."""

_ADVICE = {
    "No space left on device": "free some disk space",
    "Disk quota exceeded": "free some disk space",
    "File too large": "free some disk space, or let files grow larger (ulimit -f)",
    "Too many open files": "let the process open more files (ulimit -n, LimitNOFILE)",
    "Permission denied": "let the user who runs this role write there",
    "Read-only file system": "mount it so that it can be written",
}
"""What helps, by the words with which the system refuses what it can do at another time."""


def advice(error: Exception) -> str:
    """What helps against an error that says nothing about the data; nothing if it may.

    >>> advice(OSError(28, "No space left on device")), advice(ValueError("corruption"))
    ('free some disk space', '')
    """
    return next((helps for words, helps in _ADVICE.items() if words in str(error)), "")


def is_full(error: Exception) -> bool:
    """Whether there is no room."""
    return advice(error).startswith("free some disk space")
