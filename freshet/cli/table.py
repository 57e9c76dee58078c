"""The command line as a table: the types of commands and options, and the options that commands share.

One rule for all commands: `--data` is the input, `--config` the config, `--report` the result as JSON,
`--html` the result as a page, `--out` any other output file, `--name` the name of this process in its group.
Older spellings still work; the help does not show them.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from freshet.config import Config

DEFAULT_FILE = "freshet.toml"

Run = Callable[[argparse.Namespace], int | None]


class Option(NamedTuple):
    """One option, or a positional argument if its name has no dashes."""

    names: tuple[str, ...]
    settings: dict[str, Any]  # the keyword arguments of `add_argument`
    either: str = ""  # options of one group exclude each other


class Command(NamedTuple):
    """One command. `help` is a sentence without a full stop; `examples` are lines, each a command."""

    name: str
    run: Run
    help: str
    examples: Sequence[str]
    options: Sequence[Option] = ()
    actions: Sequence["Command"] = ()


def option(*names: str, either: str = "", hidden: bool = False, **settings: Any) -> Option:
    """An option with the arguments of `argparse.add_argument`; hidden: it works, but the help omits it."""
    if hidden:
        settings["help"] = argparse.SUPPRESS
        if not names[0].startswith("-"):
            settings["metavar"] = " "
    return Option(names, settings, either)


def add_command(commands: Any, command: Command) -> None:
    """Add a command, and its actions, to argparse's subparsers."""
    parser: argparse.ArgumentParser = commands.add_parser(
        command.name,
        help=command.help,
        description=command.help[0].upper() + command.help[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in command.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=command.run, command=command.name)
    groups: dict[str, Any] = {"": parser}
    for one in command.options:
        if one.either not in groups:
            groups[one.either] = parser.add_mutually_exclusive_group()
        groups[one.either].add_argument(*one.names, **one.settings)
    if command.actions:
        actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
        for action in command.actions:
            add_command(actions, action)


def positive(text: str) -> float:
    """A number over 0, as an argument's type."""
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number over 0")
    return value


def count(text: str) -> int:
    """A whole number over 0, as an argument's type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number over 0")
    return value


def port(text: str) -> int:
    """A TCP port, as an argument's type; 0: any that is free."""
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port; expected 0 to 65535")
    return value


CONFIG = (
    option(
        "--config", "-c", metavar="FILE",
        help=f"config file ({DEFAULT_FILE} in this folder; MovieTweetings and MovieLens data need none)",
    ),
    option(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="change one setting, for example --set learner.deep=none; can be repeated",
    ),
)  # fmt: skip
ROLE_CONFIG = (
    option("--config", "-c", metavar="FILE", default=DEFAULT_FILE, help=f"config file ({DEFAULT_FILE})"),
    CONFIG[1],
)
WITH_PARENT = option("--with-parent", type=int, default=0, hidden=True)
"""For processes that other commands start: they stop when the process with this id has ended."""
_DATA_HELP = "data file or folder: CSV, JSON Lines, Parquet, or ratings (also as the first word)"
DATA_FILE = (
    option("--data", metavar="PATH", help=_DATA_HELP),
    option("file", nargs="?", hidden=True),
)
DATA = (
    option(
        "--data", metavar="PATH|URL",
        help="data file or folder, or a log's URL (the log that the config names)",
    ),
    option("file", nargs="?", hidden=True),
)  # fmt: skip
ENTITIES = option(
    "--entities", metavar="FILE",
    help="a file that says what is true of items or people, and since when: columns as in [entities.FEATURE]",
)  # fmt: skip
_TIME = "TIME|offset:N"
RANGE = (
    option(
        "--from", dest="begin", metavar=_TIME,
        help="first event time, ISO 8601 or Unix seconds; for a log also offset:N, or offset:N,N,... with "
        "one number per partition",
    ),
    option("--to", dest="end", metavar=_TIME, help="end of the range, exclusive: event time or offset"),
    option("--limit", type=count, metavar="N", help="stop after N requests"),
)  # fmt: skip
THROUGH_ROLLBACKS = option(
    "--through-rollbacks", action="store_true",
    help="learn also what the live model passed over when it went back; else such a range is refused",
)  # fmt: skip
FREEZE_AFTER = option(
    "--freeze-after", type=count, metavar="N",
    help="the base stops learning after N requests and only the error memory goes on",
)  # fmt: skip
PREDICTION = option(
    "--prediction", choices=["corrected", "base"], default="corrected",
    help="prediction to use: with the error memory, as served (corrected), or of the model alone "
    "(base)",
)  # fmt: skip
REPORT = option("--report", metavar="FILE", help="write the result as JSON; - prints it")
HTML = option("--html", metavar="FILE", help="write the result as a self-contained page with plots")
MODEL = option("--model", metavar="NAME", help="of the models in the config; main, or not given: its own")
MODEL_NAME = option("name", metavar="NAME", help="of the models in the config; main is its own")
AS_JSON = option("--json", action="store_true", help="print JSON, for programs")


def load(arguments: argparse.Namespace) -> "Config":
    """The config that --config and --set name.

    Raises:
        ConfigError: the file, a key or a value.
    """
    from freshet.config import load_config

    return load_config(arguments.config or DEFAULT_FILE, arguments.overrides)


def data_of(arguments: argparse.Namespace, needed: bool = False) -> str | None:
    """The data that --data, or the positional argument, names.

    Raises:
        ConfigError: both are given, or neither is and the command needs one; or it is a pipe.
    """
    from freshet.errors import ConfigError

    if arguments.data and arguments.file:
        raise ConfigError(f"--data {arguments.data} and {arguments.file}: name the data once")
    data: str | None = arguments.data or arguments.file
    if data is None:
        if needed:
            raise ConfigError("name the data: --data PATH")
        return None
    path = Path(data)
    if "\0" in data or (path.exists() and not (path.is_file() or path.is_dir())):
        raise ConfigError(
            f"{data}: is a pipe or a device, and the data is read more than once: write it to a file first, "
            "for example `cat x.csv > data.csv`, and name that file"
        )
    return data


def path_of(text: str | None) -> Path | None:
    """The path that an option names; None if the option is not given."""
    return Path(text) if text else None
