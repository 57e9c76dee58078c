"""Joiners, learners, servers and producers in one process, on simulated time: one seed is one run.

    python tests/simulate/simulate.py --seeds 0:2000          many schedules, on as many cores as there are
    python tests/simulate/simulate.py --seed 17 --say         one schedule, step by step

Each seed draws who is there and what goes wrong: kills at any moment and at any use of disk and log, pauses,
clocks that jump, appends that are lost, in doubt, late or repeated, a log or a topic that is away, leaders
that wake up when another one leads, full disks, states and snapshots that are lost, that go back a few
writes, or go bad. Then everything must heal in time, and log, learners and servers must be what a ledger and
a plain replay say. A seed that fails prints the command that shows it again, after taking away what it does
not need.
"""

import argparse
import gc
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "simulate"
for folder in (ROOT, ROOT / "tests" / "chaos", HERE, HERE / "books"):
    sys.path.insert(0, str(folder))

import msgspec  # noqa: E402
import xxhash  # noqa: E402
from sim_mutations import MUTATIONS, install  # noqa: E402

if "--without" in sys.argv:  # before Freshet is imported, in the processes that are spawned too
    install(sys.argv[sys.argv.index("--without") + 1])
from sim_run import Outcome, play  # noqa: E402
from sim_schedule import PLANNED, USED, Schedule, draw_schedule, lacking  # noqa: E402
from sim_world import name_thread, watch_turns  # noqa: E402

from freshet.warmup import warm_up  # noqa: E402
from stream.log.testing import Faults  # noqa: E402

SHRINK_TRIES_MAX = 60
FIND_S_MAX = 7200.0  # one that hangs the world is not to hang the table


def shrink(schedule: Schedule) -> Schedule:
    """The same schedule without what is not needed for it to fail."""
    tries = 0

    def fails(candidate: Schedule) -> bool:
        nonlocal tries
        tries += 1
        return bool(play(candidate).wrong)

    replace = msgspec.structs.replace
    for name in (*PLANNED, *USED):
        if getattr(schedule, name) and fails(smaller := lacking(schedule, name)):
            schedule = smaller
    for name in ("kill_at_disk", "kill_at_log", "full", "merge_fails", "gaps"):
        rates = replace(schedule.rates, **{name: 0.0})
        if getattr(schedule.rates, name) and fails(smaller := replace(schedule, rates=rates)):
            schedule = smaller
    for name in Faults.__struct_fields__:
        network = schedule.rates.network
        if isinstance(getattr(network, name), float) and getattr(network, name) and not name.endswith("max"):
            rates = replace(schedule.rates, network=replace(network, **{name: 0.0}))
            if fails(smaller := replace(schedule, rates=rates)):
                schedule = smaller
    for name, least in (("joiners", 1), ("learners", 1), ("partitions", 1), ("requests", 5)):
        while getattr(schedule, name) > least and tries < SHRINK_TRIES_MAX:
            value = max(least, getattr(schedule, name) // 2)
            if not fails(smaller := replace(schedule, **{name: value})):
                break
            schedule = smaller
    return schedule


def prepare() -> None:
    """Prepare a process that plays many schedules."""
    logging.disable(logging.CRITICAL)
    watch_turns()
    warm_up()  # a schedule is short, and compiling is not
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000)  # a schedule leaves one world behind, and makes many objects meanwhile


def play_seed(seed: int) -> Outcome:
    """One seed, for a worker process."""
    return play(draw_schedule(seed))


def play_seeds(seeds: range, jobs: int) -> tuple[list[Outcome], Counter[str], str]:
    """All of some seeds; what failed, what happened in all of them, and a hash of all runs."""
    happened: Counter[str] = Counter()
    failed: list[Outcome] = []
    hasher = xxhash.xxh3_64()
    began_s = told_s = time.perf_counter()
    # spawned: a process that has compiled kernels does not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, prepare) as pool:
        for done, outcome in enumerate(pool.map(play_seed, seeds, chunksize=2), 1):
            happened += Counter(outcome.happened)
            happened["schedules"] += 1
            happened["turns"] += outcome.turns
            hasher.update(outcome.hash.encode())
            if outcome.wrong:
                failed.append(outcome)
                print(f"seed {outcome.seed}: {outcome.wrong}", flush=True)
                print(f"  python tests/simulate/simulate.py --seed {outcome.seed} --say", flush=True)
            now_s = time.perf_counter()
            if now_s - told_s >= 10.0:
                told_s = now_s
                rate = done / (now_s - began_s)
                print(f"{done:,} of {len(seeds):,} schedules, {rate:.0f} a second", flush=True)
    return failed, happened, hasher.hexdigest()


def find(seeds: range) -> Outcome | None:
    """The outcome of the first seed that fails."""
    return next((outcome for seed in seeds if (outcome := play_seed(seed)).wrong), None)


def table(seeds: str, jobs: int) -> list[tuple[str, int | None, str]]:
    """Of each mutation: how many seeds it takes to find it (None: more), and what is said then."""

    def count(name: str) -> tuple[str, int | None, str]:
        command = [sys.executable, __file__, "--seeds", seeds, "--without", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FIND_S_MAX, check=False)
        except subprocess.TimeoutExpired:
            return name, None, f"not within {FIND_S_MAX:g} s"
        found = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if not found:
            return name, None, done.stderr.strip()[-200:]
        outcome = json.loads(found[-1])
        number = outcome["seeds"] or None
        print(f"{number if number else '-':>6}  {name}: {outcome['wrong'][:100]}", flush=True)
        return name, number, outcome["wrong"]

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(count, MUTATIONS))


def main() -> int:
    """Play what the arguments say; 1 if anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0:200", metavar="FROM:TO", help="play these (0:200)")
    parser.add_argument("--seed", type=int, help="play one, and take away what it does not need to fail")
    parser.add_argument("--schedule", help="play this schedule, as JSON")
    parser.add_argument("--say", action="store_true", help="say what happens to whom")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    parser.add_argument("--without", choices=MUTATIONS, help="take a mending out; ends at the first failure")
    parser.add_argument(
        "--table",
        action="store_true",
        help="take each mending out in turn, and count the seeds until it is found",
    )
    parser.add_argument("--json", type=Path, help="write what happened as JSON")
    options = parser.parse_args()
    if options.say:  # what the roles say, too, each thread under its name
        logging.basicConfig(
            level=logging.INFO, format="             %(threadName)s: %(message)s", stream=sys.stdout
        )
        logging.getLogger().handlers[0].addFilter(name_thread)
    else:
        prepare()
    if options.schedule or options.seed is not None:
        if options.schedule:
            schedule = msgspec.json.decode(options.schedule, type=Schedule)
        else:
            schedule = draw_schedule(options.seed)
        outcome = play(schedule, options.say)
        print(json.dumps(msgspec.to_builtins(outcome), indent=2))
        if outcome.wrong and not options.schedule:
            logging.disable(logging.CRITICAL)
            smaller = msgspec.json.encode(shrink(schedule)).decode()
            print(f"the same with less:\n  python tests/simulate/simulate.py --say --schedule '{smaller}'")
        return int(bool(outcome.wrong))
    first, _, end = options.seeds.partition(":")
    seeds = range(int(first), int(end)) if end else range(int(first))
    if options.table:
        rows = table(options.seeds, options.jobs)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=2))
        return int(any(number is None for _, number, _ in rows))
    if options.without:
        found = find(seeds)
        said = {
            "seeds": 0 if found is None else found.seed - seeds.start + 1,
            "wrong": found.wrong if found else "",
        }
        print(json.dumps(said), flush=True)
        os._exit(int(found is None))  # a thread may run for ever
    began_s = time.perf_counter()
    failed, happened, played = play_seeds(seeds, options.jobs)
    took_s = time.perf_counter() - began_s
    for name, count in sorted(happened.items()):
        print(f"{count:10,}  {name}")
    print(f"{len(seeds):,} schedules in {took_s:.0f} s, {len(failed)} failed; hash {played}")
    if options.json:
        told = {
            "failed": [o.seed for o in failed],
            "happened": happened,
            "seconds": took_s,
            "hash": played,
        }
        options.json.write_text(json.dumps(told, indent=2))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
