"""Packages have rooms: small folders of one idea each, with imports that never run in a circle."""

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from test_repo_layout import FLOOR_OF, ROOT, imports, python_files

ROOM_FILES_MAX = 12
"""Beside `__init__.py`. A reader who opens a folder should see at a glance what is in it."""

FILE_LINES_MAX = 400
"""A file is one idea, and is read at one sitting."""

Graph = Mapping[str, Iterable[str]]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in FLOOR_OF for path in python_files(package)}
ROOMS = sorted({path.parent for path in MODULES.values()})


def imported_modules(source: str, known: Iterable[str]) -> set[str]:
    """Which of the known modules a source imports, wherever in the file: late and type-only imports too."""
    known = set(known)
    found: set[str] = set()
    for _, module, imported in imports(source):
        names = {f"{module}.{name}" for name in imported}
        # `from room import file` needs the file; anything else needs what defines it
        found |= (names & known) | ({module} if names - known or not names else set())
    return found & known


@cache
def module_graph() -> dict[str, set[str]]:
    return {
        name: imported_modules(path.read_text(), MODULES) - {name}
        for name, path in MODULES.items()
        if path.name != "__init__.py"  # what a package shows to its users is looked up when it is asked for
    }


def room_graph(modules: Graph) -> dict[str, set[str]]:
    """Arrows between folders. A folder may use its parent's files, and its parent's files may use it."""
    arrows: dict[str, set[str]] = {}
    for name, others in modules.items():
        room = name.rpartition(".")[0]
        for other in (o.rpartition(".")[0] for o in others if "." in o):
            if not f"{room}.".startswith(f"{other}.") and not f"{other}.".startswith(f"{room}."):
                arrows.setdefault(room, set()).add(other)
    return arrows


def circle(graph: Graph) -> list[str]:
    """A circle in a graph, empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found[::-1]
    return []


@pytest.mark.slow
def test_no_file_imports_itself_through_others() -> None:
    assert not (found := circle(module_graph())), " → ".join(found)


def test_no_room_imports_itself_through_others() -> None:
    assert not (found := circle(room_graph(module_graph()))), " → ".join(found)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_room_is_small_and_says_what_it_is(room: Path) -> None:
    files = [path.name for path in MODULES.values() if path.parent == room and path.name != "__init__.py"]
    assert len(files) <= ROOM_FILES_MAX, f"{len(files)} files: {sorted(files)}"
    about = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert about and about.split("\n")[0].endswith((".", ":")), "its __init__.py does not say what it is"


KNOWN = ("a.x", "a.y", "a.z", "b.x")


@pytest.mark.parametrize(
    "source",
    [
        "from a.x import f",
        "from a import x",
        "import a.x",
        "def late():\n    from a.x import f",
        "if TYPE_CHECKING:\n    from a.x import T",
        "import importlib\nimportlib.import_module('a.x')",
    ],
)
def test_import_is_seen_wherever_it_stands(source: str) -> None:
    assert imported_modules(source, KNOWN) == {"a.x"}


def test_circles_are_seen() -> None:
    assert circle({"a.x": ["a.y"], "a.y": ["b.x"], "b.x": ["a.x"]})
    assert circle(room_graph({"p.a.x": ["p.b.x"], "p.b.y": ["p.a.y"]}))
    assert not circle(room_graph({"p.a.x": ["p.y"], "p.z": ["p.a.x"]}))  # a room and its parent


def test_architecture_page_lists_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    listed = page.partition("### The rooms")[2].split("```")[1].splitlines()[1:]
    packages = [line.partition("/")[0] for line in listed if not line.startswith(" ")]
    assert sorted(packages) == sorted(FLOOR_OF)
    rooms = [room for package in packages for room in ROOMS if room.relative_to(ROOT).parts[0] == package]
    expected = []
    for room in rooms:
        about = (ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or "").split("\n")[0]
        indent = "  " * (len(room.relative_to(ROOT).parts) - 1)
        expected.append(f"{indent}{room.name}/".ljust(20) + about)
    assert listed == expected, "it should be\n" + "\n".join(expected)


def test_a_file_is_read_at_one_sitting() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    longer = {name: count for name, count in lines.items() if count > FILE_LINES_MAX}
    assert not longer, "split these by idea"
