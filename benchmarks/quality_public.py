"""How good the predictions are on public data: Freshet against Vowpal Wabbit and River.

    .venv/bin/python benchmarks/quality_public.py --data DIR [--others PYTHON] [--streams A,B] [--out DIR]

DIR has the packages that carry the data, and PYTHON is the other learners' interpreter (README.md beside
this says how to get both). Every learner predicts a request whole before it learns any of it. Freshet has
its defaults; beside features as declared here, it gets those that `freshet init` makes of the same data as
a CSV file. Vowpal Wabbit is the best of 18 settings in hindsight, of 36 where there are numbers: as buckets
and as values.
"""

import argparse
import csv
import json
import os
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash
from quality_parts.cache import COMPARATOR_CODE, FRESHET_CODE, ROOT, Cache, code_hash, key_of
from quality_parts.freshet import play
from quality_parts.others import events_of, run_other
from quality_parts.public_data import SOURCES, load
from quality_parts.streams import Arrays, Stream
from quality_parts.table import Bootstrap, number, table

from error_memory import MemorySettings
from freshet.config import parse_config
from freshet.init.command import make_config
from learner.features.encoder import FeatureSpec
from learner.metrics import summarize
from learner.settings import LearnerSettings
from stream.files.sources import read_lines
from stream.records.types import Example

INIT_CODE = (
    "freshet/init/*.py",
    "stream/files/sources.py",
    "stream/files/tabular.py",
    "stream/files/columns.py",
)
VALUES_CODE = ("benchmarks/foreign/values.py",)
RIVER = ("river lr", "river ftrl", "river fm")

Floats = npt.NDArray[np.float64]
Arrays_ = dict[str, npt.NDArray[Any]]


def arrays_of(examples: Sequence[Example]) -> Arrays:
    """Labels and times of requests that are learnt at once."""
    sizes = [len(e.labels) for e in examples]
    times = np.array([e.time for e in examples])
    return Arrays(
        y=np.array([label for e in examples for label in e.labels]),
        group=np.zeros(sum(sizes), dtype=np.uint64),
        requests=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        time=times,
        decided=times,
        visible=np.arange(len(sizes)),
    )


def as_init_has_it(
    name: str, features: Mapping[str, FeatureSpec], examples: Sequence[Example], folder: Path
) -> tuple[dict[str, FeatureSpec], list[Example]]:
    """The same requests, written to a CSV file and read as `freshet init` says."""
    path = folder / f"{name.replace(' ', '_')}.csv"
    slates = any(len(e.candidates) > 1 for e in examples)
    timed = SOURCES[name].timed
    columns = [field for field, spec in features.items() if spec.kind != "hour"]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*["time"] * timed, *["request_id"] * slates, *columns, "label"])
        for e in examples:
            for candidate, label in zip(e.candidates, e.labels, strict=True):
                row = {**e.context, **candidate}
                out.writerow([
                    *[int(e.time)] * timed, *[e.request_id] * slates,
                    *(_cell(row.get(column)) for column in columns), int(label),
                ])  # fmt: skip
    text, guessed = make_config(path)
    path.with_suffix(".toml").write_text(text)
    for note in guessed:
        print(f"  {name}: init: {note}")
    config = parse_config(tomllib.loads(text), str(path))
    return dict(config.features), list(read_lines(path, config.data))


def _cell(value: object) -> object:
    if isinstance(value, list):
        return "|".join(map(str, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Bench:
    """One data set: everything that learns it, from the cache or now."""

    def __init__(self, cache: Cache, name: str, options: argparse.Namespace) -> None:
        self.cache, self.name, self.options = cache, name, options
        self.features, self.examples = load(name, options.data)
        self.arrays = arrays_of(self.examples)
        kinds = [(field, spec.kind) for field, spec in self.features.items()]
        self.key = key_of(kinds, xxhash.xxh3_64_hexdigest(msgspec.msgpack.encode(self.examples)))
        self.learner, self.memory = LearnerSettings(), MemorySettings()

    def evaluated(self) -> dict[str, Any]:
        """All figures: of the first tenth and of the last half."""
        settings = [msgspec.to_builtins(self.learner), msgspec.to_builtins(self.memory)]
        key = key_of(self.key, settings, code_hash(FRESHET_CODE))
        found: dict[str, Arrays_] = {
            "freshet": self.cache.get(f"{self.name} freshet", key, self._freshet),
            "init": self.cache.get(
                f"{self.name} init", key_of(key, SOURCES[self.name].timed, code_hash(INIT_CODE)), self._init
            ),
        }
        if self.options.others:
            events = self._events()
            # What they learn depends on the events as they get them, and on no other code of Freshet's.
            seen = [(field, xxhash.xxh3_64_hexdigest(events[field].tobytes())) for field in sorted(events)]
            key = key_of(self.name, seen, code_hash(COMPARATOR_CODE))
            for who in ("vw", *RIVER):
                found[who] = self.cache.get(
                    f"{self.name} {who}", key, lambda who=who: self._other(events, COMPARATOR_CODE[0], who)
                )
            if any(spec.kind == "number" for spec in self.features.values()):
                key = key_of(key, code_hash(VALUES_CODE))
                found["vw"] |= self.cache.get(
                    f"{self.name} values", key, lambda: self._other(events, VALUES_CODE[0])
                )
        pairs = [(f"{who} {run}", p) for who, runs in found.items() for run, p in runs.items()]
        return self._told({run: p.astype(np.float64) for run, p in pairs if p.ndim})

    def _told(self, runs: Mapping[str, Floats]) -> dict[str, Any]:
        n = len(self.arrays.y)
        parts = {"first_tenth": slice(0, n // 10), "last_half": slice(n // 2, n)}
        result: dict[str, Any] = {"events": n, "rate": float(self.arrays.y.mean()), "runs": {}}
        for run, p in runs.items():
            result["runs"][run] = {
                name: summarize(p[part], self.arrays.y[part], self.arrays.group[part])
                for name, part in parts.items()
            }
        bootstrap = Bootstrap(self.arrays)
        for library in ("vw", "river"):
            of_it = {run: result["runs"][run]["last_half"] for run in runs if run.startswith(library)}
            if of_it:
                best = max(of_it, key=lambda run: of_it[run]["auc"])
                calm = min(of_it, key=lambda run: of_it[run]["logloss"])
                base = runs["freshet base"]
                result[library] = {
                    "auc": best, "logloss": calm,
                    "difference": {
                        "auc": bootstrap.difference(base, runs[best])["auc"],
                        "logloss": bootstrap.difference(base, runs[calm])["logloss"],
                    },
                }  # fmt: skip
        return result

    def _freshet(self) -> Arrays_:
        return self._play(self.features, self.examples)

    def _init(self) -> Arrays_:
        with tempfile.TemporaryDirectory() as folder:
            return self._play(*as_init_has_it(self.name, self.features, self.examples, Path(folder)))

    def _play(self, features: dict[str, FeatureSpec], examples: list[Example]) -> Arrays_:
        stream = Stream(self.name, 0, features, examples, examples, day_s=86_400.0)
        live = play(stream, self.arrays, [], self.learner, self.memory)["live"]
        return {"base": live.base, "corrected": live.corrected}

    def _events(self) -> Arrays_:
        """What the other learners get."""
        stream = Stream(self.name, 0, self.features, self.examples, self.examples, 0.0)
        events = events_of(stream, self.arrays)
        for j, (field, spec) in enumerate(self.features.items()):
            if spec.kind == "number":
                cells = [candidate.get(field, np.nan) for e in self.examples for candidate in e.candidates]
                events[f"number{j}"] = np.array(cells, dtype=np.float64)
        return events

    def _other(self, events: Arrays_, script: str, *arguments: str) -> Arrays_:
        return run_other(self.options.others, script, events, *arguments)


def markdown(results: Mapping[str, Any]) -> str:
    """The table of docs/quality.md, for a page."""
    rows = []
    for name, result in results.items():
        runs = result["runs"]

        def both(run: str, part: str = "last_half", runs: Any = runs) -> str:
            found = runs[run][part]
            return f"{number(found['auc'], 4)} / {number(found['logloss'], 4)}"

        base = runs["freshet base"]
        row = [
            f"{name} ({result['events']:,}, {result['rate']:.1%})",
            both("freshet base"),
            both("freshet corrected"),
            both("init base"),
        ]
        if "vw" in result:
            vw, river = result["vw"], result["river"]
            row += [
                f"{number(runs[vw['auc']]['last_half']['auc'], 4)} / "
                f"{number(runs[vw['logloss']]['last_half']['logloss'], 4)}",
                " / ".join(_interval(*vw["difference"][figure]) for figure in ("auc", "logloss")),
                number(runs[river["auc"]]["last_half"]["auc"], 4),
            ]
        for part in ("first_tenth", "last_half"):
            row.append(f"{number(base[part]['calibration'], 3)}, {number(base[part]['ece'], 4)}")
        rows.append(row)
    others = ["best VW", "base less VW (95 %)", "best River: AUC"] if len(rows[0]) > 6 else []
    head = ["stream (events, share of 1)", "base: AUC / log loss", "corrected", "as init has it", *others]
    return "\n".join(table([*head, "calibration, ECE: first tenth", "last half"], rows))


def _interval(middle: float, low: float, high: float) -> str:
    return f"{middle:+.4f} ({low:+.4f} to {high:+.4f})"


def main() -> None:
    """Run, and write everything down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="where the packages are")
    parser.add_argument("--others", metavar="PYTHON", help="interpreter with vowpalwabbit and river")
    parser.add_argument("--streams", metavar="A,B", help="only these")
    parser.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "reports" / "public")
    options = parser.parse_args()
    for code in (FRESHET_CODE, INIT_CODE, COMPARATOR_CODE, VALUES_CODE):
        code_hash(code)  # now, while the sources are those that have been imported
    cache = Cache(options.out / "cache")
    results: dict[str, Any] = {}
    for name in options.streams.split(",") if options.streams else SOURCES:
        began = time.perf_counter()
        results[name] = result = Bench(cache, name, options).evaluated()
        said = [
            f"{who} {result['runs'][f'{who} base']['last_half']['auc']:.4f}" for who in ("freshet", "init")
        ]
        if "vw" in result:
            best = result["vw"]["auc"]
            said.append(f"vw {result['runs'][best]['last_half']['auc']:.4f} ({best})")
        print(f"{name}: {', '.join(said)}, {time.perf_counter() - began:.0f} s", flush=True)
        (options.out / "public.json").write_text(
            json.dumps({"benchmark": "public", "results": results}, indent=1)
        )
        (options.out / "public.md").write_text(markdown(results) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
