"""What `freshet init` alone makes of ten public files, beside Vowpal Wabbit.

    .venv/bin/python benchmarks/quality_files.py --data DIR --others PYTHON [--files A,B] [--out DIR]

DIR has the package that carries the files (`pydataset`; README.md beside this says how to get it and PYTHON,
the interpreter with Vowpal Wabbit). Each file is written as it is, with R's row names, in an order that is
drawn once where it has no times, and given to `init` with nobody asked. Vowpal Wabbit gets the features that
init found and is the best of 18 settings in hindsight, of 36 where there are numbers, for AUC and for log
loss apart.
"""

import argparse
import csv
import json
import os
import random
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from quality_parts.cache import COMPARATOR_CODE, ROOT
from quality_parts.freshet import play
from quality_parts.others import events_of, run_other
from quality_parts.public_data import r_table
from quality_parts.streams import Arrays, Stream
from quality_parts.table import number, table

from error_memory import MemorySettings
from freshet.config import Config, parse_config
from freshet.init.command import make_config
from learner.metrics import summarize
from learner.settings import LearnerSettings
from stream.files.sources import LeftOut, read_examples
from stream.records.types import Example

VALUES_SCRIPT = "benchmarks/foreign/values.py"

Floats = npt.NDArray[np.float64]


class File(NamedTuple):
    """A public file.

    Attributes:
        member: in R's packages, as pydataset has it.
        what: the question that its label answers.
        label, bar: given to init where no column says by itself what was liked.
    """

    member: str
    what: str
    label: str | None = None
    bar: float | None = None


FILES = {
    "verbal aggression": File("lme4/VerbAgg.csv", "would this person curse, scold, shout?", "r2"),
    "bundesliga": File("vcd/Bundesliga.csv", "does the home team score twice?", "HomeGoals", 2.0),
    "insurance": File("Ecdat/HI.csv", "is a wife insured by her own job?", "whi"),
    "doctor contacts": File("Ecdat/DoctorContacts.csv", "does a person see a doctor this year?", "mdu", 1.0),
    "hospital visits": File("COUNT/rwm5yr.csv", "is a person in hospital this year?", "hospvis", 1.0),
    "pharmacy": File("Ecdat/VietNamI.csv", "does a person go to a pharmacy?", "pharvis", 1.0),
    "unions": File("Ecdat/Males.csv", "is a young man in a union this year?", "union"),
    "vocabulary": File("car/Vocab.csv", "does a person know 7 of 10 words?", "vocabulary", 7.0),
    "light chains": File("survival/flchain.csv", "does a person die within the study?", "death"),
    "computers": File("Ecdat/Computers.csv", "is a computer by a premium firm?", "premium"),
}


def write_file(file: File, package: Path, path: Path) -> None:
    """The file as its package has it; where it has no dates its lines are in an order that is drawn once."""
    rows = list(r_table(package, file.member))
    if not any(name.lower() in ("date", "time") for name in rows[0]):
        random.Random(0).shuffle(rows)
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def arrays_of(examples: list[Example]) -> Arrays:
    """Labels and times of requests of one that are learnt at once."""
    n = len(examples)
    times = np.array([example.time for example in examples])
    return Arrays(
        y=np.array([example.labels[0] for example in examples]), group=np.zeros(n, dtype=np.uint64),
        requests=np.arange(n + 1), time=times, decided=times, visible=np.arange(n),
    )  # fmt: skip


def evaluate(name: str, config: Config, path: Path, python: str | None) -> dict[str, Any]:
    """Freshet's figures, and with an interpreter Vowpal Wabbit's, of the last half of a file."""
    left_out = LeftOut()
    examples = list(read_examples(path, config.data, left_out, config.features))
    arrays = arrays_of(examples)
    stream = Stream(name, 0, dict(config.features), examples, examples, day_s=86_400.0)
    live = play(stream, arrays, [], LearnerSettings(), MemorySettings())["live"]
    found: dict[str, Any] = {
        "lines": len(examples), "left_out": left_out.lines, "rate": float(arrays.y.mean()),
        "freshet": _last_half(live.base, arrays), "features": {n: s.kind for n, s in config.features.items()},
    }  # fmt: skip
    if python:
        events = events_of(stream, arrays)
        runs = run_other(python, COMPARATOR_CODE[0], events, "vw")
        for j, (feature, spec) in enumerate(config.features.items()):
            if spec.kind == "number":
                cells = [{**e.context, **e.candidates[0]}.get(feature, np.nan) for e in examples]
                events[f"number{j}"] = np.array(cells, dtype=np.float64)
        if any(spec.kind == "number" for spec in config.features.values()):
            runs |= run_other(python, VALUES_SCRIPT, events)
        figures = [_last_half(p.astype(np.float64), arrays) for p in runs.values() if p.ndim]
        found["vw"] = [max(f[0] for f in figures), min(f[1] for f in figures)]
    return found


def _last_half(p: Floats, arrays: Arrays) -> list[float]:
    n = len(p) // 2
    result = summarize(p[n:], arrays.y[n:], arrays.group[n:])
    return [float(result["auc"] or 0.5), float(result["logloss"])]


def markdown(results: dict[str, Any]) -> str:
    """The table of docs/quality.md."""
    rows = []
    for name, result in results.items():
        row = [
            f"{name}: {FILES[name].what} ({result['lines']:,}, {result['rate']:.1%})",
            _both(result["freshet"]),
        ]
        row += [_both(result["vw"]) if "vw" in result else ""]
        row += ["; ".join(result["left_out_columns"]) or "none"]
        rows.append(row)
    head = ["file (lines, share of 1)", "init alone: AUC / log loss", "best VW", "columns left out"]
    return "\n".join(table(head, rows))


def _both(pair: list[float]) -> str:
    return f"{number(pair[0], 4)} / {number(pair[1], 4)}"


def main() -> None:
    """Run, and write everything down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="where the package is")
    parser.add_argument("--others", metavar="PYTHON", help="interpreter with vowpalwabbit")
    parser.add_argument("--files", metavar="A,B", help="only these")
    parser.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "reports" / "files")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    package = max(options.data.glob("pydataset-*"))
    results: dict[str, Any] = {}
    for name in options.files.split(",") if options.files else FILES:
        began, file = time.perf_counter(), FILES[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name.replace(' ', '_')}.csv")
            write_file(file, package, path)
            text, notes = make_config(path, None, file.label, file.bar)
            (options.out / path.with_suffix(".toml").name).write_text(text)
            config = parse_config(tomllib.loads(text), name)
            results[name] = result = evaluate(name, config, path, options.others)
        result["notes"] = notes
        result["left_out_columns"] = [
            line.split(": left out")[0].removeprefix("# ")
            for line in text.splitlines()
            if ": left out: " in line
        ]
        vw = _both(result["vw"]) if "vw" in result else "not run"
        seconds = time.perf_counter() - began
        print(f"{name}: init {_both(result['freshet'])}, vw {vw}, {seconds:.0f} s", flush=True)
        (options.out / "files.json").write_text(
            json.dumps({"benchmark": "files", "results": results}, indent=1)
        )
        (options.out / "files.md").write_text(markdown(results) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
