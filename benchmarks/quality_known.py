"""What Freshet's own histories and rates are worth, in worlds whose truth is known, and on films.

    .venv/bin/python benchmarks/quality_known.py [--movies FOLDER] [--data FOLDER] [--quick] [--json OUT]

1. **Sessions.** A person clicks what is like the things that they clicked in the last hour or two, and then
   goes on to something else. What they clicked before they do not click again soon. Slates of five.
2. **Popularity.** What is popular moves within 6 to 18 hours, for everybody. In **trends**, within one to
   three; there are 60 items.
3. **Steady.** Tastes and popularity stay: histories and rates have nothing to say, and must not harm.
4. **Films** (MovieTweetings): ratings, of which each person gives few.
5. **MovieLens** (--data, the folder of `quality_public.py`): 100,000 ratings, many of each person.

Compared: the ids alone; with a history; with a rate; with both; and the same values computed outside by hand
and sent with each request. Where popularity moves, also rates of shorter windows, and as a bound the true
share of the logit that moves, sent as a number. AUC over the last half, with a 95 % interval of the gain from
20 parts of the time, log loss, and the speed of learning against that of the ids alone. Each is one run from
empty.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from quality_parts.public_data import load

from learner.features.spec import FeatureSpec
from learner.metrics import auc
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.files.sources import DataSettings, read_examples
from stream.records.types import Example, Features

Spec = Mapping[str, FeatureSpec]
START = 1_700_000_000.0
CHUNK = 400
SLATE = 5
LENGTH = 50
WINDOW_S = 6 * 3600.0
SHORTER_S = {"rate 5 min": 300.0, "rate 20 min": 1200.0, "rate 1 h": 3600.0}
MOVING = {"popularity": 1.0, "trends": 1.0 / 6.0}
"""Worlds in which popularity moves, and how long it takes, against the first."""
IDS: Spec = {"user": FeatureSpec(), "item": FeatureSpec()}
PARTS, T = 20, 2.093


class Result(NamedTuple):
    """What one run gave, over the last half of the candidates."""

    auc: float
    logloss: float
    per_s: float  # requests a second of processor time, over the last half
    parts: list[float]  # the AUC of each of `PARTS` parts


def run(examples: Sequence[Example], features: Spec, deep: str) -> Result:
    trainer = Trainer(Model(features, LearnerSettings(deep=deep), learning=True))
    done, half, begun = [], len(examples) // 2, 0.0
    for at in range(0, len(examples), CHUNK):
        if at <= half < at + CHUNK:
            begun = time.process_time()
        done += trainer.learn(examples[at : at + CHUNK])
    spent = time.process_time() - begun
    done += trainer.finish()
    p, y = (np.concatenate([getattr(group, name) for group in done]) for name in ("p", "y"))
    late = slice(len(y) // 2, None)
    loss = -np.log(np.where(y > 0.5, p, 1.0 - p))[late].mean()
    cut = zip(np.array_split(p[late], PARTS), np.array_split(y[late], PARTS), strict=True)
    parts = [auc(*part) or 0.5 for part in cut]
    return Result(auc(p[late], y[late]) or 0.5, float(loss), half / spent, parts)


def world(requests: int, kind: str, seed: int = 0, truth: bool = False) -> list[Example]:
    """Slates of five of 600 items in 40 groups, for 300 people, one request every 20 seconds.

    Where popularity moves: of 60 items, every 4 seconds; with `truth`, by how much it moves a logit."""
    rng = np.random.default_rng(seed)
    items, groups, people, topics = (60 if kind in MOVING else 600), 40, 300, 6
    group = rng.integers(groups, size=items)
    about = rng.normal(size=(groups, topics))
    liked, taste = 0.5 * rng.normal(size=items), 0.35 * rng.normal(size=(people, topics))
    phase, pace = rng.uniform(0, 2 * np.pi, size=items), rng.uniform(6, 18, size=items) * 3600.0
    pace *= MOVING.get(kind, 1.0)
    recent: dict[int, list[tuple[float, int]]] = defaultdict(list)
    found = []
    for q in range(requests):
        now = START + (4.0 if kind in MOVING else 20.0) * q
        user = int(people * rng.random() ** 1.5)
        shown = rng.choice(items, size=SLATE, replace=False)
        mine = [(t, i) for t, i in recent[user] if now - t < 4 * 3600.0][-8:]
        if kind == "sessions" and mine and rng.random() < 0.5:  # what a policy shows is like what was clicked
            alike = np.flatnonzero(group == group[mine[-1][1]])
            shown[: min(2, len(alike))] = rng.choice(alike, size=min(2, len(alike)), replace=False)
            shown = np.array(list(dict.fromkeys(shown.tolist())))
        logit = -1.5 + liked[shown] + about[group[shown]] @ taste[user]
        if kind == "sessions":
            for t, i in mine:
                fades = np.exp(-(now - t) / 5400.0)
                logit += fades * np.where(shown == i, -3.0, 1.2 * (group[shown] == group[i]))
        moved = 1.2 * np.sin(2 * np.pi * (now - START) / pace[shown] + phase[shown])
        if kind in MOVING:
            logit += moved
        labels = (rng.random(len(shown)) < 1.0 / (1.0 + np.exp(-logit))).astype(float).tolist()
        recent[user] = mine + [(now, int(i)) for i, y in zip(shown, labels, strict=True) if y]
        candidates: list[Features] = [{"item": int(i), "group": int(group[i])} for i in shown]
        if truth:
            candidates = [{**c, "truth": float(m)} for c, m in zip(candidates, moved, strict=True)]
        found.append(Example(str(q), now, now, candidates, labels, {"user": user}))
    return found


def by_hand(examples: Sequence[Example], item: str = "item", user: str = "user") -> list[Example]:
    """The same requests with the values that a feature store outside would send: the newest ids with their
    times, and the rate of each item over the window, smoothed as Freshet does."""
    past: dict[object, list[tuple[int, float]]] = defaultdict(list)
    shown: dict[object, list[tuple[float, float]]] = defaultdict(list)
    every: list[tuple[float, float]] = []
    begins: dict[object, int] = defaultdict(int)
    first = 0
    found = []
    for e in examples:
        context: Features = dict(e.context)
        whose = context.get(user, e.candidates[0].get(user))
        mine = [(i, t) for i, t in past[whose] if int(t) < int(e.time)][-LENGTH:]
        if mine:
            context |= {"past": [i for i, _ in mine], "past.at": [int(t) for _, t in mine]}
        while first < len(every) and every[first][0] < e.time - WINDOW_S:
            first += 1
        mean = np.mean([y for _, y in every[first:][-2000:]]) if first < len(every) else None
        candidates: list[Features] = []
        for c in e.candidates:
            one = dict(c)
            seen = shown[c[item]]
            while begins[c[item]] < len(seen) and seen[begins[c[item]]][0] < e.time - WINDOW_S:
                begins[c[item]] += 1
            lately = [y for _, y in seen[begins[c[item]] :]]
            if mean is not None:
                one["rate"] = float((sum(lately) + 10.0 * mean) / (len(lately) + 10.0))
            candidates.append(one)
        found.append(msgspec.structs.replace(e, context=context, candidates=candidates))
        for c, y in zip(e.candidates, e.labels, strict=True):
            shown[c[item]].append((e.time, y))
            every.append((e.time, y))
            if y:
                past[whose].append((int(str(c[item])), e.time))
    return found


def sets_of(ids: Spec, item: str, user: str, moves: bool) -> dict[str, tuple[Spec, bool]]:
    """The feature sets by name, and whether their values come with the requests."""
    history = {"past": FeatureSpec(kind="history", by=user, of=item, length=LENGTH)}
    shared = {"past": msgspec.structs.replace(history["past"], attention="shared")}
    rate = {"rate": FeatureSpec(kind="rate", of=item, window_s=WINDOW_S)}
    group = {"groups": FeatureSpec(kind="history", by=user, of="group", length=5)} if "group" in ids else {}
    found: dict[str, tuple[Spec, bool]] = {
        "ids": (ids, False),
        "history": ({**ids, **history}, False),
        "shared history": ({**ids, **shared}, False),
        "rate": ({**ids, **rate}, False),
        "both": ({**ids, **history, **rate}, False),
        "both by hand": ({**ids, **history, **rate}, True),
    }
    if group:
        found["history of groups"] = ({**ids, **group}, False)
        found["both histories"] = ({**ids, **history, **group}, False)
    if moves:
        for name, window_s in SHORTER_S.items():
            found[name] = ({**ids, "rate": msgspec.structs.replace(rate["rate"], window_s=window_s)}, False)
        found["the truth"] = ({**ids, "truth": FeatureSpec(kind="number", pairs=False)}, False)
    return found


def streams(options: argparse.Namespace) -> Iterator[tuple[str, list[Example], Spec, str, str]]:
    """(name, requests, the features of the ids alone, the items', the people's)."""
    requests = 3_000 if options.quick else 20_000
    for name in ("sessions", *MOVING, "steady"):
        shown = world(requests, name, truth=name in MOVING)
        yield name, shown, {**IDS, "group": FeatureSpec()}, "item", "user"
    if options.movies:
        films = list(read_examples(options.movies, DataSettings()))
        ids = {"user": FeatureSpec(), "movie": FeatureSpec(), "genres": FeatureSpec(kind="ids")}
        yield "films", films[: 5 * requests], ids, "movie", "user"
    if options.data:
        ids, rated = load("movielens", options.data)
        yield "movielens", rated[: 5 * requests], ids, "movie_id", "user_id"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--movies", type=Path, help="folder of MovieTweetings")
    parser.add_argument("--data", type=Path, help="folder of the packages of quality_public.py")
    parser.add_argument("--streams", default="", help="only these")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--deep", default="dcn,none")
    parser.add_argument("--only", default="", help="only these sets of features, beside the ids")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    told: dict[str, dict[str, dict[str, object]]] = {}
    for stream, examples, ids, item, user in streams(options):
        if options.streams and stream not in options.streams.split(","):
            continue
        sent = by_hand(examples, item, user)
        for deep in options.deep.split(","):
            mine = told.setdefault(f"{stream}, {deep}", {})
            base: Result | None = None
            for name, (features, outside) in sets_of(ids, item, user, stream in MOVING).items():
                if options.only and name not in ("ids", *options.only.split(",")):
                    continue
                one = run(sent if outside else examples, features, deep)
                base = base or one
                gains = np.subtract(one.parts, base.parts)
                error = T * gains.std(ddof=1) / np.sqrt(PARTS)
                mine[name] = {**one._asdict(), "gain": one.auc - base.auc, "error": error}
                print(
                    f"{stream:<11}{deep:<5}{name:<18} AUC {one.auc:.4f} ({one.auc - base.auc:+.4f} "
                    f"± {error:.4f})  log loss {one.logloss:.4f}  speed {one.per_s / base.per_s:.2f}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
