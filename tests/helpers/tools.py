"""Tools of other projects that are no Python packages."""

import os
import shutil
from typing import NoReturn

import pytest


def find_tool(name: str, package: str) -> str:
    """The path of a tool that is no Python package."""
    found = shutil.which(name)
    if found is None:
        missing(f"NO {name}: there is no {name!r} on the path; install it (Debian: apt install {package})")
    return found


def missing(what: str) -> NoReturn:
    """Skip a test that needs what is not there; with CI=true it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)
