"""The command line. Everything is imported when its command runs, so that `--help` answers at once.

A `FreshetError` is printed as one line and exits with 2, Ctrl-C exits with 130, SIGTERM stops a role
cleanly with 0. Any other exception is a defect of Freshet and keeps its traceback.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freshet.config import Config

DEFAULT_FILE = "freshet.toml"
EXIT_ERROR, EXIT_INTERRUPTED = 2, 130

_EPILOG = """\
examples:
  freshet demo                                    watch a model learn a click stream, in two minutes
  freshet init --data clicks.csv                  write a config for a file of yours
  freshet replay --data ratings/ --report r.json  what would the model have predicted, event by event?
  freshet up --config freshet.toml                joiner, learner and server on this machine
  curl localhost:8470/v1/score -d '{"context":{"user":1},"candidates":[{"item":7},{"item":9}]}'

`freshet COMMAND --help` has examples of each command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read the output has gone: `freshet inspect ... | head`
        sys.stderr.close()
        return 0
    except Exception as error:
        from ground import FreshetError

        if not isinstance(error, FreshetError):
            raise
        print(f"freshet: {error}", file=sys.stderr)
        return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="freshet",
        description="Real-time learning for click-through-rate and ranking models: "
        "events in, fresh corrected predictions out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_init(commands)
    _add_roles(commands)
    _add_produce(commands)
    _add_replay(commands)
    _add_inspect(commands)
    _add_dead_letters(commands)
    _add_schema(commands)
    _add(
        commands,
        "warmup",
        _warmup,
        "compile all kernels now, once, instead of at the first start",
        "freshet warmup",
    )
    return parser


def _version() -> str:
    from freshet import __version__

    return f"freshet {__version__}"


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], help_: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_,
        description=help_[0].upper() + help_[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_config(parser: argparse.ArgumentParser, default: str | None = DEFAULT_FILE) -> None:
    parser.add_argument(
        "--config", "-c", metavar="FILE", default=default, help=f"config file ({DEFAULT_FILE})"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="change one setting, for example --set learner.deep=none; may be given again",
    )  # fmt: skip


def _add_demo(commands: Any) -> None:
    parser = _add(
        commands, "demo", _demo, "play a click stream against the whole system and watch it learn",
        "freshet demo\nfreshet demo --seconds 30 --report demo.html\n"
        "freshet demo --log kafka://localhost:9092\n"
        "freshet demo --data ratings/ --keep demo/",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=_positive, default=110.0, metavar="S", help="how long to play (110)"
    )
    parser.add_argument(
        "--data", metavar="PATH", help="replay real ratings (MovieTweetings) instead of the simulator"
    )
    parser.add_argument(
        "--report", metavar="FILE", default="freshet-demo-report.html", help="where the report goes"
    )
    parser.add_argument(
        "--keep", metavar="DIR", help="keep config, log and state there (else they are removed)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the simulated world (0)")
    parser.add_argument(
        "--log",
        metavar="URL",
        default="sqlite:log.db",
        help="the log, e.g. kafka://HOST:PORT (a SQLite file)",
    )


def _add_init(commands: Any) -> None:
    parser = _add(
        commands, "init", _init, "look at a data file and write a config for it, with reasons",
        "freshet init --data clicks.csv               asks where a sample leaves doubt\n"
        "freshet init --data clicks.tsv.gz --yes --out shop.toml\n"
        "freshet init --data ratings/ --out -         print it",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="PATH", required=True, help="CSV, JSON Lines, Parquet, or a folder of ratings"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        default=DEFAULT_FILE,
        help=f"the config to write; - prints it ({DEFAULT_FILE})",
    )
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("--yes", action="store_true", help="ask nothing, take the likeliest")


def _add_roles(commands: Any) -> None:
    for name, run, help_ in (
        ("up", _up, "run joiner, learner and server on this machine; Ctrl-C stops all three"),
        ("join", _role, "run the joiner: events in, examples out"),
        ("learn", _role, "run the learner: examples in, updates of the model out"),
        ("serve", _role, "run a server: answers requests from a live copy of the model"),
    ):
        example = f"freshet {name} --config freshet.toml"
        if name in ("up", "serve"):
            example += f"\nfreshet {name} --set server.port=9000"
        parser = _add(commands, name, run, help_, example)
        parser.set_defaults(role=name)
        _add_config(parser)
        if name in ("join", "learn"):
            parser.add_argument("--name", help="of this one among several that share the work (group.name)")
        # For whoever starts a role as a child: it stops when that process is gone.
        parser.add_argument("--with-parent", type=int, metavar="PID", default=0, help=argparse.SUPPRESS)


def _add_produce(commands: Any) -> None:
    parser = _add(
        commands, "produce", _produce, "send a file's events to the log",
        "freshet produce clicks.csv                  one labelled example per line, columns as in [data]\n"
        "freshet produce events.jsonl --events       impressions and actions as they are\n"
        "freshet produce clicks.parquet --rate 500   500 events a second",
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE", help="CSV, JSON Lines, Parquet, or a folder of ratings")
    _add_config(parser)
    parser.add_argument("--events", action="store_true", help="the lines are impressions and actions (JSON)")
    parser.add_argument("--rate", type=_positive, metavar="N", help="events per second at most")
    parser.add_argument("--limit", type=_count, metavar="N", help="stop after so many events")
    parser.add_argument(
        "--producer", metavar="NAME",
        help="name under which events are counted; sending again under the same name is dropped as a repeat",
    )  # fmt: skip


def _add_replay(commands: Any) -> None:
    parser = _add(
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
    _add_config(parser, default=None)
    parser.add_argument(
        "--data", metavar="PATH|URL", help="data file or folder, or a log's URL (the config's log)"
    )
    parser.add_argument(
        "--from", dest="begin", metavar="TIME|offset:N",
        help="event time, ISO 8601 or Unix seconds, inclusive; of a log also offset:N, or offset:N,N,... "
        "with one number per partition",
    )  # fmt: skip
    parser.add_argument("--to", dest="end", metavar="TIME|offset:N", help="the same, exclusive")
    parser.add_argument("--limit", type=_count, metavar="N", help="stop after so many requests")
    parser.add_argument("--report", metavar="FILE", default="-", help="JSON report; - prints it (-)")
    parser.add_argument("--html", metavar="FILE", help="the report as a page with plots")
    parser.add_argument(
        "--shuffle-labels", type=int, metavar="SEED",
        help="permute all labels: every AUC must come out at 0.50, or something leaks",
    )  # fmt: skip
    parser.add_argument(
        "--freeze-after", type=_count, metavar="N",
        help="the base stops learning after N requests and only the error memory goes on",
    )  # fmt: skip
    parser.add_argument(
        "--journal", metavar="STATE", help="follow a live learner's journal, to its very state"
    )


def _add_inspect(commands: Any) -> None:
    parser = _add(
        commands, "inspect", _inspect, "say what a role's state holds",
        "freshet inspect .freshet/learn\nfreshet inspect .freshet/join --json",
    )  # fmt: skip
    parser.add_argument("state", metavar="STATE", help="a role's state folder")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_dead_letters(commands: Any) -> None:
    parser = _add(
        commands, "dead-letters", _dead_letters, "list, show and send again what could not be used",
        "freshet dead-letters list                          the newest, with their reasons\n"
        "freshet dead-letters list --stage learner --since 2026-01-01 --json\n"
        "freshet dead-letters show 17                       one, with the record as it came\n"
        "freshet dead-letters retry 17 18                   send records again to where they came from\n"
        "freshet dead-letters retry --reason schema --dry-run",
    )  # fmt: skip
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    listing = _add(
        actions, "list", _dead_letters, "print the newest dead letters, a line each",
        "freshet dead-letters list --limit 100\n"
        "freshet dead-letters list --reason milliseconds --json | jq .key",
    )  # fmt: skip
    listing.add_argument("--limit", type=_count, default=20, metavar="N", help="how many at most (20)")
    show = _add(
        actions, "show", _dead_letters, "print one dead letter with the record as it came",
        "freshet dead-letters show 17\nfreshet dead-letters show 17 --raw > record.json",
    )  # fmt: skip
    show.add_argument("offset", type=int, metavar="OFFSET", help="as the list says")
    show.add_argument("--raw", action="store_true", help="the record's bytes and nothing else")
    retry = _add(
        actions, "retry", _dead_letters,
        "send the original records again, to the topic and partition that they came from, "
        "once the reason is mended (a longer max_ahead_s, a feature's kind); what was sent again "
        "before is left alone",
        "freshet dead-letters retry 17 18\nfreshet dead-letters retry --stage learner --dry-run\n"
        "freshet dead-letters retry 17 --again",
    )  # fmt: skip
    retry.add_argument("offsets", type=int, nargs="*", metavar="OFFSET", help="as the list says")
    retry.add_argument("--all", action="store_true", help="all of them")
    retry.add_argument("--again", action="store_true", help="those too that were sent again before")
    retry.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
    for action in (listing, show, retry):
        _add_config(action)
        if action is not retry:
            action.add_argument("--json", action="store_true", help="for programs, one object a line")
    for action in (listing, retry):
        action.add_argument("--stage", default="", help="only what this role could not use: joiner, learner")
        action.add_argument("--topic", default="", help="only what came from this topic")
        action.add_argument(
            "--reason", default="", metavar="TEXT", help="only where the reason has this in it"
        )
        action.add_argument("--since", metavar="TIME", help="buried then or later: ISO 8601 or Unix seconds")
        action.add_argument("--until", metavar="TIME", help="buried before then")


def _add_schema(commands: Any) -> None:
    parser = _add(
        commands, "schema", _schema, "describe the records for producers in any language",
        "freshet schema                     JSON Schema of what producers send\n"
        "freshet schema asyncapi            all topics, as AsyncAPI 3\n"
        "freshet schema --write schemas/    all of them, each in a file",
    )  # fmt: skip
    parser.add_argument(
        "name", nargs="?", default="event", choices=["event", "example", "dead_letter", "asyncapi"],
        metavar="NAME", help="event, example, dead_letter (JSON Schema) or asyncapi (event)",
    )  # fmt: skip
    parser.add_argument("--write", metavar="DIR", help="write all documents into this folder")


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number over 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number over 0")
    return value


def _load(arguments: argparse.Namespace) -> "Config":
    from freshet.config import load_config

    return load_config(arguments.config, arguments.overrides)


def _demo(arguments: argparse.Namespace) -> int:
    from freshet.demo import run_demo

    return run_demo(
        seconds=arguments.seconds,
        data=Path(arguments.data) if arguments.data else None,
        report=Path(arguments.report),
        keep=Path(arguments.keep) if arguments.keep else None,
        seed=arguments.seed,
        log=arguments.log,
    )


def _init(arguments: argparse.Namespace) -> None:
    from freshet.init import run_init

    run_init(arguments.data, arguments.out, arguments.force, arguments.yes)


def _role(arguments: argparse.Namespace) -> int:
    from freshet.process import SIGNAL_S_MAX, Stop

    with Stop(arguments.with_parent, SIGNAL_S_MAX) as stop:
        from freshet import roles

        if getattr(arguments, "name", None):
            arguments.overrides.append(f'group.name="{arguments.name}"')
        roles.RUN[arguments.role](_load(arguments), stop.event)
    return stop.status


def _up(arguments: argparse.Namespace) -> int:
    from freshet.process import Stop

    with Stop(arguments.with_parent) as stop:
        from freshet.up import run_up

        run_up(_load(arguments), arguments.config, arguments.overrides, stop.event)
    return stop.status


def _produce(arguments: argparse.Namespace) -> None:
    from freshet.produce import produce

    produce(
        _load(arguments),
        Path(arguments.file),
        events=arguments.events,
        rate=arguments.rate,
        limit=arguments.limit,
        producer=arguments.producer,
    )


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
    run_replay(arguments.config, arguments.overrides, options, arguments.report, html)


def _inspect(arguments: argparse.Namespace) -> None:
    from freshet.inspect import inspect_state

    inspect_state(Path(arguments.state), as_json=arguments.json)


def _dead_letters(arguments: argparse.Namespace) -> None:
    from freshet import dead_letters

    config = _load(arguments)
    if arguments.action == "show":
        dead_letters.show_letter(config, arguments.offset, arguments.json, arguments.raw)
        return
    given = (arguments.stage, arguments.topic, arguments.reason, arguments.since, arguments.until)
    wanted = dead_letters.make_filter(*given)
    if arguments.action == "list":
        dead_letters.list_letters(config, wanted, arguments.limit, arguments.json)
        return
    chosen = wanted if arguments.all or any(given) else None
    dead_letters.retry_letters(config, arguments.offsets, chosen, arguments.again, arguments.dry_run)


def _schema(arguments: argparse.Namespace) -> None:
    from freshet.errors import ConfigError
    from stream.schema import documents

    found = documents()
    if arguments.write is None:
        print(next(text for file, text in found.items() if file.split(".")[0] == arguments.name), end="")
        return
    folder = Path(arguments.write)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in found.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: the schemas cannot be written: {error.strerror}") from None


def _warmup(arguments: argparse.Namespace) -> None:
    from freshet.warmup import warm_up

    warm_up(always=True)
