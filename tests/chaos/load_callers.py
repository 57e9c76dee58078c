"""Who calls in `load.py`, well-behaved or not, and the books of what they were promised."""

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from ledger import fresh_records

from learner.role.learner import Learner
from stream.log.base import EXAMPLES, Log
from stream.records.decoding import Decoder
from stream.records.types import Example, Impression

FEEDBACK_S = 2.0  # feedback accepted within this of its score is in time, whatever the machine does
USERS, ITEMS = 30, 60
STATUSES = frozenset({200, 202, 207, 400, 404, 405, 413, 431})
"""What callers are answered with in every run."""

EACH_MIN = 2
"""Times that each thing is done at least: a slow machine is called for longer, at most `LONGER_MAX` times."""

LONGER_MAX = 10.0

LET_GO_S_MAX = 60.0
"""How long a connection may stay open that the server closes after two seconds on an idle machine."""


class Books:
    """What was accepted, and so must have been learnt."""

    def __init__(self) -> None:
        self.impressions: dict[str, int] = {}  # request -> candidates
        self.labels: dict[str, list[float]] = {}  # of those that came with labels
        self.scored_at: dict[str, float] = {}
        self.clicks: dict[str, set[int]] = {}  # accepted in time
        self.first_unsure: set[str] = set()  # requests whose candidate 0 was also said to have no click
        self.unsure: set[str] = set()  # nobody was told what became of them

    def balance(self, log: Log, learner: Learner) -> dict[str, int]:
        """What is wrong; all 0 if nothing is."""
        decode = Decoder(Example).decode
        examples: list[Example] = [decode(r.value) for r in fresh_records(log, EXAMPLES)]
        times = Counter(example.request_id for example in examples)
        known = self.impressions.keys() - self.unsure
        wrong = 0
        for example in examples:
            expected = self.labels.get(example.request_id)
            if expected is not None:
                wrong += example.labels != expected
            elif example.request_id in known:
                clicked = {i for i, label in enumerate(example.labels) if label}
                clicks = self.clicks.get(example.request_id, set())
                if example.request_id in self.first_unsure:
                    clicks = clicks - {0}
                wrong += not clicked >= clicks
        return {
            "examples_lost": sum(1 for name in known if name not in times),
            "examples_double": sum(n - 1 for n in times.values()),
            "examples_unknown": sum(
                1 for name in times if name not in self.impressions and name not in self.unsure
            ),
            "candidates_off": sum(
                1 for e in examples if len(e.labels) != self.impressions.get(e.request_id, len(e.labels))
            ),
            "labels_wrong": wrong,
            "requests_off": learner.meta.requests - len(examples),
            "rows_off": learner.meta.examples - sum(len(e.labels) for e in examples),
        }


class Callers:
    """All who call, well-behaved or not."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.books = Books()
        self.statuses = Counter[int]()
        self.deeds = Counter[str]()
        self.bad: list[str] = []  # answers that must not be
        self._rng = random.Random(seed)
        self._number = 0
        self._recent: list[str] = []  # requests that feedback may name
        self._client = httpx.AsyncClient(
            base_url=url, timeout=60.0, limits=httpx.Limits(max_connections=40, max_keepalive_connections=10)
        )
        self._kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.score, 40), (self.feedback, 25), (self.events, 12), (self.malformed, 10),
            (self.leave, 5), (self.no_http, 2), (self.dawdle, 1), (self.watch, 2), (self.retry, 3),
        ]  # fmt: skip

    async def run(self, seconds: float, rate: float, enough: Callable[[], bool]) -> None:
        """Call for so long, `rate` times a second; more than a hundred never wait at once.

        Goes on until each thing was done, each of STATUSES answered, and the caller has had enough.
        """
        began = time.monotonic()
        working: set[asyncio.Task[None]] = set()
        made = 0
        kinds, weights = zip(*self._kinds, strict=True)
        while (now := time.monotonic() - began) < seconds or not (
            (self._done_all() and enough()) or now > LONGER_MAX * seconds
        ):
            while made < now * rate and len(working) < 100:
                (kind,) = self._rng.choices(kinds, weights)
                self.deeds[kind.__name__] += 1
                task = asyncio.create_task(kind())
                working.add(task)
                task.add_done_callback(working.discard)
                made += 1
            made = max(made, int(now * rate) - 100)  # who was held up does not catch up with all of it
            await asyncio.sleep(0.01)
        await asyncio.gather(*working)
        await self._client.aclose()

    def _done_all(self) -> bool:
        least = min(self.deeds[kind.__name__] for kind, _ in self._kinds)
        return least >= EACH_MIN and self.statuses.keys() >= STATUSES

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        try:
            answer = await self._client.request(method, path, **more)
        except httpx.TransportError:
            self.deeds["unanswered"] += 1
            return None
        self._note(answer)
        return answer

    def _note(self, answer: httpx.Response) -> None:
        self.statuses[answer.status_code] += 1
        documented = answer.status_code < 500 or (
            answer.status_code == 503 and "retry-after" in answer.headers
        )
        if not documented:
            self.bad.append(f"{answer.request.url.path}: {answer.status_code} {answer.text[:200]}")

    def _new(self) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
        self._number += 1
        rng = self._rng
        candidates = [{"item": rng.randrange(ITEMS)} for _ in range(rng.randrange(1, 9))]
        return f"q{self._number}", {"user": f"u{rng.randrange(USERS)}"}, candidates

    async def score(self) -> None:
        name, context, candidates = self._new()
        sent = time.time()
        body = {"request_id": name, "context": context, "candidates": candidates}
        answer = await self._ask("POST", "/v1/score", json=body)
        if answer is None or answer.status_code != 200 or not answer.json()["logged"]:
            self.books.unsure.add(name)
            return
        self.books.impressions[name] = len(candidates)
        self.books.scored_at[name] = sent
        self._recent = [*self._recent[-50:], name]

    async def feedback(self) -> None:
        if not self._recent:
            return
        name = self._rng.choice(self._recent)
        candidate = self._rng.randrange(self.books.impressions[name])
        body = {"request_id": name, "candidate": candidate}
        answer = await self._ask("POST", "/v1/feedback", json=body)
        in_time = time.time() - self.books.scored_at[name] < FEEDBACK_S
        if answer is not None and answer.status_code == 202 and in_time:
            self.books.clicks.setdefault(name, set()).add(candidate)

    async def events(self) -> None:
        """A few labelled impressions in one of the forms that are taken, some of them no good."""
        rng = self._rng
        records: list[tuple[str, Impression]] = []
        for _ in range(rng.randrange(1, 6)):
            name, context, candidates = self._new()
            labels = [float(rng.random() < 0.3) for _ in candidates]
            records.append((name, Impression(name, time.time(), candidates, context, labels=labels)))
        form = rng.choice(["array", "lines", "msgpack"])
        json_ = [msgspec.json.encode(record) for _, record in records]
        if rng.random() < 0.3:
            json_.append(b'{"type": "impression", "request_id": 5}')
        content = {
            "array": b"[" + b",".join(json_) + b"]",
            "lines": b"\n".join(json_),
            "msgpack": msgspec.msgpack.encode([record for _, record in records]),
        }[form]
        headers = {"Idempotency-Key": records[0][0]}
        answer = await self._ask("POST", "/v1/events", content=content, headers=headers)
        if answer is not None and rng.random() < 0.2:
            again = await self._ask("POST", "/v1/events", content=content, headers=headers)
            if again is not None and again.status_code in (202, 207) and again.content != answer.content:
                self.bad.append(f"a retry was answered otherwise: {again.text[:200]}")
        taken = answer is not None and answer.status_code in (202, 207)
        for name, record in records:
            if taken:
                self.books.impressions[name] = len(record.candidates)
                self.books.labels[name] = record.labels or []
            else:
                self.books.unsure.add(name)

    async def retry(self) -> None:
        """The same feedback three times at once; it takes back a click that came before it."""
        if not self._recent:
            return
        name = self._recent[-1]
        self.books.first_unsure.add(name)
        body = {"request_id": name, "candidate": 0, "label": 0}
        key = {"Idempotency-Key": f"retry-{self._number}-{self._rng.random()}"}
        answers = await asyncio.gather(
            *(self._ask("POST", "/v1/feedback", json=body, headers=key) for _ in range(3))
        )
        if (
            len({answer.content for answer in answers if answer is not None and answer.status_code == 202})
            > 1
        ):
            self.bad.append("one key, several answers")

    async def malformed(self) -> None:
        rng = self._rng
        deep = b"[" * 5000
        method, path, content = rng.choice(
            [
                ("POST", "/v1/score", b"{"),
                ("POST", "/v1/score", b'{"candidates": []}'),
                ("POST", "/v1/score", b'{"candidates": [{"item": 1e400}]}'),
                ("POST", "/v1/score", b'{"candidates": [{"item": "' + b"x" * 5000 + b'"}]}'),
                ("POST", "/v1/score", msgspec.json.encode({"candidates": [{}] * 3000})),
                ("POST", "/v1/score", b"\xff\xfe" * 300),
                ("POST", "/v1/score", deep),
                ("POST", "/v1/score", os.urandom(200)),
                ("POST", "/v1/feedback", b'{"request_id": 7}'),
                ("POST", "/v1/feedback", b'{"request_id": "\\u001b[2J\\n", "candidate": -1}'),
                ("POST", "/v1/events", b"[" + b"{}," * 500 + b"{}]"),
                ("POST", "/v1/events", deep),
                ("POST", "/v1/events", b"\xdf" + os.urandom(100)),
                ("POST", "/v1/events", b"x" * (2 << 20)),
                ("POST", "/v1/forget", b'{"entity": {"nobody": ["x"]}}'),
                ("GET", "/nowhere/%1b[31m", b""),
                ("GET", "/v1/score", b""),
                ("BREW", "/v1/model", b""),
            ]
        )
        headers = {"X-Request-ID": "bad id\x7f"} if rng.random() < 0.1 else {}
        if rng.random() < 0.1:
            headers["X-Long"] = "a" * 10_000
        answer = await self._ask(method, path, content=content, headers=headers)
        if answer is not None and answer.status_code < 400:
            self.bad.append(f"{path} took {content[:60]!r}: {answer.status_code}")

    async def watch(self) -> None:
        path = self._rng.choice(["/metrics", "/v1/model", "/v2/health/ready", "/openapi.json", "/"])
        await self._ask("GET", path)

    async def leave(self) -> None:
        """Begin a request and go, politely or with a reset."""
        sent = self._rng.choice(
            [
                b"",
                b"POST /v1/sc",
                b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{",
                b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20,
            ]
        )
        await self._raw(sent, 0.0)

    async def no_http(self) -> None:
        await self._raw(os.urandom(self._rng.randrange(1, 2000)) + b"\r\n\r\n", LET_GO_S_MAX)

    async def dawdle(self) -> None:
        """Send half a head and wait to be let go."""
        await self._raw(b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\n", LET_GO_S_MAX)

    async def _raw(self, sent: bytes, wait_s: float) -> None:
        parts = urlsplit(self.url)
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(sent)
            await writer.drain()
            answer = b""
            if wait_s:
                try:
                    answer = await asyncio.wait_for(reader.read(65_536), wait_s)
                except TimeoutError:
                    self.bad.append(f"a connection that said {sent[:30]!r} was left open")
            if re.match(rb"HTTP/1.1 5", answer) and not answer.startswith(b"HTTP/1.1 503"):
                self.bad.append(answer[:200].decode(errors="replace"))
            if self._rng.random() < 0.5:
                writer.transport.abort()
            else:
                writer.close()
        except OSError:
            self.deeds["unanswered"] += 1
