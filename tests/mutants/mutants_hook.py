"""Between Python and the sources: imports get them marked, or with one file's text changed.

Marked, each statement of a function notes that it ran, in one byte of a file that processes share, so one
that is killed loses nothing. The sources' files stay as they are, and so do the kernels compiled from them.
The processes that a test starts do the same, by the module `sitecustomize` that `for_children` makes.
"""

import ast
import builtins
import json
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "FRESHET_MUTANTS"
MARKS = "__lines_run__"


class Wanted(NamedTuple):
    """What imports of the sources are to become: marked, or one of them changed.

    Attributes:
        packages: whose sources.
        hits: the file with a byte for each line; "": nothing is marked.
        changed: the file whose text is another one; "": none.
        text: the file that holds that text.
    """

    packages: tuple[str, ...] = ()
    hits: str = ""
    changed: str = ""
    text: str = ""


class Numbers:
    """One number for each line of the packages' sources, the same in each process of a run."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.first: dict[str, int] = {}
        self.count = 0
        for package in sorted(packages):
            for path in sorted((ROOT / package).rglob("*.py")):
                self.first[str(path)] = self.count
                self.count += path.read_bytes().count(b"\n") + 2

    def lines(self, path: Path) -> range:
        """The numbers of all lines of a file."""
        first = self.first[str(path)]
        return range(first, first + path.read_bytes().count(b"\n") + 2)


def install(wanted: Wanted) -> None:
    """Mark or change what this process imports from now on."""
    sys.meta_path.insert(0, _Finder(wanted))


def for_children(wanted: Wanted, folder: Path) -> dict[str, str]:
    """The variables with which the processes that a test starts mark or change the same."""
    (folder / "sitecustomize.py").write_text(
        f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import mutants_hook\n"
        "mutants_hook.install_as_asked(); sys.path.pop()\n"
    )
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {VARIABLE: json.dumps(wanted), "PYTHONPATH": path}


def install_as_asked() -> None:
    """Do what the process that started this one asks for."""
    if VARIABLE in os.environ:
        packages, *files = json.loads(os.environ[VARIABLE])
        install(Wanted(tuple(packages), *files))


class _Finder(MetaPathFinder):
    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._numbers = Numbers(wanted.packages if wanted.hits else ())
        if wanted.hits:
            setattr(builtins, MARKS, opened(Path(wanted.hits)))

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] not in self._wanted.packages:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        where = spec.loader.path
        if where == self._wanted.changed:
            spec.loader = _Loader(name, where, Path(self._wanted.text).read_bytes())
        elif where in self._numbers.first:
            tree = ast.parse(Path(where).read_bytes())
            mark(tree, self._numbers.first[where])
            spec.loader = _Loader(name, where, tree)
        return spec


class _Loader(SourceFileLoader):
    """Gives the code of another text than the file's, under the file's name."""

    def __init__(self, name: str, path: str, source: bytes | ast.Module) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


def opened(hits: Path) -> mmap.mmap:
    """The bytes of the lines that ran, as memory that all processes with this file share."""
    with hits.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def mark(node: ast.AST, first: int, inside: bool = False) -> None:
    """Put before each statement in a function that it notes its number; what numba compiles is left alone."""
    if is_function(node):
        if is_compiled(node):
            return
        inside = True
    for name, value in ast.iter_fields(node):
        nodes = [child for child in value if isinstance(child, ast.AST)] if isinstance(value, list) else []
        for child in nodes:
            mark(child, first, inside)
        if inside and nodes and isinstance(nodes[0], ast.stmt):
            setattr(node, name, list(_marked(value, first)))


def _marked(block: list[ast.stmt], first: int) -> Iterator[ast.stmt]:
    for number, statement in enumerate(block):
        if number or not _is_text(statement):
            place = ast.Constant(first + statement.lineno)
            noted = ast.Assign(
                [ast.Subscript(ast.Name(MARKS, ast.Load()), place, ast.Store())], ast.Constant(1)
            )
            ast.copy_location(noted, statement)
            yield ast.fix_missing_locations(noted)
        yield statement


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def is_compiled(node: ast.AST) -> bool:
    """Whether a function is one that numba compiles."""
    return "njit" in " ".join(map(ast.unparse, getattr(node, "decorator_list", ())))
