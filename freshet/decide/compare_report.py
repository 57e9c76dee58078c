"""The page of a comparison: verdict, differences over time and by slice, settings."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from freshet.decide.comparison import FURTHER_METRICS, Comparison, Run
from freshet.decide.paired import Interval
from freshet.files import Json
from freshet.show.replay_report import METRICS
from freshet.show.report import Arm, Chart, Forest, Line, ReportPage, ReportTable, Tile

ARMS: tuple[Arm, ...] = ("frozen", "live", "frozen_memory", "live_memory", "ceiling")
"""Colours of the runs in order; the sixth run repeats the second colour."""
FOREST_ROWS_MAX = 40


def compare_page(runs: Sequence[Run], compared: Sequence[Comparison], prediction: str) -> ReportPage:
    """All comparisons with the first run on one page."""
    arms = {run.name: ARMS[i if i < len(ARMS) else 1] for i, run in enumerate(runs)}
    title = " and ".join(run.name for run in runs)
    return ReportPage(
        title=f"Freshet compare: {title}",
        lead=" ".join(c.verdict.sentence for c in compared),
        tiles=[tile for c in compared for tile in _tiles(c, arms[c.other])],
        charts=[*_over_time(compared, arms), *(chart for c in compared for chart in _by_slice(c, arms))],
        tables=[
            _metrics(compared),
            *(_further_table(c) for c in compared if c.further),
            *(_slice_table(c) for c in compared),
        ],
        facts=_facts(runs, compared, prediction),
    )


def _tiles(c: Comparison, arm: Arm) -> list[Tile]:
    differences = c.differences
    tiles = [
        Tile(
            f"log loss, {c.other}",
            _percent(differences.logloss_share),
            _between(differences.logloss_share),
            arm,
        )
    ]
    if differences.auc is not None:
        low, high = f"{differences.auc.low:+.4f}", f"{differences.auc.high:+.4f}"
        tiles.append(Tile(f"AUC, {c.other}", f"{differences.auc.value:+.4f}", f"{low} to {high}", arm))
    if differences.ndcg is not None:
        low, high = f"{differences.ndcg.low:+.4f}", f"{differences.ndcg.high:+.4f}"
        tiles.append(Tile(f"NDCG, {c.other}", f"{differences.ndcg.value:+.4f}", f"{low} to {high}", arm))
    worse = sum(s.difference.share.value > 0 for s in c.stretches)
    tiles.append(Tile(f"periods, {c.other}", f"{len(c.stretches) - worse} of {len(c.stretches)}", "better"))
    return tiles


def _over_time(compared: Sequence[Comparison], arms: Mapping[str, Arm]) -> list[Chart]:
    times = [datetime.fromtimestamp(s.to_time, UTC).isoformat() for s in compared[0].stretches]
    first = compared[0].first
    differences = [
        Line(
            c.other,
            times,
            [100.0 * s.difference.share.value for s in c.stretches],
            arms[c.other],
            band=(
                [100.0 * s.difference.share.low for s in c.stretches],
                [100.0 * s.difference.share.high for s in c.stretches],
            ),
        )
        for c in compared
    ]
    differences.append(Line(first, times, [0.0] * len(times), arms[first]))

    def both(title: str, y_title: str, note: str, read: Any) -> Chart:
        lines = [Line(first, times, [read(s, 0) for s in compared[0].stretches], arms[first])]
        lines += [Line(c.other, times, [read(s, 1) for s in c.stretches], arms[c.other]) for c in compared]
        return Chart(title, lines, "event time (UTC)", y_title, note)

    return [
        Chart(
            f"Difference in log loss from {first}, over time",
            differences,
            "event time (UTC)",
            "per cent",
            "Under 0 is better. The band is the 95 % interval.",
        ),
        both(
            "Log loss over time", "log loss", "Lower is better.", lambda s, i: s.difference.logloss[i]
        ),
        both(
            "AUC over time",
            "AUC",
            "Higher is better.",
            lambda s, i: float("nan") if s.auc[i] is None else s.auc[i],
        ),
    ]  # fmt: skip


def _by_slice(c: Comparison, arms: Mapping[str, Arm]) -> list[Forest]:
    """The largest slices of each cut, in the order of the cuts."""
    rows: list[tuple[str, float, float, float]] = []
    each = max(FOREST_ROWS_MAX // max(len(c.cuts), 1), 2)
    for cut in c.cuts:
        biggest = sorted(cut.slices, key=lambda part: -part[1].examples)[:each]
        for name, part in (s for s in cut.slices if s in biggest):
            share = part.share
            rows.append((f"{cut.title}: {name}", 100 * share.value, 100 * share.low, 100 * share.high))
    return [
        Forest(
            f"{c.other} compared with {c.first}, by slice",
            rows,
            "log loss, %",
            "Left of 0 is better. Each line is the 95 % interval of a slice. About 1 interval in 20 "
            "excludes 0 by chance; the table marks the slices whose difference is larger than that.",
            arms[c.other],
        )
    ]


def _metrics(compared: Sequence[Comparison]) -> ReportTable:
    summaries: Json = {compared[0].first: compared[0].summaries[0]}
    summaries |= {c.other: c.summaries[1] for c in compared}
    rows = []
    for key, name in METRICS:
        values = [summary.get(key) for summary in summaries.values()]
        if any(value is not None for value in values):
            rows.append((name, *("–" if value is None else f"{value:.5f}" for value in values)))
    return ReportTable(
        "Metrics",
        ("", *summaries),
        rows,
        "Every number is out of sample: a request is predicted before the model trains on it.",
    )


def _further_table(c: Comparison) -> ReportTable:
    rows = []
    for target in c.further:
        name = f"{target.name} (of {target.of})" if target.of else target.name
        if target.why_not:
            rows.append((f"{name}: not compared: {target.why_not}", "–", "–", "–"))
        rows += [
            (f"{name}: {FURTHER_METRICS[key]}", f"{a:.5f}", f"{b:.5f}", f"{b - a:+.5f}")
            for key, (a, b) in target.metrics.items()
        ]
    return ReportTable(
        f"Further targets: {c.other} compared with {c.first}",
        ("", c.first, c.other, "difference"),
        rows,
        f"From the reports, so without intervals: only {c.primary}, the first target, is compared request by "
        "request. A run that is better in it and by 1 % worse in another is called mixed.",
    )


def _slice_table(c: Comparison) -> ReportTable:
    rows = [
        (
            f"{cut.title}: {name}",
            f"{part.examples:,}",
            f"{part.logloss[0]:.4f}",
            f"{part.logloss[1]:.4f}",
            _percent(part.share),
            _between(part.share),
            "" if not part.sure else "better" if part.share.value < 0.0 else "worse",
        )
        for cut in c.cuts
        for name, part in cut.slices
    ]
    return ReportTable(
        f"All slices: {c.other} compared with {c.first}",
        ("", "candidates", f"log loss, {c.first}", c.other, "difference", "95 % interval", "significant"),
        rows,
        'Differences are shares of the first run\'s log loss; under 0 is better. "Significant" is corrected '
        "for the number of slices.",
    )


def _facts(runs: Sequence[Run], compared: Sequence[Comparison], prediction: str) -> list[tuple[str, str]]:
    facts = [("prediction", prediction), ("requests", f"{runs[0].predicted.requests:,}")]
    facts += [
        ("candidates", f"{len(runs[0].predicted.y):,}"),
        ("data hash", str(runs[0].report["data_hash"])),
    ]
    facts += [
        (f"{run.name}: config, code", f"{run.report['config_hash']}, {run.report.get('code_version', '–')}")
        for run in runs
    ]
    for c in compared:
        facts.append((f"{c.other}, changed", "; ".join(c.changed) or "nothing"))
    return facts


def _percent(share: Interval) -> str:
    return f"{share.value:+.2%}"


def _between(share: Interval) -> str:
    return f"{share.low:+.2%} to {share.high:+.2%}"
