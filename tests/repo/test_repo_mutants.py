"""The mutation tool makes the changes that it says it makes, and finds the tests that run what is changed."""

import ast
import itertools
from pathlib import Path

import pytest
from mutants_changes import mutants_of, numbered, still_parses
from mutants_hook import MARKS, Numbers, mark
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
        ("x = (a and\n  b)", {"x = (((a or b)\n))"}),
    ],
)
def test_changes_are_these(source: str, expected: set[str]) -> None:
    assert changed(source) == expected


SOURCE = '''
LIMIT = 3
class A:
    size: int = 4
    def f(self, a=5):
        """A text."""
        if a == 6:
            return 7
        elif a == 8:
            raise E(
                9)
'''


def test_each_change_says_where_its_tests_are() -> None:
    places = {m.was: m.place for m in mutants_of(FILE, SOURCE)}
    assert {places[n].names for n in "3"} == {("LIMIT",)} and places["4"].names == ("size",)
    assert places["5"].imported and 7 in places["5"].lines
    found = {number: places[number].lines for number in "6789"}
    assert found == {"6": (7,), "7": (8,), "8": (9,), "9": (10,)} and not places["6"].imported


@pytest.mark.slow
def test_changes_of_a_real_file_parse_and_keep_all_lines() -> None:
    found = list(mutants_of(FILE, FILE.read_text()))
    assert len(found) > 100 and all(map(still_parses, found[::5]))
    assert all(m.was.count("\n") == m.text.count("\n") for m in found)


def test_marked_code_notes_each_statement_that_runs_and_nothing_else() -> None:
    tree = ast.parse(SOURCE)
    mark(tree, 100)
    ran: dict[int, int] = {}
    names = {MARKS: ran, "E": ValueError}
    exec(compile(tree, "a", "exec"), names)
    assert not ran
    thing = names["A"]()  # type: ignore[operator]
    assert thing.f(6) == 7 and thing.f() is None and [*ran] == [107, 108, 109]
    with pytest.raises(ValueError, match="9"):
        thing.f(8)
    assert [*ran] == [107, 108, 109, 110] and thing.f.__doc__ == "A text."


def test_every_line_of_the_sources_has_a_number_of_its_own() -> None:
    numbers = Numbers(["stream", "ground"])
    ranges = sorted((range_.start, range_.stop) for range_ in map(numbers.lines, map(Path, numbers.first)))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))
    assert ranges[0][0] == 0 and ranges[-1][1] == numbers.count


def test_a_change_keeps_its_number_when_other_places_change() -> None:
    before = {number for number, _ in numbered(FILE, SOURCE, seed=1)}
    after = {number for number, _ in numbered(FILE, "OTHER = 5 if LIMIT else 7\n" + SOURCE, seed=1)}
    assert len(before) > 8 and before < after
    assert before.isdisjoint({number for number, _ in numbered(FILE, SOURCE, seed=2)})
