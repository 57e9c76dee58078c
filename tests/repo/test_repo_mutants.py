"""The mutation tool makes the changes that it says it makes, and finds the tests of a room."""

import pytest
from mutants import mutants_of, stages_of, still_parses
from paths import ROOT

FILE = ROOT / "stream" / "join" / "joiner.py"


def changed(source: str) -> set[str]:
    code = source.encode()
    found = mutants_of(FILE, source)
    return {(code[: m.begin] + m.text.encode() + code[m.end :]).decode() for m in found}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"(a <= b)", "(a >= b)"}),
        ("a and b", {"(a or b)"}),
        ("a + b", {"(a - b)"}),
        ("max(a, b)", {"min(a, b)", "pass"}),
        ("not a", {"(a)"}),
        ("'é' and 3", {"('é' or 3)", "'é' and 4"}),
        ("'a' + b", set()),
        ("x: int | None", set()),
        ("f(x)", {"pass"}),
        ("self.a = b", {"pass"}),
        ("a = b", set()),
        ("if a:\n    b()", {"if False:\n    b()", "if True:\n    b()", "if a:\n    pass"}),
        ("@njit(cache=True)\ndef f(a):\n    return a < 1", set()),
        ('"""A text."""', set()),
    ],
)
def test_changes_are_these(source: str, expected: set[str]) -> None:
    assert changed(source) == expected


def test_changes_of_a_real_file_parse() -> None:
    found = list(mutants_of(FILE, FILE.read_text()))
    assert len(found) > 100 and all(map(still_parses, found[::5]))


def test_nearest_tests_come_first_and_none_twice() -> None:
    room, package = stages_of(FILE)
    assert "tests/stream/join/test_joiner.py" in room and "tests/stream/log/test_lag.py" in package
    assert not set(room) & set(package)
