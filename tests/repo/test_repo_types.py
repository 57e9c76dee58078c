"""Types are everywhere, and what escapes them is counted."""

import ast
import re
from collections.abc import Iterator

import pytest
from test_repo_layout import FLOOR_OF, python_files

COMPILED = ("njit", "intrinsic", "overload", "generated_jit")
"""Decorators of functions whose types Numba finds by itself."""

IGNORES_MAX = 9
ANY_MAX = 210
"""How often `type: ignore` and `Any` may stand in the packages: lower these whenever there are fewer."""

SOURCES = {path: path.read_text() for package in FLOOR_OF for path in python_files(package)}


def untyped(source: str) -> Iterator[str]:
    """Functions without types that Numba does not compile; what is inside a compiled one is compiled too."""

    def walk(node: ast.AST, compiled: bool) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):  # no function is defined in one
                continue
            inside = compiled
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                decorators = " ".join(map(ast.unparse, child.decorator_list))
                inside = compiled or any(name in decorators for name in COMPILED)
                every = child.args.posonlyargs + child.args.args + child.args.kwonlyargs
                bare = any(a.annotation is None and a.arg not in ("self", "cls") for a in every)
                if not inside and (bare or child.returns is None):
                    yield f"line {child.lineno}: {child.name}"
            yield from walk(child, inside)

    yield from walk(ast.parse(source), False)


@pytest.mark.slow
def test_only_kernels_go_without_types() -> None:
    found = [f"{path}, {where}" for path, source in SOURCES.items() for where in untyped(source)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("def f(a): ...", True),
        ("def f(a: int): ...", True),
        ("def f(a: int) -> int: ...", False),
        ("@njit(cache=True)\ndef f(a): ...", False),
        ("@intrinsic\ndef f(a):\n    def inner(b): ...", False),
    ],
)
def test_untyped_function_is_seen(source: str, seen: bool) -> None:
    assert bool(list(untyped(source))) == seen


def test_what_escapes_the_types_does_not_grow() -> None:
    code = "\n".join(SOURCES.values())
    ignores = len(re.findall(r"# type: ignore", code))
    anys = len(re.findall(r"\bAny\b", re.sub(r"import .*", "", code)))
    assert ignores <= IGNORES_MAX and anys <= ANY_MAX, f"{ignores} ignores, {anys} Any"
