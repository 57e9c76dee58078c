"""Plays a scene as a client: requests scores from both servers, sends the clicks, scores the answers.

It uses only the HTTP interface. Every prediction is requested before its label is sent, and scored when the
label is known.
"""

import asyncio
import heapq
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import httpx
import msgspec
import numpy as np

from freshet.demo.scenes import Scene, Turn
from freshet.demo.scoreboard import Scoreboard
from freshet.errors import RoleError
from freshet.files import Json
from stream.records.entities.record import EntityEvent
from stream.records.types import Action, Example, encode_json

ARMS = ("frozen", "frozen + memory", "live", "live + memory", "ceiling")
# Requests in progress. While there are so many the world waits: it is some four seconds of its time ahead of
# the slowest answer at most, so that slow answers do not make clicks late.
ASKED_MAX = 8
TIMEOUT_S = 10.0
STEP_S = 0.01
LATENCIES_MAX = 20_000
PLAYED_MAX = 20_000  # requests that are kept with their labels


class PlayedAnswer(msgspec.Struct):
    """The used fields of an answer of POST /v1/score."""

    base: list[float]
    corrected: list[float]
    freshness_s: float | None = None


class Newest(NamedTuple):
    """The newest answered request."""

    turn: Turn
    answer: PlayedAnswer


class _Open(NamedTuple):
    due_s: float
    turn: Turn
    live: PlayedAnswer
    frozen: PlayedAnswer


class Player:
    """Plays `scene` against two servers, one live, one whose base is frozen.

    Use as an async context manager.
    """

    def __init__(self, scene: Scene, live_url: str, frozen_url: str, window_s: float) -> None:
        self.scene = scene
        self.board = Scoreboard(ARMS, window_s)
        self.newest: Newest | None = None
        self.asked = self.clicks = 0
        self.held_s = 0.0  # how long turns waited for answers
        self.freshness_s: list[float] = []  # of the answers since `take_freshness`
        self.told: deque[EntityEvent] = deque(maxlen=PLAYED_MAX)  # what servers were told of items
        self.played: deque[Example] = deque(maxlen=PLAYED_MAX)  # requests whose labels are known
        self.latency_ms: deque[float] = deque(maxlen=LATENCIES_MAX)  # of the live server, as a client sees it
        limits = httpx.Limits(max_connections=ASKED_MAX + 8)
        # trust_env=False: no proxy for requests to this machine
        settings: Json = {"timeout": TIMEOUT_S, "limits": limits, "trust_env": False}
        self._live = httpx.AsyncClient(base_url=live_url, **settings)
        self._frozen = httpx.AsyncClient(base_url=frozen_url, **settings)
        self._answer = msgspec.json.Decoder(PlayedAnswer)
        self._open: deque[_Open] = deque()
        self._coming: list[tuple[float, int, Action]] = []  # by event time
        self._clock = 0.0  # event time of the newest turn
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._began = time.monotonic()

    async def __aenter__(self) -> "Player":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._live.aclose()
        await self._frozen.aclose()

    @property
    def now_s(self) -> float:
        """Seconds since the play began."""
        return time.monotonic() - self._began

    async def models(self) -> tuple[Json, Json]:
        """The answers of GET /v1/model from the live and the frozen server."""
        raw = await asyncio.gather(*(self._send(c, "GET", "/v1/model") for c in (self._live, self._frozen)))
        live, frozen = map(msgspec.json.decode, raw)
        return live, frozen

    async def play(self, seconds: float, tick_s: float, on_tick: Callable[[float], Awaitable[None]]) -> None:
        """Play for `seconds`, or until the scene ends; `on_tick` is awaited at each tick, with the time.

        Raises:
            RoleError: a server does not answer.
        """
        self._began = time.monotonic()
        shifts = deque(share * seconds for share in self.scene.shifts)
        ask_at = looked_at = 0.0
        tick_at = tick_s
        more = True
        while more and (now := self.now_s) < seconds:
            if shifts and now >= shifts[0]:
                shifts.popleft()
                self.scene.shift()
            if ask_at <= now and len(self._tasks) >= ASKED_MAX:
                self.held_s += now - max(looked_at, ask_at)
            looked_at = now
            while more and ask_at <= now and len(self._tasks) < ASKED_MAX:
                more = self._ask_next()
                ask_at = max(
                    ask_at + 1.0 / self.scene.rate, now - 1.0
                )  # turns missed during a pause are not played later
            self._send_due()
            self._settle(now)
            if self._failure is not None:
                raise self._failure
            if now >= tick_at:
                tick_at = max(tick_at + tick_s, now)
                await on_tick(now)
            await asyncio.sleep(STEP_S)
        while self._tasks:
            await asyncio.gather(*self._tasks)
        self._settle(self.now_s + self.scene.settle_s)
        await on_tick(self.now_s)

    def take_freshness(self) -> float:
        """The median freshness of the answers since the last call, seconds; NaN without any."""
        taken, self.freshness_s = self.freshness_s, []
        return statistics.median(taken) if taken else float("nan")

    def _ask_next(self) -> bool:
        turn = self.scene.turn()
        if turn is None:
            return False
        self._clock = max(self._clock, turn.impression.time)
        self._start(self._ask(turn))
        return True

    async def _ask(self, turn: Turn) -> None:
        impression = turn.impression
        body = {
            "request_id": impression.request_id,
            "time": impression.time,
            "context": impression.context,
            "candidates": impression.candidates,
            # people look at the whole slate: else what they did not see would be learned as not wanted
            "show": len(impression.candidates),
        }
        # The frozen model hears of no attributes either: its requests have them, as from another store.
        quiet = msgspec.json.encode({**body, "candidates": turn.described, "log": False})
        loud = msgspec.json.encode({**body, "log": False} if self.scene.labelled else body)
        if turn.told:
            self.told.extend(turn.told)
            await self._post(self._live, "/v1/entities", msgspec.json.encode(turn.told))
        began = time.perf_counter()
        frozen_answer = asyncio.ensure_future(self._post(self._frozen, "/v1/score", quiet))
        try:
            raw = await self._post(self._live, "/v1/score", loud)
            self.latency_ms.append(1e3 * (time.perf_counter() - began))
            live = self._answer.decode(raw)
            frozen = self._answer.decode(await frozen_answer)
        finally:
            frozen_answer.cancel()
        self.asked += 1
        if live.freshness_s is not None:
            self.freshness_s.append(live.freshness_s)
        self.newest = Newest(turn, live)
        now = self.now_s
        self._open.append(_Open(now + self.scene.settle_s, turn, live, frozen))
        if self.scene.labelled:
            labelled = msgspec.structs.replace(impression, labels=turn.y.tolist())
            await self._post(self._live, "/v1/events", encode_json(labelled))
        for action in turn.clicks:
            self.clicks += 1
            heapq.heappush(self._coming, (action.time, self.clicks, action))

    async def _click(self, action: Action) -> None:
        body: Json = {"request_id": action.request_id, "candidate": action.candidate, "time": action.time}
        body["name"] = action.name
        if action.value is not None:
            body["value"] = action.value
        await self._post(self._live, "/v1/feedback", msgspec.json.encode(body))

    async def _post(self, client: httpx.AsyncClient, path: str, body: bytes) -> bytes:
        return await self._send(client, "POST", path, body)

    async def _send(self, client: httpx.AsyncClient, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of the answer.

        Raises:
            RoleError: there is no answer, or it is an error.
        """
        try:
            answer = await client.request(method, path, content=body)
            if answer.status_code == 503:  # a limit was reached: retry once
                await asyncio.sleep(0.5)
                answer = await client.request(method, path, content=body)
        except httpx.HTTPError as error:
            raise RoleError(f"{client.base_url}{path} does not answer: {error!r}") from None
        if answer.status_code >= 400:
            raise RoleError(f"{client.base_url}{path} answered {answer.status_code}: {answer.text[:300]}")
        return answer.content

    def _send_due(self) -> None:
        """Send the clicks whose time has come by the world's clock, however long the answers took."""
        while self._coming and self._coming[0][0] <= self._clock:
            self._start(self._click(heapq.heappop(self._coming)[2]))

    def _settle(self, now: float) -> None:
        """Score the answers whose labels are known."""
        while self._open and self._open[0].due_s <= now:
            due_s, turn, live, frozen = self._open.popleft()
            predictions = {
                "frozen": np.array(frozen.base),
                "frozen + memory": np.array(frozen.corrected),
                "live": np.array(live.base),
                "live + memory": np.array(live.corrected),
                "ceiling": turn.ceiling if turn.ceiling is not None else np.full(len(turn.y), 0.5),
            }
            self.board.add(due_s, turn.y, predictions, turn.person)
            shown = turn.impression
            self.played.append(
                Example(
                    shown.request_id, shown.time, shown.time, shown.candidates, turn.y.tolist(), shown.context
                )
            )

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
