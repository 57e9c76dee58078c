"""Benchmarks and the tests' programs are run by hand; here a test checks that what they import exists."""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from test_repo_layout import FLOOR_OF, ROOT, python_files

FOREIGN = {ROOT / "benchmarks" / "obp_reference.py"}
"""What runs in an environment of its own, like all of benchmarks/foreign/."""

SHARED = ("deploy/kafka", "tests/helpers", "tests/chaos")
"""Folders whose files are imported by their bare names."""

PROGRAMS = [
    path
    for folder in ("benchmarks", "tests/chaos", "tests/helpers", "deploy")
    for path in python_files(folder)
    if path not in FOREIGN and path.parent.name != "foreign"
]


def source_of(module: str, near: Path) -> Path | None:
    """The file of a module of the packages, or of one beside the program that imports it."""
    homes = [near] if module.split(".")[0] not in FLOOR_OF else []
    homes += [
        near.parent,
        ROOT,
        ROOT / "deploy" / "kafka",
        ROOT / "tests" / "helpers",
        ROOT / "tests" / "chaos",
    ]
    for home in homes:
        place = home.joinpath(*module.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path
    return None


@cache
def defined(source: str) -> set[str]:
    """What a module has at its top: what it defines, imports, assigns or lists in `__all__`."""
    names: set[str] = set()

    def take(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names.update((a.asname or a.name).split(".")[0] for a in node.names)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    names.update(n.id for n in ast.walk(target) if isinstance(n, ast.Name))
                    if isinstance(target, ast.Name) and target.id == "__all__" and node.value is not None:
                        names.update(
                            n.value
                            for n in ast.walk(node.value)
                            if isinstance(n, ast.Constant) and isinstance(n.value, str)
                        )
            elif isinstance(node, ast.If | ast.Try | ast.With):
                take(node.body)
                take(getattr(node, "orelse", []))

    take(ast.parse(source).body)
    return names


def missing(source: str, near: Path) -> Iterator[str]:
    """Imports of a program that lead nowhere, wherever in it they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if source_of(alias.name, near) is None and not installed(alias.name):
                    yield f"line {node.lineno}: no module {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            path = source_of(node.module, near)
            if path is None:
                has_files = any(source_of(f"{node.module}.{alias.name}", near) for alias in node.names)
                if not has_files and not installed(node.module):
                    yield f"line {node.lineno}: no module {node.module}"
                continue
            have = defined(path.read_text())
            for alias in node.names:
                if alias.name not in have and source_of(f"{node.module}.{alias.name}", near) is None:
                    yield f"line {node.lineno}: {node.module} has no {alias.name}"


def installed(module: str) -> bool:
    top = module.split(".")[0]
    return top not in FLOOR_OF and importlib.util.find_spec(top) is not None


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_program_imports_what_is_there(path: Path) -> None:
    assert not (found := list(missing(path.read_text(), path.parent))), "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from stream.log.nowhere import Log",
        "from stream.log.base import Lgo",
        "def late():\n    from table_parts.speed import measure_sped",
        "import ground.kernel",
        "import numpyy",
    ],
)
def test_missing_import_is_seen(source: str) -> None:
    assert list(missing(source, ROOT / "benchmarks"))
