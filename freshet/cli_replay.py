"""The commands that replay: what would the model have predicted, and which change is worth making?"""

import argparse
from pathlib import Path
from typing import Any

from freshet.cli_parts import add_command, add_config, count


def add_replay_commands(commands: Any) -> None:
    """Add replay and what goes with it."""
    _add_replay(commands)
    _add_compare(commands)
    _add_export(commands)


def _add_replay(commands: Any) -> None:
    parser = add_command(
        commands, "replay", _replay,
        "learn from a file or a log range, each request predicted before it is learnt",
        "freshet replay --data ratings/ --report r.json\n"
        "freshet replay --config freshet.toml --data clicks.csv --report r.json --html r.html\n"
        "freshet replay --data clicks.csv --set learner.deep=none --report -   is the deep part worth it?\n"
        "freshet replay --data clicks.csv --freeze-after 50000 --report -      is the error memory?\n"
        "freshet replay --data sqlite:.freshet/log.db --from 2026-01-01 --report r.json\n"
        "freshet replay --data kafka://localhost:9092 --from offset:1000 --to offset:2000 --report r.json\n"
        "freshet replay --data sqlite:.freshet/log.db --journal .freshet/learn --report r.json",
    )  # fmt: skip
    add_config(parser, default=None)
    parser.add_argument(
        "--data", metavar="PATH|URL", help="data file or folder, or a log's URL (the config's log)"
    )
    parser.add_argument(
        "--from", dest="begin", metavar="TIME|offset:N",
        help="event time, ISO 8601 or Unix seconds, inclusive; of a log also offset:N, or offset:N,N,... "
        "with one number per partition",
    )  # fmt: skip
    parser.add_argument("--to", dest="end", metavar="TIME|offset:N", help="the same, exclusive")
    parser.add_argument("--limit", type=count, metavar="N", help="stop after so many requests")
    parser.add_argument("--report", metavar="FILE", default="-", help="JSON report; - prints it (-)")
    parser.add_argument("--html", metavar="FILE", help="the report as a page with plots")
    parser.add_argument(
        "--predictions", metavar="FILE", nargs="?", const="",
        help="what was predicted of each candidate, as Parquet, which `freshet compare` needs "
        "(beside the report, as NAME.predictions.parquet)",
    )  # fmt: skip
    parser.add_argument(
        "--shuffle-labels", type=int, metavar="SEED",
        help="permute all labels: every AUC must come out at 0.50, or something leaks",
    )  # fmt: skip
    parser.add_argument(
        "--freeze-after", type=count, metavar="N",
        help="the base stops learning after N requests and only the error memory goes on",
    )  # fmt: skip
    parser.add_argument(
        "--journal", metavar="STATE", help="follow a live learner's journal, to its very state"
    )


def _add_compare(commands: Any) -> None:
    parser = add_command(
        commands, "compare", _compare,
        "say whether a change is worth making: replays of the same data, request by request, with "
        "intervals, over time and by slice",
        "freshet replay --data clicks.csv --report a.json --predictions\n"
        "freshet replay --data clicks.csv --report b.json --predictions --set learner.deep=none\n"
        "freshet compare a.json b.json --html compare.html     is b better than a?\n"
        "freshet compare a.json b.json c.json --prediction base",
    )  # fmt: skip
    parser.add_argument("first", metavar="A.json", help="report of the run that the others are compared with")
    parser.add_argument("others", metavar="B.json", nargs="+", help="reports of the others, of the same data")
    parser.add_argument(
        "--prediction", choices=["corrected", "base"], default="corrected",
        help="which prediction: what would be served (corrected), or the model's without the error memory",
    )  # fmt: skip
    parser.add_argument("--html", metavar="FILE", help="a page with plots, which needs no network")
    parser.add_argument("--report", metavar="FILE", help="the comparison as JSON, for programs")
    parser.add_argument(
        "--resamples", type=count, default=400, metavar="N", help="of the bootstrap (400)"
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")


def _compare(arguments: argparse.Namespace) -> None:
    from freshet.compare import run_compare

    run_compare(
        [Path(path) for path in (arguments.first, *arguments.others)],
        arguments.prediction,
        arguments.resamples,
        arguments.seed,
        Path(arguments.report) if arguments.report else None,
        Path(arguments.html) if arguments.html else None,
    )


def _add_export(commands: Any) -> None:
    parser = add_command(
        commands, "export", _export,
        "write a range of a log, or a data file, as Parquet: for pandas, polars and DuckDB, and to be "
        "replayed or sent to a log again",
        "freshet export examples.parquet                       all examples of the config's log\n"
        "freshet export day.parquet --from 2026-01-01 --to 2026-01-02\n"
        "freshet export events.parquet --topic events --data kafka://localhost:9092 --from offset:1000\n"
        "freshet export ratings.parquet --data ratings/        a data file in the same columns\n"
        "freshet replay --config freshet.toml --data examples.parquet\n"
        "freshet produce examples.parquet --examples           back into a log, as they were\n"
        "duckdb -c \"select item, avg(label) from 'examples.parquet' group by item\"",
    )  # fmt: skip
    parser.add_argument(
        "file", metavar="FILE", help="where to; what is there is replaced, once all is written"
    )
    add_config(parser, default=None)
    parser.add_argument(
        "--data", metavar="PATH|URL", help="a log's URL, or a data file or folder (freshet.toml's log)"
    )
    parser.add_argument(
        "--topic", default="examples", metavar="TOPIC",
        choices=["examples", "events", "dead_letters", "updates", "snapshots", "roles"],
        help="examples (the default) or events, in columns; dead_letters, updates, snapshots, roles as bytes",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="begin", metavar="TIME|offset:N",
        help="event time (of topics as bytes: the time at which the log took the record), ISO 8601 or Unix "
        "seconds, inclusive; or offset:N, or offset:N,N,... with one number per partition",
    )  # fmt: skip
    parser.add_argument("--to", dest="end", metavar="TIME|offset:N", help="the same, exclusive")
    parser.add_argument("--limit", type=count, metavar="N", help="stop after so many records")


def _export(arguments: argparse.Namespace) -> None:
    from freshet.export import run_export
    from freshet.tape import ReplayOptions

    options = ReplayOptions(
        data=arguments.data, begin=arguments.begin, end=arguments.end, limit=arguments.limit
    )
    run_export(arguments.config, arguments.overrides, options, arguments.topic, Path(arguments.file))


def _replay(arguments: argparse.Namespace) -> None:
    from freshet.replay import run_replay
    from freshet.tape import ReplayOptions

    options = ReplayOptions(
        data=arguments.data,
        begin=arguments.begin,
        end=arguments.end,
        limit=arguments.limit,
        shuffle_labels=arguments.shuffle_labels,
        freeze_after=arguments.freeze_after,
        journal=arguments.journal,
    )
    html = Path(arguments.html) if arguments.html else None
    predictions = None
    if arguments.predictions is not None:
        beside = Path("replay.json" if arguments.report == "-" else arguments.report)
        predictions = Path(arguments.predictions or beside.with_suffix(".predictions.parquet"))
    run_replay(arguments.config, arguments.overrides, options, arguments.report, html, predictions)
