"""The commands around replay: replay, compare, evaluate, sweep, train, warm."""

import argparse
from pathlib import Path

from freshet.cli.table import (
    CONFIG,
    DATA,
    ENTITIES,
    FREEZE_AFTER,
    HTML,
    PREDICTION,
    RANGE,
    REPORT,
    ROLE_CONFIG,
    THROUGH_ROLLBACKS,
    WITH_PARENT,
    Command,
    count,
    data_of,
    load,
    option,
    path_of,
    positive,
)


def _replay(arguments: argparse.Namespace) -> None:
    from freshet.replay.replay import run_replay
    from freshet.replay.tape import ReplayOptions
    from ground.threads import end_with_parent

    options = ReplayOptions(
        data=data_of(arguments),
        begin=arguments.begin,
        end=arguments.end,
        limit=arguments.limit,
        shuffle_labels=arguments.shuffle_labels,
        freeze_after=arguments.freeze_after,
        top=arguments.top,
        journal=arguments.journal,
        from_snapshot=arguments.from_snapshot,
        shards=arguments.shards,
        turn=arguments.turn,
        entities=arguments.entities,
        processes=arguments.processes,
        through_rollbacks=arguments.through_rollbacks,
    )
    if arguments.with_parent:
        end_with_parent(arguments.with_parent)
    predictions = None
    if arguments.predictions is not None:
        beside = Path("replay.json" if arguments.report == "-" else arguments.report)
        predictions = Path(arguments.predictions or beside.with_suffix(".predictions.parquet"))
    run_replay(
        arguments.config, arguments.overrides, options, arguments.report, path_of(arguments.html), predictions
    )


def _compare(arguments: argparse.Namespace) -> None:
    from freshet.decide.compare import run_compare

    run_compare(
        [Path(path) for path in (arguments.first, *arguments.others)],
        arguments.prediction,
        arguments.resamples,
        arguments.seed,
        path_of(arguments.report),
        path_of(arguments.html),
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    from freshet.decide.evaluate import run_evaluate

    reports = [Path(path) for path in arguments.reports]
    run_evaluate(
        reports,
        arguments.prediction,
        arguments.top,
        path_of(arguments.report),
        arguments.by or "",
        arguments.value or "",
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
            data=data_of(arguments),
            begin=arguments.begin,
            end=arguments.end,
            limit=arguments.limit,
            freeze_after=arguments.freeze_after,
            entities=arguments.entities,
            through_rollbacks=arguments.through_rollbacks,
        ),
        folder=Path(arguments.out),
        by=arguments.by or "",
        target=arguments.target or "",
        prediction=arguments.prediction,
        jobs=arguments.jobs or len(os.sched_getaffinity(0)),
        halving=arguments.halving,
    )
    print_table(sweep, run_sweep(sweep, trials))


def _train(arguments: argparse.Namespace) -> None:
    from freshet.errors import TrainError
    from freshet.replay.tapes.reading import read_time
    from freshet.replay.train import run_train
    from ground.threads import end_with_parent

    files = [*arguments.data, *arguments.files]
    if not files:
        raise TrainError("name the history: --data FILE, once for each file")
    for file in files:
        data_of(argparse.Namespace(data=file, file=None))
    if arguments.with_parent:
        end_with_parent(arguments.with_parent)
    until = read_time("--until", arguments.until)
    run_train(load(arguments), [Path(path) for path in files], until, arguments.overlap, arguments.entities)


def _warm(arguments: argparse.Namespace) -> None:
    from freshet.replay.tapes.reading import read_time
    from freshet.warm.command import run_warm
    from ground.clock import SYSTEM_CLOCK

    time = SYSTEM_CLOCK.unix_s() if arguments.time is None else read_time("--time", arguments.time)
    run_warm(load(arguments), arguments.vectors, arguments.network, time)


COMMANDS = (
    Command(
        "replay", _replay, "predict each request of a file or a log range, then train on it; report metrics",
        (
            "freshet replay --data ratings/ --report r.json",
            "freshet replay --config freshet.toml --data clicks.csv --report r.json --html r.html",
            "freshet replay --data clicks.csv --entities items.csv      items' attributes from a second file",
            "freshet replay --data clicks.csv --set learner.deep=none   is the deep part worth it?",
            "freshet replay --data clicks.csv --freeze-after 50000      is the error memory worth it?",
            "freshet replay --data sqlite:.freshet/log.db --from 2026-01-01 --report r.json",
            "freshet replay --data kafka://localhost:9092 --from offset:1000 --to offset:2000",
            "freshet replay --data sqlite:.freshet/log.db --journal .freshet/learn --report r.json",
            "freshet replay --from-snapshot .freshet/snapshots --set learner.group=16",
            "freshet replay --data clicks.csv --shards 4               what would four learners cost?",
        ),
        (
            *DATA,
            *CONFIG,
            *RANGE,
            THROUGH_ROLLBACKS,
            ENTITIES,
            option("--report", metavar="FILE", default="-", help="write the result as JSON; - prints it (-)"),
            HTML,
            option(
                "--predictions", metavar="FILE", nargs="?", const="",
                help="write each candidate's prediction as Parquet, which `freshet compare` needs (beside "
                "the report, as NAME.predictions.parquet)",
            ),
            option(
                "--shuffle-labels", type=int, metavar="SEED",
                help="permute all labels: every AUC must come out at 0.50, or a feature contains the label",
            ),
            FREEZE_AFTER,
            option(
                "--top", type=count, metavar="K", default=10,
                help="places that NDCG@K and recall@K count (10)",
            ),
            option(
                "--journal", metavar="STATE",
                help="follow the journal in a learner's state folder, to the same state bit for bit",
            ),
            option(
                "--from-snapshot", metavar="DIR",
                help="continue from a learner's snapshot (the newest in DIR, for example "
                ".freshet/snapshots) with the settings given now",
            ),
            option(
                "--shards", type=count, metavar="N",
                help="learn as N learners that share the work would, each the requests of its users: what "
                "would that cost in quality?",
            ),
            option(
                "--processes", action="store_true",
                help="with --shards: a process for each, on this machine; the same bits, in less time",
            ),
            option(
                "--turn", type=count, metavar="REQUESTS", default=1024,
                help="with --shards: requests that all of them together learn before they add up (1024)",
            ),
            WITH_PARENT,
        ),
    ),
    Command(
        "compare", _compare,
        "say whether B is better than A: replays of the same data, request by request, with confidence "
        "intervals, over time and by slice",
        (
            "freshet replay --data clicks.csv --report a.json --predictions",
            "freshet replay --data clicks.csv --report b.json --predictions --set learner.deep=none",
            "freshet compare a.json b.json --html compare.html     is b better than a?",
            "freshet compare a.json b.json c.json --prediction base",
        ),
        (
            option("first", metavar="A.json", help="report of the replay that the others are compared with"),
            option("others", metavar="B.json", nargs="+", help="reports of the others, of the same data"),
            PREDICTION,
            REPORT,
            HTML,
            option(
                "--resamples", type=count, default=400, metavar="N",
                help="bootstrap samples for the intervals (400)",
            ),
            option("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap (0)"),
        ),
    ),
    Command(
        "evaluate", _evaluate,
        "estimate what ordering by a replay's predictions would have earned (clicks, or rank.by), from "
        "sampled orders that were logged with their propensities",
        (
            "freshet replay --data sqlite:.freshet/log.db --report a.json --predictions",
            "freshet evaluate a.json                  against what was shown",
            "freshet evaluate a.json b.json --top 3   against each other, by clicks at the top three",
            "freshet evaluate a.json --value 'click + 30 * buy' --by click",
        ),
        (
            option(
                "reports", metavar="A.json", nargs="+",
                help="replay reports with predictions, of the same data",
            ),
            PREDICTION,
            option("--top", type=count, metavar="K", help="count what the first K places earn only"),
            option(
                "--by", metavar="EXPR",
                help="the order of all runs, as rank.by (each run's own rank.by, or the first target)",
            ),
            option(
                "--value", metavar="EXPR",
                help="what a candidate earns, as rank.by (rank.by of the first run, or the first target)",
            ),
            REPORT,
        ),
    ),
    Command(
        "sweep", _sweep,
        "replay many configurations, one process per core, and rank them; the same command resumes an "
        "interrupted sweep",
        (
            "freshet sweep --data clicks.csv --grid learner.deep=none,dcn --grid features.user.dim=8,16",
            "freshet sweep --data clicks.csv --random 30 --range learner.deep_rate=0.0001..0.01 --halving",
            "freshet sweep --data sqlite:.freshet/log.db --grid 'learner.speeds=[1.0],[1.0,0.9]' "
            "--set 'learner.speed_tau=[0.3]'",
        ),
        (
            *DATA,
            *CONFIG,
            *RANGE,
            THROUGH_ROLLBACKS,
            ENTITIES,
            FREEZE_AFTER,
            option(
                "--grid", metavar="KEY=V,V,...", action="append", default=[],
                help="values of one key; with several keys, all combinations are tried",
            ),
            option(
                "--range", metavar="KEY=LOW..HIGH", action="append", default=[], dest="ranges",
                help="for --random: draw between two numbers, evenly on a logarithmic scale",
            ),
            option("--random", type=count, metavar="N", help="draw N combinations"),
            option("--seed", type=int, default=0, metavar="N", help="seed of --random (0)"),
            option(
                "--halving", action="store_true",
                help="all play the beginning of the stream, the best third three times as much, and so on",
            ),
            option(
                "--by",
                choices=["logloss", "auc", "request_auc", "gauc", "ece", "brier", "mae", "rmse", "loglik"],
                help="metric to rank by, over the last half of the stream (logloss; of a value mae); gauc, "
                "AUC per user, is biased against models that learn users; request_auc is not",
            ),
            option("--target", metavar="NAME", help="the target whose metrics count (the first)"),
            PREDICTION,
            option("--jobs", type=count, metavar="N", help="processes at once (one for each core)"),
            option(
                "--out", metavar="DIR", default="sweep",
                help="folder for the trials' reports; the same command resumes from it (sweep)",
            ),
        ),
    ),
    Command(
        "train", _train,
        "train on history in files, then continue with the live log: no event missed, none used twice",
        (
            "freshet train --data history.parquet --until 2026-01-01",
            "freshet train --data nov.csv --data dec.csv --until 2026-01-01T00:00:00Z --overlap 3600",
            "freshet up                                   continues with the log",
        ),
        (
            option(
                "--data", metavar="PATH", action="append", default=[],
                help="a data file; give several in the order of their time",
            ),
            option("files", nargs="*", hidden=True),
            *ROLE_CONFIG,
            ENTITIES,
            option(
                "--until", metavar="TIME", required=True,
                help="event time at which the log takes over, ISO 8601 or Unix seconds; later examples of "
                "the files are ignored",
            ),
            option(
                "--overlap", type=positive, default=3600.0, metavar="S",
                help="seconds around --until in which request ids are compared, so that none is used twice "
                "(3600); the log must hold everything since --until minus this",
            ),
            WITH_PARENT,
        ),
    ),
    Command(
        "warm", _warm,
        "begin a new model with vectors and weights that you have, and print what matched",
        (
            "freshet warm --vectors item=items.parquet",
            "freshet warm --vectors item=items.npy,ids.npy --vectors user=old.pt#user.weight,users.json",
            "freshet warm --network old.pt",
            "freshet up                                   learns the examples of the log on top",
        ),
        (
            *ROLE_CONFIG,
            option(
                "--vectors", metavar="FEATURE=FILE", action="append", default=[],
                help="vectors of a feature's ids: Parquet, or FILE.npy,IDS, or CHECKPOINT#TENSOR,IDS; can be "
                "repeated",
            ),
            option("--network", metavar="FILE", help="weights of the network: a state_dict (.pt), or .npz"),
            option(
                "--time", metavar="TIME",
                help="event time at which these ids count as last seen, ISO 8601 or Unix seconds (now)",
            ),
        ),
    ),
)  # fmt: skip
