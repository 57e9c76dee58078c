"""The command line as a table: what a command and an option are, and the options that several share.

One rule for all commands: `--data` is what is read, `--config` says how, `--report` is written for programs
(JSON), `--html` for people, `--out` is any other file that is made, `--name` is this process among others.
Older spellings go on working and are not shown.
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
    """One option, or a positional argument where `names` is one without dashes."""

    names: tuple[str, ...]
    settings: dict[str, Any]  # of `add_argument`
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
    """An option as `argparse.add_argument` takes it; hidden: it works, and no help shows it."""
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
        help="change one setting, for example --set learner.deep=none; may be given again",
    ),
)  # fmt: skip
ROLE_CONFIG = (
    option("--config", "-c", metavar="FILE", default=DEFAULT_FILE, help=f"config file ({DEFAULT_FILE})"),
    CONFIG[1],
)
WITH_PARENT = option("--with-parent", type=int, default=0, hidden=True)
"""For processes that other commands start: they end when the process with this number is gone."""
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
_TIME = "TIME|offset:N"
RANGE = (
    option(
        "--from", dest="begin", metavar=_TIME,
        help="first event time, ISO 8601 or Unix seconds; of a log also offset:N, or offset:N,N,... with one "
        "number per partition",
    ),
    option("--to", dest="end", metavar=_TIME, help="where to stop: the first event time or offset left out"),
    option("--limit", type=count, metavar="N", help="stop after N requests"),
)  # fmt: skip
FREEZE_AFTER = option(
    "--freeze-after", type=count, metavar="N",
    help="the base stops learning after N requests and only the error memory goes on",
)  # fmt: skip
PREDICTION = option(
    "--prediction", choices=["corrected", "base"], default="corrected",
    help="which prediction: the one that would be served (corrected), or the model's without the error "
    "memory (base)",
)  # fmt: skip
REPORT = option("--report", metavar="FILE", help="write the result as JSON; - prints it")
HTML = option("--html", metavar="FILE", help="write the result as a page with plots, which needs no network")
AS_JSON = option("--json", action="store_true", help="print JSON, for programs")


def load(arguments: argparse.Namespace) -> "Config":
    """The config that --config and --set name.

    Raises:
        ConfigError: the file, a key or a value.
    """
    from freshet.config import load_config

    return load_config(arguments.config or DEFAULT_FILE, arguments.overrides)


def data_of(arguments: argparse.Namespace, needed: bool = False) -> str | None:
    """What --data, or the first word, names.

    Raises:
        ConfigError: both are given, or neither where one is needed; or it is a pipe.
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
            f"{data}: is a pipe or a device, and data is read more than once: write it into a file first, "
            "for example `cat x.csv > data.csv`, and name that"
        )
    return data


def path_of(text: str | None) -> Path | None:
    """A file that an option names; None where it is not given."""
    return Path(text) if text else None
