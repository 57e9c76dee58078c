"""Small changes of the code, one at a time: which of them does no test notice?

    make mutants ARGS="--count 300 --seed 1 --jobs 2"
    .venv/bin/python tests/mutants/mutants.py --only stream/join --count 20

A seed picks the changes among all that there are in the named packages: a comparison turned, a boundary
moved by one, a guard never or always taken, `and` for `or`, `min` for `max`, `+` for `-`, a number changed,
a statement left out. First all quick tests run once, to note which lines each of them runs. Then each change
is imported in a process of its own, a fork of one that has imported all libraries, and the tests that run the
changed line run there: those of the same room first, the fastest first. The first that fails has noticed it.
Tests of processes do so only with --process, where no quick test runs the line; what no test runs survives.

What survives is printed as file, line and change; a survivor may mean the same as the code, which a person
must decide. Kernels that numba compiles are left alone unless --kernels says otherwise: each change compiles
them anew.
"""

import argparse
import ast
import hashlib
import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mutants_changes import Mutant, nodes_of, sample
from mutants_forks import PROCESS, QUICK, attempt, note, preload
from mutants_hook import ROOT, Numbers, Wanted
from mutants_lines import Lines

from freshet.warmup import kernel_sources

PACKAGES = ("stream", "learner", "serving", "freshet")
UNCLEAR = "UNCLEAR"
"""Of a change whose test fails without it too, for instance as the machine is too busy: it does not count."""

FAR = 4.0
"""A test of another room waits until all of the room's own have run that take this much longer."""

READERS = "tests/repo/"
"""These tests read what the sources declare, such as the defaults of fields, and run no line of theirs."""

FIRST_S, FIRST_FILES = 3.0, 4
"""The nearest tests run first, so long and of so many files; the others only if these notice nothing."""


class Outcome(NamedTuple):
    """What became of a change, and after which tests."""

    mutant: Mutant
    noticed: bool
    by: str
    seconds: float

    @property
    def test(self) -> str:
        """The test that noticed it, without how."""
        return re.sub(r" \([a-z ]+\)$", "", self.by)


class Tests:
    """Which tests to run for a change.

    Args:
        packages: whose lines were noted.
        lines: what was noted.
    """

    def __init__(self, packages: Sequence[str], lines: Lines) -> None:
        self._lines = lines
        self._uses: dict[str, set[int]] = defaultdict(set)
        for file, first in lines.numbers.first.items():
            for node, place, _ in nodes_of(ast.parse(Path(file).read_bytes())):
                if not place.imported and isinstance(node, ast.Name | ast.Attribute):
                    name = node.id if isinstance(node, ast.Name) else node.attr
                    self._uses[name].update(first + line for line in place.lines)

    def of(self, mutant: Mutant) -> list[str]:
        """The tests that run what is changed: the fastest first, and rather those of the room."""
        numbers, place = self._lines.numbers, mutant.place
        first = numbers.first[str(mutant.path)]
        found = self._lines.tests(first + line for line in place.lines)
        if place.imported:
            found = found or self._lines.tests({use for name in place.names for use in self._uses[name]})
            found = found or self._lines.tests(numbers.lines(mutant.path))
            found |= {name for name in self.seconds if name.startswith(READERS)} - self._lines.failed
        room = f"tests/{mutant.path.relative_to(ROOT).parent}/"
        weight = {name: 1.0 if name.startswith(room) else FAR for name in found}
        return sorted(found, key=lambda name: (weight[name] * self.seconds[name], name))

    @property
    def seconds(self) -> Mapping[str, float]:
        return self._lines.seconds

    def parts(self, mutant: Mutant, budget_s: float) -> tuple[list[list[str]], int]:
        """What to run first, then the others, within the budget; and how many tests are left out by it."""
        parts: list[list[str]] = [[], []]
        spent, left_out = 0.0, 0
        files: set[str] = set()
        for name in self.of(mutant):
            spent += self.seconds[name]
            file = name.partition("::")[0]
            near = spent <= FIRST_S and (file in files or len(files) < FIRST_FILES)
            if near or not parts[0]:
                parts[0].append(name)
                files.add(file)
            elif spent <= budget_s:
                parts[1].append(name)
            else:
                left_out += 1
        return [by_file(part) for part in parts if part], left_out


def by_file(names: Iterable[str]) -> list[str]:
    """In their order, but those of a file together: they may share what takes long to make."""
    files: dict[str, list[str]] = {}
    for name in names:
        files.setdefault(name.partition("::")[0], []).append(name)
    return [name for file in files.values() for name in file]


class Trial:
    """Tries changes.

    Args:
        quick: the tests that start no processes.
        process: the others; None if they are not asked.
        packages: whose imports a change replaces.
        kernels: the files that kernels are compiled from.
        budget_s: how long the tests of a change may take together, as they are.
    """

    def __init__(
        self,
        quick: Tests,
        process: Tests | None,
        packages: Sequence[str],
        kernels: Collection[Path],
        budget_s: float,
    ) -> None:
        self._quick, self._process = quick, process
        self._packages, self._budget_s = tuple(packages), budget_s
        self._kernels = kernels

    def __call__(self, mutant: Mutant) -> Outcome:
        """Run the tests of a change until one notices it."""
        began = time.monotonic()
        for tests in filter(None, (self._quick, self._process)):
            parts, left_out = tests.parts(mutant, self._budget_s)
            for part in parts:
                failed = self._run(mutant, part, tests)
                if failed:
                    return Outcome(mutant, True, failed, time.monotonic() - began)
            if parts:
                count = sum(map(len, parts))
                said = f"{count} tests" + f", {left_out} left out" * (left_out > 0)
                return Outcome(mutant, False, said, time.monotonic() - began)
        return Outcome(mutant, False, "no test runs it", time.monotonic() - began)

    def _run(self, mutant: Mutant, names: Sequence[str], tests: Tests) -> str:
        code = mutant.path.read_bytes()
        compiling = mutant.place.imported and mutant.path in self._kernels
        with tempfile.NamedTemporaryFile(prefix="mutant-", suffix=".py") as text:
            text.write(code[: mutant.begin] + mutant.text.encode() + code[mutant.end :])
            text.flush()
            wanted = Wanted(self._packages, changed=str(mutant.path), text=text.name)
            return attempt(names, tests.seconds, wanted, compiling)


def noted(
    packages: Sequence[str], marker: str, folders: Mapping[Path, Sequence[Path]], jobs: int, kept: Path
) -> Lines:
    """Which lines these tests, by their folder, run; what was noted of the same sources and tests is kept."""
    numbers = Numbers(packages)
    sources = hashlib.sha256(marker.encode())
    for path in (*map(Path, numbers.first), *sorted((ROOT / "tests").rglob("*.py"))):
        if not path.name.startswith(("test_", "mutants")):
            sources.update(contents(path))
    files: list[Path] = []
    waiting: list[dict[Path, Path]] = []
    for tests in folders.values():
        found: dict[Path, Path] = {}
        for test in tests:
            digest = sources.copy()
            digest.update(contents(test))
            found[test] = kept / f"{digest.hexdigest()[:24]}.npz"
        files += found.values()
        if missing := {test: file for test, file in found.items() if not file.exists()}:
            waiting.append(missing)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        list(pool.map(partial(note, marker=marker, packages=packages, lines=numbers.count), waiting))
    return Lines(numbers, files)


def contents(path: Path) -> bytes:
    """A file's name and bytes, the same in each copy of the repository."""
    return str(path.relative_to(ROOT)).encode() + path.read_bytes()


def tests_by_folder(packages: Sequence[str], asked: Sequence[str]) -> dict[Path, list[Path]]:
    """The files of tests of each folder with tests that import these packages, the largest folders first.

    Args:
        asked: only those that lie there; folders or files.
    """
    imports = re.compile(rf"^\s*(from|import) ({'|'.join(packages)})\b", re.MULTILINE)
    wanted = [ROOT / name for name in asked]
    sizes: Counter[Path] = Counter()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if imports.search(path.read_text()):
            sizes[path.parent] += path.stat().st_size
    return {
        folder: [
            test
            for test in sorted(folder.glob("test_*.py"))
            if any(test.is_relative_to(place) for place in wanted)
        ]
        for folder, _ in sizes.most_common()
    }


def main() -> int:
    """Try the changes, print each as it is known, and the survivors at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="how many changes")
    parser.add_argument("--seed", type=int, default=1, help="which of all changes")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--only", nargs="*", default=list(PACKAGES), metavar="FOLDER")
    parser.add_argument("--lines", nargs="*", metavar="FILE:LINE", help="only changes of these lines")
    parser.add_argument("--tests", nargs="*", default=["tests"], metavar="PATH", help="only these tests")
    parser.add_argument("--kernels", action="store_true", help="change compiled functions too")
    parser.add_argument("--process", action="store_true", help="ask tests of processes too (minutes)")
    parser.add_argument("--budget", type=float, default=60.0, metavar="S", help="of tests for each change")
    parser.add_argument("--list", action="store_true", help="print the changes and try none")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument(
        "--kept", type=Path, metavar="DIR", help="where to keep which lines the tests run",
        default=Path(tempfile.gettempdir()) / "freshet-mutants",
    )  # fmt: skip
    options = parser.parse_args()
    chosen = sample(options.only, options.count, options.seed, options.kernels)
    if options.lines:
        lines = set(options.lines)
        chosen = [m for m in chosen if f"{m.path.relative_to(ROOT)}:{m.line}" in lines]
    if options.list:
        print("\n".join(map(str, chosen)))
        return 0
    packages = sorted({Path(folder).parts[0] for folder in options.only})
    options.kept.mkdir(parents=True, exist_ok=True)
    kernels = kernel_sources()  # before the sources are forgotten
    preload(packages, options.tests)
    folders = tests_by_folder(packages, options.tests)
    quick = Tests(packages, noted(packages, QUICK, folders, options.jobs, options.kept))
    process: Tests | None = None
    rest = [mutant for mutant in chosen if not quick.of(mutant)]
    print(f"{len(rest)} of {len(chosen)} changes are of lines that no quick test runs", flush=True)
    if rest and options.process:
        process = Tests(packages, noted(packages, PROCESS, folders, options.jobs, options.kept))
    outcomes: list[Outcome] = []
    trial = Trial(quick, process, packages, kernels, options.budget)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(options.jobs, context, initializer=_begin, initargs=(trial,)) as pool:
        for outcome in pool.map(_try, chosen):
            outcomes.append(outcome)
            verdict = f"noticed by {outcome.by}" if outcome.noticed else f"SURVIVES {outcome.by}"
            print(f"{len(outcomes):>4} {outcome.seconds:6.1f} s  {outcome.mutant}   {verdict}", flush=True)
    tell(
        judged(outcomes, {**quick.seconds, **(process.seconds if process else {})}),
        options.seed,
        options.json,
    )
    return 0


_trials: list[Trial] = []
"""That of this process, which would take longer to send than to use."""


def _begin(trial: Trial) -> None:
    _trials[:] = [trial]


def _try(mutant: Mutant) -> Outcome:
    return _trials[0](mutant)


def judged(outcomes: Sequence[Outcome], seconds: Mapping[str, float]) -> list[Outcome]:
    """The outcomes, with those called unclear whose test fails without the change too."""
    waiting = by_file(sorted({outcome.test for outcome in outcomes if "::" in outcome.by}))
    failing: set[str] = set()
    while waiting:
        failed = attempt(waiting, seconds, Wanted())
        if not failed:
            break
        failing.add(failed)
        waiting = waiting[waiting.index(failed) + 1 :] if failed in waiting else []
    return [
        outcome._replace(by=f"{UNCLEAR}: {outcome.by} fails without it")
        if outcome.test in failing
        else outcome
        for outcome in outcomes
    ]


def tell(outcomes: Sequence[Outcome], seed: int, out: Path | None) -> None:
    """Print the share and the survivors."""
    clear = [outcome for outcome in outcomes if not outcome.by.startswith(UNCLEAR)]
    survivors = [outcome for outcome in clear if not outcome.noticed]
    share = 1.0 - len(survivors) / max(len(clear), 1)
    seconds = sum(outcome.seconds for outcome in outcomes) / max(len(outcomes), 1)
    print(f"\n{len(clear)} of {len(outcomes)} changes (seed {seed}) are clear, {share:.1%} noticed.")
    print(f"One took {seconds:.1f} s. Survivors:")
    print("\n".join(f"  {o.mutant}   ({o.by})" for o in sorted(survivors, key=lambda o: str(o.mutant))))
    if out:
        changes = [
            {"change": str(o.mutant), "noticed": o.noticed, "by": o.by, "seconds": o.seconds}
            for o in outcomes
        ]
        out.write_text(json.dumps({"seed": seed, "noticed": share, "changes": changes}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
