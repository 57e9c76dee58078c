"""How far replicas of one log differ: base scores not at all, corrected ones by how much, and why.

    .venv/bin/python benchmarks/replicas.py [--quick] [--json OUT]

A learner learns the first part of a simulated stream and stops; replicas go on by their error memories.
`ahead` has seen everything, `other order` too but in another interleaving of the partitions, `late` has
seen everything but the newest 50 requests, `new` was started at the end and reads the same examples from
the log at once, its gate without a record. Differences are in logits, against `ahead`, at the same sequence
number of updates, over the same requests.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from error_memory import MemorySettings
from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import EXAMPLES, SNAPSHOTS, UPDATES, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.types import Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState
from stream.world.simulator import World, WorldSettings

FEATURES = {name: FeatureSpec() for name in ("user", "segment", "device", "item", "category")}
PARTITIONS = 2
NEWEST = 50  # requests that the late one has not seen

Floats = npt.NDArray[np.float64]


def logits(replica: Replica, asked: Sequence[Impression]) -> tuple[Floats, Floats]:
    """Base and corrected, of all candidates."""
    scored = replica.score(asked)
    base, corrected = (
        np.concatenate(part) for part in ([s.base for s in scored], [s.corrected for s in scored])
    )
    return np.log(base / (1.0 - base)), np.log(corrected / (1.0 - corrected))


def catch_up(replica: Replica) -> None:
    while replica.step():
        pass


def measure(folder: Path, learnt: int, behind: int, asked: int) -> dict[str, dict[str, float]]:
    """Differences by replica, when the learner has stopped `behind` requests ago."""
    log = SqliteLog(folder / "log.db", LogSettings(sync=False))
    log.create_topic(EXAMPLES, PARTITIONS)
    for topic in (UPDATES, SNAPSHOTS):
        log.create_topic(topic, 1)
    world = World(WorldSettings(seed=1, shift_every_s=120.0))
    settings = LearnerSettings()
    make: Callable[[], Replica] = lambda: Replica(log, FEATURES, settings, MemorySettings(), ServerSettings())  # noqa: E731
    replicas = {name: make() for name in ("ahead", "other order", "late")}
    followers = [replicas[name] for name in ("ahead", "late")]
    with RoleState(folder / "state", "learner", {}, sync=False) as state:
        learner = Learner(FEATURES, settings, state)
        runner = Runner(
            log,
            state,
            learner,
            Subscription(EXAMPLES, "learn"),
            RunnerSettings(commit_every_s=0.0, read_max=64, wait_s=0.0),
        ).open()
        catch_up(replicas["other order"])
        at = 0
        for _ in range(learnt // 200):
            at = append(log, world, at, 200)
            for replica in replicas.values():
                replica.step()  # sees examples before the model has learnt them
            while runner.step():
                pass
            for replica in replicas.values():
                catch_up(replica)
        learner.close()
    for chunk in [64] * ((behind - NEWEST) // 64):
        at = append(log, world, at, chunk)
        for replica in followers:
            catch_up(replica)
    at = append(log, world, at, NEWEST)
    catch_up(replicas["ahead"])
    catch_up(replicas["other order"])  # one partition after the other
    replicas["new"] = make()
    catch_up(replicas["new"])
    requests = [world.request() for _ in range(asked)]
    base, corrected = logits(replicas["ahead"], requests)
    found = {}
    for name in ("other order", "late", "new"):
        mine, moved = logits(replicas[name], requests)
        assert np.array_equal(mine, base), "base scores must not differ at the same sequence number"
        off = np.abs(moved - corrected)
        found[name] = {
            "median": float(np.median(off)), "p99": float(np.quantile(off, 0.99)), "max": float(off.max()),
            "gate": replicas[name].status().memory.gate,
        }  # fmt: skip
    size = np.abs(corrected - base)
    found["the correction itself"] = {
        "median": float(np.median(size)), "p99": float(np.quantile(size, 0.99)), "max": float(size.max()),
        "gate": replicas["ahead"].status().memory.gate,
    }  # fmt: skip
    log.close()
    return found


def append(log: SqliteLog, world: World, at: int, count: int) -> int:
    """The world's next requests, to the partitions by turns; returns how many there are now."""
    log.append(
        EXAMPLES,
        [
            Outgoing(b"", encode(example), (at + i) % PARTITIONS)
            for i, example in enumerate(world.examples(count))
        ],
    )
    return at + count


def main() -> None:
    """Run, print a line each, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a run of seconds")
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    learnt, asked = (1000, 100) if arguments.quick else (6000, 500)
    found: dict[str, Any] = {}
    for behind in (114, 1074) if arguments.quick else (114, 1074, 4018):
        with tempfile.TemporaryDirectory() as folder:
            found[str(behind)] = measure(Path(folder), learnt, behind, asked)
        for name, row in found[str(behind)].items():
            print(
                f"{behind} requests behind, {name}: median {row['median']:.4f}, p99 {row['p99']:.4f}, "
                f"largest {row['max']:.4f}; gate {row['gate']:.2f}"
            )
    print("base scores: equal bit for bit in all of them")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
