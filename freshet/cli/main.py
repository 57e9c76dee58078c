"""The command line. Everything is imported when its command runs, so that `--help` answers at once.

A `FreshetError` is printed as one line and exits with 2, Ctrl-C exits with 130, SIGTERM stops a role
cleanly with 0. Any other exception is a defect of Freshet and keeps its traceback.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freshet.cli.parts import DEFAULT_FILE, add_command, add_config, add_parent, count, load, positive
from freshet.cli.replay_commands import add_replay_commands

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
    parser = _parser()
    if not (sys.argv[1:] if argv is None else argv):  # somebody who does not know the commands yet
        parser.print_help(sys.stderr)
        return EXIT_ERROR
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt as interrupt:
        done = f": {interrupt}" if interrupt.args else ""  # what was done until then
        print(f"freshet: interrupted{done}", file=sys.stderr)
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
    add_replay_commands(commands)
    _add_inspect(commands)
    _add_dead_letters(commands)
    _add_forget(commands)
    _add_schema(commands)
    add_command(
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


def _add_demo(commands: Any) -> None:
    parser = add_command(
        commands, "demo", _demo, "play a click stream against the whole system and watch it learn",
        "freshet demo\nfreshet demo --seconds 30 --report demo.html\n"
        "freshet demo --log kafka://localhost:9092\n"
        "freshet demo --data ratings/ --keep demo/",
    )  # fmt: skip
    parser.add_argument("--seconds", type=positive, default=110.0, metavar="S", help="how long to play (110)")
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
    parser = add_command(
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
        parser = add_command(commands, name, run, help_, example)
        parser.set_defaults(role=name)
        add_config(parser)
        if name in ("join", "learn"):
            parser.add_argument("--name", help="of this one among several that share the work (group.name)")
        # For whoever starts a role as a child: it stops when that process is gone.
        add_parent(parser)


def _add_produce(commands: Any) -> None:
    parser = add_command(
        commands, "produce", _produce, "send a file's events to the log",
        "freshet produce clicks.csv                  one labelled example per line, columns as in [data]\n"
        "freshet produce events.jsonl --events       impressions and actions as they are\n"
        "freshet produce clicks.parquet --rate 500   500 events a second\n"
        "freshet produce export.parquet --examples   what `freshet export` wrote, as it was",
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE", help="CSV, JSON Lines, Parquet, or a folder of ratings")
    add_config(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--events", action="store_true",
        help="the file holds impressions and actions: JSON Lines, or an export of topic events",
    )  # fmt: skip
    what.add_argument(
        "--examples", action="store_true",
        help="send examples to topic examples, decided as they are: no joiner looks at them again",
    )  # fmt: skip
    parser.add_argument("--rate", type=positive, metavar="N", help="events per second at most")
    parser.add_argument("--limit", type=count, metavar="N", help="stop after so many events")
    parser.add_argument(
        "--pack", type=count, default=100, metavar="N",
        help="events of one partition in one message at most (100; 1: each in its own)",
    )  # fmt: skip
    parser.add_argument(
        "--producer", metavar="NAME",
        help="name under which events are counted; sending again under the same name is dropped as a repeat",
    )  # fmt: skip


def _add_inspect(commands: Any) -> None:
    parser = add_command(
        commands, "inspect", _inspect, "say what a role's state holds",
        "freshet inspect .freshet/learn\nfreshet inspect .freshet/join --json",
    )  # fmt: skip
    parser.add_argument("state", metavar="STATE", help="a role's state folder")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_dead_letters(commands: Any) -> None:
    parser = add_command(
        commands, "dead-letters", _dead_letters, "list, show and send again what could not be used",
        "freshet dead-letters list                          the newest, with their reasons\n"
        "freshet dead-letters list --stage learner --since 2026-01-01 --json\n"
        "freshet dead-letters show 17                       one, with the record as it came\n"
        "freshet dead-letters retry 17 18                   send records again to where they came from\n"
        "freshet dead-letters retry --reason schema --dry-run",
    )  # fmt: skip
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    listing = add_command(
        actions, "list", _dead_letters, "print the newest dead letters, a line each",
        "freshet dead-letters list --limit 100\n"
        "freshet dead-letters list --reason milliseconds --json | jq .key",
    )  # fmt: skip
    listing.add_argument("--limit", type=count, default=20, metavar="N", help="how many at most (20)")
    show = add_command(
        actions, "show", _dead_letters, "print one dead letter with the record as it came",
        "freshet dead-letters show 17\nfreshet dead-letters show 17 --raw > record.json",
    )  # fmt: skip
    show.add_argument("offset", type=int, metavar="OFFSET", help="as the list says")
    show.add_argument("--raw", action="store_true", help="the record's bytes and nothing else")
    retry = add_command(
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
        add_config(action)
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


def _add_forget(commands: Any) -> None:
    parser = add_command(
        commands, "forget", _forget, "take ids, with all that was learnt of them, out of the system",
        "freshet forget user=ann\n"
        "freshet forget user=ann device=4711 'item=\"17\"'    quotes: the id is a string, not a number",
    )  # fmt: skip
    parser.add_argument("ids", nargs="+", metavar="FEATURE=ID", help="what is to be forgotten")
    add_config(parser)


def _add_schema(commands: Any) -> None:
    parser = add_command(
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


def _demo(arguments: argparse.Namespace) -> int:
    from freshet.demo.demo import run_demo

    return run_demo(
        seconds=arguments.seconds,
        data=Path(arguments.data) if arguments.data else None,
        report=Path(arguments.report),
        keep=Path(arguments.keep) if arguments.keep else None,
        seed=arguments.seed,
        log=arguments.log,
    )


def _init(arguments: argparse.Namespace) -> None:
    from freshet.init.command import run_init

    run_init(arguments.data, arguments.out, arguments.force, arguments.yes)


def _role(arguments: argparse.Namespace) -> int:
    from freshet.roles.process import SIGNAL_S_MAX, Stop

    with Stop(arguments.with_parent, SIGNAL_S_MAX) as stop:
        from freshet.roles import roles

        if getattr(arguments, "name", None):
            arguments.overrides.append(f'group.name="{arguments.name}"')
        roles.RUN[arguments.role](load(arguments), stop.event)
    return stop.status


def _up(arguments: argparse.Namespace) -> int:
    from freshet.roles.process import Stop
    from freshet.roles.up import prepare_up, run_up

    config = load(arguments)
    prepare_up(config)  # nothing runs yet that would have to be stopped in order
    with Stop(arguments.with_parent) as stop:
        run_up(config, arguments.config, arguments.overrides, stop.event)
    return stop.status


def _produce(arguments: argparse.Namespace) -> None:
    from freshet.tools.produce import produce

    produce(
        load(arguments),
        Path(arguments.file),
        holds="events" if arguments.events else "examples" if arguments.examples else "requests",
        rate=arguments.rate,
        limit=arguments.limit,
        producer=arguments.producer,
        events_per_message=arguments.pack,
    )


def _inspect(arguments: argparse.Namespace) -> None:
    from freshet.tools.inspect import inspect_state

    inspect_state(Path(arguments.state), as_json=arguments.json)


def _dead_letters(arguments: argparse.Namespace) -> None:
    from freshet.tools import dead_letters

    config = load(arguments)
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


def _forget(arguments: argparse.Namespace) -> None:
    from freshet.tools.forget import forget

    forget(load(arguments), arguments.ids)


def _schema(arguments: argparse.Namespace) -> None:
    from freshet.errors import ConfigError
    from stream.records.schema import documents

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
