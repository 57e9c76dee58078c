"""The changes that there are: a file's text, and what stands in it instead between two places."""

import ast
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mutants_hook import ROOT, is_compiled, is_function

TURNED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
SIGNS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Place(NamedTuple):
    """How to find the tests of a change: by lines of its file, or by names that are used elsewhere."""

    lines: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    imported: bool = True  # runs when the file is imported


AT_IMPORT = Place()


class Mutant(NamedTuple):
    """One change: the text of `path` between two places becomes `text`."""

    path: Path
    line: int
    begin: int  # byte offsets in the file
    end: int
    text: str
    was: str
    place: Place

    def __str__(self) -> str:
        was, now = (" ".join(part.split())[:60] for part in (self.was, self.text))
        return f"{self.path.relative_to(ROOT)}:{self.line}: {was}  →  {now or '(left out)'}"


def mutants_of(path: Path, source: str, kernels: bool = False) -> Iterator[Mutant]:
    """All changes of one file."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    code = source.encode()

    def change(node: ast.AST, text: str, place: Place) -> Mutant:
        begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        was = code[begin:end].decode()
        lost = "\n" * was.count("\n")  # all that follows keeps its line, and so the kernels' cache its keys
        if lost:
            text = text + lost if isinstance(node, ast.stmt) else f"({text}{lost})"
        return Mutant(path, node.lineno, begin, end, text, was, place)  # type: ignore[attr-defined]

    def changes(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            for turned in TURNED.get(type(node.ops[0]), ()):
                new = ast.Compare(node.left, [turned()], node.comparators)
                yield (node, f"({ast.unparse(new)})")
        elif isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield (node, f"({ast.unparse(ast.BoolOp(other, node.values))})")
        elif isinstance(node, ast.BinOp) and type(node.op) in SIGNS and not texts(node):
            yield (node, f"({ast.unparse(ast.BinOp(node.left, SIGNS[type(node.op)](), node.right))})")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SWAPPED:
            yield (node.func, SWAPPED[node.func.id])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield (node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, bool):
                yield (node, str(not node.value))
            elif isinstance(node.value, int | float):
                yield (node, repr(node.value + 1))
        elif isinstance(node, ast.If | ast.While):
            yield (node.test, "False")
            if isinstance(node, ast.If):
                yield (node.test, "True")
        elif stands_alone(node):
            yield (node, "pass")

    for node, place, compiled in nodes_of(ast.parse(source)):
        if kernels or not compiled:
            for changed, text in changes(node):
                yield change(changed, text, place)


def nodes_of(
    node: ast.AST, place: Place = AT_IMPORT, compiled: bool = False
) -> Iterator[tuple[ast.AST, Place, bool]]:
    """All nodes that mean something to what runs, each with its place, and whether numba compiles it."""
    yield node, place, compiled or is_compiled(node)
    for child in ast.iter_child_nodes(node):
        if not annotation(node, child):
            yield from nodes_of(child, place_of(child, node, place), compiled or is_compiled(node))


def place_of(node: ast.AST, parent: ast.AST, place: Place) -> Place:
    """A statement in a function is found by its line, others by what they name."""
    if not place.imported or (is_function(parent) and isinstance(node, ast.stmt)):
        return Place((node.lineno,), imported=False) if isinstance(node, ast.stmt) else place
    if is_function(node):  # its defaults
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        return Place(tuple(statement.lineno for statement in node.body))
    if isinstance(node, ast.ClassDef):
        return Place(names=(node.name,))
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        found = [inner for target in targets for inner in ast.walk(target)]
        return Place(names=tuple(inner.id for inner in found if isinstance(inner, ast.Name)))
    return AT_IMPORT if isinstance(node, ast.stmt) else place


def annotation(parent: ast.AST, child: ast.AST) -> bool:
    """Types, decorators and texts for people mean nothing to what runs."""
    if isinstance(parent, ast.arg | ast.AnnAssign) and child is parent.annotation:
        return True
    if isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef):
        return child is parent.returns or child in parent.decorator_list
    if isinstance(parent, ast.Call) and child in parent.args:
        called = ast.unparse(parent.func)
        return called.startswith("_log.") or called.endswith("TypeVar")
    return isinstance(child, ast.JoinedStr)


def texts(node: ast.BinOp) -> bool:
    """Whether texts are joined or formatted, which has no opposite."""
    parts = [getattr(part, "value", 0) for part in (node.left, node.right) if isinstance(part, ast.Constant)]
    joined = any(isinstance(part, ast.JoinedStr) for part in (node.left, node.right))
    return joined or any(not isinstance(part, int | float) for part in parts)


def stands_alone(node: ast.AST) -> bool:
    """Statements that can be left out for what they do, and not only for what they name."""
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Await)
    return isinstance(node, ast.AugAssign | ast.Raise | ast.Return | ast.Delete)


def still_parses(mutant: Mutant) -> bool:
    code = mutant.path.read_bytes()
    try:
        ast.parse(code[: mutant.begin] + mutant.text.encode() + code[mutant.end :])
    except SyntaxError:
        return False
    return True


def sample(packages: Sequence[str], count: int, seed: int, kernels: bool) -> list[Mutant]:
    """As many changes as are wanted, each file by the number of its changes.

    Each change has a number, drawn from the seed, its file and its text, and those with the least are taken.
    So the same ones are tried again after other places of the code have changed.
    """
    found: list[tuple[bytes, Mutant]] = []
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py":
                found += numbered(path, path.read_text(), seed, kernels)
    found.sort(key=lambda pair: pair[0])
    return list(itertools.islice(filter(still_parses, (mutant for _, mutant in found)), count))


def numbered(path: Path, source: str, seed: int, kernels: bool = False) -> Iterator[tuple[bytes, Mutant]]:
    """All changes of a file, each with the number by which the seed chooses."""
    lines = source.split("\n")
    seen: Counter[str] = Counter()
    for mutant in mutants_of(path, source, kernels):
        about = "\0".join((lines[mutant.line - 1].strip(), mutant.was, mutant.text))
        seen[about] += 1
        text = f"{seed}\0{path.relative_to(ROOT)}\0{about}\0{seen[about]}"
        yield hashlib.sha256(text.encode()).digest(), mutant
