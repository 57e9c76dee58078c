"""The config's file, read as plain tables."""

import tomllib
from pathlib import Path
from typing import Any

from freshet.errors import ConfigError


def read_table(file: Path) -> dict[str, Any]:
    """What a TOML file says.

    Raises:
        ConfigError: it is missing, or not TOML.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{file}: there is no such config file; name one with --config, or write one from a data "
            "file: `freshet init --data FILE`"
        ) from None
    except UnicodeDecodeError as error:
        encoding = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise ConfigError(
            f"{file}: is not UTF-8 text ({error.reason}); try `iconv -f {encoding} -t utf-8`"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: not a path
        raise ConfigError(f"{file}: the config cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a ValueError
        raise ConfigError(f"{file}: this is not TOML: {error}") from None
