"""Does anything grow? Thirty million requests, with new people, items and campaigns all the time.

    .venv/bin/python benchmarks/soak.py [--requests N] [--live N] [--log sqlite|kafka] [--quick]
        [--folder FOLDER] [--json OUT] [--svg OUT]

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


def soak(
    folder: Path, requests: int, mark: int, rows_max: int, save: Callable[[list[Row]], None]
) -> list[Row]:
    """The run through replay; `save` is given the rows after each mark, since the run is long."""
    print(f"{requests:,} requests through replay; eight id features, DCN-v2", flush=True)
    print(" | ".join(plot.HEAD), flush=True)
    rows = []
    for row in kept.run(live.parsed(folder, rows_max), folder, requests, mark):
        rows.append(row)
        save(rows)
        print(" | ".join(plot.cells(row)), flush=True)
    return rows


def growth(rows: list[Row]) -> Row:
    """The last mark over an earlier one: the tenth million, or the middle of a shorter run."""
    early = next((row for row in rows if row["requests"] >= 10 * MILLION), rows[len(rows) // 2])
    last = rows[-1]
    names = ("memory_mb", "disk_mb", "score_p50_us", "commit_p50_ms", "publish_s", "restart_s")
    grown = {name: last[name] / early[name] for name in names}
    grown["pairs"] = last["rows"]["pairs"] / early["rows"]["pairs"]
    speed = {"speed": last["per_s"] / rows[0]["per_s"], "speed_by_cpu": rows[0]["cpu_us"] / last["cpu_us"]}
    return {"from": early["requests"], **speed, **grown}


def run_live(kind: str, folder: Path, options: live.Live) -> list[Row]:
    """The run through the roles."""
    print(
        f"{options.requests:,} requests through the roles on {kind}, {options.per_s:,} a second", flush=True
    )
    rows = []
    (folder / "log").mkdir()
    with (live.kafka if kind == "kafka" else live.sqlite)(folder / "log") as url:
        for row in live.run(kind, url, folder, options, folder / "log"):
            rows.append(row)
            print(f"  {json.dumps(row)}", flush=True)
    return rows


def main() -> None:
    """Run, print, write JSON and a plot if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=30 * MILLION, help="through replay; 0: not at all")
    parser.add_argument("--mark", type=int, default=MILLION, help="measure after so many")
    parser.add_argument("--rows-max", type=int, default=kept.ROWS_MAX, help="budget of pairs, through replay")
    parser.add_argument("--live", type=int, default=600_000, help="requests through the roles; 0: not at all")
    parser.add_argument("--per-s", type=int, default=1_000, help="requests a second through the roles")
    parser.add_argument("--retain-mb", type=int, default=32, help="what the log keeps of each topic")
    parser.add_argument("--log", choices=["sqlite", "kafka"], default="sqlite")
    parser.add_argument("--quick", action="store_true", help="a run of about a minute")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    parser.add_argument("--svg", type=Path, metavar="OUT", help="write the plot here")
    parser.add_argument("--restart", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.restart is not None:
        print(json.dumps(kept.restart(live.parsed(options.restart, options.rows_max), options.restart)))
        return
    requests, mark, live_requests = options.requests, options.mark, options.live
    if options.quick:
        requests, mark, live_requests = 150_000, 50_000, 15_000
    result: Row = {"benchmark": "soak", "requests": requests, "live_requests": live_requests}

    def save(rows: list[Row]) -> None:
        result["replay"] = rows
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")

    if requests:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            rows = soak(Path(name), requests, mark, options.rows_max, save)
        grown = result["growth"] = growth(rows)
        print(f"\n{plot.table(rows)}\n")
        print(
            f"speed at the end over that of the first mark: {grown['speed']:.2f}, by processor time "
            f"{grown['speed_by_cpu']:.2f}; from {grown['from']:,} requests to the end: "
            + ", ".join(f"{k} × {v:.2f}" for k, v in grown.items() if k[:4] not in ("from", "spee"))
        )
        if options.svg:
            plot.draw(rows, options.svg)
    if live_requests:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            plan = live.Live(live_requests, options.per_s, 3 if options.quick else 10, options.retain_mb)
            result["live"] = run_live(options.log, Path(name), plan)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
