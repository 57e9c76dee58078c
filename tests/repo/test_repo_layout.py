"""The house stands as docs/architecture.md draws it: floors, dependencies, nothing tied to one machine."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOUND = PYPROJECT["tool"]["setuptools"]["packages"]["find"]

FLOORS = [
    ["ground"],
    ["stream", "embeddings", "error_memory"],
    ["learner"],
    ["serving"],
    ["freshet"],
]
"""From the basement up. A package may import from itself and from lower floors, never from a neighbour."""

FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}

SKIPPED = {".git", ".venv", "build", "dist", "reports", "__pycache__"}
"""Folders that git ignores; so are hidden folders of tools (`.mypy_cache`) and `*.egg-info`."""

MACHINE_PATH = re.compile(
    r"""(?<![\w.~$}])                      # not the tail of a longer path or of a variable
        (?:/(?:home|root|Users|work|mnt|private)/|[A-Za-z]:\\Users\\)\w""",
    re.VERBOSE,
)


COMES_WITH = {"llvmlite": "numba"}
"""Imports that another dependency brings and pins itself: numba ties each release to one llvmlite."""


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def repository_files() -> Iterator[Path]:
    def walk(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            hidden_cache = path.name.startswith(".") and path.is_dir() and path.name != ".ci"
            if path.name in SKIPPED or hidden_cache or path.name.endswith(".egg-info") or path.is_symlink():
                continue
            if path.is_dir():
                yield from walk(path)
            else:
                yield path

    return walk(ROOT)


class Imported(NamedTuple):
    """`from module import names`; without names: `import module` or `import_module("module")`."""

    line: int
    module: str
    names: tuple[str, ...]


@cache
def imports(source: str) -> list[Imported]:
    """Every import of a source, wherever in the file: lazy ones and type-only ones too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Imported(node.lineno, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append(Imported(node.lineno, node.module, tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0]
            if (
                called in ("import_module", "__import__")
                and isinstance(name, ast.Constant)
                and isinstance(name.value, str)
                and not name.value.startswith(".")
            ):
                found.append(Imported(node.lineno, name.value, ()))
    return found


def imported(source: str) -> list[tuple[int, str]]:
    """(line, top-level package) of every import."""
    return [(one.line, one.module.split(".")[0]) for one in imports(source)]


def floor_breaches(package: str, source: str) -> list[str]:
    """What `source`, a file of `package`, imports from a floor above it or from a neighbour."""
    return [
        f"line {line}: {package} imports {other}"
        for line, other in imported(source)
        if other in FLOOR_OF and other != package and FLOOR_OF[other] >= FLOOR_OF[package]
    ]


def requirements() -> dict[str, Requirement]:
    project = PYPROJECT["project"]
    lines = list(project["dependencies"])
    for extra in project.get("optional-dependencies", {}).values():
        lines += extra
    lines += PYPROJECT["build-system"]["requires"]
    found = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    del found["freshet"]  # `dev` asks for the other extras so
    return found


# Floors


def test_floors_name_every_package_of_the_wheel() -> None:
    assert {f"{package}*" for package in FLOOR_OF} == set(FOUND["include"])


@pytest.mark.slow
@pytest.mark.parametrize("package", FLOOR_OF)
def test_package_imports_only_from_floors_below(package: str) -> None:
    files = python_files(package)
    assert files, f"{package}/ holds no Python file"
    breaches = [
        f"{path.relative_to(ROOT)}: {breach}"
        for path in files
        for breach in floor_breaches(package, path.read_text())
    ]
    assert not breaches, "\n".join(breaches)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("ground", "import stream"),
        ("stream", "from embeddings.table.table import Table"),
        ("learner", "def late():\n    from serving import Replica"),
        ("embeddings", "import importlib\nimportlib.import_module('error_memory.gate')"),
    ],
)
def test_floor_check_sees_breach(package: str, source: str) -> None:
    assert floor_breaches(package, source)


def test_floor_check_allows_own_package_and_below() -> None:
    assert not floor_breaches("learner", "import learner.model\nfrom stream import log\nimport ground, numpy")


# Dependencies


@pytest.mark.parametrize("name", requirements())
def test_dependency_is_bounded_on_both_sides(name: str) -> None:
    operators = {specifier.operator for specifier in requirements()[name].specifier}
    assert operators & {">=", ">", "~=", "=="}, f"{name} has no lower bound in pyproject.toml"
    assert operators & {"<=", "<", "~=", "=="}, f"{name} has no upper bound in pyproject.toml"


def test_dependencies_page_names_exactly_what_pyproject_asks_for() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    named = {canonicalize_name(name) for name in re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE)}
    assert named == set(requirements())


@pytest.mark.slow
@pytest.mark.parametrize("package", FLOOR_OF)
def test_package_imports_only_declared_dependencies(package: str) -> None:
    allowed = {canonicalize_name(Requirement(line).name) for line in PYPROJECT["project"]["dependencies"]}
    allowed |= {"torch"} if package in ("learner", "embeddings") else set()  # an extra; see test_light.py
    adapters = {  # each needs its extra
        "river": "freshet/river.py",
        "scikit-learn": "freshet/sklearn.py",
        "fastavro": "stream/sources/avro.py",
        "protobuf": "stream/sources/protobuf.py",
    }
    sold_by = {
        "river": ["river"], "fastavro": ["fastavro"], "google": ["protobuf"], **packages_distributions()
    }  # fmt: skip
    strangers = [
        f"{path.relative_to(ROOT)} line {line}: {name}"
        for path in python_files(package)
        for line, name in imported(path.read_text())
        if name not in sys.stdlib_module_names and name not in FLOOR_OF
        for sellers in [{canonicalize_name(d) for d in sold_by.get(COMES_WITH.get(name, name), [])}]
        if not allowed & sellers
        and str(path.relative_to(ROOT)) not in {adapters.get(seller) for seller in sellers}
    ]
    assert not strangers, "not in [project] dependencies:\n" + "\n".join(strangers)


# Packaging


def test_wheel_takes_every_file_of_every_package() -> None:
    data = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    left_out = [
        str(path.relative_to(ROOT))
        for package in FLOOR_OF
        for path in repository_files()
        if path.is_relative_to(ROOT / package)
        and path.suffix not in (".nbi", ".nbc")  # numba's cache
        and not (
            (path.parent / "__init__.py").exists()  # otherwise setuptools takes nothing of the folder
            and (path.suffix == ".py" or any(fnmatch(path.name, pattern) for pattern in data))
        )
    ]
    assert not left_out, "pyproject.toml's packages and package-data leave out " + ", ".join(left_out)


def test_every_package_is_typed_for_its_users() -> None:
    missing = [package for package in FLOOR_OF if not (ROOT / package / "py.typed").is_file()]
    assert not missing, "without py.typed (PEP 561) a type checker ignores the annotations of a package"


# One machine's traces


@pytest.mark.slow
def test_no_file_mentions_a_path_of_one_machine() -> None:
    found = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, a compressed file
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("parts", [("", "home", "ann"), ("see ", "root", "x"), ("C:", "Users", "ann")])
def test_path_check_sees_machine_path(parts: tuple[str, ...]) -> None:
    assert MACHINE_PATH.search(("\\" if parts[0] == "C:" else "/").join(parts))


@pytest.mark.parametrize("line", ["https://example.org/home/x", "$HOME/home/x", "~/work/x", "/var/lib/x"])
def test_path_check_allows_other_paths(line: str) -> None:
    assert not MACHINE_PATH.search(line)


# Documents


def test_documents_link_to_files_that_exist() -> None:
    dead = []
    for path in repository_files():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img[^>]*src=\"([^\"]+)\"", path.read_text()):
            link = target[0] or target[1]
            if "://" not in link and not (path.parent / link).exists():
                dead.append(f"{path.relative_to(ROOT)}: {link}")
    assert not dead, "\n".join(dead)
