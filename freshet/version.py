"""The code behind a result: the release, and a hash of the sources that ran."""

import hashlib
from functools import cache
from importlib import import_module
from pathlib import Path

from freshet import __version__

PACKAGES = ("ground", "stream", "embeddings", "error_memory", "learner", "serving", "freshet")


@cache
def code_version() -> str:
    """The release and a hash of all sources: results with equal `code_version` come from the same code."""
    digest = hashlib.blake2b(digest_size=4)
    for package in PACKAGES:
        root = Path(str(import_module(package).__file__)).parent
        for source in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{source.relative_to(root).as_posix()}\0".encode())
            digest.update(source.read_bytes())
    return f"{__version__}+{digest.hexdigest()}"
