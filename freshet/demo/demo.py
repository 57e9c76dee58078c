"""`freshet demo`: run the whole system on this machine, play a stream against it, and report the metrics.

Joiner, learner and server run as processes, as in production. A second server runs beside them; its model is
frozen when the play begins, and only its error memory continues to learn. So every request is answered in
four ways, and all four are scored on the same labels.
"""

import asyncio
import json
import math
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from freshet.config import load_config
from freshet.demo.history import HistoryCounts, SceneHistory, lay_out, learnt, train
from freshet.demo.known import KnownWorth, lines_of, worth_of_known
from freshet.demo.player import ARMS, Player
from freshet.demo.report import PlaySample, demo_page, figure, further_lines
from freshet.demo.scenes import RatingsScene, Scene, WorldScene
from freshet.errors import ConfigError, RoleError
from freshet.exercise import known
from freshet.files import check_writable
from freshet.roles.children import Child, Children
from freshet.roles.opening import open_topics
from freshet.roles.process import Stop
from freshet.show.report import LINE_STYLE, Arm, ReportError, write_html
from freshet.show.view import ArmRow, Screen, Show, Shown
from freshet.warmup import warm_up
from stream.log.base import EVENTS, EXAMPLES, Log, Outgoing
from stream.log.kafka.log import parse_url
from stream.records.entities.record import key_of_event
from stream.records.types import encode

TICK_S = 1.0
RECENT_S = 15.0
READY_S_MAX = 120.0
AFTER_S = 5.0  # for what comes after the play
SECONDS_MIN, SECONDS_MAX = 5.0, 3600.0
TICKS_MIN = 3  # fewer give no curve
SLATE_SHOWN = 10
ARM_STYLE: dict[str, Arm] = {
    "frozen": "frozen",
    "frozen + memory": "frozen_memory",
    "live": "live",
    "live + memory": "live_memory",
    "ceiling": "ceiling",
}
CONFIG_NAME = "freshet.toml"
_CONFIG = """\
# Written by `freshet demo`.
log = {log}
state = "state"

{sections}
[server]
port = 0  # any that is free
"""


class _StoppedError(Exception):
    """The user asked the demo to stop."""


def run_demo(
    *,
    seconds: float = 110.0,
    data: Path | None = None,
    report: Path = Path("freshet-demo-report.html"),
    keep: Path | None = None,
    seed: int = 0,
    log: str = "sqlite:log.db",
    screen: Screen | None = None,
) -> int:
    """Run the demo; returns the exit status.

    Args:
        seconds: duration, with the start and the training on history (without the first run's compilation);
            5 to 3600.
        data: a folder of ratings to play instead of the simulated world.
        report: path of the HTML report.
        keep: keep config, log and state in this folder, which must be empty or new.
        seed: of the simulated world.
        log: URL of the log; a relative path starts at the demo's folder. A Kafka cluster keeps the demo's
            topics, under a prefix of their own if the URL has none.
        screen: the output; stdout by default.

    Raises:
        ConfigError: `seconds` or a path cannot be used.
        ReportError: the report cannot be written there.
        RoleError: a part of the system ended, or did not become ready.
    """
    if not SECONDS_MIN <= seconds <= SECONDS_MAX:
        raise ConfigError(f"--seconds is {seconds:g}; expected {SECONDS_MIN:g} to {SECONDS_MAX:g}")
    check_writable(report, ReportError)
    scene: Scene = RatingsScene(data, seconds) if data is not None else WorldScene(seconds, seed)
    warm_up()
    known()
    with _folder(keep) as folder, Stop() as stop:
        try:
            with screen or Screen() as shown, Children(folder / "logs") as children:
                demo = _Demo(scene, folder, children, shown, stop, seconds, own_prefix(log))
                asyncio.run(demo.run())
        except _StoppedError:
            if len(demo.ticks) < TICKS_MIN:
                demo.say(f"\nstopped while {demo.phase}: too early for a report, none is written")
                return stop.status
            demo.say("\nstopped early: the report is of what was played so far")
        worth = demo.worth_of_known()
        page = demo_page(scene, demo.learnt, demo.player, demo.ticks, demo.seconds_played, worth)
        write_html(page, report)
        demo.tell(report, keep, worth)
    return stop.status


class _Demo:
    """One run of the demo: starts the roles, plays, shows."""

    def __init__(
        self,
        scene: Scene,
        folder: Path,
        children: Children,
        screen: Screen,
        stop: Stop,
        seconds: float,
        log: str,
    ) -> None:
        self.scene = scene
        self.ticks: list[PlaySample] = []
        self.seconds_played = 0.0
        self.player: Player
        self.learnt: HistoryCounts  # of the history
        self._history: SceneHistory
        self._children = children
        self._screen = screen
        self._stop = stop
        self._began = time.monotonic()
        self._seconds = seconds
        self._show = Show(title=f"Freshet demo: {scene.title}", phase="starting", total_s=seconds)
        self._folder = folder
        self._config = folder / CONFIG_NAME
        self._config.write_text(_CONFIG.format(log=json.dumps(log), sections=scene.config), encoding="utf-8")
        self._read = (0.0, 0)  # when the log's end was read last, and what it was
        self._frozen = False
        self._further: list[str] = []  # a line for each further target

    async def run(self) -> None:
        """Start, train on the history, freeze, play; the caller stops the children."""
        log = open_topics(load_config(self._config))
        try:
            self._history = await self._learn_history(log)
            live, frozen = await self._start_servers(self._history.candidates)
            async with Player(self.scene, live, frozen, RECENT_S) as self.player:
                left_s = max(self._seconds - AFTER_S - (time.monotonic() - self._began), SECONDS_MIN)
                self._show.phase = "playing: the frozen model has stopped learning, the live one goes on"
                self._show.since, self._show.recent = "since freezing", f"last {RECENT_S:.0f} s"
                self._show.ticks_total = int(left_s / TICK_S)
                began = time.monotonic()
                try:
                    await self.player.play(left_s, TICK_S, lambda now_s: self._tick(now_s, log))
                finally:
                    self.seconds_played = time.monotonic() - began
        finally:
            log.close()

    @property
    def phase(self) -> str:
        """The current phase."""
        return self._show.phase

    def say(self, text: str) -> None:
        """Print one line."""
        self._screen.say(text)

    def worth_of_known(self) -> list[KnownWorth]:
        """What Freshet's own knowledge of items and people is worth on what was played."""
        told = [*self._history.told, *self.player.told]
        return worth_of_known(load_config(self._config), told, [*self._history.examples, *self.player.played])

    def tell(self, report: Path, keep: Path | None, worth: Sequence[KnownWorth]) -> None:
        """Print the result and the next steps."""
        say = self.say
        say(f"\n{self.player.asked:,} requests in {self.seconds_played:.0f} s, each answered four ways:")
        for arm, summary in self.player.board.overall().items():
            if arm != "ceiling" or not self.scene.labelled:
                name = "(the world's true probabilities)" if arm == "ceiling" else arm
                say(f"  {name:<24} AUC {figure(summary['auc'])}   log loss {figure(summary['logloss'])}")
        for line in self._further:
            say(f"  {line}")
        for line in lines_of(worth):
            say(line)
        say(f"\nreport  {report.resolve()}")
        if keep is not None:
            say(f"config, log and state  {keep.resolve()}")
            say(f"again   freshet up --config {keep / CONFIG_NAME}")
            config = keep / CONFIG_NAME
            say(f"replay  freshet replay --config {config} --data {load_config(config).log}")
        else:
            say("next    freshet demo --keep demo/    keeps config, log and state, to go on with freshet up")

    async def _learn_history(self, log: Log) -> SceneHistory:
        """Train on the history, in batch and then from the log."""
        self._show.phase = "starting the joiner, training on history in batch"
        joiner = self._children.start("join", "join", "--config", str(self._config))
        history = lay_out(self.scene, self._folder)
        log.append(EVENTS, [Outgoing(key_of_event(event), encode(event)) for event in history.logged])
        await train(history, self._config, self._folder / "logs" / "train.log", self._wait)
        state = load_config(self._config).state_of("learn")
        in_batch = learnt(history, state, 0).requests
        self._show.phase = "going live: learning from the log"
        learner = self._children.start("learn", "learn", "--config", str(self._config))
        await self._ready([joiner, learner])
        total = len(history.logged)
        deadline = time.monotonic() + READY_S_MAX
        while (taken := sum(log.committed("learn", EXAMPLES).values())) < total:
            if time.monotonic() > deadline:
                raise RoleError(f"only {taken:,} of {total:,} records were used in {READY_S_MAX:.0f} s")
            await self._wait()
        self.learnt = learnt(history, state, in_batch)
        self._screen.say(f"history {self.learnt.sentence()}")
        return history

    async def _start_servers(self, candidates: int) -> tuple[str, str]:
        """Start the live server and the one that stops at the history's end; returns their URLs."""
        self._show.phase = "starting two servers"
        config = ("--config", str(self._config))
        freeze = f"server.freeze_after_examples={candidates}"
        quiet = "server.log_impressions=false"
        # No restart: a restarted server would get another port, and freeze another model.
        live = self._children.start("serve", "serve", *config, restart=False)
        frozen = self._children.start(
            "serve-frozen", "serve", *config, "--set", freeze, "--set", quiet, restart=False
        )
        await self._ready([live, frozen])
        self._frozen = True
        self._screen.say(f"page    {_url(live)}/    the same in a browser, while it plays")
        return _url(live), _url(frozen)

    async def _ready(self, roles: Sequence[Child]) -> None:
        """Wait until all are ready.

        Raises:
            RoleError: one has ended, or takes too long.
        """
        deadline = time.monotonic() + READY_S_MAX
        while slow := [role for role in roles if role.ready() is None]:
            if time.monotonic() > deadline:
                raise RoleError(
                    f"{slow[0].name} was not ready within {READY_S_MAX:.0f} s{slow[0].last_words()}"
                )
            await self._wait()

    async def _wait(self) -> None:
        self._refresh()
        await asyncio.sleep(0.1)

    async def _tick(self, now_s: float, log: Log) -> None:
        """Record the metrics of this moment, and show them."""
        player = self.player
        live, frozen = await player.models()
        self._further = further_lines(live)
        recent, overall = player.board.recent(now_s), player.board.overall()
        ends = sum(end for _, end in log.ends(EVENTS))
        read_at, read = self._read
        self._read = (now_s, ends)
        tick = PlaySample(
            at_s=now_s,
            auc={arm: _number(recent[arm]["auc"]) for arm in ARMS},
            logloss={arm: _number(recent[arm]["logloss"]) for arm in ARMS},
            freshness_s=player.take_freshness(),
            base_freshness_s=_number(live["base_freshness_s"]),
            events_per_s=(ends - read) / max(now_s - read_at, 1e-9) if read else math.nan,
            lag=_lag(log, "join", EVENTS) + _lag(log, "learn", EXAMPLES),
            memory_live=float(live["memory"]["evidence"]),
            memory_frozen=float(frozen["memory"]["evidence"]),
            table_rows=sum(live["table_rows"].values()),
        )
        self.ticks.append(tick)
        shown = [arm for arm in ARMS if arm != "ceiling" or not self.scene.labelled]
        self._show.arms = [
            ArmRow(
                name="the world's true probabilities" if arm == "ceiling" else arm,
                color=str(LINE_STYLE[ARM_STYLE[arm]]["color"]),
                auc_recent=tick.auc[arm],
                auc=_number(overall[arm]["auc"]),
                logloss=_number(overall[arm]["logloss"]),
                calibration=_number(overall[arm]["calibration"]),
                history=[t.auc[arm] for t in self.ticks],
            )
            for arm in shown
        ]
        self._show.numbers = [
            ("events/s", f"{tick.events_per_s:.0f}" if math.isfinite(tick.events_per_s) else "–"),
            ("lag", f"{tick.lag}"),
            ("freshness", f"{tick.freshness_s:.2f} s" if math.isfinite(tick.freshness_s) else "–"),
            ("table rows", f"{tick.table_rows:,}"),
            ("memory (frozen)", f"{tick.memory_frozen:,.0f}"),
        ]
        self._show_newest()
        self._refresh()

    def _show_newest(self) -> None:
        newest = self.player.newest
        if newest is None:
            return
        turn, answer = newest
        best = sorted(range(len(turn.names)), key=lambda i: -answer.corrected[i])[:SLATE_SHOWN]
        self._show.request = turn.words
        self._show.slate = [
            Shown(turn.names[i], answer.base[i], answer.corrected[i], bool(turn.y[i] > 0.5)) for i in best
        ]

    def _refresh(self) -> None:
        """Update the screen.

        Raises:
            RoleError: a child has ended and may not be restarted.
            _StoppedError: the user asked the demo to stop.
        """
        if self._stop.event.is_set():
            raise _StoppedError
        for restart in self._children.watch():
            self._screen.say(f"{restart.of} ended ({restart.how}); starting it again")
        self._show.elapsed_s = time.monotonic() - self._began
        self._show.roles = [
            (name, "frozen" if self._frozen and name == "serve-frozen" else state)
            for name, state in self._children.states()
        ]
        self._screen.show(self._show)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder of config, log and state: `keep`, or a temporary folder."""
    if keep is None:
        folder = Path(tempfile.mkdtemp(prefix="freshet-demo-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        used = any(keep.iterdir())
    except OSError as error:
        raise ConfigError(f"--keep {keep}: cannot be used as a folder ({error.strerror})") from None
    if used:
        raise ConfigError(f"--keep {keep}: the folder is not empty; name a new one, or remove it")
    yield keep.resolve()


def own_prefix(log: str) -> str:
    """The log's URL; a Kafka URL without a prefix gets a new one, so that demos do not share topics.

    >>> own_prefix("sqlite:log.db"), own_prefix("kafka://localhost/shop")
    ('sqlite:log.db', 'kafka://localhost/shop')
    """
    if not log.lower().startswith("kafka:") or parse_url(log)[1]:
        return log
    return f"{log.rstrip('/')}/demo-{uuid.uuid4().hex[:8]}"


def _url(child: Child) -> str:
    said = child.ready() or ""
    for word in said.split():
        if word.startswith("http://"):
            return word
    raise RoleError(f"{child.name} did not say where it listens, only {said!r}")


def _lag(log: Log, group: str, topic: str) -> int:
    committed = log.committed(group, topic)
    return sum(end - committed.get(partition, 0) for partition, (_, end) in enumerate(log.ends(topic)))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
