"""A learner in shards under chaos: who starts them and single shards die; at the end all are put together."""

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from chaos_processes import Death, Role
from copies import Copy
from ledger import Ledger

from embeddings import Table
from freshet.config import Config
from freshet.roles.opening import shards_folder
from ground.clock import SYSTEM_CLOCK
from learner.features.labelled import Labelled
from learner.metrics import Metrics
from learner.resting import rows_rest
from learner.settings import LearnerSettings
from learner.shards.live.kept import KeptShard
from learner.shards.live.meeting import ROLE
from learner.shards.owners import Owners
from learner.shards.reshard.rows import take_over
from learner.shards.reshard.stretches import Took, followed
from learner.shards.shard import Shard
from learner.shards.together import lockstep
from stream.log.base import EXAMPLES, Log
from stream.log.reading import read_range
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.types import Example
from stream.state.disk import ROCKS_DISK
from stream.state.role_state import RoleState
from stream.state.undo import UndoableDisk

PLAN = "shard-death"
"""The file that says which shard dies next, and where; it is emptied by a shard that dies of it."""
PASSING = re.compile("in use by process|does not answer|no success within|locked;|busy;")
"""Why `freshet reshard` may refuse for a while: the log is away, or shards of a dead starter are not."""

TRY_EVERY_S = 0.5


class Recovery(NamedTuple):
    """From a death to the moment at which all shards learn again."""

    kind: str  # who died, and at which point: "starter", "shard before-checkpoint"
    seconds: float


class Resharding(NamedTuple):
    """A resharding in the middle of a run."""

    deaths_left: int  # of the learner, when it comes
    shards: int
    deaths: list[Death]  # of the command


class ShardsRole(Role):
    """`freshet learn --shards N`: the process that starts the shards, and single shards, die as planned."""

    def __init__(
        self,
        name: str,
        shards: int,
        folder: Path,
        deaths: list[Death],
        reshards: list[Resharding],
        has_learned: Callable[[], bool],
    ) -> None:
        self._plan, self._told = folder / PLAN, folder / f"{name}.log"
        self._shards_now = shards
        self._reshards = reshards
        self._has_learned = has_learned
        self.resharded = 0
        self._steps: list[Death] = []  # of the resharding that goes on
        self._command: Copy | None = None
        self._told_from = 0  # where in what was told the words of the command begin
        self._try_at_s = 0.0
        self.recoveries: list[Recovery] = []
        self._died_s: float | None = None
        self._died_of = ""
        self._ready_then = 0
        super().__init__(name, ["learn", "--shards", str(shards)], folder, deaths)

    @property
    def done(self) -> bool:
        return super().done and not self._reshards

    def turn(self, events: int) -> None:
        if self._steps:
            self._go_on_resharding()
            return
        if self._next is not None and self._died_as_planned():
            self._has_died(f"shard {self._next.point}")
            self._advance()
        super().turn(events)
        if (
            self._died_s is not None
            and self.process.poll() is None
            and self._readies() - self._ready_then >= self._shards_now
        ):
            self.recoveries.append(Recovery(self._died_of, time.monotonic() - self._died_s))
            self._died_s = None
        if self._reshards and len(self._deaths) <= self._reshards[0].deaths_left and self.ready:
            self._begin_resharding()

    def kill(self) -> None:
        if self._command is not None:
            self._command.kill()
            self._command.wait()
        super().kill()

    def _died_as_planned(self) -> bool:
        """Count the death of a shard that has come to its point."""
        death = self._next
        if death is None or death.point == "time" or self._plan.read_text():
            return False
        self.killed[f"shard {death.point}"] += 1
        return True

    def _begin_resharding(self) -> None:
        """Stop the shards: `freshet reshard` dies as planned, runs to its end, and as many are started."""
        if not self._has_learned():
            return
        self.process.send_signal(signal.SIGTERM)
        self._died_s = None
        self._steps = [*self._reshards[0].deaths, Death("none", 0, 0, 0.0, False)]

    def _go_on_resharding(self) -> None:
        """Look after shards that stop, and then after the command; meanwhile the log may be away."""
        status = self.process.poll()
        if status is None or time.monotonic() < self._try_at_s:
            return
        if status != 0:
            raise AssertionError(f"{self.name} ended with {status} on SIGTERM: {self.last_words()}")
        shards, death = self._reshards[0].shards, self._steps[0]
        if self._command is None:
            self._told_from = self._told.stat().st_size
            arguments = ["reshard", "--to", str(shards)]
            self._command = self._run(death.point, death.count, arguments, "reshard")
        status = self._command.poll()
        if status is None:
            return
        self._command = None
        if status == -signal.SIGKILL:
            self.killed[f"reshard {death.point}"] += 1
        elif status == 2 and PASSING.search(self._told.read_bytes()[self._told_from :].decode()):
            self._try_at_s = time.monotonic() + TRY_EVERY_S
            return
        elif status != 0:
            raise AssertionError(f"freshet reshard ended with {status}: {self.last_words()}")
        self._steps.pop(0)
        if not self._steps:
            self._go_on(shards)

    def _go_on(self, shards: int) -> None:
        """Start so many shards, which have the deaths that are left."""
        self._reshards.pop(0)
        self.resharded += 1
        self._shards_now = shards
        self._arguments = ["learn", "--shards", str(shards)]
        if self._next is not None and not self._died_as_planned():
            self._deaths.insert(0, self._next)
        self.process = self._start()

    def _has_died(self, kind: str) -> None:
        self._died_s, self._died_of, self._ready_then = time.monotonic(), kind, self._readies()

    def _readies(self) -> int:
        """How often a shard of this start has said that it learns."""
        return self._output().count(": ready")

    def pause(self) -> Callable[[], None]:
        """Pause one shard, which the others notice; or whoever starts them, if there are none."""
        shards = self._shards()
        if not shards:
            return super().pause()
        pid = shards[max(shards)]
        _signal(pid, signal.SIGSTOP)
        return lambda: _signal(pid, signal.SIGCONT)

    def _strike(self) -> None:
        assert self._next is not None
        rank = self._next.shard
        if rank < 0:
            self._has_died("starter")
            self._ready_then = 0  # the next start has an output of its own
            super()._strike()
        elif (pid := self._shards().get(rank)) is not None:  # else it is about to be started
            _signal(pid, signal.SIGKILL)
            self.killed["shard time"] += 1
            self._has_died("shard time")
            self._advance()

    def _advance(self) -> None:
        """A shard has died; whoever starts them lives, and the next death comes."""
        self._next = self._deaths.pop(0) if self._deaths else None
        self._kill_at_s, self._ready_events = None, self._events
        self._write_plan()

    def _program(self) -> tuple[str, int]:
        self._write_plan()
        return "shards", 0

    def _write_plan(self) -> None:
        death = self._next
        planned = death is not None and death.point != "time"
        self._plan.write_text(f"{death.shard} {death.point} {death.count}" if planned and death else "")

    def _shards(self) -> dict[int, int]:
        """The processes of the shards, by rank: whoever started them may not be the one that made them."""
        found: dict[int, int] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                said = re.match(r"shard-(\d+)", (process / "comm").read_text())
                if said is not None and (process / "cwd").readlink() == self._folder.resolve():
                    found[int(said[1])] = int(process.name)
        return found


class JoinedTable:
    """What the shards hold of one table."""

    def __init__(self, parts: list[Table]) -> None:
        self.spec = parts[0].spec
        self.served = parts[0].served
        self._rows = sum(map(len, parts))
        self._pages = [page for table in parts for page in table.pages()]  # what rests goes with its state

    def __len__(self) -> int:
        return self._rows

    def pages(self) -> list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]]:
        return self._pages


class JoinedLearner:
    """The shards, read as one learner by the ledger."""

    def __init__(self, kept: list[KeptShard]) -> None:
        assert len({one.meta.seq for one in kept}) == 1, "shards that were stopped are at one update"
        assert len({one.equal_everywhere() for one in kept}) == 1
        entities = [one.shard.model.entities for one in kept]
        assert len({known.digest() for known in entities}) == 1
        shards = [one.shard for one in kept]
        self.meta = SimpleNamespace(
            seq=kept[0].meta.seq,
            requests=sum(one.meta.requests for one in kept),
            examples=sum(one.meta.examples for one in kept),
        )
        tables = [
            JoinedTable([owned.table for owned in of]) for of in zip(*(s.tables for s in shards), strict=True)
        ]
        self.model = SimpleNamespace(
            encoder=shards[0].model.encoder,
            tables=tables,
            arrays=shards[0].model.arrays,
            entities=entities[0],
        )
        by_name = [one.saved_metrics.by_name for one in kept]
        self.saved_metrics = SimpleNamespace(
            by_name={name: _together([metrics[name] for metrics in by_name]) for name in by_name[0]}
        )

    def finish(self) -> None:
        """A turn leaves no group incomplete."""


def read_shards(
    config: Config, settings: LearnerSettings, log: Log, ledger: Ledger
) -> tuple[JoinedLearner, dict[str, int]]:
    """The shards' states as one learner, and what differs from shards that learned the same in one life."""
    shards = settings.shards.count
    with ExitStack() as opened:
        states = [
            opened.enter_context(
                RoleState(
                    shards_folder(config, shards) / str(rank),
                    ROLE,
                    None,
                    disk=UndoableDisk(ROCKS_DISK),
                    rows=rows_rest(config.features, settings),
                )
            )
            for rank in range(shards)
        ]
        unsent = sum(bool(state.unsent()) for state in states)
        kept = []
        for rank, state in enumerate(states):
            shard = Shard(rank, Owners(shards), config.features, settings, ledger.targets)
            kept.append(KeptShard(shard, settings, state, SYSTEM_CLOCK, None))  # type: ignore[arg-type]
        again = _one_life(config, settings, log, ledger, states)
        off = sum(
            one.shard.digests() != other.digests() or one.shard.arrays() != other.arrays()
            for one, other in zip(kept, again, strict=True)
        )
        return JoinedLearner(kept), {"one_life_off": off, "shards_with_unsent": unsent}


def _one_life(
    config: Config, settings: LearnerSettings, log: Log, ledger: Ledger, states: list[RoleState]
) -> list[Shard]:
    """Shards that learn in lockstep what the states have noted that they learned, through all reshardings.

    All their rows are in memory.
    """
    features = {
        name: msgspec.structs.replace(spec, memory_rows=msgspec.UNSET)
        for name, spec in config.features.items()
    }
    settings = msgspec.structs.replace(settings, pairs_memory_rows=msgspec.UNSET)
    shards: list[Shard] = []
    seen: dict[tuple[int, str], int] = {}  # the last number of a producer, by partition
    for stretch in followed(states):
        count = len(stretch.took)
        news = [Shard(rank, Owners(count), features, settings, ledger.targets) for rank in range(count)]
        if shards:
            take_over(shards, news)
        shards = news
        turns = [
            _shares(log, ledger, shard, took, seen) for shard, took in zip(shards, stretch.took, strict=True)
        ]
        for shares_of in zip(*turns, strict=True):
            lockstep([shard.turn(share) for shard, share in zip(shards, shares_of, strict=True)])
    return shards


def _shares(
    log: Log, ledger: Ledger, shard: Shard, took: Took, seen: dict[tuple[int, str], int]
) -> list[Labelled | None]:
    """What a shard learned in each turn of a stretch."""
    decode = Decoder[Example | EntityEvent](Example, EntityEvent, targets=ledger.targets).decode_again
    found: list[Example] = []
    for stretch in took.journal:
        for record in read_range(log, EXAMPLES, stretch.partition, stretch.start, stretch.end):
            who = stretch.partition, record.producer
            if 0 <= record.seq <= seen.get(who, -1):
                continue  # sent again by a joiner
            seen[who] = record.seq
            example = decode(record.value)
            if isinstance(example, Example) and example.request_id not in ledger.misfits:
                found += ledger.completed([example])
    shares: list[Labelled | None] = []
    for count in took.turns:
        mine, found = found[:count], found[count:]
        shares.append(Labelled.of(shard.model.encoder, mine, ledger.targets) if mine else None)
    assert not found, f"shard {shard.rank} has taken {len(found)} examples that are in no turn"
    return shares


def _together(parts: list[Metrics]) -> Any:
    positives = sum(part.summary()["positives"] or 0 for part in parts)
    return SimpleNamespace(
        examples=sum(part.examples for part in parts), summary=lambda: {"positives": positives}
    )


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)
