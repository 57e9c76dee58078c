"""Is the fast part's stated variance honest, and is it worth something?

    .venv/bin/python benchmarks/uncertainty.py [--movies FOLDER] [--quick] [--json OUT] [--plots FOLDER]

1. **Honest.** Progressive predictions of the fast part are binned by the standard deviation s that it
   states of its logit f. In each bin: the slope of a logistic regression of the label on the logit. At 1
   the logits are neither over- nor under-confident. Compared are f itself, as if the mean were certain,
   and z = f / sqrt(1 + π/8 s²), which allows for the stated variance. Where the stated variance is
   large and true, f has a slope well below 1 and z one near 1. In simulated worlds the truth is known,
   so there also: the root mean square of (f - true logit) beside the s that was stated.
2. **Useful.** In worlds where items or people are new all the time, one candidate of each slate is shown
   and only its click is learnt. Regret is the click probability of the best candidate minus that of the
   one shown, summed. Thompson sampling from the variance against greedy and epsilon-greedy, whose epsilon
   is the best in hindsight, over the same worlds, each with a model of its own.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from learner.features.encoder import FeatureSpec, Request
from learner.model.explore import thompson
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.files.sources import DataSettings, read_examples
from stream.records.types import Example
from stream.world.simulator import World, WorldSettings

Floats = npt.NDArray[np.float64]

BINS = 8
EPSILONS = (0.02, 0.05, 0.1)
FAST = LearnerSettings(deep="none")

_PACE = {"requests_per_s": 1.0, "shift_every_s": 0.0, "drift_slow": 0.0}
_STRANGERS = {**_PACE, "users": 1_000_000, "items": 20, "slate": 20, "item_half_life_h": 1000.0}
WORLDS: dict[str, dict[str, Any]] = {
    "strangers, new items": {**_STRANGERS, "new_items_per_h": 6.0, "click_rate": 0.5},
    "strangers, bursts of new items": {
        **_STRANGERS, "new_items_per_h": 0.0, "burst_every_s": 1000.0, "click_rate": 0.5,
    },
    "new items": {**_PACE, "items": 100, "new_items_per_h": 20.0, "item_half_life_h": 2.0},
    "new people": {**_PACE, "items": 100, "new_items_per_h": 0.0, "users": 300, "new_users_per_h": 300.0},
}  # fmt: skip
"""Simulated worlds in which something is new all the time. Of strangers nothing is known but their id."""


def schema_of(example: Example, strangers: bool = False) -> dict[str, FeatureSpec]:
    """A feature for each field of an example, or for user and item alone; lists are `ids`."""
    given = {**example.context, **example.candidates[0]}
    if strangers:
        given = {name: given[name] for name in ("user", "item")}
    kinds = {"hour": "hour", "genres": "ids"}
    return {name: FeatureSpec(kind=kinds.get(name, "id")) for name in given}  # type: ignore[arg-type]


def progressive(examples: Sequence[Example]) -> tuple[Floats, Floats, Floats]:
    """(f, s², y) of every candidate, predicted before it was learnt, each (n,)."""
    learner = Learner(schema_of(examples[0]), FAST)
    done = learner.learn(examples) + learner.finish()
    z, s2, y = (np.concatenate([getattr(group, name) for group in done]) for name in ("z", "s2", "y"))
    return z * np.sqrt(1.0 + 0.3927 * s2), s2, y


def slope(logit: Floats, y: Floats) -> float:
    """a of P(y) = σ(a·logit + c), by Newton's method: below 1 the logits are over-confident."""
    x = np.stack([logit, np.ones_like(logit)], axis=1)
    w = np.array([1.0, 0.0])
    for _ in range(25):
        p = 1.0 / (1.0 + np.exp(-(x @ w)))
        hessian = (x * (p * (1.0 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        w += np.linalg.solve(hessian, x.T @ (y - p))
    return float(w[0])


def by_uncertainty(f: Floats, s2: Floats, y: Floats, truth: Floats | None) -> list[dict[str, float]]:
    """Figures of `BINS` bins of equally many predictions, from the most certain to the least."""
    figures = []
    for part in np.array_split(np.argsort(s2, kind="stable"), BINS):
        z = f[part] / np.sqrt(1.0 + 0.3927 * s2[part])
        line = {
            "stated_sd": float(np.sqrt(s2[part].mean())),
            "slope_mean": slope(f[part], y[part]),
            "slope_honest": slope(z, y[part]),
            "calibration": float((1.0 / (1.0 + np.exp(-z))).sum() / y[part].sum()),
        }
        if truth is not None:
            line["true_rms"] = float(np.sqrt(np.mean((f[part] - truth[part]) ** 2)))
        figures.append(line)
    return figures


def summary(bins: Sequence[dict[str, float]]) -> dict[str, float]:
    """One figure a stream: how far slopes are from 1, over the bins."""
    return {
        f"{name}_off": float(np.mean([abs(line[name] - 1.0) for line in bins]))
        for name in ("slope_mean", "slope_honest")
    }


def honesty_of_world(settings: WorldSettings, requests: int) -> list[dict[str, float]]:
    """The bins of a simulated world, whose true logits are known."""
    world = World(settings)
    examples, truths = [], []
    for _ in range(requests):
        impression = world.request()
        clicked = {action.candidate for action in world.react(impression)}
        truths.append(world.truth(impression))
        labels = [float(i in clicked) for i in range(len(impression.candidates))]
        examples.append(
            Example(
                impression.request_id, impression.time, impression.time, impression.candidates, labels,
                impression.context,
            )
        )  # fmt: skip
    p = np.concatenate(truths)
    return by_uncertainty(*progressive(examples), np.log(p) - np.log1p(-p))


Policy = Callable[[Learner, Request, int], int]
"""(learner, request, number of the request) -> the candidate to show."""


def greedy(learner: Learner, request: Request, number: int) -> int:
    """The candidate with the best prediction."""
    return int(learner.model.score_requests([request]).z.argmax())


def epsilon_greedy(epsilon: float) -> Policy:
    """Now and then any candidate, else the best."""
    rng = np.random.default_rng(99)

    def choose(learner: Learner, request: Request, number: int) -> int:
        if rng.random() < epsilon:
            return int(rng.integers(len(request.candidates)))
        return greedy(learner, request, number)

    return choose


def sampled(learner: Learner, request: Request, number: int) -> int:
    """The best candidate of one draw from what the model believes."""
    return int(thompson(learner.model, [request], number).argmax())


def at_random(learner: Learner, request: Request, number: int) -> int:
    """Any candidate."""
    return number * 7919 % len(request.candidates)


def regret(settings: WorldSettings, requests: int, choose: Policy) -> Floats:
    """Cumulative regret (requests,): clicks foregone by what was shown in place of the best."""
    world = World(settings)
    learner: Learner | None = None
    lost = np.empty(requests)
    for number in range(requests):
        impression = world.request()
        truth = world.truth(impression)
        if learner is None:
            first = Example("", 0.0, 0.0, impression.candidates, [], impression.context)
            learner = Learner(schema_of(first, settings.users > requests), FAST)
        request = Request(impression.time, impression.context, impression.candidates)
        shown = choose(learner, request, number)
        clicked = any(action.candidate == shown for action in world.react(impression))
        lost[number] = truth.max() - truth[shown]
        learner.learn(
            [
                Example(
                    impression.request_id, impression.time, impression.time, [impression.candidates[shown]],
                    [float(clicked)], impression.context,
                )
            ]
        )  # fmt: skip
    return np.cumsum(lost)


def compare(settings: dict[str, Any], requests: int, seeds: int) -> dict[str, dict[str, Any]]:
    """Each policy's regret over the same worlds: mean, standard error over seeds, and the path."""
    policies: dict[str, Callable[[], Policy]] = {
        "greedy": lambda: greedy,
        **{f"epsilon {e}": lambda e=e: epsilon_greedy(e) for e in EPSILONS},  # type: ignore[misc]
        "thompson": lambda: sampled,
        "random": lambda: at_random,
    }
    figures: dict[str, dict[str, Any]] = {}
    finals = {}
    for name, make in policies.items():
        paths = np.stack(
            [
                regret(msgspec.convert({**settings, "seed": seed}, WorldSettings), requests, make())
                for seed in range(seeds)
            ]
        )
        finals[name] = paths[:, -1]
        figures[name] = {
            "regret": float(paths[:, -1].mean()),
            "path": paths.mean(axis=0)[:: max(requests // 100, 1)].tolist(),
        }
    for name, final in finals.items():
        less = final - finals["thompson"]
        figures[name]["more_than_thompson"] = float(less.mean())
        figures[name]["standard_error"] = float(less.std(ddof=1) / np.sqrt(seeds)) if seeds > 1 else None
    return figures


def draw(result: dict[str, Any], folder: Path) -> None:
    """One HTML file with both halves; needs no network."""
    from plotly.subplots import make_subplots

    honest, useful = result["honest"], result["useful"]
    columns = max(len(honest), len(useful))
    padded = [*list(honest), *[""] * (columns - len(honest)), *useful]
    figure = make_subplots(rows=2, cols=columns, subplot_titles=padded)
    for c, bins in enumerate(honest.values(), 1):
        sd = [line["stated_sd"] for line in bins]
        for key, name, colour in (
            ("slope_mean", "slope, mean taken as certain", "#d95f02"),
            ("slope_honest", "slope, variance allowed for", "#1b9e77"),
        ):
            figure.add_scatter(
                x=sd, y=[line[key] for line in bins], name=name, line_color=colour, legendgroup=key,
                showlegend=c == 1, row=1, col=c,
            )  # fmt: skip
        figure.add_hline(y=1.0, line_dash="dot", row=1, col=c)
    for c, policies in enumerate(useful.values(), 1):
        best = min((n for n in policies if n.startswith("epsilon")), key=lambda n: policies[n]["regret"])
        for key, name, colour in (
            ("greedy", "greedy", "#d95f02"),
            (best, "best epsilon", "#7570b3"),
            ("thompson", "Thompson", "#1b9e77"),
        ):
            figure.add_scatter(
                y=policies[key]["path"], name=name, line_color=colour, legendgroup=name, showlegend=c == 1,
                row=2, col=c,
            )  # fmt: skip
    figure.update_layout(
        title="Slope of label on logit by stated standard deviation (above), regret over time (below)",
        template="plotly_white", height=800,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    figure.write_html(folder / "uncertainty.html", include_plotlyjs=True)


def main() -> None:
    """Run, print lines for people, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--movies", type=Path, metavar="FOLDER", help="MovieTweetings")
    parser.add_argument("--quick", action="store_true", help="a run of under a minute")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=3000, help="of each bandit's world")
    parser.add_argument("--worlds", type=int, default=len(WORLDS), help="how many of the worlds")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write uncertainty.html there")
    options = parser.parse_args()
    requests, seeds = (600, 2) if options.quick else (options.requests, options.seeds)
    worlds = dict(list(WORLDS.items())[: 1 if options.quick else options.worlds])
    honest: dict[str, list[dict[str, float]]] = {}
    if options.movies:
        examples = list(read_examples(options.movies, DataSettings(format="movietweetings")))
        honest["movietweetings"] = by_uncertainty(
            *progressive(examples[: 20_000 if options.quick else None]), None
        )
    for name, settings in worlds.items():
        honest[name] = honesty_of_world(msgspec.convert({**settings, "seed": 1}, WorldSettings), requests)
    for name, bins in honest.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in summary(bins).items()))
        for line in bins:
            print("   " + "  ".join(f"{key} {value:.3f}" for key, value in line.items()))
    useful = {}
    for name, settings in worlds.items():
        useful[name] = compare(settings, requests, seeds)
        print(f"{name}, {requests} requests, {seeds} seeds: regret")
        for policy, figures in useful[name].items():
            print(
                f"   {policy:13s} {figures['regret']:8.1f}   more than Thompson by "
                f"{figures['more_than_thompson']:+.1f} ± {figures['standard_error'] or 0.0:.1f}",
                flush=True,
            )
    result = {
        "benchmark": "uncertainty",
        "honest": honest,
        "honest_summary": {name: summary(bins) for name, bins in honest.items()},
        "useful": useful,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if options.plots:
        draw(result, options.plots)


if __name__ == "__main__":
    main()
