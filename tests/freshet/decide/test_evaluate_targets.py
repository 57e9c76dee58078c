"""`freshet evaluate` with several targets: what another order is worth by `rank.by`, beside the truth."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from freshet.cli.main import main
from freshet.decide.compare import read_runs
from freshet.decide.earned import Expression
from freshet.decide.evaluate import read_logged
from freshet.decide.offpolicy import greedy_places
from freshet.errors import CompareError
from stream.files.record_files import write_records
from stream.records.types import Example

pytestmark = pytest.mark.slow

CONFIG = """
[targets.click]
window_s = 60
[targets.buy]
of = "click"
window_s = 600
[targets.minutes]
kind = "value"
of = "click"
window_s = 60
[rank]
by = "click * (0.1 + price * buy)"
[features.item]
[features.price]
kind = "number"
[learner]
deep = "none"
"""
BY = "0.1 * click + price * buy"
ITEMS = 6
CLICK = np.linspace(0.7, 0.2, ITEMS)  # people click on what is cheap,
BUY = np.linspace(0.1, 0.9, ITEMS)  # and buy what is not
PRICE = np.linspace(1.0, 4.0, ITEMS)
SEEN = np.array([1.0, 0.6, 0.3])  # by place
REQUESTS, T = 900, 1e9


def example(
    name: str, at: float, items: list[int], labels: list[float], target: str = "", **rest: object
) -> Example:
    features = [{"item": f"i{i}", "price": float(PRICE[i])} for i in items]
    return Example(name, at, at, features, labels, target=target, **rest)  # type: ignore[arg-type]


def log(decided: int = REQUESTS) -> list[Example]:
    """Slates in an order drawn at random; purchases of the last requests are not decided."""
    rng = np.random.default_rng(3)
    found = []
    for n in range(REQUESTS):
        items, place = rng.permutation(ITEMS)[:3].tolist(), rng.permutation(3)
        clicks = (rng.random(3) < CLICK[items] * SEEN[place]).astype(float)
        name, at = f"r{n}", T + n
        found.append(
            example(
                name, at, items, clicks.tolist(), place=place.tolist(), propensity=[1.0 / 3.0] * 3
            )
        )  # fmt: skip
        chosen = [i for i, c in zip(items, clicks, strict=True) if c]
        if chosen:
            found.append(example(name, at, chosen, [float(i) for i in chosen], "minutes"))
        if chosen and n < decided:
            bought = (rng.random(len(chosen)) < BUY[chosen]).astype(float).tolist()
            found.append(example(name, at, chosen, [0.0] * len(chosen), "buy"))
            late = [j for j, b in enumerate(bought) if b]
            for j in late:  # a purchase that was learned as none before
                found.append(example(name, at, [chosen[j]], [1.0], "buy", late=True, before=[0.0]))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("evaluated")
    (folder / "freshet.toml").write_text(CONFIG)
    for name, decided in (("whole", REQUESTS), ("open", REQUESTS - 5)):
        write_records(folder / f"{name}.parquet", "examples", log(decided))
        command = [
            "replay",
            "--config",
            str(folder / "freshet.toml"),
            "--data",
            str(folder / f"{name}.parquet"),
        ]
        assert main([*command, "--report", str(folder / f"{name}.json"), "--predictions"]) == 0
    return folder


def evaluate(folder: Path, name: str, *options: str) -> dict[str, object]:
    told = folder / "told.json"
    assert main(["evaluate", str(folder / f"{name}.json"), "--report", str(told), *options]) == 0
    found: dict[str, object] = json.loads(told.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("order", ["click", BY])
def test_an_order_is_worth_what_the_world_says(folder: Path, order: str) -> None:
    found = evaluate(folder, "whole", "--by", order, "--value", BY)
    (run,) = read_runs([folder / "whole.json"])
    logged, rows = read_logged(run.predicted.path, None, Expression(BY, run, "--value"))
    items = pyarrow.parquet.read_table(run.predicted.path, columns=["item"])["item"].to_pylist()
    item = np.array([int(items[row][1:]) for row in rows])
    worth = CLICK[item] * (0.1 + PRICE[item] * BUY[item])
    place = greedy_places(logged, Expression(order, run, "--by").predicted("base", rows))
    truth = float((worth * SEEN[place]).sum() / REQUESTS)
    shown = float((worth * SEEN[logged.place]).sum() / REQUESTS)
    (value,) = found["values"]  # type: ignore[misc]
    assert found["shown"]["low"] < shown < found["shown"]["high"]  # type: ignore[index]
    for name in ("ips", "snips", "dr"):
        assert value[name]["low"] < truth < value[name]["high"], (name, value, truth)
    assert (truth > shown) == (order == BY)  # the best order by clicks is not the one that earns most


def test_the_runs_own_rank_by_is_the_order_and_the_value(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluate(folder, "whole")
    assert "rarely agrees" not in capsys.readouterr().out
    monkeypatch.setattr("freshet.decide.evaluate.FEW", 1e9)
    evaluate(folder, "whole")
    assert "effective requests, too few for a reliable interval" in capsys.readouterr().out
    assert found["value"] == "click * (0.1 + price * buy)" == found["values"][0]["by"]  # type: ignore[index]
    minutes = evaluate(folder, "whole", "--value", "minutes")
    assert minutes["shown"]["value"] > 1.0  # type: ignore[index]  # a value may be above 1


def test_requests_that_are_not_decided_are_left_out_with_all_as_new_as_they(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(folder, "open", "--value", "buy")
    assert found["requests"] == REQUESTS - 600
    assert "600 requests are left out that are not decided yet for buy" in capsys.readouterr().err
    assert evaluate(folder, "open", "--value", "click", "--by", "click")["requests"] == REQUESTS


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--by", "sold"], "--by, for whole: 'sold' is neither a target nor a feature of kind number: click"),
        (["--value", "click * (1"], "--value, for whole: a bracket is not closed"),
        (["--value", "price"], "names no target"),
        (["--by", "__import__('os')"], "for whole: "),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], why: str
) -> None:
    assert main(["evaluate", str(folder / "whole.json"), *options]) == 2
    assert why in capsys.readouterr().err


def test_predictions_of_before_have_no_further_targets(folder: Path, tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(folder / "whole.predictions.parquet")
    pyarrow.parquet.write_table(table.drop_columns(["label.buy"]), tmp_path / "whole.predictions.parquet")
    (tmp_path / "whole.json").write_bytes((folder / "whole.json").read_bytes())
    (run,) = read_runs([tmp_path / "whole.json"])
    with pytest.raises(CompareError, match=r"has no column label\.buy, which 'buy' needs; replay again"):
        Expression("buy", run, "--value").outcome(np.arange(3))
