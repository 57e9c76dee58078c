"""What all groups of commands on the command line share."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freshet.config import Config

DEFAULT_FILE = "freshet.toml"


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], help_: str, example: str
) -> argparse.ArgumentParser:
    """Add a command whose help says what it does and shows how, one example a line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_,
        description=help_[0].upper() + help_[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_config(parser: argparse.ArgumentParser, default: str | None = DEFAULT_FILE) -> None:
    """Add --config and --set."""
    parser.add_argument(
        "--config", "-c", metavar="FILE", default=default, help=f"config file ({DEFAULT_FILE})"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="change one setting, for example --set learner.deep=none; may be given again",
    )  # fmt: skip


def add_parent(parser: argparse.ArgumentParser) -> None:
    """Add --with-parent, for the processes that other commands start."""
    parser.add_argument("--with-parent", type=int, metavar="PID", default=0, help=argparse.SUPPRESS)


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


def load(arguments: argparse.Namespace) -> "Config":
    """The config that --config and --set name.

    Raises:
        ConfigError: the file, a key or a value.
    """
    from freshet.config import load_config

    return load_config(arguments.config, arguments.overrides)
