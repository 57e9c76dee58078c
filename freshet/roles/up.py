"""`freshet up`: joiner, learner and server as children of one process, started again when they crash.

On a terminal it shows what the live page shows, and what the roles say goes into files; elsewhere they say
it here, a line of JSON each.
"""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live as Drawn

from freshet.config import Config
from freshet.roles.children import Child, Children
from freshet.roles.opening import check_unused, need_features, open_topics, wait_for_log
from freshet.roles.voice import Voice
from freshet.show.up_view import render_up
from freshet.show.view import CHART_COLUMNS_MAX
from freshet.warmup import warm_up
from serving.app.server import check_address
from serving.watch.overview import Overview
from stream.log.base import Log

ROLES = ("join", "learn", "serve")
WATCH_EVERY_S = 0.1
DRAW_EVERY = 10  # of the above
LOG_BYTES_MAX = 16 << 20  # of a role's file, looked at when it starts; a role writes about 3 MB a day


def prepare_up(config: Config) -> None:
    """What goes before the roles, and Ctrl-C may end at any moment: look what would stop them, compile.

    Raises:
        ConfigError: there are no features.
        ListenError: the server's address is taken.
        StateLockedError: another process holds a role's state.
    """
    need_features(config)
    for role in ("join", "learn"):
        check_unused(config.state_of(role))
    check_address(config.server)
    warm_up()


def run_up(config: Config, config_file: str, overrides: Sequence[str], stop: threading.Event) -> None:
    """Run all roles until `stop` is set; leaves none running.

    Raises:
        RoleError: a role cannot run, or crashes again and again.
        LogError: the log cannot be opened.
    """
    voice = Voice("up")
    opened: list[Log] = []
    # made here, once: roles that start together would all try to
    wait_for_log(lambda: opened.append(open_topics(config)), stop, voice)
    console = Console()
    folder = _logs(config) if console.is_terminal and sys.stderr.isatty() else None
    if folder is None:
        for log in opened:
            log.close()
    settings = [part for override in overrides for part in ("--set", override)]
    try:
        with Children(folder) as children:
            started = [children.start(role, role, "--config", config_file, *settings) for role in ROLES]
            if opened and folder is not None:
                _show(opened[0], children, started[-1], folder, console, voice, stop)
            else:
                while not stop.wait(WATCH_EVERY_S):
                    _watch(children, voice)
    finally:
        if folder is not None:
            for log in opened:
                log.close()
    voice.log("stopped")


def _logs(config: Config) -> Path:
    """Where the roles' own words go; large files of earlier runs are put aside, the ones before removed."""
    folder = Path(config.state) / "logs"
    for file in folder.glob("*.log"):
        if file.stat().st_size > LOG_BYTES_MAX:
            file.replace(file.with_suffix(".log.before"))
    return folder


def _watch(children: Children, voice: Voice) -> None:
    for restart in children.watch():
        voice.log("restart", level="warning", **restart._asdict())


def _show(
    log: Log,
    children: Children,
    server: Child,
    folder: Path,
    console: Console,
    voice: Voice,
    stop: threading.Event,
) -> None:
    """Draw what there is to see, once a second, until `stop` is set."""
    overview = Overview(log)
    overview.start()
    foot = f"Ctrl-C stops all three; what they say is in {folder}"
    turns = 0
    try:
        with Drawn(console=console, auto_refresh=False, transient=True) as drawn:
            while not stop.wait(WATCH_EVERY_S):
                _watch(children, voice)
                if turns % DRAW_EVERY == 0:
                    url = next((w for w in (server.ready() or "").split() if w.startswith("http")), "")
                    width = min(console.width, CHART_COLUMNS_MAX + 16)
                    columns = overview.history().fine.columns
                    drawn.update(
                        render_up(
                            overview.live, columns, children.states(), f"{url}/" if url else "", foot, width,
                            console.height,
                        ),
                        refresh=True,
                    )  # fmt: skip
                turns += 1
    finally:
        overview.stop()
