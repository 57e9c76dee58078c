"""`freshet up`: ingest (if there are sources), joiner, learner and server, each restarted when it crashes.

On a terminal it shows the metrics of the live page, and the roles write their log lines to files; elsewhere
the roles write JSON lines to stderr.
"""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live as Drawn

from freshet.config import Config, each_model
from freshet.roles.children import Child, Children
from freshet.roles.opening import check_unused, need_features, open_topics, wait_for_log
from freshet.roles.voice import Voice
from freshet.show.up_view import render_up
from freshet.show.view import CHART_COLUMNS_MAX
from freshet.warmup import warm_up
from serving.app.server import check_address
from serving.watch.overview import Overview
from stream.log.base import Log
from stream.orders.names import own_name

ROLES = ("join", "learn", "serve")
"""Of every Freshet; before them comes ingest where there are sources."""
WATCH_EVERY_S = 0.1
DRAW_EVERY = 10  # the number of roles
LOG_BYTES_MAX = 16 << 20  # a larger log file is rotated at the start; a role writes about 3 MB a day


def prepare_up(config: Config) -> None:
    """Check for errors that would stop the roles, and compile the kernels. Ctrl-C can interrupt it safely.

    Raises:
        ConfigError: there are no features.
        ListenError: the server's address is in use.
        StateLockedError: another process holds a role's state.
    """
    for one in each_model(config).values():
        need_features(one)
        for role in ("join", "learn"):
            check_unused(one.state_of(role))
    check_address(config.server)
    warm_up()


def run_up(config: Config, config_file: str, overrides: Sequence[str], stop: threading.Event) -> None:
    """Run all roles until `stop` is set, then stop them.

    Raises:
        RoleError: a role cannot run, or keeps crashing.
        LogError: the log cannot be opened.
    """
    voice = Voice("up")
    opened: list[Log] = []
    # create topics here, once: the roles start together and would race
    wait_for_log(lambda: opened.append(open_topics(config)), stop, voice)
    console = Console()
    folder = _logs(config) if console.is_terminal and sys.stderr.isatty() else None
    if folder is None:
        for log in opened:
            log.close()
    settings = [part for override in overrides for part in ("--set", override)]
    try:
        with Children(folder) as children:
            roles = ("ingest", *ROLES) if config.sources else ROLES
            started = [children.start(role, role, "--config", config_file, *settings) for role in roles[:-1]]
            for model in config.models:
                name, own = own_name("learn", model), ("--model", model)
                children.start(name, "learn", "--config", config_file, *settings, *own)
            started.append(children.start("serve", "serve", "--config", config_file, *settings))
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
    """The folder for the roles' log files; a large file of an earlier run is renamed over the one before."""
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
    """Draw the live numbers once a second until `stop` is set."""
    overview = Overview(log)
    overview.start()
    foot = f"Ctrl-C stops all; their logs are in {folder}"
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
