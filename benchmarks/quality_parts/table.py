"""From predictions to figures: one stream's table, and the means over streams and seeds."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from learner.metrics import auc, summarize
from quality_parts.memories import LAMBDAS, added
from quality_parts.streams import APART, DRIFTING, Arrays

Floats = npt.NDArray[np.float64]
FIGURES = ("auc", "gauc", "logloss", "calibration", "ece")
WINDOWS = 24
RESAMPLES = 100


def figures(p: Floats, arrays: Arrays) -> dict[str, Any]:
    """Figures of predictions (n,): of the whole stream, of its last half, and AUC over time."""
    n = len(p)
    parts = {"whole": slice(0, n), "last_half": slice(n // 2, n)}
    outcome: dict[str, Any] = {}
    for name, part in parts.items():
        found = summarize(p[part], arrays.y[part], arrays.group[part])
        outcome[name] = {figure: found[figure] for figure in FIGURES}  # type: ignore[literal-required]
    cuts = np.linspace(0, n, WINDOWS + 1).astype(int)
    outcome["auc_over_time"] = [auc(p[a:b], arrays.y[a:b]) for a, b in pairwise(cuts)]
    return outcome


def best_lambda(
    base: Floats, means: Sequence[npt.NDArray[np.float32]], arrays: Arrays
) -> tuple[Floats, Floats]:
    """(best by AUC, best by log loss) of a sketch's or neighbours' corrections, in hindsight."""
    n = len(base)
    half = slice(n // 2, n)
    y, group = arrays.y[half], arrays.group[half]
    tried = [added(base, mean, lam) for mean in means for lam in LAMBDAS]
    found = [summarize(p[half], y, group) for p in tried]
    by_auc = max(range(len(tried)), key=lambda i: found[i]["auc"] or 0.0)
    by_loss = min(range(len(tried)), key=lambda i: found[i]["logloss"] or np.inf)
    return tried[by_auc], tried[by_loss]


class Bootstrap:
    """Paired differences over the last half, by resampling requests."""

    def __init__(self, arrays: Arrays, seed: int = 0) -> None:
        n = len(arrays.y)
        self._half = slice(n // 2, n)
        self._y = arrays.y[self._half]
        request = np.searchsorted(arrays.requests, np.arange(n // 2, n), side="right")
        rng = np.random.default_rng(seed)
        requests = int(request[-1] - request[0]) + 1
        draws = rng.multinomial(requests, np.full(requests, 1.0 / requests), RESAMPLES)
        self._weights = draws[:, request - request[0]].astype(np.float64)  # (RESAMPLES, n of the half)
        self._known: dict[str, tuple[Floats, Floats]] = {}

    def difference(self, a: Floats, b: Floats) -> dict[str, list[float]]:
        """AUC and log loss of `a` minus those of `b`: [difference, 2.5 %, 97.5 %]."""
        first, second = self._resampled(a), self._resampled(b)
        outcome = {}
        for i, figure in enumerate(("auc", "logloss")):
            d = first[i] - second[i]
            outcome[figure] = [float(d[0]), *(float(q) for q in np.quantile(d[1:], [0.025, 0.975]))]
        return outcome

    def _resampled(self, p: Floats) -> tuple[Floats, Floats]:
        """AUC and log loss as they are, and of each resample."""
        q = p[self._half]
        key = xxhash.xxh3_128_hexdigest(q)
        if key in self._known:
            return self._known[key]
        clipped = np.clip(q, 1e-9, 1 - 1e-9)
        loss = np.where(self._y > 0.5, -np.log(clipped), -np.log1p(-clipped))
        order = np.argsort(q, kind="stable")
        ranked, y = q[order], self._y[order]
        firsts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        weights = np.vstack([np.ones(len(y)), self._weights[:, order]])
        areas, losses = np.empty(len(weights)), np.empty(len(weights))
        for i, w in enumerate(weights):
            pos = np.add.reduceat(w * y, firsts)
            neg = np.add.reduceat(w * (1.0 - y), firsts)
            below = np.cumsum(neg) - neg
            areas[i] = (pos * (below + 0.5 * neg)).sum() / (pos.sum() * neg.sum())
            losses[i] = (w * loss[order]).sum() / w.sum()
        self._known[key] = areas, losses
        return areas, losses


def evaluate(
    arrays: Arrays,
    freshet: Mapping[str, npt.NDArray[Any]],
    sketch: Mapping[str, npt.NDArray[Any]],
    knn: Mapping[str, npt.NDArray[Any]],
    others: Mapping[str, Mapping[str, npt.NDArray[Any]]],
) -> dict[str, Any]:
    """All figures of one stream and seed."""
    outcome: dict[str, Any] = {"learners": {}, "staleness": {}, "differences": {}}
    bootstrap = Bootstrap(arrays)
    predictions = {name: array.astype(np.float64) for name, array in freshet.items()}
    base, corrected = predictions["live base"], predictions["live corrected"]
    learners = outcome["learners"]
    learners["freshet base"] = figures(base, arrays)
    learners["freshet corrected"] = figures(corrected, arrays)
    for name in ("frozen", "daily"):
        learners[f"{name} base"] = figures(predictions[f"{name} base"], arrays)
    for library, runs in others.items():
        settings = {name: p.astype(np.float64) for name, p in runs.items() if p.ndim}
        if not settings:
            continue
        found = {name: figures(p, arrays) for name, p in settings.items()}
        best = max(found, key=lambda name: found[name]["last_half"]["auc"])
        calm = min(found, key=lambda name: found[name]["last_half"]["logloss"])
        learners[library] = {**found[best], "setting": best}
        outcome["differences"][f"freshet base - {library}"] = {
            "auc": bootstrap.difference(base, settings[best])["auc"],
            "logloss": bootstrap.difference(base, settings[calm])["logloss"],
        }
        if len(found) > 1:
            learners[f"{library}, best log loss"] = {**found[calm], "setting": calm}
            outcome[f"{library} grid"] = {
                name: {figure: one["last_half"][figure] for figure in ("auc", "logloss")}
                for name, one in found.items()
            }
    for name in (name.removesuffix(" base") for name in predictions if name.endswith(" base")):
        outcome["staleness"][name] = _staleness(
            name,
            predictions[f"{name} base"],
            predictions[f"{name} corrected"],
            arrays,
            bootstrap,
            sketch,
            knn,
        )
    frozen, live = outcome["staleness"]["frozen"], learners["freshet base"]["last_half"]["auc"]
    gained = live - frozen["base"]["auc"]
    outcome["regained"] = (frozen["corrected"]["auc"] - frozen["base"]["auc"]) / gained if gained else None
    return outcome


def _staleness(
    name: str, base: Floats, corrected: Floats, arrays: Arrays, bootstrap: Bootstrap,
    sketch: Mapping[str, npt.NDArray[Any]], knn: Mapping[str, npt.NDArray[Any]],
) -> dict[str, Any]:  # fmt: skip
    outcome: dict[str, Any] = {
        "base": figures(base, arrays)["last_half"],
        "corrected": figures(corrected, arrays)["last_half"],
        "corrected - base": bootstrap.difference(corrected, base),
    }
    for memory, means in (("sketch", sketch), ("knn", knn)):
        if not means:
            continue
        mine = [means[kept] for kept in (name, "all") if kept in means]
        by_auc, by_loss = best_lambda(base, mine, arrays)
        outcome[memory] = {
            "auc": figures(by_auc, arrays)["last_half"]["auc"],
            "logloss": figures(by_loss, arrays)["last_half"]["logloss"],
        }
        outcome[f"corrected - {memory}"] = {
            "auc": bootstrap.difference(corrected, by_auc)["auc"],
            "logloss": bootstrap.difference(corrected, by_loss)["logloss"],
        }
    return outcome


# Over streams and seeds

Results = Mapping[str, Mapping[int, Any]]  # stream: seed: what `evaluate` returned


def over_seeds(by_seed: Mapping[int, Any], get: Callable[[Any], float | None]) -> tuple[float, float]:
    """Mean and standard deviation over seeds of a figure; NaN where no seed has it."""
    found = [v for v in (get(outcome) for outcome in by_seed.values()) if v is not None]
    if not found:
        return float("nan"), float("nan")
    return float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def at(*path: str) -> Callable[[Any], float | None]:
    """A function that takes the figure at a path from a result of `evaluate`; the middle of an interval."""

    def get(outcome: Any) -> float | None:
        for step in path:
            outcome = outcome.get(step) if isinstance(outcome, dict) else None
        return outcome[0] if isinstance(outcome, list) else outcome

    return get


def markdown(results: Results) -> str:
    """The whole table, for a page."""
    lines = ["### Learners, last half: AUC (spread over seeds)", ""]
    counted = [s for s in results if s not in APART]
    learners = list(dict.fromkeys(n for s in results for t in results[s].values() for n in t["learners"]))
    for part, figure in (
        ("last_half", "auc"), ("last_half", "logloss"), ("last_half", "gauc"), ("last_half", "calibration"),
        ("last_half", "ece"), ("whole", "auc"), ("whole", "logloss"),
    ):  # fmt: skip
        title = f"{figure}, {part.replace('_', ' ')}: mean (spread over seeds)"
        rows = [
            [name, *(_cell(over_seeds(results[s], at("learners", name, part, figure))) for s in results)]
            for name in learners
        ]
        for row, name in zip(rows, learners, strict=True):
            row.append(
                _cell(
                    (
                        _mean(
                            [over_seeds(results[s], at("learners", name, part, figure))[0] for s in counted]
                        ),
                        0.0,
                    )
                )
            )
        lines += ["", f"#### {title}", "", *table(["learner", *results, "mean"], rows)]
    lines += [
        "",
        "### Differences, last half: mean over seeds [least lower bound, greatest upper bound of 95 %]",
        "",
    ]
    pairs = list(dict.fromkeys(n for s in results for t in results[s].values() for n in t["differences"]))
    for figure in ("auc", "logloss"):
        rows = [
            [pair, *(_interval(results[s], ("differences", pair, figure)) for s in results)] for pair in pairs
        ]
        lines += ["", f"#### {figure}", "", *table(["difference", *results], rows)]
    stale = list(dict.fromkeys(n for s in results for t in results[s].values() for n in t["staleness"]))
    lines += ["", "### By the age of the served base, last half", ""]
    for figure in ("auc", "logloss"):
        rows = []
        for name in stale:
            for who in ("base", "corrected", "sketch", "knn"):
                cells = [over_seeds(results[s], at("staleness", name, who, figure))[0] for s in results]
                rows.append(
                    [
                        f"{name}: {who}",
                        *(number(c, 4) for c in cells),
                        number(_mean([c for s, c in zip(results, cells, strict=True) if s in counted]), 4),
                    ]
                )
        lines += ["", f"#### {figure}", "", *table(["age: answer", *results, "mean"], rows)]
    rows = []
    for name in stale:
        for pair in ("corrected - base", "corrected - sketch", "corrected - knn"):
            for figure in ("auc", "logloss"):
                rows.append(
                    [
                        f"{name}: {pair}, {figure}",
                        *(_interval(results[s], ("staleness", name, pair, figure)) for s in results),
                    ]
                )
    lines += [
        "",
        "#### Differences: mean over seeds [95 %]",
        "",
        *table(["age: difference", *results], rows),
    ]
    cells = [
        number(100 * over_seeds(results[s], lambda t: t["regained"])[0], 0) if s in DRIFTING else ""
        for s in results
    ]
    lines += [
        "",
        "#### Of what full online learning gains over a frozen base, the corrected frozen base regains (%)",
        "",
    ]
    lines += table(list(results), [cells])
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


def number(value: float, digits: int) -> str:
    """A figure with so many digits; nothing for NaN."""
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _cell(mean_spread: tuple[float, float]) -> str:
    mean, spread = mean_spread
    return "" if np.isnan(mean) else f"{mean:.4f}" + (f" ({spread:.4f})" if spread else "")


def _interval(by_seed: Mapping[int, Any], path: tuple[str, ...]) -> str:
    found = []
    for outcome in by_seed.values():
        for step in path:
            outcome = outcome.get(step) if isinstance(outcome, dict) else None
        if outcome is not None:
            found.append(outcome)
    if not found:
        return ""
    d = np.array(found)
    return f"{d[:, 0].mean():+.5f} [{d[:, 1].min():+.4f}, {d[:, 2].max():+.4f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def goals(results: Results) -> list[str]:
    """Each goal, and the streams that miss it, in words."""
    outcome = []
    gaps = defaultdict(list)
    margins = []
    for s, by_seed in results.items():
        if s in APART:
            continue
        a, b = (over_seeds(by_seed, at("differences", "freshet base - vw", f))[0] for f in ("auc", "logloss"))
        if not np.isnan(a):
            margins.append(a)
            if a <= 0 or b >= 0:
                gaps["base above the best VW"].append(f"{s} ({a:+.4f} AUC, {b:+.4f} log loss)")
        for name in next(iter(by_seed.values()))["staleness"]:
            for pair, slack in (
                ("corrected - base", 1e-4),
                ("corrected - sketch", 0.0),
                ("corrected - knn", 0.0),
            ):
                a, b = (over_seeds(by_seed, at("staleness", name, pair, f))[0] for f in ("auc", "logloss"))
                if a < -slack or b > slack:
                    gaps[f"{pair} at {name}"].append(f"{s} ({a:+.5f} AUC, {b:+.5f} log loss)")
        if s in DRIFTING:
            regained = over_seeds(by_seed, lambda t: t["regained"])[0]
            if regained < 0.9:
                gaps["90 % regained"].append(f"{s} ({regained:.0%})")
        for who in ("freshet base", "freshet corrected"):
            c, e = (
                over_seeds(by_seed, at("learners", who, "last_half", f))[0] for f in ("calibration", "ece")
            )
            if not 0.98 <= c <= 1.02 or e > 0.01:
                gaps[f"calibration of {who}"].append(f"{s} ({c:.3f}, ECE {e:.4f})")
    if margins:
        outcome.append(
            f"base above the best VW by {np.mean(margins):+.4f} AUC on average over {len(margins)} streams"
        )
    outcome += [f"MISSED {goal}: {', '.join(streams)}" for goal, streams in sorted(gaps.items())]
    return outcome
