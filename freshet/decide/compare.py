"""`freshet compare`: whether one replay is better than another, by how much, where, and with which interval.

All runs must have predicted the same candidates. The others are compared with the first. Of several targets
the first one is compared request by request, the others by the metrics of the reports.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from freshet.decide.comparison import FURTHER_METRICS, Comparison, Cut, FurtherTarget, Run, Stretch
from freshet.decide.paired import SliceDifference, differences, slice_differences
from freshet.decide.slices import PredictionsFile, Slices, make_slices, read_predictions
from freshet.decide.verdict import decide, over_all
from freshet.errors import CompareError
from freshet.files import Json, JsonView, write_json
from ground import UNDECODABLE
from learner.metrics import Summary, summarize
from learner.ranking import TOP

STRETCHES = 20


def run_compare(
    reports: Sequence[Path],
    prediction: str,
    resamples: int,
    seed: int,
    report_to: Path | None,
    html: Path | None,
) -> None:
    """`freshet compare`: print the differences, and write the report.

    Raises:
        CompareError: the runs cannot be compared, or a file cannot be written.
    """
    runs = read_runs(reports)
    compared = [compare(runs[0], run, prediction, resamples, seed) for run in runs[1:]]
    if report_to is not None:
        write_json(report_to, _plain(runs, compared, prediction), CompareError)
    if html is not None:
        from freshet.decide.compare_report import compare_page
        from freshet.show.report import write_html

        write_html(compare_page(runs, compared, prediction), html)
    _print(compared)


def read_runs(paths: Sequence[Path], values: bool = False) -> list[Run]:
    """Read the runs and check that they used the same data.

    Args:
        paths: of the reports.
        values: whether the first target may be a value.

    Raises:
        CompareError: one cannot be read, has no predictions, or used other data; names the difference.
    """
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    runs: list[Run] = []
    for name, path in zip(names, paths, strict=True):
        try:
            report = msgspec.json.decode(path.read_bytes())
        except OSError as error:
            raise CompareError(f"{path}: cannot be read: {error.strerror}") from None
        except UNDECODABLE as error:
            raise CompareError(f"{path}: is no report of `freshet replay`: {error}") from None
        if not isinstance(report, dict) or not {"data_hash", "config_hash", "base"} <= report.keys():
            raise CompareError(f"{path}: is no report of `freshet replay --report FILE`")
        if not values and "mae" in report["base"].get("overall", {}):
            raise CompareError(
                f"{path}: its first target is a value, and what is compared request by request is a "
                "probability; declare a target of kind event first, or compare the reports' metrics"
            )
        if runs:
            _check_same_data(runs[0].name, runs[0].report, name, report)
        if "predictions" not in report:
            raise CompareError(
                f"{path}: was written without predictions, which are compared request by request; "
                f"replay again with --report {path} --predictions"
            )
        runs.append(Run(name, report, read_predictions(path.parent / report["predictions"])))
        if not np.array_equal(runs[0].predicted.y, runs[-1].predicted.y):
            raise CompareError(
                f"{runs[0].name} and {name} scored different candidates of the same data "
                f"({len(runs[0].predicted.y):,} and {len(runs[-1].predicted.y):,}): the features of one "
                "refuse examples that those of the other accept"
            )
    return runs


def _check_same_data(first: str, a: JsonView, other: str, b: JsonView) -> None:
    if a["data_hash"] == b["data_hash"]:
        return
    differing = [f"data_hash {a['data_hash']} and {b['data_hash']}"]
    if a["events"] != b["events"]:
        differing.append(f"{a['events']:,} and {b['events']:,} requests")
    played_a, played_b = a.get("played", {}), b.get("played", {})
    for key in ("data", "begin", "end", "limit", "shuffle_labels", "from_snapshot"):
        if played_a.get(key) != played_b.get(key):
            differing.append(f"{key} {_shown(played_a.get(key))} and {_shown(played_b.get(key))}")
    raise CompareError(
        f"{first} and {other} used different data, so their predictions cannot be compared: "
        f"{'; '.join(differing)}. Replay both over the same range"
    )


def compare(first: Run, other: Run, prediction: str, resamples: int, seed: int) -> Comparison:
    """Compare one run with the first."""
    a, b = first.predicted, other.predicted
    p, q = (np.asarray(getattr(predicted, prediction)) for predicted in (a, b))
    request, y = a.request, a.y
    summaries: tuple[Summary, Summary] = (
        first.report[prediction]["overall"], other.report[prediction]["overall"],
    )  # fmt: skip
    top = first.report.get("played", {}).get("top", TOP)
    if other.report.get("played", {}).get("top", TOP) != top:
        raise CompareError(f"{first.name} and {other.name} count other places: replay both with one --top")
    whole = differences(request, y, p, q, resamples, seed, top)
    ways = make_slices(a)
    looked_at = STRETCHES + sum(len(slices.names) for slices in ways)

    def within(slice_of: Any, slices: int) -> list[SliceDifference]:
        return slice_differences(request, y, p, q, slice_of, slices, looked_at, resamples, seed)

    stretches = list(_stretches(a, p, q, within))
    cuts = [Cut(way.title, list(_cut(way, len(y), within))) for way in ways]
    changed = list(config_changes(first.report, other.report))
    verdict = decide(first.name, other.name, a.requests, whole, summaries, stretches, cuts)
    primary = next(iter(first.report.get("targets") or other.report.get("targets", {})), "")
    further = list(_further(first, other, prediction))
    verdict = over_all(verdict, primary, further)
    return Comparison(
        first.name, other.name, changed, summaries, whole, stretches, cuts, verdict, primary, further
    )


def _further(first: Run, other: Run, prediction: str) -> Iterator[FurtherTarget]:
    """Each target of either run that is not the first one of both."""
    a, b = first.report.get("targets", {}), other.report.get("targets", {})
    skipped = {next(iter(targets)) for targets in (a, b) if targets}
    for name in [*a, *(name for name in b if name not in a)]:
        if name in skipped:
            continue
        if name not in a or name not in b:
            has, lacks = (first, other) if name in a else (other, first)
            part = has.report["targets"][name]
            yield FurtherTarget(name, part["of"], part["candidates"], {}, f"{lacks.name} has no such target")
            continue
        mine, theirs = a[name], b[name]
        why_not = _why_not(mine, theirs, prediction)
        found: dict[str, tuple[float, float]] = {}
        if not why_not:
            pair = mine[prediction]["overall"], theirs[prediction]["overall"]
            for key in FURTHER_METRICS:
                p, q = (summary.get(key) for summary in pair)
                if p is not None and q is not None:
                    found[key] = p, q
        yield FurtherTarget(name, mine["of"], mine["candidates"], found, why_not)


def _why_not(a: JsonView, b: JsonView, prediction: str) -> str:
    """Why a further target of two reports cannot be compared; "" if it can."""
    for key in ("kind", "of"):
        if a[key] != b[key]:
            return f"{key} {a[key] or 'none'} and {b[key] or 'none'}"
    if a["candidates"] != b["candidates"]:
        return f"{a['candidates']:,} and {b['candidates']:,} candidates"
    if not a["candidates"]:
        return "no candidates"
    labels = [part[prediction]["overall"]["positives"] for part in (a, b)]
    return f"{labels[0]:,} and {labels[1]:,} positives" if labels[0] != labels[1] else ""


def _stretches(predicted: PredictionsFile, p: Any, q: Any, within: Any) -> Iterator[Stretch]:
    """Split the stream into periods with about the same number of requests."""
    count = max(min(STRETCHES, predicted.requests // 10), 1)
    stretch = predicted.request * count // predicted.requests
    for i, difference in enumerate(within(stretch, count)):
        rows = stretch == i
        auc = [summarize(r[rows], predicted.y[rows], np.zeros(rows.sum(), np.uint64))["auc"] for r in (p, q)]
        times = predicted.time[rows]
        yield Stretch(float(times[0]), float(times[-1]), difference, (auc[0], auc[1]))


def _cut(way: Slices, n: int, within: Any) -> Iterator[tuple[str, SliceDifference]]:
    found: dict[int, SliceDifference] = {}
    for layer in way.layers(n):
        for s, difference in enumerate(within(layer, len(way.names))):
            if difference.examples:
                found[s] = difference
    for s, difference in sorted(found.items()):
        yield way.names[s], difference


def config_changes(a: JsonView, b: JsonView) -> Iterator[str]:
    """The settings, options and code of the second run that differ from the first."""
    before, after = (dict(_flat(report.get("config", {}))) for report in (a, b))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: {_shown(before.get(key))} → {_shown(after.get(key))}"
    if a.get("config_hash") != b.get("config_hash") and before == after:
        yield f"config_hash: {a.get('config_hash')} → {b.get('config_hash')}"
    for key in ("frozen_after", "code_version"):
        if a.get(key) != b.get(key):
            yield f"{key.replace('_', ' ')}: {_shown(a.get(key))} → {_shown(b.get(key))}"


def _flat(table: JsonView, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


def _plain(runs: Sequence[Run], compared: Sequence[Comparison], prediction: str) -> Json:
    """The comparisons for programs."""

    def sliced(name: str, difference: SliceDifference) -> Json:
        return {"slice": name, **difference._asdict(), "share": difference.share._asdict()}

    keys = ("data_hash", "config_hash", "code_version", "state_hash")
    return {
        "prediction": prediction,
        "runs": [{"name": run.name, **{key: run.report.get(key) for key in keys}} for run in runs],
        "comparisons": [
            {
                "first": c.first,
                "other": c.other,
                "verdict": c.verdict.kind,
                "sentence": c.verdict.sentence,
                "changed": c.changed,
                "summaries": dict(zip((c.first, c.other), c.summaries, strict=True)),
                "differences": {
                    name: None if value is None else value._asdict()
                    for name, value in c.differences._asdict().items()
                },
                "stretches": [
                    {"from_time": s.from_time, "to_time": s.to_time, "auc": s.auc, **sliced("", s.difference)}
                    for s in c.stretches
                ],
                "slices": {cut.title: [sliced(*part) for part in cut.slices] for cut in c.cuts},
                "further_targets": {target.name: _plain_further(target) for target in c.further},
            }
            for c in compared
        ],
    }


def _plain_further(target: FurtherTarget) -> Json:
    found: Json = {"of": target.of, "candidates": target.candidates, "paired": False}
    if target.why_not:
        return found | {"not_compared": target.why_not}
    metrics = {key: {"first": a, "other": b, "difference": b - a} for key, (a, b) in target.metrics.items()}
    return found | {"metrics": metrics}


def _print(compared: Sequence[Comparison]) -> None:
    for c in compared:
        differences = c.differences
        print(f"{c.other} compared with {c.first}")
        for change in c.changed or ["(run with the same config, options and code)"]:
            print(f"  {change}")
        for key, name, interval in (
            ("logloss", "log loss", differences.logloss),
            ("auc", "AUC", differences.auc),
            ("ndcg", "NDCG", differences.ndcg),
        ):
            a, b = (summary.get(key) for summary in c.summaries)
            if interval is not None and isinstance(a, float) and isinstance(b, float):
                print(
                    f"  {name:<10}{a:.5f} → {b:.5f}   {interval.value:+.5f} "
                    f"({interval.low:+.5f} to {interval.high:+.5f}, 95 %)"
                )
        for target in c.further:
            _print_further(target, c.primary)
        sys.stdout.write(f"{c.verdict.sentence}\n\n")


def _print_further(target: FurtherTarget, primary: str) -> None:
    title = f"target {target.name}{f' (of {target.of})' if target.of else ''}"
    if target.why_not:
        print(f"  {title}: not compared: {target.why_not}")
        return
    print(
        f"  {title}, {target.candidates:,} candidates; from the reports, without intervals: --predictions "
        f"holds {primary}"
    )
    for key, (a, b) in target.metrics.items():
        print(f"    {FURTHER_METRICS[key]:<24}{a:.5f} → {b:.5f}   {b - a:+.5f}")
