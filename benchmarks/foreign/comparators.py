"""The other learners of the quality benchmark, in an environment of their own (see ../README.md).

    python comparators.py EVENTS.npz OUT.npz LEARNER

reads the events that `../quality.py` wrote and writes what the learner predicted of each candidate before it
learnt any of its request. Learners: `vw` (every setting of the grid), `river lr`, `river ftrl`, `river fm`,
and `knn`, the mean label of the nearest remembered examples.

A request is predicted when it is shown and learnt when it is decided, like Freshet's: before request i the
first `visible[i]` requests have been learnt.
"""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NEWEST = 4096
NEAREST = 64
TEMPERATURE = 0.1
LEAST_SIMILAR = 0.3
"""As in Freshet's own neighbour memory (`error_memory.baselines.neighbours`)."""

VW_COMMON = "--loss_function logistic --link logistic --holdout_off --quiet -b 22"
VW_GRID = [
    f"{learner} {pairs}".strip()
    for learner in (
        *(f"-l {rate}" for rate in (0.05, 0.15, 0.5, 1.5)),
        *(f"-l {rate} --power_t 0" for rate in (0.02, 0.1)),
        *(f"--ftrl --ftrl_alpha {alpha}" for alpha in (0.02, 0.1)),
        "--coin",
    )
    for pairs in ("", "-q ::")
]
NAMESPACES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

Array = npt.NDArray[Any]


class Events(NamedTuple):
    """n candidates in R requests."""

    y: Array  # (n,)
    requests: Array  # (R + 1,)
    visible: Array  # (R,)
    fields: list[tuple[str, Array, Array]]  # name, starts (n + 1,), ids


def read_events(path: str) -> Events:
    """What `quality.py` wrote."""
    with np.load(path) as saved:
        names = [str(name) for name in saved["names"]]
        fields = [(name, saved[f"start{j}"], saved[f"ids{j}"]) for j, name in enumerate(names)]
        return Events(saved["y"], saved["requests"], saved["visible"], fields)


def values(events: Events) -> Iterator[list[list[int]]]:
    """The ids of each candidate, field by field."""
    fields = [(start.tolist(), ids.tolist()) for _, start, ids in events.fields]
    for i in range(len(events.y)):
        yield [ids[start[i] : start[i + 1]] for start, ids in fields]


def progressive(
    events: Events, predict: Callable[[int], float], learn: Callable[[int], object]
) -> npt.NDArray[np.float32]:
    """Predict each request when it is shown, learn it when it is decided."""
    p = np.empty(len(events.y), dtype=np.float32)
    starts, visible = events.requests.tolist(), events.visible.tolist()
    learnt = 0
    for r in range(len(visible)):
        while learnt < visible[r]:
            for i in range(starts[learnt], starts[learnt + 1]):
                learn(i)
            learnt += 1
        for i in range(starts[r], starts[r + 1]):
            p[i] = predict(i)
    return p


def run_vw(events: Events) -> dict[str, Array]:
    """Vowpal Wabbit, each setting of the grid."""
    lines = []
    for label, row in zip(events.y.tolist(), values(events), strict=True):
        parts = [f"|{NAMESPACES[j]} " + " ".join(map(str, ids)) for j, ids in enumerate(row) if ids]
        lines.append(f"{1 if label > 0.5 else -1} " + " ".join(parts))
    return run_vw_lines(events, lines)


def run_vw_lines(events: Events, lines: list[str]) -> dict[str, Array]:
    """Each setting of the grid, on the candidates as text, (n,)."""
    from vowpalwabbit import pyvw

    found = {}
    for setting in VW_GRID:
        vw = pyvw.Workspace(f"{VW_COMMON} {setting}")
        rows = [vw.parse(line) for line in lines]

        def predict(i: int, vw: Any = vw, rows: list[Any] = rows) -> float:
            return float(vw.predict(rows[i]))

        def learn(i: int, vw: Any = vw, rows: list[Any] = rows) -> None:
            vw.learn(rows[i])

        found[setting] = progressive(events, predict, learn)
        for row in rows:
            vw.finish_example(row)
        vw.finish()
    return found


def run_river(events: Events, kind: str) -> dict[str, Array]:
    """River: logistic regression on hashed features, or with FTRL; or a factorisation machine."""
    from river import facto, linear_model, optim, preprocessing

    if kind == "fm":
        model: Any = facto.FMClassifier(n_factors=8, seed=1)
    elif kind == "ftrl":
        model = linear_model.LogisticRegression(optim.FTRLProximal(alpha=0.1, l1=0.0, l2=1.0))
    else:
        model = preprocessing.FeatureHasher(2**20, seed=1) | linear_model.LogisticRegression(optim.SGD(0.05))
    names = [name for name, _, _ in events.fields]
    rows = [
        {f"{name}={i}": 1.0 for name, ids in zip(names, row, strict=True) for i in ids}
        for row in values(events)
    ]
    y = (events.y > 0.5).tolist()

    def predict(i: int) -> float:
        return float(model.predict_proba_one(rows[i]).get(True, 0.5))

    return {kind: progressive(events, predict, lambda i: model.learn_one(rows[i], y[i]))}


def run_knn(path: str) -> dict[str, Array]:
    """Mean label of the nearest of the newest examples, NaN where none is near; by staleness and for "all".

    Of a base that has learnt some of them, only the others are remembered; "all" remembers them anyhow.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    with np.load(path) as saved:
        y, requests, visible, h = saved["y"], saved["requests"], saved["visible"], saved["h"]
        learnt = {name[7:]: saved[name] for name in saved.files if name.startswith("learnt ")}
    learnt["all"] = np.zeros_like(visible)
    found = {}
    for name, by_request in learnt.items():
        means = np.full(len(y), np.nan, dtype=np.float32)
        for r in range(len(visible)):
            end = int(requests[visible[r]])
            first = max(int(requests[min(by_request[r], visible[r])]), end - NEWEST)
            if first == end:
                continue
            mine = slice(int(requests[r]), int(requests[r + 1]))
            near = min(NEAREST, end - first)
            similar, at = faiss.knn(h[mine], h[first:end], near, metric=faiss.METRIC_INNER_PRODUCT)
            weight = np.exp((similar - 1.0) / TEMPERATURE) * (similar >= LEAST_SIMILAR)
            total = weight.sum(axis=1)
            some = total > 0.0
            means[mine][some] = (weight * y[first + at]).sum(axis=1)[some] / total[some]
        found[name] = means
    return found


def main() -> None:
    """Run one learner."""
    events, out, learner = sys.argv[1:]
    began = time.perf_counter()
    if learner == "knn":
        found = run_knn(events)
    elif learner == "vw":
        found = run_vw(read_events(events))
    else:
        found = run_river(read_events(events), learner.removeprefix("river "))
    np.savez(out, seconds=time.perf_counter() - began, **found)


if __name__ == "__main__":
    main()
