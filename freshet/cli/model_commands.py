"""The commands on several models of one log."""

import argparse
from typing import TYPE_CHECKING

from freshet.cli.table import (
    AS_JSON,
    MODEL,
    MODEL_NAME,
    RANGE,
    ROLE_CONFIG,
    Command,
    count,
    load,
    option,
    positive,
)

if TYPE_CHECKING:
    from freshet.config import Config


def _share(arguments: argparse.Namespace) -> None:
    from freshet.models.traffic import print_shares

    print_shares(load(arguments), arguments.shares, arguments.lag_max, arguments.why, arguments.json)


def _promote(arguments: argparse.Namespace) -> None:
    from freshet.models.traffic import print_promotion

    print_promotion(load(arguments), arguments.name, arguments.lag_max, arguments.why, arguments.json)


def _duel(arguments: argparse.Namespace) -> None:
    from freshet.models.duel import print_duel
    from freshet.replay.tape import ReplayOptions

    options = ReplayOptions(data=None, begin=arguments.begin, end=arguments.end, limit=arguments.limit)
    names = arguments.first, arguments.other
    print_duel(load(arguments), names, options, arguments.tuned_for, arguments.json)


def _snapshots(arguments: argparse.Namespace) -> None:
    from freshet.models.snapshots import print_snapshots

    print_snapshots(_of_model(arguments), arguments.pin, arguments.unpin, arguments.json)


def _rollback(arguments: argparse.Namespace) -> None:
    from freshet.models.snapshots import print_rollback

    config = _of_model(arguments)
    print_rollback(config, arguments.to, arguments.again, arguments.hold, arguments.why, arguments.json)


def _resume(arguments: argparse.Namespace) -> None:
    from freshet.models.snapshots import print_resume

    print_resume(_of_model(arguments), arguments.why, arguments.json)


def _of_model(arguments: argparse.Namespace) -> "Config":
    from freshet.sections.overrides import toml_text

    if arguments.model is not None:
        arguments.overrides = [*arguments.overrides, f"model={toml_text(arguments.model)}"]
    return load(arguments)


_LAG = option(
    "--lag-max", type=positive, default=10.0, metavar="S",
    help="refuse if a model that is to answer more is further behind the examples (10)",
)  # fmt: skip
_WHY = option("--why", default="", metavar="TEXT", help="a reason, kept with the order")

COMMANDS = (
    Command(
        "share", _share,
        "set the share of the people that each model answers, in all servers at once; without shares, print "
        "those that count",
        ("freshet share", "freshet share main=0.9 challenger=0.1"),
        (
            *ROLE_CONFIG,
            option(
                "shares", nargs="*", metavar="MODEL=SHARE",
                help="they add up to 1; a model that is not named becomes a shadow",
            ),
            _LAG, _WHY, AS_JSON,
        ),
    ),
    Command(
        "promote", _promote,
        "let one model answer all requests, in all servers at once; the others become shadows",
        ("freshet promote challenger", 'freshet promote main --why "the challenger was slower"'),
        (*ROLE_CONFIG, MODEL_NAME, _LAG, _WHY, AS_JSON),
    ),
    Command(
        "snapshots", _snapshots,
        "list the snapshots of a model's learner, to which it can go back; or pin one, so that it stays",
        (
            "freshet snapshots",
            "freshet snapshots --pin 2026-01-05T09:00:00Z=before-sale",
            "freshet snapshots --unpin before-sale",
        ),
        (
            *ROLE_CONFIG, MODEL,
            option("--pin", metavar="SNAPSHOT=NAME", help="keep a snapshot (a name or a time) under a name"),
            option("--unpin", metavar="NAME", help="let it go"),
            AS_JSON,
        ),
    ),
    Command(
        "rollback", _rollback,
        "let a model go back to a snapshot: its learner, and all servers at one place in the log",
        (
            "freshet rollback --to 2026-01-05T09:00:00Z",
            "freshet rollback --to before-sale --model challenger --hold",
        ),
        (
            *ROLE_CONFIG, MODEL,
            option(
                "--to", required=True, metavar="TIME|SNAPSHOT",
                help="a time (the newest snapshot from before it), or the name of a snapshot or a pin",
            ),
            option(
                "--again", action="store_true", help="learn the examples since then again, and skip none"
            ),
            option("--hold", action="store_true", help="learn nothing more until `freshet resume`"),
            _WHY, AS_JSON,
        ),
    ),
    Command(
        "resume", _resume,
        "let a learner learn again that holds since a rollback",
        ("freshet resume", "freshet resume --model challenger"),
        (*ROLE_CONFIG, MODEL, _WHY, AS_JSON),
    ),
    Command(
        "duel", _duel,
        "which of two models is better: by what both predicted of the same requests, and by what people "
        "clicked; it may be looked at any time",
        ("freshet duel main challenger", "freshet duel main challenger --from 2026-01-01 --json"),
        (
            *ROLE_CONFIG,
            option("first", metavar="FIRST", help="a model of the config; main is its own"),
            option("other", metavar="OTHER", help="the model that is compared with it"),
            *RANGE,
            option(
                "--tuned-for", type=count, default=20_000, metavar="N",
                help="requests at which the intervals are narrowest; choose it before you look (20000)",
            ),
            AS_JSON,
        ),
    ),
)  # fmt: skip
