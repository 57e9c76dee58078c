"""Run chaos for many seeds, one after the other, and sum up their books and how fast shards began again.

    python tests/chaos/many.py --seeds 1-10 --into FOLDER --kills 20 --shards 2 --reshard
    python tests/chaos/many.py --histogram FOLDER/recoveries.jsonl

All other arguments go to `chaos.py`. FOLDER keeps each run's result and what it said, and all recoveries.
Seeds whose result is there already are not run again, so a run that was cut short goes on. Exit status 1 if a
seed's ledger does not balance.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

CHAOS = Path(__file__).with_name("chaos.py")
RUN_S_MAX = 3600.0
EDGES_S = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 30.0, 60.0)
BAR = 40
"""Characters of the longest bar."""


def seeds_of(text: str) -> list[int]:
    """The seeds that are written 1-3,7.

    >>> seeds_of("1-3,7")
    [1, 2, 3, 7]
    """
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def run(seed: int, arguments: Sequence[str], into: Path) -> dict[str, Any]:
    """The result of a seed; of one that did not come to its end only that it does not balance."""
    result = into / f"{seed}.json"
    if not result.exists():
        command = [sys.executable, str(CHAOS), "--seed", str(seed), *arguments]
        command += ["--json", str(result), "--recoveries", str(into / "recoveries.jsonl")]
        with (into / f"{seed}.txt").open("wb") as said:
            try:
                subprocess.run(command, stdout=said, stderr=said, timeout=RUN_S_MAX, check=False)
            except subprocess.TimeoutExpired:
                said.write(f"not done after {RUN_S_MAX:g} s".encode())
    if not result.exists():
        return {"balanced": False}
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def summary(results: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The sums of all seeds, for a program."""
    books: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    for result in results.values():
        books.update(result.get("books", {}))
        killed.update(result.get("killed_at", {}))
    return {
        "seeds": len(results),
        "not_balanced": [seed for seed, result in results.items() if not result["balanced"]],
        "kills": killed.total(),
        "killed_at": dict(sorted(killed.items())),
        "books": dict(books),
        "requests_learnt": sum(result.get("requests_learnt", 0) for result in results.values()),
        "resharded": sum(result.get("resharded", 0) for result in results.values()),
    }


def histogram(recoveries: Iterable[dict[str, Any]]) -> list[str]:
    """How many recoveries took how long, whoever starts shards and single shards apart, as lines of text."""
    by_who: dict[str, list[float]] = {}
    for one in recoveries:
        by_who.setdefault(one["kind"].partition(" ")[0], []).append(one["seconds"])
    lines: list[str] = []
    for who, seconds in sorted(by_who.items()):
        seconds.sort()
        median, most = seconds[(len(seconds) - 1) // 2], seconds[-1]
        lines.append(f"{who}: {len(seconds)} recoveries, median {median:.1f} s, longest {most:.1f} s")
        counts = Counter(next((edge for edge in EDGES_S if s <= edge), None) for s in seconds)
        for edge in (*EDGES_S, None):
            if counts[edge]:
                bar = "#" * max(round(BAR * counts[edge] / max(counts.values())), 1)
                limit = f"over {EDGES_S[-1]:g}" if edge is None else f"to {edge:g}"
                lines.append(f"  {limit:>7} s {counts[edge]:5d} {bar}")
    return lines


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, allow_abbrev=False
    )
    parser.add_argument("--seeds", type=seeds_of, default=[], help="such as 1-10 or 3,5,9")
    parser.add_argument("--into", type=Path, help="the folder that keeps what they give")
    parser.add_argument("--histogram", type=Path, nargs="+", default=[], help="of these files, without a run")
    arguments, others = parser.parse_known_args()
    if arguments.histogram:
        print("\n".join(histogram(one for file in arguments.histogram for one in _read(file))))
        return 0
    if not arguments.seeds or not arguments.into:
        parser.error("name --seeds and --into, or --histogram")
    arguments.into.mkdir(parents=True, exist_ok=True)
    results: dict[int, dict[str, Any]] = {}
    for seed in arguments.seeds:
        results[seed] = run(seed, others, arguments.into)
        said = (arguments.into / f"{seed}.txt").read_text(errors="replace").strip().splitlines()
        balanced = results[seed]["balanced"]
        print(next(iter(said if balanced else said[-1:]), f"seed {seed}: see {seed}.txt"), flush=True)
    told = arguments.into / "recoveries.jsonl"
    print("\n".join(histogram(_read(told) if told.exists() else [])))
    found = summary(results)
    (arguments.into / "summary.json").write_text(json.dumps(found))
    print(json.dumps(found))
    return 1 if found["not_balanced"] else 0


if __name__ == "__main__":
    sys.exit(main())
