"""What a state holds at one moment, to be read while later commits change it."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from stream.state.disk import StoredEntries
from stream.state.layout import DATA

T = TypeVar("T")
Failure = Callable[[Exception], Exception]
"""What to raise for an error of the database."""


class StateView:
    """The role's own entries of one moment, for one reading at a time.

    Close it: what it keeps from being removed takes room on disk.

    Args:
        entries: of the database at that moment.
        failure: gives what to raise for an error of the database.
    """

    def __init__(self, entries: StoredEntries, failure: Failure) -> None:
        self._entries = entries
        self._failure = failure

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of entries, None where there is none."""
        try:
            return self._entries.get_many([DATA + key for key in keys])
        except Exception as error:
            raise self._failure(error) from None

    def scan(self, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key begins with `prefix`, from key `start` on, in key order."""
        return scanned(self._entries.items, DATA, prefix, start, self._failure)

    def close(self) -> None:
        """Let it go. Safe to call twice."""
        self._entries.close()


def scanned(
    items: Callable[[bytes], Iterator[tuple[bytes, bytes]]],
    kind: bytes,
    prefix: bytes,
    start: bytes,
    failure: Failure,
) -> Iterator[tuple[bytes, bytes]]:
    """The entries of one kind whose key begins with `prefix`, from key `start` on, without the kind."""
    begin, strip = kind + prefix, len(kind)
    try:
        for key, value in items(max(begin, kind + start)):
            if not key.startswith(begin):
                return
            yield key[strip:], value
    except Exception as error:
        raise failure(error) from None
