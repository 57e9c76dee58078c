"""Kill Freshet's roles again and again while a stream runs through them, then balance the books.

    python tests/chaos/chaos.py --seed 1 --kills 20 --log sqlite

Two joiners, two learners (or one in shards) and a server run as real processes and die of SIGKILL: at a
moment drawn from the seed, or at a named point inside a commit, a publish, a move or a take-over
(`chaos_role.py`). Of a learner in shards the one who starts them dies, or a single shard. Some come back
without their state, as a new machine does. The log is locked, or its broker stopped, killed and paused;
whoever leads is paused until another does; the stream repeats, delays and garbles. What happens to whom,
and after how many events, is drawn from the seed, so a seed that fails plays the same schedule again. At
the end everything is stopped, and `ledger.py` compares what the ids of the stream say with what was
learnt: one line for people, one JSON object for programs, exit status 1 if the ledger does not balance.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from chaos_books import close_books, published
from chaos_processes import AHEAD_MAX, Death, Role
from chaos_role import COMMITS, JOINS, LEARNS, RESHARDS, SHARDS
from chaos_shards import Resharding, ShardsRole
from chaos_troubles import BrokerTroubles, SqliteTroubles, Troubles
from ledger import WINDOW_S, Ledger
from ledger_known import KnownLedger, with_known
from ledger_targets import SECTIONS, TargetsLedger

from freshet.config import Config, load_config
from freshet.roles.opening import open_topics
from freshet.warmup import warm_up
from learner.settings import LearnerSettings
from stream.errors import LogAwayError
from stream.log.base import EVENTS, EXAMPLES, Log, Outgoing

PARTITIONS = 4
REQUESTS_PER_TURN = 25
EVENTS_PER_S = 1500.0
QUIET_S_MAX = 120.0
NAMES = ("join-a", "join-b", "learn-a", "learn-b", "serve")
WEIGHTS = (24, 24, 22, 22, 8)
NAMES_WITH_SHARDS = ("join-a", "join-b", "learn", "serve")
WEIGHTS_WITH_SHARDS = (12, 12, 68, 8)
CONFIG = f"""
log = "LOG"
state = "state"
[stream]
partitions = {PARTITIONS}
[stream.runner]
read_max = 40
commit_every_s = 0.02
[stream.log]
sync = false
[group]
beat_s = 0.25
timeout_s = 2.0
snapshot_every_s = 3.0
[join]
window_s = {WINDOW_S}
late = "learn"
pending_max_memory = 40
dead_letter_window = 400
[features.user]
dim = 2
[features.item]
dim = 2
[features.once]
dim = 2
pairs = false
[learner]
publish_every_s = 0.05
deep = "none"
snapshot_bytes_min = 200000
dead_letter_share_max = 1.0
[server]
port = 0
"""


class Chaos:
    """One run: the stream, the roles, and what happens to them."""

    def __init__(
        self, seed: int, kills: int, kind: str, folder: Path, rate: float, targets: bool,
        shard_by: str = "", shards: int = 0, reshard: bool = False, known: bool = False,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.rate = rate
        rng = random.Random(seed)
        self.troubles: Troubles = (BrokerTroubles if kind == "kafka" else SqliteTroubles)(
            folder, rng, 2_000 + 400 * kills, not shards
        )
        names, weights = (NAMES_WITH_SHARDS, WEIGHTS_WITH_SHARDS) if shards else (NAMES, WEIGHTS)
        dying = rng.choices(names, weights, k=kills)
        self.deaths = {name: [_death(rng, name, shards) for _ in range(dying.count(name))] for name in names}
        learns = len(self.deaths.get("learn", ()))
        self.reshards = [
            Resharding(learns * left // 3, to, [_reshard_death(rng, to) for _ in range(2)])
            for left, to in ((2, shards + 1), (1, shards))
            if reshard
        ]
        self.schedule = {
            "reshards": self.reshards,
            "deaths": {name: [tuple(death) for death in deaths] for name, deaths in self.deaths.items()},
            "troubles": list(self.troubles.coming),
        }
        self.troubles.start()
        text = CONFIG.replace("LOG", self.troubles.url).replace("[join]", _join(shard_by))
        text += SECTIONS if targets else ""
        (folder / "freshet.toml").write_text(with_known(text) if known else text)
        self.config: Config = load_config(folder / "freshet.toml")
        self.shards = shards
        self.log: Log = open_topics(self.config)
        self.ledger = (KnownLedger if known else TargetsLedger if targets else Ledger)(seed)
        if isinstance(self.ledger, KnownLedger) and self.config.joining.shard_by:
            self.ledger.places = self.log.partitions(EXAMPLES)
        self.sent = 0
        self.roles: list[Role] = []
        self._unsent: list[Outgoing] = []
        self._said = ""

    def run(self) -> dict[str, Any]:
        """Everything, from the first event to the balance."""
        try:
            for name, deaths in self.deaths.items():
                role, _, member = name.partition("-")
                arguments = [role, "--name", member] if member else [role]
                if name == "learn":
                    self.learner = ShardsRole(
                        name, self.shards, self.folder, list(deaths), self.reshards, self._has_learned
                    )
                    self.roles.append(self.learner)
                else:
                    self.roles.append(Role(name, arguments, self.folder, list(deaths)))
            self._until(lambda: all(role.ready or role.killed for role in self.roles), "the roles to start")
            self._append(self.ledger.prelude())
            self._until(self._all_consumed, "the roles to learn what is told first")
            self.troubles.begin(self.roles, self.config)
            while self.troubles.coming or not all(role.done for role in self.roles):
                self._turn()
                self._send()
                if self.troubles.happen(self.log, self.sent, self._turn) == "flood":
                    self._append(self.ledger.flood(1500))
            self._append(self.ledger.close(PARTITIONS))
            self._until(self._all_consumed, "the roles to consume everything")
            self._until(self._served, "the server to follow")
            stops = [role.stop() for role in self.roles]
            killed = sum((role.killed for role in self.roles), Counter[str]())
            return {
                "kills": killed.total(),
                **close_books(self.config, self.log, self.ledger, self._sharded()),
                "killed_at": dict(sorted(killed.items())),
                "came_back_without_state": sum(role.wiped for role in self.roles),
                **self._of_shards(),
                "missed_points": sum(role.missed for role in self.roles),
                "troubles": dict(self.troubles.happened),
                "slowest_take_over_s": self.troubles.slowest_take_over_s,
                "stopped_by_dead_letters": sum(role.stopped_itself for role in self.roles),
                "events": self.sent,
                "sent": dict(self.ledger.sent),
                "slowest_stop_s": round(max(stops), 2),
                "seconds": round(self.troubles.seconds, 1),
            }
        finally:
            for role in self.roles:
                role.kill()
            self.log.close()
            self.troubles.stop()

    def _of_shards(self) -> dict[str, Any]:
        if not self.shards:
            return {}
        recoveries = [{"kind": one.kind, "seconds": round(one.seconds, 2)} for one in self.learner.recoveries]
        return {"resharded": self.learner.resharded, "recoveries": recoveries}

    def _sharded(self) -> LearnerSettings | None:
        if not self.shards:
            return None
        settings = self.config.learner
        return msgspec.structs.replace(
            settings, shards=msgspec.structs.replace(settings.shards, count=self.shards)
        )

    def _send(self) -> None:
        if self.sent < self.rate * self.troubles.seconds and self._waiting() < AHEAD_MAX:
            self._append(self.ledger.take(REQUESTS_PER_TURN))

    def _append(self, records: list[Outgoing]) -> None:
        """Send, as a producer must: what was not acknowledged is sent again, in its order."""
        self._unsent += records
        self.sent += len(records)
        try:
            if self._unsent:
                self.log.append(EVENTS, self._unsent)
                self._unsent = []
        except LogAwayError:
            pass

    def _all_consumed(self) -> bool:
        return not self._unsent and self._waiting() == 0

    def _waiting(self) -> int:
        """Records on their way through the joiners and the learners."""
        try:
            return self._behind("join", EVENTS) + self._behind("learn", EXAMPLES)
        except LogAwayError:
            return AHEAD_MAX

    def _behind(self, group: str, topic: str) -> int:
        committed = self.log.committed(group, topic)
        return sum(max(end - committed.get(p, 0), 0) for p, (_, end) in enumerate(self.log.ends(topic)))

    def _served(self) -> bool:
        """Whether the server's model is the newest."""
        (server,) = (role for role in self.roles if role.name == "serve")
        return server.ready and server.examples_learnt() == published(self.log).examples

    def _has_learned(self) -> bool:
        """Whether there is an update; while the log is away nobody knows."""
        try:
            return published(self.log).examples > 0
        except LogAwayError:
            return False

    def _turn(self) -> None:
        for role in self.roles:
            role.turn(self.sent)
        if self._unsent:
            self._append([])
        self.troubles.wait(0.005)

    def _until(self, condition: Any, what: str) -> None:
        deadline = self.troubles.seconds + QUIET_S_MAX
        while not condition():
            if self.troubles.seconds > deadline:
                words = "\n".join(f"{role.name}: {role.last_words()}" for role in self.roles)
                raise AssertionError(f"waited {QUIET_S_MAX:g} s for {what}; {self._waiting()} wait\n{words}")
            self._turn()


def _join(shard_by: str) -> str:
    return f'[join]\nshard_by = "{shard_by}"\npartitions = {PARTITIONS + 1}' if shard_by else "[join]"


def _death(rng: random.Random, name: str, shards: int) -> Death:
    role = name.partition("-")[0]
    if shards and role == "learn":
        shard = rng.randrange(-1, shards)
        point = rng.choice([*COMMITS, *SHARDS]) if shard >= 0 and rng.random() < 0.7 else "time"
        count = 1 if point == "before-all-have-met" else rng.randrange(1, 5)
        return Death(point, count, rng.randrange(0, 800), rng.uniform(0.0, 0.3), False, shard)
    points = {"join": [*COMMITS, *JOINS], "learn": [*COMMITS, *LEARNS], "serve": ["time"]}[role]
    point = rng.choice(points) if rng.random() < 0.6 else "time"
    count = rng.randrange(1, 25) if point in COMMITS else 1 if point in LEARNS else rng.randrange(1, 4)
    return Death(point, count, rng.randrange(0, 800), rng.uniform(0.0, 0.3), rng.random() < 0.2)


def _reshard_death(rng: random.Random, shards: int) -> Death:
    point = rng.choice([*RESHARDS])
    # an old state is committed to when it has sent, a new one some times for each table
    count = rng.randrange(1, 8 * shards) if "writing" in point else rng.randrange(1, 3)
    return Death(point, count, 0, 0.0, False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--log", choices=("sqlite", "kafka"), default="sqlite")
    parser.add_argument("--rate", type=float, default=EVENTS_PER_S, help="events a second (1500)")
    parser.add_argument("--targets", action="store_true", help="three targets in place of one")
    parser.add_argument("--shard-by", default="", metavar="FEATURE", help="shard examples by it")
    parser.add_argument("--shards", type=int, default=0, metavar="N", help="one learner in N processes")
    parser.add_argument("--reshard", action="store_true", help="with --shards N: to N + 1 and back, midway")
    parser.add_argument("--known", action="store_true", help="histories, rates, attributes, rows on disk")
    parser.add_argument("--json", type=Path, help="where the result goes too")
    parser.add_argument("--recoveries", type=Path, help="add each recovery of the shards, a line of JSON")
    parser.add_argument("--keep", type=Path, help="keep log, states and what the roles said there")
    arguments = parser.parse_args()
    if arguments.known and arguments.targets:
        parser.error("--known does not go with --targets")
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="freshet-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    warm_up()
    chaos = Chaos(
        arguments.seed,
        arguments.kills,
        arguments.log,
        folder,
        arguments.rate,
        arguments.targets,
        arguments.shard_by,
        arguments.shards,
        arguments.reshard,
        arguments.known,
    )
    try:
        result = {"seed": arguments.seed, "log": arguments.log, **chaos.run()}
    except AssertionError as error:
        print(f"chaos: seed {arguments.seed}: {error}\nkept: {folder}", file=sys.stderr)
        print(json.dumps(chaos.schedule), file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps({**result, "schedule": chaos.schedule}))
    if arguments.recoveries:
        seed = {"log": arguments.log, "seed": arguments.seed}
        with arguments.recoveries.open("a") as told:
            told.writelines(json.dumps({**seed, **one}) + "\n" for one in result.get("recoveries", ()))
    print(
        f"chaos: {arguments.log}, seed {arguments.seed}: {result['kills']} kills, "
        f"{result['events']:,} events, {result['requests_learnt']:,} requests learnt "
        f"in {result['seconds']:.0f} s: ledger {'balances' if result['balanced'] else 'DOES NOT BALANCE'}"
    )
    print(json.dumps(result))
    if result["balanced"] and not arguments.keep:
        shutil.rmtree(folder)
    return 0 if result["balanced"] else 1


if __name__ == "__main__":
    sys.exit(main())
