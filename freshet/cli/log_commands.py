"""The commands around a log and its records: produce, export, inspect, dead letters, forget, schema."""

import argparse
from pathlib import Path

from freshet.cli.table import (
    AS_JSON,
    CONFIG,
    DATA,
    DATA_FILE,
    RANGE,
    ROLE_CONFIG,
    Command,
    count,
    data_of,
    load,
    option,
    positive,
)


def _produce(arguments: argparse.Namespace) -> None:
    from freshet.tools.produce import produce

    file = Path(data_of(arguments, needed=True) or "")
    if arguments.source is not None:
        from freshet.tools.produce_lines import produce_lines

        produce_lines(load(arguments), file, arguments.source, arguments.limit)
        return
    produce(
        load(arguments),
        file,
        holds=next((h for h in ("events", "examples", "entities") if getattr(arguments, h)), "requests"),
        rate=arguments.rate,
        limit=arguments.limit,
        producer=arguments.name,
        events_per_message=arguments.pack,
    )


def _export(arguments: argparse.Namespace) -> None:
    from freshet.errors import ExportError
    from freshet.replay.tape import ReplayOptions
    from freshet.tools.export import run_export

    to, arguments.file = arguments.out or arguments.file, None
    if not to:
        raise ExportError("name the file to write: --out FILE.parquet")
    data = data_of(arguments)
    options = ReplayOptions(data=data, begin=arguments.begin, end=arguments.end, limit=arguments.limit)
    run_export(arguments.config, arguments.overrides, options, arguments.topic, Path(to))


def _vectors(arguments: argparse.Namespace) -> None:
    from freshet.tools.vectors import run_vectors

    run_vectors(load(arguments), arguments.feature, Path(arguments.out), arguments.since)


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


def _rights(arguments: argparse.Namespace) -> None:
    from freshet.errors import ConfigError
    from freshet.tools.rights import NEEDED, acl_commands

    roles = tuple(arguments.roles) or tuple(NEEDED)
    if unknown := [role for role in roles if role not in NEEDED]:
        raise ConfigError(f"{unknown[0]!r} is no role; expected some of {', '.join(NEEDED)}")
    for line in acl_commands(load(arguments), arguments.principal, roles):
        print(line)


def _schema(arguments: argparse.Namespace) -> None:
    from freshet.errors import ConfigError
    from stream.records.schema import documents

    found = documents()
    if arguments.out is None:
        print(next(text for file, text in found.items() if file.split(".")[0] == arguments.document), end="")
        return
    folder = Path(arguments.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in found.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: the schemas cannot be written: {error.strerror}") from None


_WHICH_LETTERS = (
    option("--stage", default="", help="only letters of this role: joiner, learner"),
    option("--topic", default="", help="only records of this topic"),
    option("--reason", default="", metavar="TEXT", help="only letters whose reason contains this text"),
    option("--since", metavar="TIME", help="written at this time or later: ISO 8601 or Unix seconds"),
    option("--until", metavar="TIME", help="written before this time"),
)

COMMANDS = (
    Command(
        "produce", _produce, "send a file's events to the log",
        (
            "freshet produce clicks.csv                  one labelled example per line, columns as in [data]",
            "freshet produce --data events.jsonl --events       impressions and actions as they are",
            "freshet produce --data clicks.parquet --rate 500   500 events a second",
            "freshet produce --entities items.csv               what is true of items, one a line",
            "freshet produce --data export.parquet --examples   what `freshet export` wrote, as it was",
            "freshet produce --data log.csv --source shown      one line an event, for `freshet ingest`",
        ),
        (
            *DATA_FILE,
            *ROLE_CONFIG,
            option(
                "--events", action="store_true", either="what",
                help="the file holds impressions and actions: JSON Lines, or an export of topic events",
            ),
            option(
                "--examples", action="store_true", either="what",
                help="send examples to topic examples; no joiner processes them again",
            ),
            option(
                "--source", metavar="NAME", either="what",
                help="send the lines as they are to the topic of [sources.NAME], for `freshet ingest`",
            ),
            option(
                "--entities", action="store_true", either="what",
                help="the file says what is true of items or people: CSV, JSON Lines or Parquet, columns as "
                "in [entities.FEATURE]",
            ),
            option("--rate", type=positive, metavar="N", help="events per second at most"),
            option("--limit", type=count, metavar="N", help="stop after N events"),
            option(
                "--pack", type=count, default=100, metavar="N",
                help="at most N events of one partition in a message (100)",
            ),
            option(
                "--name", help="name under which the events are numbered; repeats under this name are "
                "dropped (default: from the file's name and size)",
            ),
            option("--producer", dest="name", default=argparse.SUPPRESS, hidden=True),
        ),
    ),
    Command(
        "export", _export,
        "write a range of a log, or a data file, as Parquet: for pandas, polars and DuckDB, and to be "
        "replayed or sent to a log again",
        (
            "freshet export --out examples.parquet                 all examples of the config's log",
            "freshet export --out day.parquet --from 2026-01-01 --to 2026-01-02",
            "freshet export --out events.parquet --topic events --data kafka://localhost:9092",
            "freshet export --out ratings.parquet --data ratings/  a data file in the same columns",
            "freshet replay --config freshet.toml --data examples.parquet",
            "freshet produce --data examples.parquet --examples    back into a log, as they were",
            "duckdb -c \"select item, avg(label) from 'examples.parquet' group by item\"",
        ),
        (
            option("--out", metavar="FILE", help="the file to write, replaced when the export is complete"),
            *DATA,
            *CONFIG,
            option(
                "--topic", default="examples", metavar="TOPIC",
                choices=["examples", "events", "dead_letters", "updates", "snapshots", "roles"],
                help="examples (the default) or events, as columns; dead_letters, updates, snapshots or "
                "roles, as bytes with their ingest time",
            ),
            *RANGE,
        ),
    ),
    Command(
        "vectors", _vectors, "write the ids and vectors of a feature as Parquet, all or what has changed",
        (
            "freshet vectors --feature item --out items.parquet",
            "freshet vectors --feature item --out changes.parquet --since items.parquet",
            "duckdb -c \"select id, vector from 'items.parquet' limit 3\"",
        ),
        (
            option("--feature", metavar="NAME", required=True, help="whose vectors"),
            option("--out", metavar="FILE", required=True, help="the file to write"),
            option(
                "--since", metavar="FILE|VERSION",
                help="only what has changed since an earlier export, or since this model version; deleted "
                "ids are marked",
            ),
            *ROLE_CONFIG,
        ),
    ),
    Command(
        "inspect", _inspect, "print the contents of a role's state",
        ("freshet inspect .freshet/learn", "freshet inspect .freshet/join --json"),
        (option("state", metavar="STATE", help="a role's state folder"), AS_JSON),
    ),
    Command(
        "dead-letters", _dead_letters, "list, show and retry records that could not be used",
        (
            "freshet dead-letters list                          the newest, with their reasons",
            "freshet dead-letters list --stage learner --since 2026-01-01 --json",
            "freshet dead-letters show 17                       one, with its original record",
            "freshet dead-letters retry 17 18                   send the records to their topic again",
            "freshet dead-letters retry --reason schema --dry-run",
        ),
        actions=(
            Command(
                "list", _dead_letters, "print the newest dead letters, a line each",
                (
                    "freshet dead-letters list --limit 100",
                    "freshet dead-letters list --reason milliseconds --json | jq .key",
                ),
                (
                    option("--limit", type=count, default=20, metavar="N", help="how many at most (20)"),
                    *ROLE_CONFIG, AS_JSON, *_WHICH_LETTERS,
                ),
            ),
            Command(
                "show", _dead_letters, "print one dead letter with its original record",
                ("freshet dead-letters show 17", "freshet dead-letters show 17 --raw > record.json"),
                (
                    option("offset", type=int, metavar="OFFSET", help="offsets from list"),
                    option("--raw", action="store_true", help="the record's bytes and nothing else"),
                    *ROLE_CONFIG, AS_JSON,
                ),
            ),
            Command(
                "retry", _dead_letters,
                "send the original records to their topic and partition again, after the cause is fixed (a "
                "longer max_ahead_s, a feature's kind); letters that were retried before are skipped",
                (
                    "freshet dead-letters retry 17 18",
                    "freshet dead-letters retry --stage learner --dry-run",
                    "freshet dead-letters retry 17 --again",
                ),
                (
                    option("offsets", type=int, nargs="*", metavar="OFFSET", help="offsets from list"),
                    option("--all", action="store_true", help="all of them"),
                    option("--again", action="store_true", help="also letters that were retried before"),
                    option("--dry-run", action="store_true", help="only print what would be sent"),
                    *ROLE_CONFIG, *_WHICH_LETTERS,
                ),
            ),
        ),
    ),
    Command(
        "forget", _forget, "delete ids, and everything trained on them, from all roles",
        (
            "freshet forget user=ann",
            "freshet forget user=ann device=4711 'item=\"17\"'    quotes: the id is a string, not a number",
        ),
        (option("ids", nargs="+", metavar="FEATURE=ID", help="what to forget"), *ROLE_CONFIG),
    ),
    Command(
        "rights", _rights, "print the access rules that the roles need on a Kafka cluster",
        (
            "freshet rights --principal User:freshet              for all roles and producers",
            "freshet rights --principal User:learner learn        for one role",
        ),
        (
            option(
                "roles", nargs="*", metavar="ROLE",
                help="join, learn, serve, ingest, produce (default: all)",
            ),
            option(
                "--principal", default="User:freshet", metavar="TYPE:NAME",
                help="who gets them, as the brokers name it (User:freshet)",
            ),
            *ROLE_CONFIG,
        ),
    ),
    Command(
        "schema", _schema, "describe the records for producers in any language",
        (
            "freshet schema                     JSON Schema of what producers send",
            "freshet schema asyncapi            all topics, as AsyncAPI 3",
            "freshet schema --out schemas/      all of them, each in a file",
        ),
        (
            option(
                "document", nargs="?", default="event",
                choices=["event", "example", "dead_letter", "asyncapi"], metavar="DOCUMENT",
                help="event, example, dead_letter (JSON Schema) or asyncapi (event)",
            ),
            option("--out", metavar="DIR", help="write all documents into this folder"),
            option("--write", dest="out", default=argparse.SUPPRESS, hidden=True),
        ),
    ),
)  # fmt: skip
