"""What content, calendars and places are worth, in worlds whose truth is known, and on films.

    .venv/bin/python benchmarks/quality_content.py [--movies FOLDER] [--data FOLDER] [--deep] [--ratings]

1. **Content.** Items appear all the time and are shown about 60 times each. A click depends on what an item
   is about and who asks. An item's vector of 64 numbers, or its title of 6 to 13 words, tells what it is
   about, with noise. Compared: user and item alone, and with the content. AUC over the last half, and of
   candidates that were shown fewer than five times before.
2. **Time and place on Earth.** People want other things on weekday evenings in Berlin, and in each town.
3. **Place in the order.** Candidates are shown in the order of a policy that likes some of them by mistake,
   and in one request of five at random. A click falls by .8 logits a place. AUC over the requests whose order
   was random, and the scores against the true logits at the first place.
4. **Films** (MovieTweetings; MovieLens with --data): genres, titles and years.

The fast part alone; with --deep the deep part too. Each world and feature set is one run from empty.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from quality_parts.public_data import load, movielens_titles

from learner.features.spec import FeatureSpec
from learner.metrics import auc
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.files.sources import DataSettings, read_examples
from stream.records.types import Example, Features

Spec = Mapping[str, FeatureSpec]
ID = FeatureSpec()
HOUR = FeatureSpec(kind="hour")
Tell = Callable[[str, dict[str, float]], None]
START = 1_700_000_000.0
NEW = 5
CHUNK = 400
TOPICS, LENGTH = 8, 64


def run(examples: Sequence[Example], features: Spec, deep: str) -> tuple[Model, npt.NDArray[np.float64]]:
    """(the model at the end, the prediction of each candidate before it was learned)."""
    trainer = Trainer(Model(features, LearnerSettings(deep=deep), learning=True))
    done = [g for at in range(0, len(examples), CHUNK) for g in trainer.learn(examples[at : at + CHUNK])]
    done += trainer.finish()
    return trainer.model, np.concatenate([group.p for group in done])


def figures(examples: Sequence[Example], p: npt.NDArray[np.float64], item: str = "item") -> dict[str, float]:
    """AUC over the last half of the candidates, and over those of them that were new."""
    y = np.array([label for example in examples for label in example.labels])
    before: Counter[Any] = Counter()
    seen = []
    for example in examples:
        seen += [before[c.get(item)] for c in example.candidates]
        before.update(c.get(item) for c in example.candidates)
    half = np.arange(len(y)) >= len(y) // 2
    new = half & (np.array(seen) < NEW)
    return {"auc": auc(p[half], y[half]) or 0.5, "auc_new": auc(p[new], y[new]) or 0.5}


def content_world(requests: int, seed: int = 0) -> list[Example]:
    """Slates of five from the sixty newest items, each with a vector and a title."""
    rng = np.random.default_rng(seed)
    taste, quality = rng.normal(size=(400, TOPICS)), rng.normal(size=TOPICS)
    mixing, mean = rng.normal(size=(TOPICS, LENGTH)), 1.5 * rng.normal(size=LENGTH)
    items = requests * 5 // 60
    about = rng.dirichlet(np.full(TOPICS, 0.3), size=items) - 1 / TOPICS
    liked = rng.normal(size=items) * 0.5
    vectors = 2.0 * about @ mixing + mean + 0.7 * rng.normal(size=(items, LENGTH))
    titles = []
    for i in range(items):
        words = []
        for _ in range(rng.integers(6, 14)):
            if rng.random() < 0.4:
                words.append(f"common{int(400 * rng.random() ** 3)}")
            else:
                topic = rng.choice(TOPICS, p=about[i] + 1 / TOPICS)
                words.append(f"topic{topic}word{int(100 * rng.random() ** 2)}")
        titles.append(" ".join(words))
    found = []
    for q in range(requests):
        user = int(400 * rng.random() ** 1.5)
        newest = min(items * q // requests + 60, items)
        shown = rng.choice(np.arange(max(newest - 60, 0), newest), size=5, replace=False)
        logit = -1.2 + liked[shown] + about[shown] @ (2.5 * taste[user] + quality)
        labels = (rng.random(5) < 1.0 / (1.0 + np.exp(-logit))).astype(float).tolist()
        candidates: list[Features] = [
            {"item": int(i), "vector": vectors[i].tolist(), "title": titles[i]} for i in shown
        ]
        found.append(Example(str(q), START + 30.0 * q, START + 30.0 * q, candidates, labels, {"user": user}))
    return found


def calendar_world(requests: int, seed: int = 0) -> list[Example]:
    """One of 30 items for somebody in one of 40 towns, at any hour of ten weeks."""
    rng = np.random.default_rng(seed)
    towns = np.stack([rng.uniform(36, 60, 40), rng.uniform(-9, 25, 40)], axis=1)
    by_town, by_hour = 0.7 * rng.normal(size=(40, 30)), 0.7 * rng.normal(size=(30, 8))
    found = []
    for q in range(requests):
        time = START + q * 70 * 86_400.0 / requests
        # what the evenings of weekends are like: eight parts of a week, by hours in Berlin's winter
        local = int((time + 3600.0) // 3600)
        part = 4 * ((local // 24 + 3) % 7 >= 5) + (local % 24) // 6
        town, item = int(rng.integers(40)), int(rng.integers(30))
        p = 1.0 / (1.0 + np.exp(1.0 - by_town[town, item] - by_hour[item, part]))
        where = (towns[town] + 0.02 * rng.normal(size=2)).tolist()
        context: Features = {"lat": where[0], "lon": where[1]}
        found.append(Example(str(q), time, time, [{"item": item}], [float(rng.random() < p)], context))
    return found


def place_world(requests: int, seed: int = 0) -> tuple[list[Example], npt.NDArray[np.float64]]:
    """(slates of six of 60 items, the items' true logits at the first place)."""
    rng = np.random.default_rng(seed)
    true = 0.8 * rng.normal(size=60) - 0.5
    policy = 0.5 * true + 1.0 * rng.normal(size=60)
    found = []
    for q in range(requests):
        shown = rng.choice(60, size=6, replace=False)
        drawn = rng.random() < 0.2
        order = rng.permutation(6) if drawn else np.argsort(-policy[shown])
        place = np.argsort(order)
        p = 1.0 / (1.0 + np.exp(0.8 * place - true[shown]))
        labels = (rng.random(6) < p).astype(float).tolist()
        candidates: list[Features] = [{"item": int(i)} for i in shown]
        time = START + q
        found.append(
            Example(str(q), time, time, candidates, labels, {"drawn": int(drawn)}, place=place.tolist())
        )
    return found, true


def films(folder: Path) -> list[Example]:
    """Ratings with the films' titles and years."""
    titles = {}
    for line in (folder / "movies.dat").read_text(encoding="utf-8").splitlines():
        film, _, rest = line.partition("::")
        titles[int(film)] = rest.rpartition("::")[0]
    found = []
    for example in read_examples(folder, DataSettings(format="movietweetings")):
        candidate = dict(example.candidates[0])
        title = titles.get(int(str(candidate["movie"])), "")
        year = re.search(r"\s*\((\d{4})\)\s*$", title)
        candidate["title"] = title[: year.start()] if year else title
        if year:
            candidate["year"] = int(year[1])
        found.append(msgspec.structs.replace(example, candidates=[candidate]))
    return found


def rated_streams(options: argparse.Namespace) -> Iterator[tuple[str, list[Example], Spec, str]]:
    """(name, ratings with genres, titles and years, what else is known, the movies' feature)."""
    if options.movies:
        yield "films", films(options.movies), {"user": ID, "movie": ID}, "movie"
    if options.data:
        features, examples = load("movielens", options.data)
        titles = movielens_titles(options.data)
        for candidate in (example.candidates[0] for example in examples):
            candidate["title"] = titles[int(str(candidate["movie_id"]))]
            if "released" in candidate:
                candidate["year"] = candidate["released"]
        known = {name: features[name] for name in features if name not in ("genres", "released", "hour")}
        yield "movielens", examples, known, "movie_id"


def simulated(tell: Tell, n: int, deep: str) -> None:
    """What is worth what in the worlds, of `n` requests or thrice as many."""
    base = {"user": ID, "item": ID}
    vector = FeatureSpec(kind="vector", length=LENGTH, of="item")
    examples = content_world(n)
    for name, more in (
        ("user and item", {}),
        ("with vectors", {"vector": vector}),
        ("with vectors, 32 directions", {"vector": msgspec.structs.replace(vector, directions=32)}),
        ("with titles", {"title": FeatureSpec(kind="text", of="item")}),
        ("with titles, no pairs", {"title": FeatureSpec(kind="text", of="item", pairs=False)}),
    ):
        tell(f"content: {name}", figures(examples, run(examples, base | more, deep)[1]))

    examples = calendar_world(3 * n)
    geo = FeatureSpec(kind="geo", latitude="lat", longitude="lon")
    week = FeatureSpec(kind="calendar", zone="Europe/Berlin")
    numbers = {"lat": FeatureSpec(kind="number"), "lon": FeatureSpec(kind="number")}
    for name, more in (
        ("item and hour", {"hour": HOUR}),
        ("item and calendar", {"when": week}),
        ("item, hour, two numbers", {"hour": HOUR, **numbers}),
        ("item, hour, geo", {"hour": HOUR, "where": geo}),
        ("item, calendar, geo", {"when": week, "where": geo}),
    ):
        p = run(examples, {"item": ID} | more, deep)[1]
        tell(f"calendar: {name}", {"auc": figures(examples, p)["auc"]})

    examples, true = place_world(n)
    drawn = np.array([bool(e.context["drawn"]) for e in examples for _ in e.candidates])
    drawn[: len(drawn) // 2] = False
    y = np.array([label for e in examples for label in e.labels])
    for name, more in (("items alone", {}), ("with place", {"place": FeatureSpec(kind="place")})):
        model, p = run(examples, {"item": ID} | more, deep)
        z = model.score_requests([Example("q", START, START, [{"item": i} for i in range(60)], [0.0] * 60)]).z
        tell(f"place: {name}", {
            "auc_random_order": auc(p[drawn], y[drawn]) or 0.5,
            "correlation_with_truth": float(np.corrcoef(z, true)[0, 1]),
            "mean_error_logits": float(np.mean(z - true)),
        })  # fmt: skip


def ratings(tell: Tell, options: argparse.Namespace, deep: str) -> None:
    """What is worth what for movies."""
    for stream, examples, rated, item in rated_streams(options):
        year, title = FeatureSpec(kind="number"), FeatureSpec(kind="text", of=item)
        genres = {"genres": FeatureSpec(kind="ids")}
        for name, more in (
            ("ids", {}),
            ("genres", genres),
            ("years", {"year": year}),
            ("titles", {"title": title}),
            ("genres and years", {**genres, "year": year}),
            ("genres, years, titles", {**genres, "year": year, "title": title}),
            ("genres, a calendar for hour", {**genres, "hour": FeatureSpec(kind="calendar")}),
        ):
            p = run(examples, {**rated, "hour": HOUR, **more}, deep)[1]
            tell(f"{stream}: {name}", figures(examples, p, item))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--movies", type=Path, help="the folder of MovieTweetings")
    parser.add_argument("--data", type=Path, help="folder of the packages of quality_public.py")
    parser.add_argument("--ratings", action="store_true", help="only the films")
    parser.add_argument("--deep", action="store_true", help="with the deep part")
    parser.add_argument("--quick", action="store_true", help="a sixth of the requests")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    deep, n = "dcn" if options.deep else "none", 2_000 if options.quick else 12_000
    found: dict[str, dict[str, float]] = {}

    def tell(name: str, values: dict[str, float]) -> None:
        found[name] = values
        print(f"{name:44s}", "  ".join(f"{key} {value:.4f}" for key, value in values.items()), flush=True)

    if not options.ratings:
        simulated(tell, n, deep)
    ratings(tell, options, deep)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
