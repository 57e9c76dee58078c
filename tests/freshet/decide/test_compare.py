"""Compare: the same candidates or nothing; a verdict in a sentence; where it holds and where not."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from clicks import write_clicks

from freshet.cli.main import main
from freshet.decide.compare import compare, read_runs
from freshet.decide.comparison import CompareVerdict, FurtherTarget
from freshet.decide.paired import Differences, Interval
from freshet.decide.slices import make_slices, read_predictions
from freshet.decide.verdict import decide, over_all
from freshet.errors import CompareError
from freshet.replay.replay import run_replay
from freshet.replay.tape import ReplayOptions
from learner.metrics import summarize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with replays of one stream: a, the same as b, one that has stopped learning, one shorter."""
    folder = tmp_path_factory.mktemp("runs")
    _, data = write_clicks(folder, 500, by_user=False)
    for name, options in (
        ("a", {}),
        ("same", {}),
        ("frozen", {"freeze_after": 60}),
        ("shorter", {"limit": 400}),
    ):
        sets = ["learner.deep=none", "memory.kind=none"]
        run_replay(
            str(folder / "freshet.toml"),
            sets if name != "same" else [*sets, "learner.deep_rate=0.002"],
            ReplayOptions(data=str(data), **options),  # type: ignore[arg-type]
            str(folder / f"{name}.json"),
            None,
            folder / f"{name}.predictions.parquet",
        )
    return folder


@pytest.mark.slow
def test_predictions_are_the_examples_with_what_was_predicted(runs: Path) -> None:
    table = pq.read_table(runs / "a.predictions.parquet")
    report = json.loads((runs / "a.json").read_text())
    assert table.num_rows == report["candidates"] == 2000
    p, y = table["base"].to_numpy(), table["label"].to_numpy()
    loss = -np.where(y > 0.5, np.log(p), np.log1p(-p)).mean()
    assert loss == pytest.approx(report["base"]["overall"]["logloss"], abs=1e-12)
    assert set(table.column_names) >= {"request_id", "user", "item", "tags", "corrected"}


def test_predictions_with_several_targets_are_those_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "freshet.toml").write_text(
        "[features]\nuser = { kind = 'id' }\nitem = { kind = 'id' }\n"
        "[targets.click]\n[targets.buy]\nof = 'click'\n"
        "[data]\nlabel = 'click'\n[data.labels.buy]\n[learner]\ndeep = 'none'\n[memory]\nkind = 'none'\n"
    )
    lines = [f"{1e9 + i},{i % 7},{i % 5},{int(i % 3 == 0)},{int(i % 6 == 0)}" for i in range(60)]
    (tmp_path / "shop.csv").write_text("time,user,item,click,buy\n" + "\n".join(lines) + "\n")
    report = tmp_path / "report.json"
    run_replay(
        str(tmp_path / "freshet.toml"),
        [],
        ReplayOptions(data=str(tmp_path / "shop.csv")),
        str(report),
        None,
        tmp_path / "predictions.parquet",
    )
    table = pq.read_table(tmp_path / "predictions.parquet")
    told = json.loads(report.read_text())
    assert table.num_rows == told["targets"]["click"]["candidates"] == 60
    assert table["label"].to_pylist() == [float(i % 3 == 0) for i in range(60)]
    assert told["targets"]["buy"]["candidates"] == 20


@pytest.mark.slow
def test_further_targets_are_compared_by_their_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (
        "[features]\nuser = { kind = 'id' }\nitem = { kind = 'id' }\n"
        "[targets.click]\n[targets.buy]\nof = 'click'\n[targets.minutes]\nkind = 'value'\nof = 'click'\n"
        "[data]\nlabel = 'click'\n[data.labels.buy]\n[data.labels.minutes]\n"
        "[learner]\ndeep = 'none'\n[memory]\nkind = 'none'\n"
    )
    (tmp_path / "freshet.toml").write_text(config)
    rows = [(i, i % 7, i % 5, int(i % 3 == 0), int(i % 6 == 0), i % 4) for i in range(120)]
    data = tmp_path / "shop.csv"
    data.write_text(
        "time,user,item,click,buy,minutes\n"
        + "\n".join(f"{1e9 + t},{','.join(map(str, r))}" for t, *r in rows)
    )
    for name, sets in (("a", []), ("b", ["learner.count_tau=0.5"])):
        run_replay(
            str(tmp_path / "freshet.toml"),
            sets,
            ReplayOptions(data=str(data)),
            str(tmp_path / f"{name}.json"),
            None,
            tmp_path / f"{name}.predictions.parquet",
        )
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")

    def compared(other: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
        (tmp_path / "b.json").write_text(json.dumps(other))
        html, told = tmp_path / "c.html", tmp_path / "c.json"
        files = [str(tmp_path / f"{name}.json") for name in "ab"]
        options = ["--report", str(told), "--html", str(html), "--resamples", "20"]
        assert main(["compare", *files, *options]) == 0
        (comparison,) = json.loads(told.read_text())["comparisons"]
        return capsys.readouterr().out, comparison["further_targets"], html.read_text()

    out, further, page = compared(b)
    assert list(further) == ["buy", "minutes"]
    for name, keys in (
        ("buy", {"logloss", "auc", "calibration"}),
        ("minutes", {"mae", "rmse", "calibration"}),
    ):
        assert keys <= further[name]["metrics"].keys() and not further[name]["paired"]
        assert further[name]["candidates"] == 40
        for key, found in further[name]["metrics"].items():
            p, q = (run["targets"][name]["corrected"]["overall"][key] for run in (a, b))
            assert found == {"first": p, "other": q, "difference": q - p}
    loss = further["buy"]["metrics"]["logloss"]
    assert loss["difference"] != 0.0
    assert "target buy (of click), 40 candidates; from the reports, without intervals" in out
    assert f"{loss['first']:.5f} → {loss['other']:.5f}   {loss['difference']:+.5f}" in out
    assert "That is of click. From the reports, without intervals: log loss of buy" in out
    assert "Further targets: b compared with a" in page and "minutes (of click): mean absolute error" in page

    targets = b["targets"]
    for changed, why in (
        (
            {"click": targets["click"], "buy": targets["buy"]},
            "minutes (of click): not compared: b has no such",
        ),
        ({**targets, "buy": {**targets["buy"], "of": ""}}, "buy (of click): not compared: of click and none"),
        ({**targets, "buy": {**targets["buy"], "candidates": 39}}, "not compared: 40 and 39 candidates"),
        ({**targets, "minutes": {**targets["minutes"], "kind": "event"}}, "compared: kind value and event"),
    ):
        assert why in compared({**b, "targets": changed})[0]
    one, none_further, _ = compared({k: v for k, v in b.items() if k != "targets"})
    assert "buy (of click): not compared: b has no such target" in one
    assert none_further["buy"]["not_compared"] == "b has no such target"


@pytest.mark.parametrize(
    ("kind", "buy", "minutes", "becomes"),
    [
        ("better", (0.20, 0.25), (4.0, 3.0), "mixed"),
        ("better", (0.20, 0.19), (4.0, 4.02), "better"),
        ("undecided", (0.20, 0.19), (4.0, 3.0), "undecided"),
    ],
)
def test_verdict_is_over_all_targets(
    kind: Any, buy: tuple[float, float], minutes: tuple[float, float], becomes: str
) -> None:
    further = [
        FurtherTarget("buy", "click", 9, {"logloss": buy}, ""),
        FurtherTarget("minutes", "click", 9, {"mae": minutes, "rmse": (1.0, 2.0)}, ""),
        FurtherTarget("share", "click", 9, {}, "b has no such target"),
    ]
    found = over_all(CompareVerdict(kind, "Take b."), "click", further)
    assert found.kind == becomes and found.sentence.startswith("Mixed") == (becomes == "mixed")
    assert (
        f"log loss of buy {abs(buy[1] / buy[0] - 1):.1%}" in found.sentence and "share" not in found.sentence
    )
    assert over_all(CompareVerdict(kind, "Take b."), "click", further[2:]).sentence == "Take b."


def test_first_target_that_is_a_value_is_replayed_and_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "freshet.toml").write_text(
        "[features]\nitem = { kind = 'id' }\n[targets.minutes]\nkind = 'value'\n[targets.buy]\n"
        "[data]\nlabel = 'minutes'\n[data.labels.buy]\n[learner]\ndeep = 'none'\n[memory]\nkind = 'none'\n"
    )
    lines = [f"{1e9 + i},{i % 5},{i % 5 + i % 3 / 4},{int(i % 10 == 1)}" for i in range(1100)]
    (tmp_path / "shop.csv").write_text("time,item,minutes,buy\n" + "\n".join(lines) + "\n")
    report = tmp_path / "report.json"
    files = ["--data", str(tmp_path / "shop.csv"), "--report", str(report), "--predictions"]
    config = ["--config", str(tmp_path / "freshet.toml")]
    assert main(["replay", *config, *files, "--html", str(tmp_path / "r.html")]) == 0
    said = capsys.readouterr().err
    told = json.loads(report.read_text())
    assert told["base"]["overall"]["loglik"] > told["baselines"]["rate"]["overall"]["loglik"]
    assert f"mae {told['base']['last_half']['mae']:.4f}" in said and "no auc" not in said
    assert told["warnings"] == [] and told["targets"]["buy"]["candidates"] == 1100
    table = pq.read_table(tmp_path / "report.predictions.parquet")
    errors = np.abs(table["base"].to_numpy() - table["label"].to_numpy())
    assert errors.mean() == pytest.approx(told["base"]["overall"]["mae"], abs=1e-9)
    page = (tmp_path / "r.html").read_text()
    assert "Mean absolute error over time" in page and "the predicted values are off by" in page
    assert "Target buy" in page and f"{told['targets']['buy']['base']['overall']['auc']:.4f}" in page
    assert "All labels are the same" not in page
    with pytest.raises(CompareError, match="its first target is a value"):
        read_runs([report])


@pytest.mark.slow
def test_worse_run_is_found_worse_over_all_time_and_slices(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html, told = tmp_path / "c.html", tmp_path / "c.json"
    reports = [str(runs / f"{name}.json") for name in ("a", "frozen", "same")]
    assert main(["compare", *reports, "--html", str(html), "--report", str(told), "--resamples", "100"]) == 0
    out = capsys.readouterr().out
    assert "Keep a: over 500 requests, the log loss of frozen is" in out
    assert "frozen after: – → 60" in out
    assert "learner.deep_rate: 0.001 → 0.002" in out
    worse, same = json.loads(told.read_text())["comparisons"]
    assert (worse["verdict"], same["verdict"]) == ("worse", "undecided")
    assert worse["differences"]["logloss"]["low"] > 0.0
    assert same["differences"]["logloss"]["value"] == 0.0
    assert len(worse["stretches"]) == 20
    assert set(worse["slices"]) == {"hour (UTC)", "user", "item", "tags"}
    assert sum(s["examples"] for s in worse["slices"]["hour (UTC)"]) == 2000
    page = html.read_text()
    assert "frozen compared with a" in page
    figures = json.loads(re.search(r"const figures = (.*);\n", page)[1])  # type: ignore[index]
    assert any(figure.get("rows") for figure in figures), "a forest"
    assert any(line["band"] for figure in figures for line in figure.get("lines", [])), (
        "an interval over time"
    )


def test_turned_round_the_better_run_is_taken(runs: Path) -> None:
    found = read_runs([runs / "frozen.json", runs / "a.json"])
    verdict = compare(found[0], found[1], "base", 100, 0).verdict
    assert verdict.kind == "better"
    assert re.match(r"Take a: over 500 requests, its log loss is \d", verdict.sentence)
    assert "periods" in verdict.sentence


def test_runs_on_different_data_are_refused_and_told_apart(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs / "a.json"), str(runs / "shorter.json")]) == 2
    said = capsys.readouterr().err
    assert "different data" in said
    assert "500 and 400 requests" in said
    assert "limit – and 400" in said

    def changed(name: str, **values: Any) -> Path:
        report = json.loads((runs / "a.json").read_text())
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({k: v for k, v in {**report, **values}.items() if v is not None}))
        return path

    with pytest.raises(CompareError, match="--predictions"):
        read_runs([runs / "a.json", changed("without", predictions=None)])
    with pytest.raises(CompareError, match="not there"):
        read_runs([runs / "a.json", changed("gone", predictions="gone.parquet")])
    with pytest.raises(CompareError, match="different candidates"):
        other = str(runs / "shorter.predictions.parquet")
        read_runs([runs / "a.json", changed("fewer", predictions=other)])
    (tmp_path / "no.json").write_text("[]")
    with pytest.raises(CompareError, match="no report"):
        read_runs([runs / "a.json", tmp_path / "no.json"])


def test_slices_are_the_values_of_the_data(runs: Path) -> None:
    predicted = read_predictions(runs / "a.predictions.parquet")
    table = pq.read_table(runs / "a.predictions.parquet")
    ways = {way.title: way for way in make_slices(predicted)}
    (layer,) = ways["user"].layers(len(predicted.y))
    users = np.array(table["user"].to_pylist())
    counts = {name: int((users == name).sum()) for name in ways["user"].names}
    assert {n: int((layer == i).sum()) for i, n in enumerate(ways["user"].names)} == counts
    assert max(counts.values()) == max(np.unique(users, return_counts=True)[1])
    tags = table["tags"].to_pylist()
    for i, name in enumerate(ways["tags"].names):
        rows = [r for layer in ways["tags"].layers(len(tags)) for r in np.flatnonzero(layer == i)]
        assert sorted(rows) == [r for r, values in enumerate(tags) if name in values]


def test_new_ids_are_those_of_their_first_request(tmp_path: Path) -> None:
    lines = ["time,request,item,label"]
    lines += [f"{1e9 + r},r{r},i{item},{item % 2}" for r in range(60) for item in (r, r, r // 2)]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    config = '[features.item]\n[data]\nrequest = "request"\n[learner]\ndeep = "none"\n'
    (tmp_path / "c.toml").write_text(config)
    options = ReplayOptions(data=str(tmp_path / "c.csv"))
    predictions = tmp_path / "p.parquet"
    run_replay(str(tmp_path / "c.toml"), [], options, str(tmp_path / "r.json"), None, predictions)
    predicted = read_predictions(predictions)
    (way,) = [way for way in make_slices(predicted) if way.title == "item, new or known"]
    (layer,) = way.layers(180)
    # two of three candidates are a new item, and one is an item of half the number (of request 0: new too)
    assert layer.tolist() == [0, 0, 0] + [0, 0, 1] * 59


def test_what_a_verdict_says_of_the_order() -> None:
    def said(logloss: Interval, auc: Interval | None, aucs: tuple[float | None, float | None]) -> str:
        found = Differences(logloss, logloss, auc, None)
        summaries = [
            {**summarize(np.zeros(0), np.zeros(0), np.zeros(0, np.uint64)), "auc": one} for one in aucs
        ]
        return decide("a", "b", 1_000, found, summaries, [], []).sentence  # type: ignore[arg-type]

    lower, open_ = Interval(-0.02, -0.03, -0.01), Interval(0.0, -0.01, 0.01)
    rises = Interval(0.01, 0.005, 0.015)
    order = "AUC 0.7000 \u2192 0.7100"
    assert f"lower (95 %: 1.0% to 3.0%), {order}, and" in said(lower, rises, (0.7, 0.71))
    assert f"lower (95 %: 1.0% to 3.0%), {order}, and" in said(lower, None, (0.7, 0.71))
    assert "with no significant change of AUC (0.7000 and 0.7100)" in said(lower, open_, (0.7, 0.71))
    assert "AUC" not in said(lower, None, (None, 0.71)) and "AUC" not in said(lower, None, (0.7, None))
    assert said(open_, rises, (0.7, 0.71)).endswith(
        "The AUC is better (+0.0100, 95 %: +0.0050 to +0.0150), which decides if only the order counts."
    )
    assert "AUC" not in said(open_, open_, (0.7, 0.71)) and "AUC" not in said(open_, None, (0.7, 0.71))
    assert "identical" in said(Interval(0.0, 0.0, 0.0), None, (0.7, 0.7))
    assert "identical" not in said(open_, None, (0.7, 0.7))
