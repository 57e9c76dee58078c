"""Bytes from outside are decoded with all errors caught that msgspec raises for them, wherever that is."""

import ast
from collections.abc import Iterator

import msgspec
import pytest
from test_repo_layout import FLOOR_OF, ROOT, python_files

from ground import UNDECODABLE

PARTIAL = {"msgspec.DecodeError", "msgspec.MsgspecError"}
"""What is caught in place of `UNDECODABLE` misses text that is no UTF-8, and what is nested too deeply."""


def partial(source: str) -> Iterator[int]:
    """Lines of handlers that catch some of what cannot be decoded."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            for name in ast.walk(node.type):
                if isinstance(name, ast.Attribute) and ast.unparse(name) in PARTIAL:
                    yield node.lineno


def test_partial_handlers_are_found() -> None:
    source = "try:\n    f()\nexcept (msgspec.DecodeError, UnicodeDecodeError):\n    pass\n"
    assert list(partial(source)) == [3]


def test_whoever_decodes_catches_all_that_cannot_be_decoded() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in FLOOR_OF
        for path in python_files(package)
        for line in partial(path.read_text())
    ]
    assert not found, f"catch ground.UNDECODABLE there: {found}"


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\xa1\xff", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff"])
def test_undecodable_is_what_msgspec_raises(value: bytes) -> None:
    with pytest.raises(UNDECODABLE):
        msgspec.msgpack.decode(value)
    with pytest.raises(UNDECODABLE):
        msgspec.json.decode(value.replace(b"\x91", b"[").replace(b"\xa1", b'"'))
