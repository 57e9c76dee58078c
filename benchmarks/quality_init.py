"""What the features are worth that `freshet init` proposes on trial: its config against the one without them.

    .venv/bin/python benchmarks/quality_init.py [--movies FOLDER] [--data FOLDER] [--seeds 2] [--only NAMES]

Each stream is written as JSON Lines, and `freshet init` makes a config of it, with nobody asked. Where it
keeps a text, a vector, an age, a place, a calendar, a geo, a history or a rate because that gained on the
sample, the whole stream is learned with this config and with the one that has none of these, by the defaults
(the deep part included): AUC and log loss of the last half, and the difference with a 95 % interval from 20
parts of the time. Where it keeps nothing, both configs are one. With a place the AUC is among candidates at
the same place: predictions leave the place out.

Streams: MovieTweetings (--movies); the simulated worlds of `quality.py`, `quality_known.py` and
`quality_content.py`; and the data sets of `quality_public.py` that are in --data.
"""

import argparse
import json
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
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


def streams(options: argparse.Namespace) -> Iterator[tuple[str, list[Example]]]:
    """The streams by name; those of a seed have it in their name."""
    requests = 4_000 if options.quick else 12_000
    if options.movies:
        yield "movietweetings 8", list(make_stream("movietweetings 8", 0, options.movies).shown)
    for seed in range(options.seeds):
        for name in REGIMES:
            if name not in UNTRIED:
                yield f"{name}, seed {seed}", list(make_stream(name, seed, None, requests).shown)
        for name in ("sessions", *quality_known.MOVING, "steady"):
            yield f"{name}, seed {seed}", quality_known.world(requests, name, seed)
        content = quality_content.content_world(requests, seed)
        yield f"vectors and titles, seed {seed}", content
        yield f"places, seed {seed}", quality_content.place_world(requests, seed)[0]
        yield f"towns and weekends, seed {seed}", quality_content.calendar_world(2 * requests, seed)
    for name in SOURCES if options.data else ():
        try:
            yield name, load(name, options.data)[1]
        except SystemExit as why:
            print(f"{name}: left out: {why}")


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
    for name, examples in streams(options):
        if options.only and not name.startswith(tuple(options.only.split(","))):
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
            before, after = (learned(one, path, 0) for one in (without, proposed))
        placed = any(spec.kind == "place" for spec in proposed.features.values())
        pairs = list(zip(before.parts(), after.parts(), strict=True))
        gain = after.auc(placed) - before.auc(placed)
        _, low, high = interval([b.auc(placed) - a.auc(placed) for a, b in pairs])
        loss, loss_low, loss_high = interval([losses(b) - losses(a) for a, b in pairs])
        told[name] |= {
            "auc": before.auc(placed), "gain": gain, "interval": [low, high],
            "logloss": losses(before), "logloss_gain": loss, "logloss_interval": [loss_low, loss_high],
        }  # fmt: skip
        print(
            f"{name:<28} {', '.join(more)}: AUC {before.auc(placed):.4f} {gain:+.4f} "
            f"({low:+.4f} to {high:+.4f}){' at the same place' if placed else ''}  "
            f"log loss {losses(before):.4f} {loss:+.4f} ({loss_low:+.4f} to {loss_high:+.4f})",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
