"""What histories, rates and attributes cost: a score, and learning, beside the same with no such features.

    .venv/bin/python benchmarks/known_cost.py [--deep dcn,none] [--candidates 50] [--quick] [--json OUT]

Requests of a person with a history of 50 for 50 of 2,000 items; each item has ten attributes: six ids, two
numbers and two lists of ids. Feature sets:

1. **sent**: the ten attributes are in the request, and nothing is kept. All others are measured against it.
2. **attributes**: Freshet knows the attributes, and the request names people and items alone.
3. **history**: 2, and a history of 50 items. The bound to keep: a score costs at most 1.5 times that of 1.
4. **rate**, **all**: 2 with a rate of one day by item, and with both.
5. **text**, **vector**: 2, and a title of eight words, or a vector of 64 numbers, of each item.
6. **list sent**: 1, and the 50 ids in the request (kind `sequence`), as a caller with a store of its own.

A score is what a server does for one: fill in, score, and write the impression for the log. Learning is a
replay's: fill in, predict, learn, 10 candidates a request. Processor time of one thread, rounds by turns: of
each request the least of the rounds, since each round asks for the same ones; of what was learned the lowest
tenth of chunks. So other work on the machine changes little.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from error_memory import MemorySettings
from learner.entities.filling import fill, filled
from learner.features.spec import FeatureSpec
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from serving.replica.answering import LiveModel
from stream.records.entities.record import EntityEvent
from stream.records.types import Example, Features, Impression, encode

Spec = Mapping[str, FeatureSpec]
START = 1_700_000_000.0
PEOPLE, ITEMS, LENGTH, CHUNK = 300, 2_000, 50, 256
IDS: Spec = {"user": FeatureSpec(), "item": FeatureSpec()}


def _of_item(**settings: object) -> FeatureSpec:
    return msgspec.convert({**settings, "of": "item"}, FeatureSpec)


ATTRIBUTES: Spec = {
    **{f"id{i}": _of_item(kind="id", pairs=i < 2) for i in range(6)},
    **{f"number{i}": _of_item(kind="number") for i in range(2)},
    **{f"tags{i}": _of_item(kind="ids", pairs=False) for i in range(2)},
}
HISTORY: Spec = {"past": _of_item(kind="history", by="user", length=LENGTH)}
RATE: Spec = {"rate": _of_item(kind="rate", window_s=86_400.0)}
TEXT: Spec = {"title": _of_item(kind="text")}
VECTOR: Spec = {"vector": _of_item(kind="vector", length=64)}
SEQUENCE: Spec = {"past": _of_item(kind="sequence", length=LENGTH)}


class Case(NamedTuple):
    """A feature set."""

    features: Spec
    sent: bool = False  # the attributes are in the request
    listed: bool = False  # and so are 50 ids


CASES = {
    "sent": Case({**IDS, **ATTRIBUTES}, sent=True),
    "attributes": Case({**IDS, **ATTRIBUTES}),
    "history": Case({**IDS, **ATTRIBUTES, **HISTORY}),
    "rate": Case({**IDS, **ATTRIBUTES, **RATE}),
    "all": Case({**IDS, **ATTRIBUTES, **HISTORY, **RATE}),
    "text": Case({**IDS, **ATTRIBUTES, **TEXT}),
    "vector": Case({**IDS, **ATTRIBUTES, **VECTOR}),
    "list sent": Case({**IDS, **ATTRIBUTES, **SEQUENCE}, sent=True, listed=True),
}


class Shop:
    """Items with attributes, and requests for them."""

    def __init__(self) -> None:
        self._rng = rng = np.random.default_rng(7)
        self.items: list[Features] = [
            {
                **{f"id{i}": f"v{rng.integers(10 * 4**i)}" for i in range(6)},
                **{f"number{i}": float(rng.normal()) for i in range(2)},
                **{f"tags{i}": rng.integers(30, size=3).tolist() for i in range(2)},
                "title": " ".join(f"word{w}" for w in (500 * rng.random(8) ** 2).astype(int)),
                "vector": rng.normal(size=64).tolist(),
            }
            for _ in range(ITEMS)
        ]

    def events(self, case: Case) -> list[EntityEvent]:
        """What is told of the items."""
        return [EntityEvent("item", i, START, self.of(i, case)) for i in range(ITEMS)]

    def of(self, item: int, case: Case) -> Features:
        """An item's attributes among a case's features."""
        return {name: value for name, value in self.items[item].items() if name in case.features}

    def example(self, q: int, candidates: int, case: Case) -> Example:
        """Request number q; a fifth of what is shown is clicked."""
        rng = self._rng
        shown = rng.choice(ITEMS, size=candidates, replace=False).tolist()
        labels = (rng.random(candidates) < 0.2).astype(float).tolist()
        context: Features = {"user": int(rng.integers(PEOPLE))}
        if case.listed:
            context["past"] = rng.integers(ITEMS, size=LENGTH).tolist()
        items: list[Features] = [{"item": i, **(self.of(i, case) if case.sent else {})} for i in shown]
        return Example(f"r{q}", START + 60.0 + q, START + 60.0 + q, items, labels, context)


def served(model: Model) -> Model:
    """A server's copy of a learner's model."""
    copy = Model(model.features, model.settings)
    for mine, its in zip(copy.tables, model.tables, strict=True):
        for keys, rows in its.pages():
            mine.load(keys, its.served(rows))
    for name, array in copy.arrays().items():
        array[...] = model.arrays()[name]
    copy.weights_moved()
    copy.entities.load(model.entities.entries())
    return copy


class Side:
    """A model of one case that learns and scores."""

    def __init__(self, case: Case, deep: str, candidates: int, learned: int, scored: int) -> None:
        shop = Shop()
        settings = LearnerSettings(deep=deep)
        self.model = Model(case.features, settings, learning=True)
        self.trainer = Trainer(self.model)
        if not case.sent:
            for event in shop.events(case):
                self.model.entities.tell(event)
        self.examples = [shop.example(q, 10, case) for q in range(2 * learned)]
        self._asked = [shop.example(2 * learned + q, candidates, case) for q in range(scored)]
        self.learn(learned)  # so that histories are full
        self.live = LiveModel(served(self.model), MemorySettings())

    def learn(self, count: int) -> list[float]:
        """Seconds of processor time a request for the next requests, of each chunk."""
        mine, self.examples = self.examples[:count], self.examples[count:]
        spent = []
        for at in range(0, len(mine), CHUNK):
            chunk = mine[at : at + CHUNK]
            begun = time.process_time()
            self.trainer.learn(fill(self.model.entities, chunk, see=True))
            spent.append((time.process_time() - begun) / len(chunk))
        return spent

    def score(self) -> list[tuple[float, float, float]]:
        """Seconds of processor time for each request: to fill in, to score, to write it."""
        spent = []
        for e in self._asked:
            asked = Impression(e.request_id, e.time, e.candidates, context=e.context)
            a = time.process_time()
            request = self.live.filled(filled(self.live.model.entities, asked))
            b = time.process_time()
            (scored,) = self.live.score([request])
            c = time.process_time()
            encode(msgspec.structs.replace(request, served=scored.served))
            spent.append((b - a, c - b, time.process_time() - c))
        return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--deep", default="dcn,none")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds, learned, scored = (12, 3_072, 25) if options.quick else (24, 12_288, 50)
    told: dict[str, dict[str, dict[str, float]]] = {}
    for deep in options.deep.split(","):
        names = [name for name in CASES if not options.only or name in ("sent", *options.only.split(","))]
        sides = {n: Side(CASES[n], deep, options.candidates, learned, scored) for n in names}
        scores: dict[str, list[list[tuple[float, float, float]]]] = {name: [] for name in sides}
        learns: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                scores[name].append(side.score())
                learns[name] += side.learn(learned // rounds)
        told[deep] = {}
        for name in sides:
            parts = (1e6 * np.min(scores[name], axis=0).mean(axis=0)).tolist()
            learning = 1e6 * float(np.quantile(learns[name], 0.1))
            told[deep][name] = one = {
                "score_us": sum(parts), "fill_us": parts[0], "predict_us": parts[1], "write_us": parts[2],
                "learn_us": learning,
            }  # fmt: skip
            base = told[deep]["sent"]
            print(
                f"{deep:<5}{name:<11} score {sum(parts):6.0f} µs ({sum(parts) / base['score_us']:.2f}): "
                f"fill in {parts[0]:5.0f}, predict {parts[1]:5.0f}, write {parts[2]:5.0f};  "
                f"learn {learning:6.0f} µs (speed {base['learn_us'] / one['learn_us']:.2f})",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
