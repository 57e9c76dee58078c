"""Compiled kernels that lie where nothing can be written, as in an image with a read-only root.

Numba uses a cache only if it can write to it, and otherwise compiles everything again. So a cache that can be
read but not written is copied to a temporary folder, and that copy is used.
"""

import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def use_writable_copy() -> None:
    """Let NUMBA_CACHE_DIR name a folder that can be written. To be called before numba is imported.

    Does nothing if the variable is not set, or if its folder can be written or does not exist. If no copy can
    be made either, kernels are compiled at each start.
    """
    given = os.environ.get(VARIABLE)
    if not given or not Path(given).is_dir() or os.access(given, os.W_OK):
        return
    # one copy for all processes of a user; each is made beside it and takes its place whole
    copy = Path(tempfile.gettempdir()) / f"freshet-kernels-{os.getuid()}"
    try:
        if not copy.is_dir():
            with tempfile.TemporaryDirectory(dir=copy.parent) as making:
                shutil.copytree(given, Path(making) / "cache")
                try:
                    (Path(making) / "cache").rename(copy)
                except OSError:
                    if not copy.is_dir():  # else another process was faster
                        raise
        if copy.stat().st_uid != os.getuid():
            return  # somebody else's folder under our name is not to be loaded from
    except OSError:
        return
    os.environ[VARIABLE] = str(copy)
