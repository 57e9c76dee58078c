"""The writer: what waits together goes into the log together, and each request is told where its own is."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from serving.app.writer import Appended, EventWriter
from serving.errors import UnavailableError
from stream.log.base import EVENTS, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.decoding import Decoder, split_batch
from stream.records.types import Action, encode, encode_json

decode = Decoder(Action).decode


class Held(SqliteLog):
    """A log whose appends wait until they are let through."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, LogSettings(sync=False))
        self.began = threading.Event()
        self.go = threading.Event()

    def append(self, topic: str, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self.began.set()
        assert self.go.wait(60.0)
        return super().append(topic, records)


def test_events_that_wait_together_are_one_message_a_partition_and_each_knows_its_place(
    tmp_path: Path,
) -> None:
    log = Held(tmp_path / "log.db")
    log.create_topic(EVENTS, 2)
    actions = [Action(f"r{i}", 1e9 + i, 0) for i in range(60)]

    async def write() -> list[list[Appended]]:
        writer = EventWriter(log)
        writer.start()
        try:
            waiting = [asyncio.create_task(writer.append([_record(action)])) for action in actions[:1]]
            await asyncio.to_thread(log.began.wait, 60.0)
            waiting += [asyncio.create_task(writer.append([_record(action)])) for action in actions[1:59]]
            foreign = Outgoing(actions[59].request_id.encode(), encode_json(actions[59]))
            waiting.append(asyncio.create_task(writer.append([foreign])))
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting), "nobody is answered before its append"
            log.go.set()
            return await asyncio.gather(*waiting)
        finally:
            await asyncio.to_thread(writer.stop)

    places = [place for (place,) in asyncio.run(write())]
    assert sum(end for _, end in log.ends(EVENTS)) == 1 + 2 + 1, "the first alone, then packed; JSON alone"
    for action, (partition, offset) in zip(actions, places, strict=True):
        (record,) = log.read(EVENTS, partition, offset, 1)
        assert action in [decode(part) for part in split_batch(record.value)]
    log.close()


def _record(action: Action) -> Outgoing:
    return Outgoing(action.request_id.encode(), encode(action))


def test_one_that_no_longer_waits_keeps_no_answer_from_the_others(tmp_path: Path) -> None:
    log = Held(tmp_path / "log.db")
    log.create_topic(EVENTS, 2)

    async def write() -> list[list[Appended]]:
        writer = EventWriter(log)
        writer.start()
        waiting = [asyncio.create_task(writer.append([_record(Action("r0", 1e9, 0))]))]
        await asyncio.to_thread(log.began.wait, 60.0)
        waiting += [
            asyncio.create_task(writer.append([_record(Action(f"r{i}", 1e9, 0))])) for i in range(1, 4)
        ]
        await asyncio.sleep(0)
        waiting.pop(1).cancel()
        await asyncio.sleep(0)
        log.go.set()
        try:
            return await asyncio.wait_for(asyncio.gather(*waiting), 20.0)
        finally:
            await asyncio.to_thread(writer.stop)

    assert len(asyncio.run(write())) == 3
    log.close()


def test_stopping_does_not_wait_for_a_log_that_does_not_answer(tmp_path: Path) -> None:
    log = Held(tmp_path / "log.db")
    log.create_topic(EVENTS, 2)
    action = Action("r", 1e9, 0)

    async def stop() -> list[list[Appended] | BaseException]:
        writer = EventWriter(log)
        writer.start()
        waiting = [asyncio.create_task(writer.append([_record(action)]))]
        await asyncio.to_thread(log.began.wait, 60.0)
        waiting += [asyncio.create_task(writer.append([_record(action)])) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(writer.stop, 0.3)  # the log answers after this
        left = await asyncio.gather(*waiting[1:], return_exceptions=True)
        with pytest.raises(UnavailableError, match="the server is stopping"):
            await writer.append([_record(action)])
        log.go.set()  # what was at work ends by itself
        return [await waiting[0], *left]

    first, *others = asyncio.run(stop())
    assert isinstance(first, list)
    assert all(isinstance(e, UnavailableError) and "nothing was written" in str(e) for e in others)
    assert sum(end for _, end in log.ends(EVENTS)) == 1
    log.close()
