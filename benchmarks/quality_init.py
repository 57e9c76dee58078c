"""What the features are worth that `freshet init` proposes on trial: its config against the one without them.

    .venv/bin/python benchmarks/quality_init.py [--movies FOLDER] [--data FOLDER] [--seeds 2] [--only NAMES]

Each stream is written as JSON Lines, and `freshet init` makes a config of it, with nobody asked. Where it
keeps a text, a vector, an age, a place, a calendar, a geo, a history or a rate because that gained on the
sample, the whole stream is learned with this config and with the one that has none of these, by the defaults
(the deep part included): AUC and log loss of the last half, and the difference with a 95 % interval from 20
parts of the time. A seed makes another simulated world, or of a data set another initial learner, whose means
are printed. Where it keeps nothing, both configs are one. With a place the AUC is among candidates at the
same place: predictions leave the place out.

Streams: MovieTweetings (--movies); the simulated worlds of `quality.py`, `quality_known.py` and
`quality_content.py`; and the data sets of `quality_public.py` that are in --data.
"""

import argparse
import json
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import quality_content
import quality_known
from quality_parts.public_data import SOURCES, load
from quality_parts.streams import REGIMES, make_stream

from freshet.config import Config, parse_config
from freshet.init.command import make_plan
from freshet.init.config import write_config
from freshet.init.sample import read_sample
from freshet.init.trials.keep import keep_what_gains, without_trials
from learner.features.columns import declared_by
from learner.metrics import auc, gauc
from learner.model.model import Model
from learner.train.trainer import Trainer
from stream.errors import SourceError
from stream.files.sources import read_lines
from stream.records.types import Example

Floats = npt.NDArray[np.float64]
CHUNK, PARTS, T = 400, 20, 2.093
UNTRIED = ("thinned", "permuted")


class Learned(NamedTuple):
    """The last half of the candidates."""

    p: Floats
    y: Floats
    place: npt.NDArray[np.uint64]
    time: Floats

    def auc(self, placed: bool) -> float:
        found = gauc(self.p, self.y, self.place) if placed else auc(self.p, self.y)
        return 0.5 if found is None else found

    def parts(self) -> list["Learned"]:
        cuts = zip(*(np.array_split(array, PARTS) for array in self), strict=True)
        return [Learned(*part) for part in cuts]


def streams(options: argparse.Namespace) -> Iterator[tuple[str, list[Example], Sequence[int]]]:
    """The streams by name, and the seeds of the learners of each; a world of a seed has it in its name."""
    requests = 4_000 if options.quick else 12_000
    seeds = range(options.seeds)
    if options.movies:
        yield "movietweetings 8", list(make_stream("movietweetings 8", 0, options.movies).shown), seeds
    for seed in seeds:
        for name, world in worlds(requests, seed).items():
            if wanted(f"{name}, seed {seed}", options):
                yield f"{name}, seed {seed}", world(), (0,)
    for name in SOURCES if options.data else ():
        try:
            yield name, load(name, options.data)[1], seeds
        except SystemExit as why:
            print(f"{name}: left out: {why}")


def worlds(requests: int, seed: int) -> dict[str, Callable[[], list[Example]]]:
    """The simulated worlds of a seed, by name."""
    return {
        **{n: partial(simulated, n, requests, seed) for n in REGIMES if n not in UNTRIED},
        **{
            n: partial(quality_known.world, requests, n, seed)
            for n in ("sessions", *quality_known.MOVING, "steady")
        },
        "vectors and titles": partial(quality_content.content_world, requests, seed),
        "places": lambda: quality_content.place_world(requests, seed)[0],
        "towns and weekends": partial(quality_content.calendar_world, 2 * requests, seed),
    }


def simulated(name: str, requests: int, seed: int) -> list[Example]:
    return list(make_stream(name, seed, None, requests).shown)


def wanted(name: str, options: argparse.Namespace) -> bool:
    return not options.only or name.startswith(tuple(options.only.split(",")))


def write(examples: Sequence[Example], path: Path) -> None:
    """Requests as lines, one a candidate; an hour is left to be made of the time."""
    slates = any(len(e.candidates) > 1 for e in examples)
    with path.open("w") as file:
        for e in examples:
            for i, (candidate, label) in enumerate(zip(e.candidates, e.labels, strict=True)):
                line: dict[str, object] = {"time": e.time}
                line |= {"request_id": e.request_id} if slates else {}
                line |= {"position": e.place[i]} if e.place is not None else {}
                line |= {k: v for k, v in {**e.context, **candidate}.items() if k != "hour"}
                file.write(json.dumps({**line, "label": int(label)}) + "\n")


def configs_of(path: Path) -> tuple[Config, Config]:
    """(without what is kept on trial, as `freshet init` has it)."""
    plan = make_plan(read_sample(path), path, None)
    return tuple(
        parse_config(tomllib.loads(write_config(one, path)), str(path))
        for one in (without_trials(plan), keep_what_gains(plan, path))
    )  # type: ignore[return-value]


def learned(config: Config, path: Path, seed: int) -> Learned:
    examples = list(read_lines(path, config.data, declared_by(config.features)))
    settings = msgspec.structs.replace(config.learner, seed=seed)
    trainer = Trainer(Model(config.features, settings, learning=True))
    done = [g for at in range(0, len(examples), CHUNK) for g in trainer.learn(examples[at : at + CHUNK])]
    done += trainer.finish()
    p, y, time = (np.concatenate([getattr(g, name) for g in done]) for name in ("p", "y", "time"))
    place = [at for e in examples for at in (e.place or range(len(e.labels)))]
    half = slice(len(y) // 2, None)
    return Learned(p[half], y[half], np.array(place, dtype=np.uint64)[half], time[half])


def losses(one: Learned) -> float:
    p = np.clip(one.p, 1e-9, 1.0 - 1e-9)
    return float(-(one.y * np.log(p) + (1.0 - one.y) * np.log1p(-p)).mean())


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    mean, error = np.mean(differences), np.std(differences, ddof=1) / np.sqrt(len(differences))
    return float(mean), float(mean - T * error), float(mean + T * error)


class Gain(NamedTuple):
    """What the proposed features gain; means over the learners of some seeds."""

    auc: float  # without them
    gain: float
    gains: Sequence[float]  # of each part of the time
    logloss: float
    losses: Sequence[float]

    @classmethod
    def of(cls, before: Learned, after: Learned, placed: bool) -> "Gain":
        pairs = list(zip(before.parts(), after.parts(), strict=True))
        auc = before.auc(placed)
        gains = [b.auc(placed) - a.auc(placed) for a, b in pairs]
        return cls(
            auc, after.auc(placed) - auc, gains, losses(before), [losses(b) - losses(a) for a, b in pairs]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--movies", type=Path, help="folder of MovieTweetings")
    parser.add_argument("--data", type=Path, help="folder of the packages of quality_public.py")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="", help="streams whose names begin so")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    told: dict[str, dict[str, object]] = {}
    for name, examples, seeds in streams(options):
        if not wanted(name, options):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stream.jsonl"
            write(examples, path)
            try:
                without, proposed = configs_of(path)
            except SourceError as why:
                print(f"{name}: {why}")
                continue
            more = [n for n in proposed.features if n not in without.features]
            told[name] = {"proposed": more}
            if not more:
                print(f"{name:<28} nothing proposed", flush=True)
                continue
            placed = any(spec.kind == "place" for spec in proposed.features.values())
            found = []
            for seed in seeds:
                before, after = (learned(one, path, seed) for one in (without, proposed))
                found.append(Gain.of(before, after, placed))
                print(f"  seed {seed}: AUC {found[-1].auc:.4f} {found[-1].gain:+.4f}", flush=True)
        all_of_them = Gain(*(np.mean(values, axis=0) for values in zip(*found, strict=True)))
        auc_interval, loss_interval = interval(all_of_them.gains), interval(all_of_them.losses)
        told[name] |= {
            "auc": all_of_them.auc, "gain": all_of_them.gain, "interval": auc_interval,
            "logloss": all_of_them.logloss, "logloss_gain": loss_interval[0],
            "logloss_interval": loss_interval[1:], "gains_by_seed": [one.gain for one in found],
        }  # fmt: skip
        print(
            f"{name:<28} {', '.join(more)}: AUC {all_of_them.auc:.4f} {all_of_them.gain:+.4f} "
            f"({auc_interval[1]:+.4f} to {auc_interval[2]:+.4f}){' at the same place' if placed else ''}  "
            f"log loss {all_of_them.logloss:.4f} {loss_interval[0]:+.4f} "
            f"({loss_interval[1]:+.4f} to {loss_interval[2]:+.4f})",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
