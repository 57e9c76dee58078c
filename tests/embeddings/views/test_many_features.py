"""Many features in one call: against a loop over rows and ids."""

import numpy as np
import pytest

from embeddings import FeatureTables, Ids, TableFeature, TableInputError, TableSpec

N = 40


def make(learning_rate: float = 0.5) -> FeatureTables:
    def spec(dim: int, optimizer: str) -> TableSpec:
        return TableSpec(
            dim=dim, optimizer=optimizer, learning_rate=learning_rate, init="normal", rows_max=1000
        )

    return FeatureTables(
        {
            "user": TableFeature(spec(3, "sgd")),
            "tags": TableFeature(spec(5, "sgd"), pooling="mean"),
            "seen": TableFeature(spec(2, "adagrad")),
        }
    )


def batch(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = {"user": (rng.integers(-5, 5, N), np.arange(N + 1))}
    for name in ("tags", "seen"):
        start = np.concatenate([[0], np.cumsum(rng.integers(0, 5, N))])
        found[name] = (rng.integers(0, 12, start[-1]), start)
    return found


def test_lookup_and_apply_equal_a_loop():
    tables, rng = make(), np.random.default_rng(1)
    for step in range(5):
        ids = batch(step)
        given = {name: Ids(keys, start) for name, (keys, start) in ids.items()}
        given["user"] = Ids(ids["user"][0])
        looked_up = tables.lookup(given, np.full(N, step))
        assert looked_up.vectors.shape == (N, 10)
        gradients = rng.normal(size=(N, 10)).astype(np.float32)
        sums: dict[tuple[str, int], np.ndarray] = {}
        before: dict[tuple[str, int], np.ndarray] = {}
        for name, (keys, start) in ids.items():
            table, columns = tables.tables[name], tables.columns[name]
            for r in range(N):
                own = keys[start[r] : start[r + 1]]
                vectors = table.vectors(table.find(own))
                mean = name == "tags" and len(own) > 0
                expected = vectors.mean(axis=0) if mean else vectors.sum(axis=0)
                np.testing.assert_allclose(looked_up.vectors[r, columns], expected, rtol=1e-5, atol=1e-7)
                for key, vector in zip(own.tolist(), vectors, strict=True):
                    g = gradients[r, columns] / (len(own) if mean else 1)
                    sums[name, key] = sums.get((name, key), 0.0) + g
                    before[name, key] = vector
        tables.apply(looked_up, gradients)
        for (name, key), total in sums.items():
            if name != "seen":
                after = tables.tables[name].vectors(tables.tables[name].find([key]))[0]
                np.testing.assert_allclose(after, before[name, key] - 0.5 * total, rtol=1e-4, atol=1e-5)


def test_row_without_ids_and_feature_left_out_are_zeros():
    tables = make()
    found = tables.lookup({"tags": Ids([7], [0, 0, 1])}, [1, 1])
    assert (found.vectors[0] == 0).all()
    assert (found.vectors[1, tables.columns["tags"]] != 0).all()
    assert (found.vectors[1, tables.columns["user"]] == 0).all()
    tables.apply(found, np.ones((2, 10)))
    assert [len(table) for table in tables.tables.values()] == [0, 1, 0]


def test_batch_of_no_rows():
    found = make().lookup({"user": Ids(np.empty(0, dtype=np.int64))}, [])
    assert found.vectors.shape == (0, 10)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"who": Ids([1, 2])}, "who"),
        ({"user": Ids([1])}, "1 ids"),
        ({"tags": Ids([1, 2], [0, 2])}, "start"),
        ({"tags": Ids([1, 2], [0, 2, 1])}, "start"),
        ({"tags": Ids([1, 2], [0, 0.5, 2])}, "start"),
    ],
)
def test_misuse_is_told(ids, message):
    with pytest.raises(TableInputError, match=message):
        make().lookup(ids, [1, 1])
