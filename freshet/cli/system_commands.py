"""The commands that run Freshet: demo, init, the roles, check and status."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from freshet.cli.table import (
    AS_JSON,
    DATA_FILE,
    DEFAULT_FILE,
    MODEL,
    ROLE_CONFIG,
    WITH_PARENT,
    Command,
    count,
    data_of,
    load,
    option,
    path_of,
    port,
    positive,
)

if TYPE_CHECKING:
    import threading

    from freshet.config import Config

EXIT_NOT_OK = 1


def _demo(arguments: argparse.Namespace) -> int:
    from freshet.demo.demo import run_demo

    data = data_of(arguments)
    return run_demo(
        seconds=arguments.seconds,
        data=path_of(data),
        report=Path(arguments.html),
        keep=path_of(arguments.keep),
        seed=arguments.seed,
        log=arguments.log,
    )


def _init(arguments: argparse.Namespace) -> None:
    from freshet.init.command import run_init
    from freshet.init.topics.command import run_init_topics

    if arguments.topic:
        run_init_topics(
            arguments.topic, data_of(arguments) or arguments.entities, arguments.out, arguments.force,
            arguments.registry, arguments.with_config,
        )  # fmt: skip
        return
    data = data_of(arguments, needed=True) or ""
    run_init(
        data, arguments.out, arguments.force, arguments.yes, arguments.label, arguments.positive_from,
        arguments.entities,
    )  # fmt: skip


def _role(arguments: argparse.Namespace) -> int:
    from freshet.roles.process import SIGNAL_S_MAX, Stop

    with Stop(arguments.with_parent, SIGNAL_S_MAX) as stop:
        from freshet.roles import roles

        _put_options(arguments)
        if arguments.command == "learn":
            return _learn(arguments, stop.event) or stop.status
        roles.RUN[arguments.command](load(arguments), stop.event)
    return stop.status


def _learn(arguments: argparse.Namespace, stop: "threading.Event") -> int:
    """Run the learner: in this process, as one of several shards, or as the one who starts them."""
    import os

    status = None if arguments.shard or arguments.template else _learn_as_copy(arguments, stop)
    if status is not None:
        return status
    from freshet.errors import ConfigError
    from freshet.roles.roles import run_learn
    from freshet.roles.shards.starter import check_one_kind, in_shards, run_shards

    config = load(arguments)
    configured = config.learner.shards.count
    if arguments.shards not in (None, configured):
        raise ConfigError(
            f"--shards {arguments.shards}: models.{config.model}.set says learner.shards.count="
            f"{configured}; change it there, so that all roles know it"
        )
    if arguments.shard:
        from freshet.roles.shards.process import place_of, run_shard

        run_shard(config, place_of(arguments.shard), stop)
    sharded = in_shards(config, os.environ)
    if arguments.anew:
        _begin_anew(sharded or config)
    if sharded is not None:
        run_shards(sharded, arguments.config, arguments.overrides, arguments.template, stop)
    else:
        check_one_kind(config)
        run_learn(config, stop)
    return 0


def _learn_as_copy(arguments: argparse.Namespace, stop: "threading.Event") -> int | None:
    """Start shards again where whoever started them was killed just now: without imports, as a copy.

    Otherwise names the process that shards will be copies of, and returns None.
    """
    from freshet.roles.shards.template import run_as_copy, template_name

    words = ["learn", "--config", arguments.config]
    for override in arguments.overrides:
        words += ["--set", override]
    if arguments.shards is not None:
        words += ["--shards", str(arguments.shards)]
    words += ["--anew"] * arguments.anew
    arguments.template = template_name(words)
    return run_as_copy(arguments.template, "freshet-learn", [*words, "--template", arguments.template], stop)


def _reshard(arguments: argparse.Namespace) -> int:
    from freshet.roles.process import Stop
    from freshet.roles.shards.resharding import run_reshard

    _put_options(arguments)
    with Stop() as stop:
        run_reshard(load(arguments), arguments.to, stop.event)
    return 0


def _ingest(arguments: argparse.Namespace) -> int:
    if not arguments.check:
        return _role(arguments)
    from freshet.roles.ingest.check import check_ingest

    return 0 if check_ingest(load(arguments), arguments.json) else EXIT_NOT_OK


def _up(arguments: argparse.Namespace) -> int:
    from freshet.roles.process import Stop
    from freshet.roles.up import prepare_up, run_up

    _put_options(arguments)
    config = load(arguments)
    if arguments.anew:
        _begin_anew(config)
    prepare_up(config)  # before any role runs, so that errors need no orderly stop
    with Stop(arguments.with_parent) as stop:
        run_up(config, arguments.config, arguments.overrides, stop.event)
    return stop.status


def _begin_anew(config: "Config") -> None:
    from freshet.roles.opening import begin_anew

    for aside in begin_anew(config):
        print(f"freshet: the previous model is kept in {aside}", file=sys.stderr)


def _put_options(arguments: argparse.Namespace) -> None:
    """Add the options that stand for a setting (--name, --model, --port) to the overrides."""
    from freshet.sections.overrides import toml_text

    extra = []
    if getattr(arguments, "name", None) is not None:
        extra.append(f"group.name={toml_text(arguments.name)}")
    if getattr(arguments, "model", None) is not None:
        extra.append(f"model={toml_text(arguments.model)}")
    if getattr(arguments, "shards", None) is not None:
        extra.append(f"learner.shards.count={arguments.shards}")
    if getattr(arguments, "port", None) is not None:
        extra.append(f"server.port={arguments.port}")
    # argparse hands out its one default list, so appending to it would change the next command's settings
    arguments.overrides = [*arguments.overrides, *extra]


def _check(arguments: argparse.Namespace) -> int:
    from freshet.tools.check import print_checks

    data = path_of(data_of(arguments))
    fine = print_checks(arguments.config, arguments.overrides, data, arguments.json)
    return 0 if fine else EXIT_NOT_OK


def _status(arguments: argparse.Namespace) -> int:
    from freshet.tools.status import print_status

    return 0 if print_status(load(arguments), arguments.json) else EXIT_NOT_OK


def _warmup(arguments: argparse.Namespace) -> None:
    from freshet.warmup import warm_up

    warm_up(always=True, everything=True)


_NAME = option("--name", help="name of this process in its group (group.name)")
_ANEW = option(
    "--anew", action="store_true",
    help="move the previous model aside and train a new one from the oldest examples in the log; for this "
    "start only",
)  # fmt: skip
_PORT = option("--port", type=port, metavar="N", help="port to listen on (server.port)")

COMMANDS = (
    Command(
        "demo", _demo, "play a click stream against the whole system and watch it learn",
        (
            "freshet demo",
            "freshet demo --seconds 30 --html demo.html",
            "freshet demo --log kafka://localhost:9092",
            "freshet demo --data ratings/ --keep demo/",
        ),
        (
            option("--seconds", type=positive, default=110.0, metavar="S", help="how long to play (110)"),
            option(
                "--data", metavar="PATH", help="play real ratings (MovieTweetings) instead of the simulator"
            ),
            option("file", nargs="?", hidden=True),
            option(
                "--html", metavar="FILE", default="freshet-demo-report.html",
                help="the report, a page with plots (freshet-demo-report.html)",
            ),
            option("--report", dest="html", default=argparse.SUPPRESS, hidden=True),
            option("--keep", metavar="DIR", help="keep config, log and state here (else they are removed)"),
            option("--seed", type=int, default=0, metavar="N", help="seed of the simulated world (0)"),
            option(
                "--log", metavar="URL", default="sqlite:log.db",
                help="the log, for example kafka://HOST:PORT (a SQLite file)",
            ),
        ),
    ),
    Command(
        "init", _init, "look at a data file, or at topics, and write a config for it, with reasons",
        (
            "freshet init --data clicks.csv               asks if the sample is ambiguous",
            "freshet init --data clicks.tsv.gz --yes --out shop.toml",
            "freshet init --data ratings/ --out -         print it",
            "freshet init --data plays.csv --label seconds --positive-from 30",
            "freshet init --data plays.csv --entities songs.csv    what songs.csv says of songs",
            "freshet init --topic kafka://HOST:9092/shop.shown --topic kafka://HOST:9092/shop.clicks",
        ),
        (
            *DATA_FILE,
            option(
                "--out", metavar="FILE", default=DEFAULT_FILE,
                help=f"the config to write; - prints it ({DEFAULT_FILE})",
            ),
            option("--force", action="store_true", help="overwrite an existing file"),
            option("--yes", action="store_true", help="ask nothing, choose the most likely answer"),
            option(
                "--label", metavar="COLUMN",
                help="the column with the label (found by its name and values)",
            ),
            option(
                "--positive-from", type=float, metavar="X",
                help="with --label: a number of at least X counts as 1",
            ),
            option(
                "--entities", metavar="FILE",
                help="a second file, with a line for each item or person: its columns become attributes",
            ),
            option(
                "--topic", metavar="URL/NAME", action="append", default=[],
                help="instead of a file: a topic of yours; give it again for another, as of its clicks",
            ),
            option("--registry", metavar="URL", default="", help="with --topic: a schema registry"),
            option(
                "--with-config", metavar="FILE", default="",
                help="with --topic: use the log and log-ins of this config, and write the sections to add",
            ),
        ),
    ),
    Command(
        "up", _up,
        "run joiner, learner and server on this machine, and ingest if there are sources; Ctrl-C stops all",
        ("freshet up --config freshet.toml", "freshet up --port 9000"),
        (*ROLE_CONFIG, _PORT, _ANEW, WITH_PARENT),
    ),
    Command(
        "ingest", _ingest, "read the sources that the config names: records of others in, events out",
        (
            "freshet ingest --config freshet.toml",
            "freshet ingest --check      what would the newest 1,000 records of each source become?",
        ),
        (
            *ROLE_CONFIG, _NAME,
            option(
                "--check", action="store_true",
                help="read the newest 1,000 records of each source, print what they become, how many actions "
                "would meet their impression, and what is wrong; write nothing",
            ),
            AS_JSON, WITH_PARENT,
        ),
    ),
    Command(
        "join", _role, "run the joiner: events in, examples out",
        ("freshet join --config freshet.toml",), (*ROLE_CONFIG, _NAME, WITH_PARENT),
    ),
    Command(
        "learn", _role, "run the learner: examples in, model updates out",
        (
            "freshet learn --config freshet.toml",
            "freshet learn --anew",
            "freshet learn --model challenger",
            "freshet learn --shards 4        four processes of this machine learn one model",
        ),
        (
            *ROLE_CONFIG, _NAME, MODEL, _ANEW,
            option(
                "--shards", type=count, metavar="N",
                help="in so many processes (learner.shards.count); with torchrun, as many as it starts",
            ),
            option("--shard", default="", hidden=True),
            option("--template", default="", hidden=True), WITH_PARENT,
        ),
    ),
    Command(
        "reshard", _reshard,
        "let a learner that is stopped go on in another number of processes; no example is lost or repeated",
        (
            "freshet reshard --to 4        from however many there are",
            "freshet reshard --to 1        one process again, without turns",
        ),
        (
            *ROLE_CONFIG, _NAME, MODEL,
            option("--to", type=count, required=True, metavar="M", help="processes from now on"),
        ),
    ),
    Command(
        "serve", _role, "run a server: answers requests from a live copy of the model",
        ("freshet serve --config freshet.toml", "freshet serve --port 9000"),
        (*ROLE_CONFIG, _PORT, WITH_PARENT),
    ),
    Command(
        "check", _check,
        "check config, log, states and permissions before a start: one line each, ok, or not ok with a "
        "remedy; the exit status is 0 if all are ok, else 1",
        ("freshet check", "freshet check --data clicks.csv    also check the lines of a data file"),
        (*ROLE_CONFIG, *DATA_FILE, AS_JSON),
    ),
    Command(
        "status", _status,
        "print which roles run, since when, and their counts, from the log; the exit status is 0 if a "
        "joiner and a learner run, else 1",
        ("freshet status", "freshet status --json"),
        (*ROLE_CONFIG, AS_JSON),
    ),
    Command(
        "warmup", _warmup, "compile all kernels now instead of at the first start",
        ("freshet warmup",),
    ),
)  # fmt: skip
