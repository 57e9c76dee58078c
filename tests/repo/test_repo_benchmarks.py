"""Benchmarks and the tests' programs are run by hand; here a test checks that what they import exists."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from test_repo_layout import FLOOR_OF, ROOT, imports, python_files

pytestmark = pytest.mark.slow

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
    for line, module, names in imports(source):
        path = source_of(module, near)
        if path is None:
            has_files = any(source_of(f"{module}.{name}", near) for name in names)
            if not has_files and not installed(module):
                yield f"line {line}: no module {module}"
        elif names:
            have = defined(path.read_text())
            for name in names:
                if name not in have and source_of(f"{module}.{name}", near) is None:
                    yield f"line {line}: {module} has no {name}"


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


# Long: mypy reads all packages anew for it, half a minute of a processor.
@pytest.mark.long
def test_benchmarks_use_what_is_there(tmp_path: Path) -> None:
    """Attributes and arguments that do not exist; benchmarks are not typed strictly otherwise."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", "/dev/null", "--cache-dir", str(tmp_path)),
            *("--explicit-package-bases", "--check-untyped-defs", "--ignore-missing-imports", "."),
        ],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "source files)" in done.stdout, done.stderr
    wrong = ("[attr-defined]", "[call-arg]", "[name-defined]")
    found = [line for line in done.stdout.splitlines() if line.endswith(wrong)]
    assert not found, "\n".join(found)
