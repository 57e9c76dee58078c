"""Does anything grow? Thirty million requests, with new people, items and campaigns all the time.

    .venv/bin/python benchmarks/soak.py [--requests N] [--live N] [--log sqlite|kafka] [--quick]
        [--folder FOLDER] [--json OUT] [--svg OUT]

It takes hours: name a folder and a file of numbers, and the same command goes on where it was interrupted.

Two runs of one world of eight id features, in which most pairs of ids are new. The first goes through
replay, by a learner that commits its state to disk. Tables of people, items and campaigns have budgets that
are full early, and the table of pairs has the default one. After each million requests it tells: requests a
second, processor time, memory, bytes on disk, rows by table, the million's AUC, µs of a score of 50
candidates (median and p99), ms of a commit, seconds of a snapshot of the state, of one that is published, and
of a restart: a new process, up to a learner that could go on, from files that are in the page cache.

The second, shorter one goes through joiner, learner and server as processes, on a log that keeps little, so
that old records are dropped during the run.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soak_parts import kept, live, plot

Row = dict[str, Any]

MILLION = 1_000_000


def soak(folder: Path, options: argparse.Namespace, result: Row, save: Callable[[], None]) -> None:
    """The run through replay; `save` is called after each mark, since the run is long."""
    print(f"{options.requests:,} requests through replay; eight id features, DCN-v2", flush=True)
    config = live.parsed(folder, options.rows_max)
    rows: list[Row] = result.setdefault("replay", [])
    if rows:
        print(f"going on after {rows[-1]['requests']:,}", flush=True)
    print(" | ".join(plot.HEAD), flush=True)
    for row in kept.run(config, folder, options.requests, options.mark):
        rows.append(row)
        result["growth"] = growth(rows, "memory_mb", "disk_mb", "score_p50_us", "commit_p50_ms", *SLOW)
        save()
        print(" | ".join(plot.cells(row)), flush=True)
    print(f"\n{plot.table(plot.HEAD, list(map(plot.cells, rows)))}\n")
    speed, cpu = rows[-1]["per_s"] / rows[0]["per_s"], rows[0]["cpu_us"] / rows[-1]["cpu_us"]
    print(f"speed at the end over that of the first mark: {speed:.2f}, by processor time {cpu:.2f}")
    tell(result["growth"])


SLOW = "publish_s", "restart_s"


def growth(rows: list[Row], *names: str) -> Row:
    """The last mark over an earlier one: the tenth million, or the middle of a shorter run."""
    early = next((row for row in rows if row["requests"] >= 10 * MILLION), rows[len(rows) // 2])
    found: Row = {"from": early["requests"], "pairs": rows[-1]["rows"]["pairs"] / early["rows"]["pairs"]}
    for name in names:
        before, after = early[name], rows[-1][name]
        if isinstance(after, dict):
            found |= {f"{name} {role}": after[role] / before[role] for role in after}
        else:
            found[name] = after / before
    return found


def tell(grown: Row) -> None:
    """Say what grew."""
    said = ", ".join(f"{name} × {value:.2f}" for name, value in grown.items() if name != "from")
    print(f"from {grown['from']:,} requests to the end: {said}", flush=True)


def run_live(folder: Path, options: argparse.Namespace, result: Row, save: Callable[[], None]) -> None:
    """The run through the roles."""
    kind, count = options.log, options.live
    print(f"{count:,} requests through the roles on {kind}, {options.per_s:,} a second", flush=True)
    print(" | ".join(plot.LIVE_HEAD), flush=True)
    rows: list[Row] = []
    result["live"] = rows
    settings = live.Live(count, options.per_s, options.live_marks, options.retain_mb, options.live_rows_max)
    (folder / "log").mkdir()
    with (live.kafka if kind == "kafka" else live.sqlite)(folder / "log") as url:
        for row in live.run(kind, url, folder, settings, folder / "log"):
            if "restart_s" in row:
                result["live_restart_s"] = row["restart_s"]
                print(f"restarts, s: {row['restart_s']}", flush=True)
                break
            rows.append(row)
            save()
            print(" | ".join(plot.live_cells(row)), flush=True)
    print(f"\n{plot.table(plot.LIVE_HEAD, list(map(plot.live_cells, rows)))}\n")
    names = "memory_mb", "log_mb", "state_mb", "snapshots_mb", "score_p50_ms", "commit_ms"
    result["live_growth"] = growth(rows, *names)
    tell(result["live_growth"])
    save()


def main() -> None:
    """Run, print, write JSON and a plot if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=30 * MILLION, help="through replay; 0: not at all")
    parser.add_argument("--mark", type=int, default=MILLION, help="measure after so many")
    parser.add_argument("--rows-max", type=int, default=kept.ROWS_MAX, help="budget of pairs, through replay")
    parser.add_argument("--live", type=int, default=600_000, help="requests through the roles; 0: not at all")
    parser.add_argument("--live-marks", type=int, default=20, help="measure so often")
    parser.add_argument(
        "--live-rows-max", type=int, default=MILLION, help="budget of pairs, through the roles"
    )
    parser.add_argument(
        "--per-s", type=int, default=1_000, help="requests a second through the roles, at most"
    )
    parser.add_argument("--retain-mb", type=int, default=32, help="what the log keeps of each topic")
    parser.add_argument("--log", choices=["sqlite", "kafka"], default="sqlite")
    parser.add_argument("--quick", action="store_true", help="a run of about two minutes")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where to write; with --json, the same command goes on with a replay there",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here, after each mark")
    parser.add_argument("--svg", type=Path, metavar="OUT", help="write plots: OUT, and OUT-live of the roles")
    parser.add_argument("--restart", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.restart is not None:
        print(json.dumps(kept.restart(live.parsed(options.restart, options.rows_max), options.restart)))
        return
    if options.quick:
        options.requests, options.mark, options.live, options.live_marks = 150_000, 50_000, 15_000, 3
    result: Row = {"benchmark": "soak"}
    lasting = options.folder / "replay" if options.folder and options.json else None
    if lasting is not None and (lasting / "state").exists() and options.json.exists():
        result = json.loads(options.json.read_text())

    def save() -> None:
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
        if options.svg and result.get("replay"):
            plot.draw(result["replay"], options.svg)
        if options.svg and result.get("live"):
            out = options.svg.with_stem(f"{options.svg.stem}-live")
            plot.draw(result["live"], out, plot.LIVE_CHARTS)

    if options.requests:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name) if lasting is None else lasting
            folder.mkdir(exist_ok=True)
            soak(folder, options, result, save)
    if options.live:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            run_live(Path(name), options, result, save)


if __name__ == "__main__":
    main()
