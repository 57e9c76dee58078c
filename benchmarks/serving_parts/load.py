"""A load generator in a process of its own: raw sockets, requests made beforehand, as little work as can be.

    python benchmarks/serving_parts/load.py < PLAN.json > RESULT.json

The plan names a host and port, a file of requests (each a whole HTTP request, behind 4 bytes of its
length), how many connections, and either `seconds` alone (closed: every connection asks again as soon as it
is answered) or with `rate` (open: requests begin at fixed times, whether the last is answered or not).
An open run's latency counts from the moment at which the request was to begin, also if every connection
was still waiting then: what a stalled server keeps from being asked is not left out.
"""

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import uvloop


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._buffer = b""
        self._due = 0.0
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes, due: float) -> None:
        self._due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.lower().find(b"content-length:", 0, head)
        length = int(self._buffer[at + 15 : self._buffer.index(b"\r\n", at)])
        if len(self._buffer) < head + 4 + length:
            return
        good = self._buffer[9:12] == b"200"
        self._buffer = b""
        self._load.answered(self, self._due, good)


class Load:
    """All connections, and what became of their requests."""

    def __init__(self, requests: list[bytes]) -> None:
        self._requests = requests
        self._at = 0
        self._idle: list[_Connection] = []
        self._waiting: deque[float] = deque()
        self._closed = False
        self._end = 0.0
        self.latencies: list[float] = []
        self.failed = 0

    def _next(self) -> bytes:
        self._at = (self._at + 1) % len(self._requests)
        return self._requests[self._at]

    def answered(self, connection: _Connection, due: float, good: bool) -> None:
        """A request has its answer: note how long it took, and let the connection go on."""
        now = time.perf_counter()
        self.latencies.append(now - due)
        self.failed += not good
        if self._closed:
            if now < self._end:
                connection.ask(self._next(), now)
        elif self._waiting:
            connection.ask(self._next(), self._waiting.popleft())
        else:
            self._idle.append(connection)

    async def run(self, plan: dict[str, Any]) -> dict[str, float]:
        """Carry a plan out."""
        loop = asyncio.get_running_loop()
        for _ in range(plan["connections"]):
            made = await loop.create_connection(lambda: _Connection(self), plan["host"], plan["port"])
            self._idle.append(made[1])
        busy, began = time.process_time(), time.perf_counter()
        self._end = began + plan["seconds"]
        if plan.get("rate"):
            await self._open(began, float(plan["rate"]))
        else:
            self._closed = True
            connections, self._idle = self._idle, []
            for connection in connections:
                connection.ask(self._next(), time.perf_counter())
            await asyncio.sleep(plan["seconds"])
        took = time.perf_counter() - began
        found = np.array(self.latencies) * 1e3
        return {
            "requests": len(found),
            "requests_per_s": len(found) / took,
            "failed": self.failed,
            "unanswered": len(self._waiting),
            "generator_busy": (time.process_time() - busy) / took,
            **{
                name: float(np.quantile(found, q))
                for name, q in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999), ("max_ms", 1.0))
            },
        }

    async def _open(self, began: float, rate: float) -> None:
        """Begin requests at fixed times; ends a second after the last."""
        sent = 0
        while (now := time.perf_counter()) < self._end:
            while began + sent / rate <= now:
                due = began + sent / rate
                sent += 1
                if self._idle:
                    self._idle.pop().ask(self._next(), due)
                else:
                    self._waiting.append(due)
            await asyncio.sleep(max(began + sent / rate - time.perf_counter(), 0.0))
        await asyncio.sleep(1.0)


def main() -> None:
    """One plan from stdin."""
    plan = json.load(sys.stdin)
    data = Path(plan["requests"]).read_bytes()
    requests: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        requests.append(data[at + 4 : end])
        at = end
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(Load(requests).run(plan)), sys.stdout)


if __name__ == "__main__":
    main()
