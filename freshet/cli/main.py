"""The command line. Everything is imported when its command runs, so that `--help` answers at once.

A `FreshetError` is printed as one line and exits with 2, Ctrl-C exits with 130, SIGTERM stops a role
cleanly with 0. Any other exception is a defect of Freshet and keeps its traceback.
"""

import argparse
import codecs
import io
import sys
from collections.abc import Sequence

from freshet.cli import log_commands, model_commands, replay_commands, system_commands
from freshet.cli.table import add_command
from freshet.kernel_cache import use_writable_copy

EXIT_ERROR, EXIT_INTERRUPTED = 2, 130
COMMANDS = (
    *system_commands.COMMANDS,
    *model_commands.COMMANDS,
    *log_commands.COMMANDS,
    *replay_commands.COMMANDS,
)
"""All commands, in the order of the help."""

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
    _print_anything()
    use_writable_copy()
    parser = make_parser()
    if not (sys.argv[1:] if argv is None else argv):  # no command: show the help
        parser.print_help(sys.stderr)
        return EXIT_ERROR
    arguments = parser.parse_args(argv)
    if argv is None:
        sys.unraisablehook = _tell_unraisable  # of this process
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt as interrupt:
        done = f": {interrupt}" if interrupt.args else ""  # the message says what was done so far
        print(f"freshet: interrupted{done}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has exited: `freshet inspect ... | head`
        sys.stderr.close()
        return 0
    except Exception as error:
        from ground import FreshetError

        if not isinstance(error, FreshetError):
            raise
        print(f"freshet: {error}", file=sys.stderr)
        return EXIT_ERROR


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="freshet",
        description="Real-time learning for click-through-rate and ranking models: "
        "events in, fresh corrected predictions out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        add_command(commands, command)
    return parser


def _version() -> str:
    from freshet import __version__

    return f"freshet {__version__}"


def _print_anything() -> None:
    r"""Let stdout and stderr print any text: escape characters that they cannot encode as \uXXXX.

    Without this, a terminal or a file name that is not UTF-8 would end a command with a traceback.
    JSON and TOML read this escape.
    """

    def escape(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        codes = (ord(c) for c in error.object[error.start : error.end])
        escaped = (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in codes)
        return "".join(escaped), error.end

    codecs.register_error("freshet", escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="freshet")


def _tell_unraisable(found: "sys.UnraisableHookArgs") -> None:
    """Tell of an exception in a finalizer, but for those of LLVM's objects, half made when a command was
    interrupted amid a compilation."""
    if not getattr(found.object, "__module__", "").startswith("llvmlite."):
        sys.__unraisablehook__(found)
