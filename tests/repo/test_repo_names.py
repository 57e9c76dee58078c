"""One class name stands for one thing in all packages, and so does one name of a file of tests."""

import re
from collections import Counter
from pathlib import Path

from test_repo_rooms import MODULES, ROOT


def defined_classes(source: str) -> list[str]:
    """Classes at the top of a file that other files may import."""
    return re.findall(r"^class ([^\W_]\w*)", source, re.MULTILINE)


def test_a_class_name_is_defined_once() -> None:
    homes: dict[str, list[Path]] = {}
    for path in MODULES.values():
        for name in defined_classes(path.read_text()):
            homes.setdefault(name, []).append(path.relative_to(ROOT))
    twice = {name: [str(path) for path in paths] for name, paths in homes.items() if len(paths) > 1}
    assert not twice, "one name stands for two things: rename one of them"


def test_the_reader_of_classes_finds_public_ones_only() -> None:
    assert defined_classes("class A: ...\nclass _B: ...\ndef f():\n    class C: ...\n") == ["A"]


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by their names alone: the second of a name is not collected."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert not [name for name, count in names.items() if count > 1 and name != "conftest.py"]
