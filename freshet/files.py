"""JSON files for programs, indented for people, and written atomically."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ground import FreshetError
from stream.files.record_files import whole_or_nothing

Json = dict[str, Any]  # a JSON object
JsonView = Mapping[str, Any]  # one that is only read


def readable_json(value: object) -> bytes:
    """A value as indented JSON that ends in a line break."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def check_writable(path: Path, error: type[FreshetError]) -> None:
    """Check, before long work starts, that its result can be written to this file; does not change the file.

    Raises:
        FreshetError: of the kind `error`: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        else:  # not under its own name: another process would take an empty file for the result
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as cause:
        raise error(f"{path}: cannot be written: {cause.strerror}; name another file") from None


def write_json(path: Path, value: object, error: type[FreshetError]) -> None:
    """Write a value to a file.

    Raises:
        FreshetError: of the kind `error`: it cannot be written; the file is as it was.
    """
    try:
        with whole_or_nothing(path) as making:
            making.write_bytes(readable_json(value))
    except OSError as cause:
        raise error(f"{path}: cannot be written: {cause.strerror}") from None
