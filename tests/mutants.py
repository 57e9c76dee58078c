"""Small changes of the code, one at a time: which of them does no test notice?

    make mutants ARGS="--count 300 --seed 1 --jobs 2"
    .venv/bin/python tests/mutants.py --only stream/join --count 20

A seed picks the changes among all that there are in the named packages: a comparison turned, a boundary
moved by one, a guard never or always taken, `and` for `or`, `min` for `max`, `+` for `-`, a number changed,
a statement left out. Each is made in a copy of the repository, and the tests of its room run there, the
nearest first: those of the room, then those of the rooms around it, then those of the whole package. The
first that fails has noticed it. What survives is printed as file, line and change; a survivor may mean the
same as the code, which a person must decide.

Kernels that numba compiles are left alone unless --kernels says otherwise: each change compiles them anew.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from freshet.warmup import kernel_sources

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stream", "learner", "serving", "freshet")
LEFT_OUT = {".git", ".venv", "build", "reports", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"}
QUICK = "not long and not process"
UNCLEAR = "UNCLEAR"
"""Of a change whose test fails without it too, for instance as the machine is too busy: it does not count."""

WAIT_S = 900.0
"""A change that makes a test hang is noticed: so long may the tests of one room take."""

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


class Mutant(NamedTuple):
    """One change: the text of `path` between two places becomes `text`."""

    path: Path
    line: int
    begin: int  # byte offsets in the file
    end: int
    text: str
    was: str

    def __str__(self) -> str:
        was, now = (" ".join(part.split())[:60] for part in (self.was, self.text))
        return f"{self.path.relative_to(ROOT)}:{self.line}: {was}  →  {now or '(left out)'}"


class Outcome(NamedTuple):
    """What became of a change, and after which tests."""

    mutant: Mutant
    noticed: bool
    by: str
    seconds: float


def mutants_of(path: Path, source: str, kernels: bool = False) -> Iterator[Mutant]:
    """All changes of one file."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    code = source.encode()

    def change(node: ast.AST, text: str) -> Mutant:
        begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return Mutant(path, node.lineno, begin, end, text, code[begin:end].decode())  # type: ignore[attr-defined]

    def walk(node: ast.AST, compiled: bool) -> Iterator[Mutant]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            compiled = compiled or "njit" in " ".join(map(ast.unparse, node.decorator_list))
        if not compiled or kernels:
            yield from changes(node)
        for child in ast.iter_child_nodes(node):
            if not annotation(node, child):
                yield from walk(child, compiled)

    def changes(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            for turned in TURNED.get(type(node.ops[0]), ()):
                new = ast.Compare(node.left, [turned()], node.comparators)
                yield change(node, f"({ast.unparse(new)})")
        elif isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield change(node, f"({ast.unparse(ast.BoolOp(other, node.values))})")
        elif isinstance(node, ast.BinOp) and type(node.op) in SIGNS and not texts(node):
            yield change(node, f"({ast.unparse(ast.BinOp(node.left, SIGNS[type(node.op)](), node.right))})")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SWAPPED:
            yield change(node.func, SWAPPED[node.func.id])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield change(node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, bool):
                yield change(node, str(not node.value))
            elif isinstance(node.value, int | float):
                yield change(node, repr(node.value + 1))
        elif isinstance(node, ast.If | ast.While):
            yield change(node.test, "False")
            if isinstance(node, ast.If):
                yield change(node.test, "True")
        elif stands_alone(node):
            yield change(node, "pass")

    yield from walk(ast.parse(source), False)


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
    """As many changes as are wanted, each file by the number of its changes."""
    found = [
        mutant
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__init__.py"
        for mutant in mutants_of(path, path.read_text(), kernels)
    ]
    draw = random.Random(seed)
    draw.shuffle(found)
    return [mutant for mutant in found if still_parses(mutant)][:count]


def stages_of(path: Path) -> list[list[str]]:
    """Which tests to run for a file, the nearest first; those of a later stage leave the earlier ones out."""
    room = path.relative_to(ROOT).parent
    stages: list[list[str]] = []
    seen: set[Path] = set()
    while room.parts:
        folder = ROOT / "tests" / room
        if folder.is_dir():
            files = sorted(file for file in folder.rglob("test_*.py") if file not in seen)
            seen.update(files)
            if files:
                stages.append([str(file.relative_to(ROOT)) for file in files])
        room = room.parent
    return stages


class Copy:
    """A copy of the repository in which one change at a time is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.make()

    def make(self) -> None:
        """Anew, with the compiled kernels that are here."""
        folder = self.folder
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT, folder, ignore=lambda _, names: LEFT_OUT & set(names), symlinks=True)
        (folder / ".venv").symlink_to(ROOT / ".venv")

    def try_one(self, mutant: Mutant, process: bool) -> Outcome:
        """Run the tests of its room with a change, stage by stage until one notices it."""
        began = time.monotonic()
        file = self.folder / mutant.path.relative_to(ROOT)
        code = file.read_bytes()
        file.write_bytes(code[: mutant.begin] + mutant.text.encode() + code[mutant.end :])
        try:
            for files in stages_of(mutant.path):
                failed = self.run(files, process)
                if failed:
                    file.write_bytes(code)
                    if "::" in failed and self.run([failed], process):
                        failed = f"{UNCLEAR}: {failed} fails without the change too"
                    return Outcome(mutant, True, failed, time.monotonic() - began)
        finally:
            if mutant.path in kernel_sources():
                self.make()  # the kernels of the changed code are of no use any more
            else:
                file.write_bytes(code)
        return Outcome(mutant, False, "", time.monotonic() - began)

    def run(self, files: Sequence[str], process: bool) -> str:
        """The first test that fails; "" if none does."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
        command += ["--timeout=120", "-m", "not long" if process else QUICK, *files]
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True,
                timeout=WAIT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "a test that hangs"
        if done.returncode in (0, 5):  # 5: no test was chosen
            return ""
        said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return said[0].partition(" ")[2].partition(" - ")[0] if said else "the collection of the tests"


def main() -> int:
    """Try the changes, print each as it is known, and the survivors at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="how many changes")
    parser.add_argument("--seed", type=int, default=1, help="which of all changes")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the repository, each at work")
    parser.add_argument("--only", nargs="*", default=list(PACKAGES), metavar="FOLDER")
    parser.add_argument("--kernels", action="store_true", help="change compiled functions too")
    parser.add_argument("--process", action="store_true", help="run tests that start processes too")
    parser.add_argument("--list", action="store_true", help="print the changes and try none")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    chosen = sample(options.only, options.count, options.seed, options.kernels)
    if options.list:
        print("\n".join(map(str, chosen)))
        return 0
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(options.jobs):
            copies.put(Copy(Path(folder) / str(number)))

        def attempt(mutant: Mutant) -> Outcome:
            copy = copies.get()
            try:
                return copy.try_one(mutant, options.process)
            finally:
                copies.put(copy)

        for outcome in pool.map(attempt, chosen):
            outcomes.append(outcome)
            verdict = f"noticed by {outcome.by}" if outcome.noticed else "SURVIVES"
            print(f"{len(outcomes):>4} {outcome.seconds:6.1f} s  {outcome.mutant}   {verdict}", flush=True)
    clear = [outcome for outcome in outcomes if not outcome.by.startswith(UNCLEAR)]
    survivors = [outcome.mutant for outcome in clear if not outcome.noticed]
    share = 1.0 - len(survivors) / max(len(clear), 1)
    print(f"\n{len(clear)} of {len(outcomes)} changes (seed {options.seed}) are clear, {share:.1%} noticed.")
    print("Survivors:")
    print("\n".join(f"  {mutant}" for mutant in sorted(survivors)))
    if options.json:
        told = [
            {"change": str(o.mutant), "noticed": o.noticed, "by": o.by, "seconds": o.seconds}
            for o in outcomes
        ]
        options.json.write_text(
            json.dumps({"seed": options.seed, "noticed": share, "changes": told}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
