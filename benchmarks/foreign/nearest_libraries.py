"""Libraries for nearest neighbours on the vectors of `../nearest.py`, in an environment of its own.

    python nearest_libraries.py VECTORS.npz

Of each: time to build, memory, time of a search for 384 items, their recall of the exact 384 and of the 50
best items by the whole model, time to replace 1,000 vectors (what a second of a live stream changes), and
whether 1,000 deleted items stay away. `exact` is one product with all vectors, by NumPy.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import numpy.typing as npt

FOUND = 384
CHANGED = 1_000
Array = npt.NDArray[Any]


class Library(NamedTuple):
    """One index: how it is built, asked and changed."""

    build: Callable[[Array], Any]
    search: Callable[[Any, Array], Array]
    replace: Callable[[Any, Array, Array], Any]
    delete: Callable[[Any, Array], Any]


def exact() -> Library:
    """A product with everything."""

    def search(index: Array, query: Array) -> Array:
        values = index @ query
        least = np.partition(values, len(values) - FOUND)[len(values) - FOUND]
        return np.flatnonzero(values >= least)

    def replace(index: Array, ids: Array, vectors: Array) -> None:
        index[ids] = vectors

    def delete(index: Array, ids: Array) -> None:
        index[ids] = -1e6  # the first column is 1, and every query has a weight for it

    return Library(lambda vectors: vectors.copy(), search, replace, delete)


def usearch() -> Library:
    """HNSW by Unum."""
    from usearch.index import Index

    def build(vectors: Array) -> Any:
        index = Index(
            ndim=vectors.shape[1], metric="ip", connectivity=16, expansion_add=128, expansion_search=512
        )
        index.add(np.arange(len(vectors)), vectors, threads=1)
        return index

    def replace(index: Any, ids: Array, vectors: Array) -> None:
        index.remove(ids)
        index.add(ids, vectors, threads=1)

    return Library(
        build,
        lambda index, q: index.search(q, FOUND, threads=1).keys,
        replace,
        lambda index, ids: index.remove(ids),
    )


def hnswlib() -> Library:
    """HNSW by its authors."""
    import hnswlib as library

    def build(vectors: Array) -> Any:
        index = library.Index(space="ip", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), M=16, ef_construction=128)
        index.set_num_threads(1)
        index.add_items(vectors, np.arange(len(vectors)))
        index.set_ef(512)
        return index

    return Library(
        build,
        lambda index, q: index.knn_query(q, k=FOUND)[0][0],
        lambda index, ids, vectors: index.add_items(vectors, ids),
        lambda index, ids: [index.mark_deleted(i) for i in ids],
    )


def _faiss(build: Callable[[Array], Any]) -> Library:
    """One of faiss' indexes."""

    def replace(index: Any, ids: Array, vectors: Array) -> None:
        index.remove_ids(ids)
        index.add_with_ids(vectors, ids)

    return Library(
        build,
        lambda index, q: index.search(q[None], FOUND)[1][0],
        replace,
        lambda index, ids: index.remove_ids(ids),
    )


def faiss_flat() -> Library:
    """Exact, by Meta."""
    import faiss

    faiss.omp_set_num_threads(1)

    def build(vectors: Array) -> Any:
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
        index.add_with_ids(vectors, np.arange(len(vectors)))
        return index

    return _faiss(build)


def faiss_ivf() -> Library:
    """Inverted lists, by Meta."""
    import faiss

    faiss.omp_set_num_threads(1)

    def build(vectors: Array) -> Any:
        coarse = faiss.IndexFlatIP(vectors.shape[1])
        index = faiss.IndexIVFFlat(coarse, vectors.shape[1], 256, faiss.METRIC_INNER_PRODUCT)
        index.own_fields, index.nprobe = True, 32
        coarse.this.disown()
        index.train(vectors[::10])
        index.add_with_ids(vectors, np.arange(len(vectors)))
        return index

    return _faiss(build)


def memory_mb() -> float:
    """Resident now."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    """Measure and print."""
    with np.load(sys.argv[1]) as saved:
        vectors, queries, best = saved["vectors"], saved["queries"], saved["best"]
    rng = np.random.default_rng(0)
    truth = [np.argsort(-(vectors @ query))[:FOUND] for query in queries]
    for make in (exact, faiss_flat, faiss_ivf, hnswlib, usearch):
        library = make()
        before, began = memory_mb(), time.process_time()
        index = library.build(vectors)
        build_s, grew = time.process_time() - began, memory_mb() - before
        seconds, found = [], []
        for _ in range(5):
            for query in queries:
                began = time.thread_time()
                found.append(library.search(index, query))
                seconds.append(time.thread_time() - began)
        found = found[: len(queries)]
        exactly = np.mean([len(set(f) & set(t)) / FOUND for f, t in zip(found, truth, strict=True)])
        whole = np.mean([len(set(f) & set(b)) / len(b) for f, b in zip(found, best, strict=True)])
        ids = rng.permutation(len(vectors))[:CHANGED]
        began = time.process_time()
        library.replace(index, ids, vectors[ids] + np.float32(0.01))
        replace_ms = 1e3 * (time.process_time() - began)
        gone = np.array(truth[0][:CHANGED])
        began = time.process_time()
        library.delete(index, gone)
        delete_ms = 1e3 * (time.process_time() - began)
        back = len(set(library.search(index, queries[0])) & set(gone.tolist()))
        p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
        print(
            f"{make.__name__:<11} build {build_s:6.1f} s, {grew:5.0f} MB; "
            f"search {p50:5.2f} ms, p99 {p99:5.2f}; "
            f"of the exact {FOUND} {exactly:.3f}; of the model's 50 {whole:.3f}; {CHANGED} replaced "
            f"{replace_ms:7.1f} ms; {len(gone)} deleted {delete_ms:6.1f} ms, {back} came back"
        )


if __name__ == "__main__":
    main()
