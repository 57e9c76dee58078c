"""The demo's history: trained on from a file in batch, then from the log (Monolith, section 2.2).

File and log overlap, as in production: a file is written some time after its last request, and the log keeps
its records for some time. Each request is used once, from one of the two.
"""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from os import getpid
from pathlib import Path
from typing import NamedTuple

from freshet.demo.scenes import Scene
from freshet.errors import RoleError
from freshet.roles.states import read_state
from stream.files.record_files import write_records
from stream.records.entities.record import AnyEvent, EntityEvent
from stream.records.types import Example, Impression, encode_json

FILE_NAME = "history.parquet"
ENTITIES_NAME = "items.jsonl"
BATCH_SHARE = 5 / 6
OVERLAP_SHARE = 1 / 12


class SceneHistory(NamedTuple):
    """A scene's history, split into files and the events for the log."""

    requests: int
    candidates: int
    until: float  # event time, Unix seconds: the log's from here on
    overlap_s: float
    examples: list[Example]  # all of it
    file: Path
    entities: Path | None  # what is true of items; None: nothing is said of them
    logged: list[AnyEvent]
    told: list[EntityEvent]


class HistoryCounts(NamedTuple):
    """The requests of the history that the learner has used, by its own counts."""

    until: float
    in_batch: int  # requests
    known: int  # of the log, already used from the file
    requests: int  # in all

    def sentence(self) -> str:
        """As a sentence."""
        moment = datetime.fromtimestamp(self.until, UTC).isoformat(sep=" ", timespec="seconds")
        return (
            f"{self.in_batch:,} requests trained on in batch up to {moment}, then live: "
            f"{self.requests - self.in_batch:,} more from the log; {self.known:,} of both were used once"
        )


def lay_out(scene: Scene, folder: Path) -> SceneHistory:
    """Write the history's files, and return the events for the log; they overlap."""
    found = list(scene.history())
    shown = [one for one in found if isinstance(one, Impression)]
    told = [one for one in found if isinstance(one, EntityEvent)]
    cut = int(len(shown) * BATCH_SHARE)
    until = shown[cut].time
    overlap_s = max(until - shown[cut - int(len(shown) * OVERLAP_SHARE)].time, 1.0)
    from_log = until - overlap_s
    file = folder / FILE_NAME
    examples = [_example(one) for one in shown]
    write_records(file, "examples", [one for one in examples if one.time < until + overlap_s / 2.0])
    entities = folder / ENTITIES_NAME if told else None
    if entities is not None:
        entities.write_bytes(b"".join(encode_json(event) + b"\n" for event in told))
    logged: list[AnyEvent] = [one for one in found if isinstance(one, EntityEvent) or one.time >= from_log]
    return SceneHistory(
        requests=len(shown),
        candidates=sum(len(one.candidates) for one in shown),
        until=until,
        overlap_s=overlap_s,
        examples=examples,
        file=file,
        entities=entities,
        logged=logged,
        told=told,
    )


async def train(history: SceneHistory, config: Path, said: Path, wait: Callable[[], Awaitable[None]]) -> None:
    """Run `freshet train`; `wait` is awaited meanwhile, and may raise to cancel it.

    Args:
        said: file for its output.

    Raises:
        RoleError: it failed.
    """
    command = [sys.executable, "-m", "freshet", "train", "--config", str(config)]
    command += ["--data", str(history.file), "--until", repr(history.until)]
    command += ["--overlap", repr(history.overlap_s), "--with-parent", str(getpid())]
    if history.entities is not None:
        command += ["--entities", str(history.entities)]
    with said.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        while process.poll() is None:
            await wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise RoleError(f"freshet train ended with {process.returncode}: {said.read_text(errors='replace')}")


def learnt(history: SceneHistory, state: Path, in_batch: int) -> HistoryCounts:
    """The counts in the learner's state."""
    meta = read_state(state)["learnt"]
    return HistoryCounts(history.until, in_batch, meta["of_history"], meta["requests"])


def _example(shown: Impression) -> Example:
    return Example(
        shown.request_id, shown.time, shown.time, shown.candidates, shown.labels or [], context=shown.context
    )
