"""`freshet warm`: vectors and weights of an older model, in a state and in a `Model`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from freshet import Model, ModelError, TrainError, WarmError
from freshet.config import Config, parse_config
from freshet.warm.command import parse_vectors, run_warm
from learner.features.encoder import Request
from learner.model.model import Model as ServedModel
from learner.role.learner import Learner
from learner.updates.follower import Follower
from stream.log.base import EXAMPLES
from stream.log.open import open_log
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    import torch


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    """Import PyTorch when a test here runs: at the collection it would cost every process four seconds."""
    global torch
    import torch


IDS = [f"i{n}" for n in range(40)]
FEATURES = {
    "user": {"kind": "id", "dim": 4},
    "item": {"kind": "id", "dim": 4},
    "rare": {"kind": "id", "dim": 4, "admit_after": 3},
    "some": {"kind": "id", "dim": 4, "admit_share": 0.3, "rows_max": 2048},
    "age": {"kind": "number"},
}
VECTORS = np.random.default_rng(0).normal(0, 1, (40, 4)).astype(np.float32)


def parquet(folder: Path, ids: list[object], vectors: list[object]) -> str:
    pq.write_table(pa.table({"id": ids, "vector": vectors}), folder / "v.parquet")
    return "v.parquet"


def npy(folder: Path) -> str:
    np.save(folder / "v.npy", VECTORS.astype(np.float64))
    np.save(folder / "ids.npy", np.array(IDS))
    return "v.npy,ids.npy"


def checkpoint(folder: Path) -> str:
    rows = VECTORS[::-1].copy()
    torch.save({"model": {"item.weight": torch.from_numpy(rows), "b": torch.zeros(3, 3)}}, folder / "c.pt")
    (folder / "vocab.json").write_text(json.dumps({one: 39 - n for n, one in enumerate(IDS)}))
    return "c.pt#item.weight,vocab.json"


def only_matrix(folder: Path) -> str:
    torch.save({"item.weight": torch.from_numpy(VECTORS), "bias": torch.zeros(3)}, folder / "o.pt")
    np.save(folder / "ids.npy", np.array(IDS))
    return "o.pt,ids.npy"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "write",
    [lambda f: parquet(f, IDS, VECTORS.tolist()), npy, checkpoint, only_matrix],
    ids=["parquet", "npy", "torch", "torch_of_one"],
)
@pytest.mark.parametrize("feature", ["item", "rare", "some"])
def test_vectors_of_each_kind_of_file_reach_their_rows(
    write: Callable[[Path], str], feature: str, tmp_path: Path
) -> None:
    model = Model(features=FEATURES)
    (line,) = model.warm({feature: write(tmp_path)})
    assert line.startswith(f"features.{feature}: 40 rows from 40 vectors of ")
    model.save("model")
    rows = [{feature: IDS[n % 40], "user": n % 3} for n in range(64)]
    before = model.predict(rows)
    assert np.array_equal(before, Model.load("model").predict(rows))
    assert np.allclose(before, 0.5)  # no weight of the network or of the fast part has learned yet
    model.learn(rows, [n % 2 for n in range(64)])
    with pytest.raises(ModelError, match="learned 64 rows already"):
        model.warm({feature: "v.npy,ids.npy"})


def config_of(folder: Path, deep: str = "logistic") -> Config:
    table = {
        "log": f"sqlite:{folder / 'log.db'}",
        "state": str(folder / "state"),
        "features": FEATURES,
        "learner": {"deep": deep},
    }
    return parse_config(table, "test")


def test_state_begins_with_vectors_and_weights_and_servers_follow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path)
    weights = np.linspace(-1, 1, ServedModel(config.features, config.learner).deep_width)
    torch.save({"module.out.w": torch.from_numpy(weights)}, "net.pt")
    run_warm(config, [f"item={npy(tmp_path)}"], "net.pt", 1e9)
    out = capsys.readouterr().err
    assert "features.item: 40 rows from 40 vectors" in out and "network: 1 taken: out.w" in out
    asked = [{"item": one, "user": 1} for one in IDS]
    log = open_log(config.log)
    with RoleState(config.state_of("learn"), "learner", None) as state:
        learner = Learner(config.features, config.learner, state)
        assert learner.model.table_rows()["item"] == 40
        learner.publish_to(log)
        Runner(log, state, learner, Subscription(EXAMPLES, "learn"), RunnerSettings()).open().step()
        expected = learner.model.score_requests(requests(asked)).z
    at = learner.model.dims[0]
    rest = expected - VECTORS @ weights[at : at + 4].astype(np.float32)  # counts and means, the same of all
    assert np.ptp(rest) < 1e-4 < np.ptp(expected)
    follower = Follower(ServedModel(config.features, config.learner))
    assert follower.start(log)
    log.close()
    assert np.array_equal(follower.model.score_requests(requests(asked)).z, expected)
    with pytest.raises(TrainError, match="holds a learner's state already"):
        run_warm(config, [f"item={npy(tmp_path)}"], None, 1e9)


def requests(rows: list[dict[str, int | str]]) -> list[Request]:
    return [Request(1e9, {}, [row]) for row in rows]


def test_what_did_not_match_is_counted(tmp_path: Path) -> None:
    model = Model(features=FEATURES)
    vectors = [[1.0] * 4, [2.0] * 4, [float("nan")] * 4, [3.0] * 4]
    (line,) = model.warm({"item": parquet(tmp_path, ["7", "8", "9", "7"], vectors)})
    assert line.startswith("features.item: 2 rows from 4 vectors of v.parquet; 1 repeated an id")
    assert "1 were not finite" in line and "set features.item.type" in line
    small = Model(features={"item": {"kind": "id", "dim": 4, "rows_max": 30, "evict": "none"}})
    (line,) = small.warm({"item": npy(tmp_path)})
    assert "30 rows from 40" in line and "10 found no room (rows_max)" in line
    np.savez("net.npz", **{"out.w": np.zeros(3), "mlp0.b": np.ones(64), "other": np.ones(2)})
    (line,) = model.warm(network="net.npz")
    assert "1 taken: mlp0.b; 1 of another shape, not taken: out.w (3,) for" in line
    assert "1 of the file not used: other" in line and "without a value, as they were: cross0.w" in line


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: {"item": "none.parquet"}, "none.parquet: cannot be read"),
        (lambda f: {"item": "v.csv"}, "expected .parquet, .npy, or a torch checkpoint"),
        (lambda f: {"items": npy(f)}, "'items' is not declared; vectors may be of: user, item, rare, some"),
        (lambda f: {"age": npy(f)}, "of kind number and has no rows by id"),
        (lambda f: {"item": npy(f).split(",")[0]}, "name the file of the vectors' ids too"),
        (lambda f: {"item": npy(f).replace("ids.npy", "v.npy")}, "expected ids"),
        (lambda f: {"item": checkpoint(f).replace("#item.weight", "")}, "say which.*item.weight"),
        (lambda f: {"item": checkpoint(f).replace("#item", "#user")}, "has no tensor 'user.weight'"),
        (lambda f: {"item": parquet(f, [1.5], [[1.0] * 4])}, "one column of ids"),
        (lambda f: {"item": parquet(f, [1, 2], [[1.0] * 4, [1.0]])}, "1 to 4 numbers; expected one width"),
        (lambda f: {"item": parquet(f, [1], [[1.0] * 8])}, "set features.item.dim = 8"),
        (lambda f: {"item": parquet(f, [1, None], [[1.0] * 4] * 2)}, "an id or a vector is missing"),
    ],
)  # fmt: skip
def test_bad_file_is_refused_with_a_sentence(
    make: Callable[[Path], dict[str, str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WarmError, match=message):
        Model(features=FEATURES).warm(make(tmp_path))


def test_bad_weights_ids_and_arguments_are_refused(tmp_path: Path) -> None:
    model = Model(features=FEATURES)
    np.savez("other.npz", a=np.zeros(2))
    with pytest.raises(WarmError, match=r"no weight has a name and shape of .* dcn; it has cross0.w"):
        model.warm(network="other.npz")
    np.savez("nan.npz", **{"mlp0.b": np.full(64, np.nan)})
    with pytest.raises(WarmError, match=r"mlp0.b is not finite"):
        model.warm(network="nan.npz")
    (tmp_path / "code.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(WarmError, match="cannot be read as a checkpoint of weights"):
        model.warm(network="code.pt")
    npy(tmp_path)
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(WarmError, match="has 2 ids for the 40 vectors"):
        model.warm({"item": "v.npy,ids.txt"})
    (tmp_path / "ids.json").write_text('{"a": 40}')
    with pytest.raises(WarmError, match=r"names row 40, but v.npy has rows 0 to 39"):
        model.warm({"item": "v.npy,ids.json"})
    for wrong in ("item", "=x", "item="):
        with pytest.raises(WarmError, match="expected FEATURE=FILE"):
            parse_vectors([wrong])
    with pytest.raises(WarmError, match="has a file already"):
        parse_vectors(["item=a", "item=b"])
    with pytest.raises(WarmError, match="name what to begin with"):
        run_warm(config_of(tmp_path), [], None, 0.0)
