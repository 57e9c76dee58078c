"""`freshet up`: joiner, learner and server as children of one process, started again when they crash."""

import threading
from collections.abc import Sequence

from freshet.children import Children
from freshet.config import Config
from freshet.process import Voice
from freshet.roles import open_topics, wait_for_log
from freshet.warmup import warm_up
from serving.server import check_address

ROLES = ("join", "learn", "serve")
WATCH_EVERY_S = 0.1


def prepare_up(config: Config) -> None:
    """What goes before the roles, and Ctrl-C may end at any moment: compile the kernels, try the address.

    Raises:
        ListenError: the server's address is taken.
    """
    check_address(config.server)
    warm_up()


def run_up(config: Config, config_file: str, overrides: Sequence[str], stop: threading.Event) -> None:
    """Run all roles until `stop` is set; leaves none running.

    Raises:
        RoleError: a role cannot run, or crashes again and again.
        LogError: the log cannot be opened.
    """
    voice = Voice("up")
    # made here, once: roles that start together would all try to
    wait_for_log(lambda: open_topics(config).close(), stop, voice)
    settings = [part for override in overrides for part in ("--set", override)]
    with Children() as children:
        for role in ROLES:
            children.start(role, role, "--config", config_file, *settings)
        while not stop.wait(WATCH_EVERY_S):
            for restart in children.watch():
                voice.log("restart", level="warning", **restart._asdict())
    voice.log("stopped")
