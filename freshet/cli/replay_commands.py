"""The commands that replay: what would the model have predicted, and which change is worth making?"""

import argparse
from pathlib import Path
from typing import Any

from freshet.cli.parts import add_command, add_config, add_parent, count, load, positive


def add_replay_commands(commands: Any) -> None:
    """Add replay and what goes with it."""
    _add_replay(commands)
    _add_compare(commands)
    _add_evaluate(commands)
    _add_sweep(commands)
    _add_train(commands)
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
        "freshet replay --data sqlite:.freshet/log.db --journal .freshet/learn --report r.json\n"
        "freshet replay --config freshet.toml --from-snapshot .freshet/snapshots --set learner.group=16",
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
    parser.add_argument(
        "--from-snapshot", metavar="DIR",
        help="go on from a learner's snapshot (of .freshet/snapshots; of that folder the newest), behind "
        "what it has learnt, with the settings as they are given now",
    )  # fmt: skip
    # For whoever starts a replay as a child: it ends when that process is gone.
    add_parent(parser)


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
    from freshet.decide.compare import run_compare

    run_compare(
        [Path(path) for path in (arguments.first, *arguments.others)],
        arguments.prediction,
        arguments.resamples,
        arguments.seed,
        Path(arguments.report) if arguments.report else None,
        Path(arguments.html) if arguments.html else None,
    )


def _add_evaluate(commands: Any) -> None:
    parser = add_command(
        commands, "evaluate", _evaluate,
        "estimate what an order by a replay's predictions would have earned, from orders that were drawn at "
        "random and logged with their propensities",
        "freshet replay --data sqlite:.freshet/log.db --config freshet.toml --report a.json --predictions\n"
        "freshet evaluate a.json                  against what was shown\n"
        "freshet evaluate a.json b.json --top 3   against each other, by clicks at the first three places",
    )  # fmt: skip
    parser.add_argument(
        "reports", metavar="A.json", nargs="+", help="reports with predictions, of the same data"
    )
    parser.add_argument(
        "--prediction", choices=["corrected", "base"], default="corrected", help="by which to order"
    )
    parser.add_argument("--top", type=count, metavar="K", help="count clicks at the first K places only")
    parser.add_argument("--report", metavar="FILE", help="the estimates as JSON")


def _evaluate(arguments: argparse.Namespace) -> None:
    from freshet.decide.evaluate import run_evaluate

    run_evaluate(
        [Path(path) for path in arguments.reports],
        arguments.prediction,
        arguments.top,
        Path(arguments.report) if arguments.report else None,
    )


def _add_sweep(commands: Any) -> None:
    parser = add_command(
        commands, "sweep", _sweep,
        "replay many configurations, as many at once as there are cores, and rank them; the same command "
        "given again goes on where it was",
        "freshet sweep --data clicks.csv --grid learner.deep=none,dcn --grid features.user.dim=8,16\n"
        "freshet sweep --data clicks.csv --random 30 --range learner.deep_rate=0.0001..0.01 --halving\n"
        "freshet sweep --data sqlite:.freshet/log.db --grid 'learner.speeds=[1.0],[1.0,0.9]' "
        "--set 'learner.speed_tau=[0.3]'",
    )  # fmt: skip
    add_config(parser, default=None)
    parser.add_argument("--data", metavar="PATH|URL", help="as for replay")
    parser.add_argument("--from", dest="begin", metavar="TIME|offset:N", help="as for replay")
    parser.add_argument("--to", dest="end", metavar="TIME|offset:N", help="as for replay")
    parser.add_argument("--limit", type=count, metavar="N", help="of the requests")
    parser.add_argument("--freeze-after", type=count, metavar="N", help="as for replay")
    parser.add_argument(
        "--grid", metavar="KEY=V,V,...", action="append", default=[],
        help="values of one key; of several keys all combinations are tried",
    )  # fmt: skip
    parser.add_argument(
        "--range", metavar="KEY=LOW..HIGH", action="append", default=[], dest="ranges",
        help="for --random: draw between two numbers, evenly on the logarithm's scale",
    )  # fmt: skip
    parser.add_argument("--random", type=count, metavar="N", help="draw N of all combinations")
    parser.add_argument("--seed", type=int, default=0, help="of --random (0)")
    parser.add_argument(
        "--halving", action="store_true",
        help="all play the beginning of the stream, the best third three times as much, and so on",
    )  # fmt: skip
    parser.add_argument(
        "--by", choices=["logloss", "auc", "gauc", "ece", "brier"], default="logloss",
        help="what ranks, over the last half of what was played (logloss)",
    )  # fmt: skip
    parser.add_argument("--prediction", choices=["corrected", "base"], default="corrected", help="which one")
    parser.add_argument("--jobs", type=count, metavar="N", help="processes at once (one for each core)")
    parser.add_argument(
        "--out", metavar="DIR", default="sweep", help="folder of the trials' reports, and of what is resumed"
    )


def _sweep(arguments: argparse.Namespace) -> None:
    import os

    from freshet.decide.sweep import Sweep, print_table, run_sweep
    from freshet.decide.trials import make_trials
    from freshet.replay.tape import ReplayOptions

    trials = make_trials(arguments.grid, arguments.ranges, arguments.random, arguments.seed)
    sweep = Sweep(
        config_file=arguments.config,
        overrides=arguments.overrides,
        options=ReplayOptions(
            data=arguments.data,
            begin=arguments.begin,
            end=arguments.end,
            limit=arguments.limit,
            freeze_after=arguments.freeze_after,
        ),
        folder=Path(arguments.out),
        by=arguments.by,
        prediction=arguments.prediction,
        jobs=arguments.jobs or len(os.sched_getaffinity(0)),
        halving=arguments.halving,
    )
    print_table(sweep, run_sweep(sweep, trials))


def _add_train(commands: Any) -> None:
    parser = add_command(
        commands, "train", _train,
        "learn history from files, then leave the rest to the live log: no event missed, none learnt twice",
        "freshet train --data history.parquet --until 2026-01-01\n"
        "freshet train --data nov.csv --data dec.csv --until 2026-01-01T00:00:00Z --overlap 3600\n"
        "freshet up                                   goes on with the log from there",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument(
        "--data",
        metavar="PATH",
        action="append",
        required=True,
        help="a file; several in the order of their time",
    )
    parser.add_argument(
        "--until", metavar="TIME", required=True,
        help="event time at which the log takes over, ISO 8601 or Unix seconds; what the files have from "
        "then on is left to it",
    )  # fmt: skip
    parser.add_argument(
        "--overlap", type=positive, default=3600.0, metavar="S",
        help="seconds around it in which request ids decide what was learnt already (3600); the log must "
        "hold everything from so long before",
    )  # fmt: skip
    add_parent(parser)


def _train(arguments: argparse.Namespace) -> None:
    from freshet.replay.tape import read_time
    from freshet.replay.train import run_train
    from freshet.roles.process import end_with_parent

    if arguments.with_parent:
        end_with_parent(arguments.with_parent)
    until = read_time("--until", arguments.until)
    run_train(load(arguments), [Path(path) for path in arguments.data], until, arguments.overlap)


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
    from freshet.replay.tape import ReplayOptions
    from freshet.tools.export import run_export

    options = ReplayOptions(
        data=arguments.data, begin=arguments.begin, end=arguments.end, limit=arguments.limit
    )
    run_export(arguments.config, arguments.overrides, options, arguments.topic, Path(arguments.file))


def _replay(arguments: argparse.Namespace) -> None:
    from freshet.replay.replay import run_replay
    from freshet.replay.tape import ReplayOptions
    from freshet.roles.process import end_with_parent

    options = ReplayOptions(
        data=arguments.data,
        begin=arguments.begin,
        end=arguments.end,
        limit=arguments.limit,
        shuffle_labels=arguments.shuffle_labels,
        freeze_after=arguments.freeze_after,
        journal=arguments.journal,
        from_snapshot=arguments.from_snapshot,
    )
    if arguments.with_parent:
        end_with_parent(arguments.with_parent)
    html = Path(arguments.html) if arguments.html else None
    predictions = None
    if arguments.predictions is not None:
        beside = Path("replay.json" if arguments.report == "-" else arguments.report)
        predictions = Path(arguments.predictions or beside.with_suffix(".predictions.parquet"))
    run_replay(arguments.config, arguments.overrides, options, arguments.report, html, predictions)
