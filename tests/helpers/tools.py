"""Tools of other projects that are no Python packages."""

import os
import shutil

import pytest


def find_tool(name: str, package: str) -> str:
    """The path of a tool that is no Python package."""
    found = shutil.which(name)
    if found is None:
        missing = f"there is no {name!r} on the path; install it (Debian: apt install {package})"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(f"NO {name}: {missing}")
    return found
