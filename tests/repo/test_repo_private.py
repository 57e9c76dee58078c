"""Tests touch what the code shows, and patch none of its private names: a refactoring then breaks no test."""

import ast
from collections.abc import Iterator

import pytest
from test_repo_layout import ROOT, python_files

OWN = ("self", "cls", "os", "sys", "np")
PUBLIC = ("_replace", "_asdict", "_fields", "_make", "_field_defaults")
"""What a NamedTuple shows under names that only look private."""

PRIVATE_MAX = 1
"""How often tests touch a private name: lower this whenever it is less."""

PATCHES = ("setattr", "delattr", "object")


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def touches(source: str) -> Iterator[str]:
    """Private names of other modules that a test file reads, imports or patches."""
    nodes = list(ast.walk(ast.parse(source)))
    made_here = {n.attr for n in nodes if isinstance(n, ast.Attribute) and is_own(n.value)}
    made_here |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and private(node.attr):
            if not is_own(node.value) and node.attr not in made_here:
                yield f"line {node.lineno}: .{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"line {node.lineno}: import {a.name}" for a in node.names if private(a.name))
        elif isinstance(node, ast.Call) and called(node) in PATCHES:
            for argument in node.args[:2]:
                text = argument.value if isinstance(argument, ast.Constant) else None
                if isinstance(text, str) and any(private(part) for part in text.split(".")):
                    yield f"line {node.lineno}: patches {text}"


def is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in OWN


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


@pytest.mark.slow
def test_tests_touch_no_private_name() -> None:
    found = [
        f"{path.relative_to(ROOT)} {touch}"
        for path in python_files("tests")
        for touch in touches(path.read_text())
    ]
    assert len(found) <= PRIVATE_MAX, "give the code a name that a test may use:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("runner._send()", True),
        ("runner._send = None", True),
        ("from learner.role.succession import _Session", True),
        ("monkeypatch.setattr(sweeping, '_run_all', f)", True),
        ("monkeypatch.setattr('a.b._c', f)", True),
        ("mock.patch.object(thing, '_go')", True),
        ("row._replace(a=1)", False),
        ("monkeypatch.setattr(sweeping, 'PREFIX_MIN', 20)", False),
        ("class A:\n    def f(self, other):\n        self._x = 1\n        return other._x", False),
        ("thing.__doc__", False),
    ],
)
def test_private_name_is_seen(source: str, seen: bool) -> None:
    assert bool(list(touches(source))) == seen
