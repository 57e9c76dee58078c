"""The demo's clicks come at their time by the world's clock, however slow the servers are."""

import asyncio

import msgspec
import pytest

from freshet.demo.player import ASKED_MAX, Player
from freshet.demo.scenes import Turn, WorldScene

ANSWER_S = 0.5  # twenty turns at the world's pace


class ShortScene(WorldScene):
    """A world of eighty turns."""

    left = 80

    def turn(self) -> Turn | None:
        self.left -= 1
        return super().turn() if self.left >= 0 else None


class SlowServer:
    """Answers scores late, and notes of each click how many newer requests have come before it."""

    def __init__(self) -> None:
        self.asked: set[float] = set()
        self.newer: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                body = msgspec.json.decode(
                    await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
                )
                if "candidates" in body:
                    self.asked.add(body["time"])
                    await asyncio.sleep(ANSWER_S)
                elif isinstance(body, dict):  # else attributes of items
                    self.newer.append(sum(time > body["time"] for time in self.asked))
                p = [0.1] * len(body.get("candidates", ()) if isinstance(body, dict) else ())
                answer = msgspec.json.encode({"base": p, "corrected": p})
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()


async def played() -> SlowServer:
    async def tick(_: float) -> None:
        pass

    heard = SlowServer()
    async with await asyncio.start_server(heard.serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Player(ShortScene(600.0, seed=0), url, url, 10.0) as player:
            await player.play(600.0, 1.0, tick)
            assert player.asked == 80
    return heard


@pytest.mark.slow
def test_slow_answers_do_not_make_clicks_late() -> None:
    heard = asyncio.run(played())
    assert len(heard.newer) > 10
    assert max(heard.newer) <= 2 * ASKED_MAX
