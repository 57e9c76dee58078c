"""Position bias: places as a column, weights from logged propensities, neither, on randomised orders.

    .venv/bin/python benchmarks/quality_propensity.py [--deep] [--seeds 3] [--quick] [--json OUT]

Slates of five of 300 items for 200 people. A policy draws the order (Plackett-Luce) by what it thinks of
each item, which has nothing to do with how good it is; the log has each candidate's place, and the
probability with which it was put there. People look at place k with probability θ_k, and

1. **look**: click what they like among what they look at (the examination model);
2. **leave**: look from the top down, and leave with the first click (the cascade model).

One request of five has a random order. It is predicted and not learned: the figures are of these requests,
over the last two thirds. AUC is that of the clicks; `order` the share of pairs within a request that are
ordered as the truth orders them.

- **neither**; **place**: a feature of kind place; **propensity**: `propensity_clip = 10`; **both**.
- **clicks alone, by 1 / θ**: the likelihood of a click counts by 1 / θ, that of no click by 1.
- **unbiased, by 1 / θ**: a click counts y / θ as a click and 1 - y / θ as none (arXiv 1909.03601, section
  4). These two know the true θ, which no log has.
"""

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from learner.features.spec import FeatureSpec
from learner.metrics import auc
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.records.targets import UNDECLARED, Target, Targets
from stream.records.types import Example

Floats = npt.NDArray[np.float64]
Spec = Mapping[str, FeatureSpec]
START = 1_700_000_000.0
ITEMS, PEOPLE, SLATE, CHUNK = 300, 200, 5, 400
LOOKED = np.array([1.0, 0.6, 0.4, 0.28, 0.2])  # θ
SURE = 1.0  # of the policy, of what it thinks
CLIP = 10.0
IDS: Spec = {"user": FeatureSpec(), "item": FeatureSpec()}
PLACE: Spec = {"place": FeatureSpec(kind="place")}
WEIGHED = Targets({"click": Target(propensity_clip=CLIP)})
ORDERS = np.array(list(itertools.permutations(range(SLATE))))  # (120, SLATE), the candidate at each place


class World(NamedTuple):
    """Requests, and what is true of their candidates."""

    examples: list[Example]
    liked: Floats  # (requests, SLATE), the probability of a click where it is looked at
    random: npt.NDArray[np.bool_]  # (requests,)


def world(requests: int, kind: str, seed: int) -> World:
    rng = np.random.default_rng(seed)
    good, taste = rng.normal(size=ITEMS), 0.5 * rng.normal(size=(PEOPLE, ITEMS))
    thought = rng.normal(size=ITEMS)  # by the policy
    examples, liked = [], np.zeros((requests, SLATE))
    drawn_at_random = rng.random(requests) < 0.2
    for q in range(requests):
        user = int(rng.integers(PEOPLE))
        items = rng.choice(ITEMS, SLATE, replace=False)
        likes = 1.0 / (1.0 + np.exp(0.7 - good[items] - taste[user, items]))
        strength = np.exp(np.where(drawn_at_random[q], 0.0, SURE) * thought[items])
        behind = np.cumsum(strength[ORDERS][:, ::-1], axis=1)[:, ::-1]
        chance = (strength[ORDERS] / behind).prod(axis=1)  # of each order
        order = ORDERS[rng.choice(len(ORDERS), p=chance / chance.sum())]
        place = np.argsort(order)
        propensity = [float(chance[ORDERS[:, place[i]] == i].sum()) for i in range(SLATE)]
        looked = rng.random(SLATE) < (LOOKED[place] if kind == "look" else 1.0)
        clicked = looked & (rng.random(SLATE) < likes)
        if kind == "leave":
            first = place[clicked].min(initial=SLATE)
            clicked &= place == first
        liked[q] = likes
        examples.append(
            Example(
                str(q),
                START + q,
                START + q,
                [{"item": int(i)} for i in items],
                clicked.astype(float).tolist(),
                {"user": user},
                place=place.tolist(),
                propensity=propensity,
                weight=[0.0] * SLATE if drawn_at_random[q] else None,
            )
        )
    return World(examples, liked, drawn_at_random)


def by_examination(examples: Sequence[Example], unbiased: bool) -> list[Example]:
    """Examples whose clicks count by 1 / θ. An unbiased one is followed by a correction: a click that counted
    once counts once more, 1 / θ - 1 times, and as often less as none."""
    found = []
    for e in examples:
        shares = [1.0 / LOOKED[p] if y else 1.0 for y, p in zip(e.labels, e.place or [], strict=True)]
        if e.weight is not None or not any(e.labels):
            found.append(e)
        elif not unbiased:
            found.append(msgspec.structs.replace(e, weight=shares))
        else:
            mine = [i for i, share in enumerate(shares) if share > 1.0]
            found.append(e)
            if mine:
                found.append(
                    Example(
                        e.request_id, e.time, e.decided, [e.candidates[i] for i in mine], [1.0] * len(mine),
                        e.context, weight=[shares[i] - 1.0 for i in mine], before=[0.0] * len(mine),
                    )
                )  # fmt: skip
    return found


def run(examples: Sequence[Example], features: Spec, targets: Targets, deep: str) -> Floats:
    """The predictions of the requests that are not learned, (requests, SLATE)."""
    trainer = Trainer(Model(features, LearnerSettings(deep=deep), targets, learning=True))
    done = [g for at in range(0, len(examples), CHUNK) for g in trainer.learn(examples[at : at + CHUNK])]
    done += trainer.finish()
    p = np.concatenate([group.p[group.weight == 0.0] for group in done])
    return p.reshape(-1, SLATE)


def figures(found: World, p: Floats) -> dict[str, float]:
    y = np.array([e.labels for e, one in zip(found.examples, found.random, strict=True) if one])
    truth = found.liked[found.random]
    late = slice(len(y) // 3, None)
    p, y, truth = p[late], y[late], truth[late]
    i, j = np.triu_indices(SLATE, 1)
    right = (p[:, i] - p[:, j]) * (truth[:, i] - truth[:, j]) > 0.0
    return {"auc": auc(p.ravel(), y.ravel()) or 0.5, "order": float(right.mean()), "mean p": float(p.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--deep", action="store_true", help="with the deep part; without, the fast part alone"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    deep = "dcn" if options.deep else "none"
    told: dict[str, dict[str, dict[str, float]]] = {}
    for kind in ("look", "leave"):
        rows: dict[str, list[dict[str, float]]] = {}
        for seed in range(options.seeds):
            found = world(4_000 if options.quick else 20_000, kind, seed)
            for name, examples, features, targets in (
                ("neither", found.examples, IDS, UNDECLARED),
                ("place", found.examples, {**IDS, **PLACE}, UNDECLARED),
                ("propensity", found.examples, IDS, WEIGHED),
                ("both", found.examples, {**IDS, **PLACE}, WEIGHED),
                ("clicks alone, by 1 / θ", by_examination(found.examples, False), IDS, UNDECLARED),
                ("unbiased, by 1 / θ", by_examination(found.examples, True), IDS, UNDECLARED),
            ):
                rows.setdefault(name, []).append(figures(found, run(examples, features, targets, deep)))
        told[kind] = {}
        for name, each in rows.items():
            told[kind][name] = one = {key: float(np.mean([row[key] for row in each])) for key in each[0]}
            more = [row["auc"] - base["auc"] for row, base in zip(each, rows["neither"], strict=True)]
            spread = f" ({min(more):+.4f} to {max(more):+.4f})" if name != "neither" else ""
            print(
                f"{kind:<6}{name:<24} AUC {one['auc']:.4f}{spread:<22} order {one['order']:.4f}  "
                f"mean p {one['mean p']:.3f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
