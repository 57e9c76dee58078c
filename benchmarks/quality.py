"""How good the predictions are: Freshet, base and corrected, against other online learners, on many streams.

    .venv/bin/python benchmarks/quality.py [--quick] [--json OUT] [--out DIR] [--movies DIR] [--others PYTHON]
                                           [--streams A,B] [--seeds N]

Every learner sees the same events, each request predicted whole when it is shown and learnt when its labels
are known. The other learners need an environment of their own, whose interpreter `--others` names (README.md
beside this says how to make one); without it, and without MovieTweetings in `--movies`, the rest runs.

Results are kept in DIR by what they depend on (stream, seed, learner, code): a run that was cut off goes on,
and a second run is over at once. In DIR are also the whole table (`table.md`), the tables of docs/quality.md
(`summary.md`), the JSON (`quality.json`) and
a plot over time for each stream (`STREAM.html`).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash
from quality_parts.cache import (
    COMPARATOR_CODE,
    FRESHET_CODE,
    ROOT,
    SKETCH_CODE,
    STREAM_CODE,
    Cache,
    code_hash,
    key_of,
)
from quality_parts.freshet import encode_rows, play
from quality_parts.memories import hashed, sketch_means
from quality_parts.others import events_of, run_other
from quality_parts.plot import draw
from quality_parts.streams import Arrays, Stream, arrays_of, make_stream, names, policies
from quality_parts.summary import summary
from quality_parts.table import evaluate, goals, markdown

from error_memory import MemorySettings
from learner.model.model import Model
from learner.settings import LearnerSettings

OTHERS = ("vw", "river lr", "river ftrl", "river fm")
QUICK = ("sudden", "delay 10 min", "permuted")
QUICK_REQUESTS = 1_500
EVALUATION_CODE = ("benchmarks/quality_parts/table.py", "learner/metrics.py")

Arrays_ = dict[str, npt.NDArray[Any]]


class Bench:
    """One stream and seed: everything that learns it, from the cache or now."""

    def __init__(
        self, cache: Cache, name: str, seed: int, requests: int | None, options: argparse.Namespace
    ) -> None:
        self.cache = cache
        self.name, self.seed, self.requests = name, seed, requests
        self.movies: Path | None = options.movies
        self.others: str | None = options.others
        self.label = f"{name} {seed}"
        # MovieTweetings is one stream: there a seed is the learner's.
        self.drawn = 0 if name.startswith("movietweetings") else seed
        self.stream_key = key_of(name, self.drawn, requests, code_hash(STREAM_CODE))
        self.learner = LearnerSettings(seed=seed)
        self.memory = MemorySettings()
        self._stream: tuple[Stream, Arrays] | None = None
        self._events: Path | None = None

    def stream(self) -> tuple[Stream, Arrays]:
        """The stream, made when it is first needed."""
        if self._stream is None:
            made = make_stream(self.name, self.drawn, self.movies, self.requests)
            self._stream = made, arrays_of(made)
        return self._stream

    def evaluated(self) -> dict[str, Any]:
        """All figures."""
        settings = [msgspec.to_builtins(self.learner), msgspec.to_builtins(self.memory)]
        freshet_key = key_of(self.stream_key, settings, code_hash(FRESHET_CODE))
        runs_others = self.others is not None and self.name != "thinned"
        others_key = key_of(self.stream_key, code_hash(COMPARATOR_CODE))
        everything = [code_hash(SKETCH_CODE), others_key if runs_others else "", code_hash(EVALUATION_CODE)]
        key = key_of(freshet_key, *everything)
        path = self.cache.folder / f"{self.label.replace(' ', '_').replace('%', 'pct')}.json"
        if path.exists() and (kept := json.loads(path.read_text()))["key"] == key:
            return kept["told"]
        freshet = self.cache.get(f"{self.label} freshet", freshet_key, self._freshet)
        learnt = {name[7:]: array for name, array in freshet.items() if name.startswith("learnt ")}
        # What other memories hold depends on what the bases had learnt, and on no other code of Freshet's.
        held_key = key_of(
            self.stream_key, *(xxhash.xxh3_64_hexdigest(learnt[name]) for name in sorted(learnt))
        )
        sketch_key, knn_key = key_of(held_key, code_hash(SKETCH_CODE)), key_of(held_key, others_key)
        answers = {name: array for name, array in freshet.items() if not name.startswith("learnt ")}
        sketch = self.cache.get(f"{self.label} sketch", sketch_key, lambda: self._sketch(learnt))
        knn: Arrays_ = {}
        others: dict[str, Arrays_] = {}
        if runs_others:
            knn = self.cache.get(f"{self.label} knn", knn_key, lambda: self._knn(learnt))
            for other in OTHERS:
                made = f"{self.name} {self.drawn} {other}"
                others[other] = self.cache.get(made, others_key, lambda other=other: self._other(other))
        result = evaluate(self.stream()[1], answers, sketch, knn, others)
        if self._events is not None:
            self._events.unlink()
        path.write_text(json.dumps({"key": key, "told": result}))
        return result

    def _freshet(self) -> Arrays_:
        stream, arrays = self.stream()
        found: Arrays_ = {}
        for name, served in play(stream, arrays, policies(stream, arrays), self.learner, self.memory).items():
            found[f"{name} base"] = served.base.astype(np.float32)
            found[f"{name} corrected"] = served.corrected.astype(np.float32)
            found[f"learnt {name}"] = served.learnt
        return found

    def _vectors(self) -> npt.NDArray[np.float32]:
        stream = self.stream()[0]
        return hashed(encode_rows(stream, Model(stream.features, self.learner)))

    def _sketch(self, learnt: Mapping[str, npt.NDArray[np.int64]]) -> Mapping[str, npt.NDArray[Any]]:
        return sketch_means(self._vectors(), self.stream()[1], dict(learnt))

    def _knn(self, learnt: Mapping[str, npt.NDArray[np.int64]]) -> Arrays_:
        arrays = self.stream()[1]
        return self._run_other(
            "knn", {
                "y": arrays.y, "requests": arrays.requests, "visible": arrays.visible, "h": self._vectors(),
                **{f"learnt {name}": array for name, array in learnt.items()},
            },
        )  # fmt: skip

    def _other(self, learner: str) -> Arrays_:
        return self._run_other(learner, events_of(*self.stream()))

    def _run_other(self, learner: str, events: Arrays_) -> Arrays_:
        assert self.others is not None
        return run_other(self.others, COMPARATOR_CODE[0], events, learner)


def main() -> None:
    """Run, print the goals and where they are missed, and write everything down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three short streams, one seed: under a minute")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures here too")
    parser.add_argument("--out", type=Path, metavar="DIR", default=ROOT / "reports" / "quality")
    parser.add_argument(
        "--movies", type=Path, metavar="DIR", default=ROOT.parent / "shared/data/movietweetings"
    )
    parser.add_argument(
        "--others", metavar="PYTHON", help="interpreter with vowpalwabbit, river and faiss-cpu"
    )
    parser.add_argument("--streams", metavar="A,B", help="only these")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not options.movies.is_dir():
        print(f"MovieTweetings is not at {options.movies}: left out", file=sys.stderr)
        options.movies = None
    if options.others is None:
        print("without --others only Freshet and the sketch are measured", file=sys.stderr)
    chosen = names(options.movies)
    if options.quick:
        chosen = list(QUICK)
    if options.streams:
        chosen = options.streams.split(",")
    for code in (STREAM_CODE, FRESHET_CODE, SKETCH_CODE, COMPARATOR_CODE, EVALUATION_CODE):
        code_hash(code)  # now, while the sources are those that have been imported
    cache = Cache(options.out / ("quick" if options.quick else "cache"))
    results: dict[str, dict[int, Any]] = {}
    # Seed by seed, so that a run that is cut off has seen every stream.
    for seed in range(1 if options.quick else options.seeds):
        for name in chosen:
            began = time.perf_counter()
            bench = Bench(cache, name, seed, QUICK_REQUESTS if options.quick else None, options)
            result = bench.evaluated()
            results.setdefault(name, {})[seed] = result
            _print(name, seed, result, time.perf_counter() - began)
            _write(options, results)
    for line in goals(results):
        print(line)
    for name, by_seed in results.items():
        draw(name, by_seed, options.out)


def _print(name: str, seed: int, result: dict[str, Any], seconds: float) -> None:
    parts = []
    for who in ("freshet base", "freshet corrected", "vw", "river ftrl"):
        if who in result["learners"]:
            found = result["learners"][who]["last_half"]
            parts.append(f"{who} {found['auc']:.4f} / {found['logloss']:.4f}")
    frozen = result["staleness"]["frozen"]
    parts.append(f"frozen {frozen['base']['auc']:.4f} -> {frozen['corrected']['auc']:.4f}")
    print(f"{name:17s} {seed}: {', '.join(parts)}, {seconds:.0f} s", flush=True)


def _write(options: argparse.Namespace, results: dict[str, dict[int, Any]]) -> None:
    text = json.dumps({"benchmark": "quality", "results": results}, indent=1)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "quality.json").write_text(text)
    (options.out / "table.md").write_text(markdown(results))
    (options.out / "summary.md").write_text(summary(results))
    if options.json:
        options.json.write_text(text)


if __name__ == "__main__":
    main()
