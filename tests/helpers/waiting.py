"""Waiting until something is so."""

import time
from collections.abc import Callable

WAIT_S = 240.0
"""How long anything may take: a busy machine that compiles kernels first. A test may take 300 s."""


def wait_until(done: Callable[[], object], what: object = "", every_s: float = 0.02) -> None:
    """Look again and again until `done` says something true.

    Looks are counted, not the clock: a machine that stands still for a while ends no wait.

    Args:
        what: is waited for; a function is called when it has not come, and tells more.

    Raises:
        AssertionError: it has not come.
    """
    for _ in range(int(WAIT_S / every_s)):
        if done():
            return
        time.sleep(every_s)
    raise AssertionError(f"waited {WAIT_S:g} s for {what() if callable(what) else what or done}")
