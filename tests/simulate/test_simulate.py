"""Schedules of the simulator: all heal, all balance, and one seed is one run."""

import json
import os
import subprocess
import sys

import msgspec
import pytest
from paths import ROOT
from sim_mutations import MUTATIONS, mutated
from sim_run import play
from sim_schedule import PLANNED, USED, Schedule, draw_schedule, lacking

from freshet.warmup import warm_up

SEEDS = (
    *range(12), 131, 140, 183, 341, 366, 498, 736, 837, 882, 947, 1028, 1047, 2647, 3605, 4996, 5543, 5972,
    20304, 20656, 20917, 22041, 50741, 50998, 53495, 56041, 56732, 58989,
    63016, 67800, 73464,
)  # fmt: skip
"""In 131 and 183 a learner begins anew behind examples that were compacted, or dropped and sent again. In 140
a snapshot holds an update that its name does not tell of, and that was never accepted. In 341 the oldest
update kept is a deposed leader's, and the record that began the next term is gone. In 366 a learner publishes
a snapshot with one commit after the other. In 498 and 5972 a later leader makes updates again that nobody
could read, in 3605 one is damaged twice. In 736 and 837 a standby has swept evicted rows before its leader.
In 882 the only snapshot is a deposed leader's. In 1028 a server has the snapshot of an update that nobody
could read, and that a later leader made again. In 947 and 2647 a joiner takes over behind a jump of the clock
while a late action waits. In 1047 trouble ends while a joiner meets records that are gone. In 4996 a deposed
leader copies what is there already. In 5543 an append of copies without numbers is late by two windows. In
20304 a joiner hangs in a call and commits older offsets late, in 20656 a deposed leader copies its state. In
20917 a server begins with a snapshot while rows that were evicted are still to be swept. In 22041 an entity
event is compacted away. In 50741 and 56041 the log has dropped the record that began a term before a server,
or the deposed leader itself, has read it. In 50998 a copy meets a full disk after a purge, in 58989 a purge
does. In 53495 a disk is full when a defect ends a role. In 56732 a row has expired by the learner's clock,
not yet by its table's, when it is forgotten. In 63016 a repeat is refused again by a joiner that has not read
back to it. In 67800 and 73464 a defect cuts a commit short while the learner is to stop."""

COMMAND = [sys.executable, str(ROOT / "tests" / "simulate" / "simulate.py")]


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """A schedule is short, and compiling is not."""
    warm_up()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_heals_and_its_books_balance(seed: int) -> None:
    outcome = play(draw_schedule(seed))
    assert not outcome.wrong, f"{outcome.wrong}\n{' '.join(COMMAND)} --seed {seed} --say"


@pytest.mark.slow
def test_one_seed_is_one_run() -> None:
    first, second = (play(draw_schedule(7)) for _ in range(2))
    assert first.turns == second.turns and first.simulated_s == second.simulated_s
    assert first.happened == second.happened and first.hash == second.hash != ""


def test_schedule_is_what_its_seed_says_and_survives_json() -> None:
    schedule = draw_schedule(3)
    assert schedule == draw_schedule(3) != draw_schedule(4)
    assert msgspec.json.decode(msgspec.json.encode(schedule), type=Schedule) == schedule


@pytest.mark.parametrize("name", [*PLANNED, *USED])
def test_schedule_that_lacks_something_survives_json(name: str) -> None:
    schedule = lacking(next(one for one in map(draw_schedule, range(60)) if getattr(one, name)), name)
    assert not getattr(schedule, name)
    assert msgspec.json.decode(msgspec.json.encode(schedule), type=Schedule) == schedule


def test_trouble_of_every_kind_comes() -> None:
    """Over a few seeds each kind of trouble is planned: none of them is a rate that is always 0."""
    schedules = [draw_schedule(seed) for seed in range(60)]
    for name in Schedule.__struct_fields__:
        if name not in ("seed", "rates"):
            assert len({getattr(schedule, name) for schedule in schedules}) > 1, name
    for rates in ("kill_at_disk", "kill_at_log", "full", "merge_fails", "gaps"):
        assert any(getattr(schedule.rates, rates) for schedule in schedules), rates


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_of_code_that_is_there(name: str) -> None:
    compile(mutated(MUTATIONS[name]), name, "exec")


@pytest.mark.process
def test_fault_that_is_put_in_is_found() -> None:
    done = subprocess.run(
        [*COMMAND, "--seeds", "0:100", "--without", "a repeated record is taken twice"],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert 1 <= found["seeds"] <= 100 and "do not balance" in found["wrong"]


# Long: it plays what CI plays by the same command.
@pytest.mark.long
@pytest.mark.process
def test_command_plays_seeds_and_says_what_happened() -> None:
    done = subprocess.run(
        [*COMMAND, "--seeds", "100:108", "--jobs", "2"],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 schedules in" in done.stdout and "0 failed" in done.stdout
