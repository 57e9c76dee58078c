"""Kill Freshet's roles again and again while a stream runs through them, then balance the books.

    python tests/chaos/chaos.py --seed 1 --kills 20 --log sqlite

Two joiners, two learners and a server run as real processes and die of SIGKILL: at a moment drawn from
the seed, or at a named point inside a commit, a publish, a move or a take-over (`chaos_role.py`). Some
come back without their state, as a new machine does. The log is locked, or its broker stopped, killed
and paused; whoever leads is paused until another does; the stream repeats, delays and garbles. What
happens to whom, and after how many events, is drawn from the seed, so a seed that fails plays the same
schedule again. At the end everything is stopped, and `ledger.py` compares what the ids of the stream
say with what was learnt: one line for people, one JSON object for programs, exit status 1 if the
ledger does not balance.
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

from chaos_books import close_books, published
from chaos_processes import Death, Role
from chaos_role import COMMITS, JOINS, LEARNS
from chaos_troubles import BrokerTroubles, SqliteTroubles, Troubles
from ledger import WINDOW_S, Ledger

from freshet.config import Config, load_config
from freshet.roles.opening import open_topics
from freshet.warmup import warm_up
from stream.errors import LogAwayError
from stream.log.base import EVENTS, EXAMPLES, Log, Outgoing

PARTITIONS = 4
REQUESTS_PER_TURN = 25
EVENTS_PER_S = 1500.0
AHEAD_MAX = 3000
"""Events that may wait for the roles: so they are always at work, and never far behind."""
QUIET_S_MAX = 120.0
NAMES = ("join-a", "join-b", "learn-a", "learn-b", "serve")
WEIGHTS = (24, 24, 22, 22, 8)
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

    def __init__(self, seed: int, kills: int, kind: str, folder: Path) -> None:
        self.folder = folder
        rng = random.Random(seed)
        self.troubles: Troubles = (BrokerTroubles if kind == "kafka" else SqliteTroubles)(
            folder, rng, 2_000 + 400 * kills
        )
        dying = rng.choices(NAMES, WEIGHTS, k=kills)
        self.deaths = {name: [_death(rng, name) for _ in range(dying.count(name))] for name in NAMES}
        self.schedule = {
            "deaths": {name: [tuple(death) for death in deaths] for name, deaths in self.deaths.items()},
            "troubles": list(self.troubles.coming),
        }
        self.troubles.start()
        (folder / "freshet.toml").write_text(CONFIG.replace("LOG", self.troubles.url))
        self.config: Config = load_config(folder / "freshet.toml")
        self.log: Log = open_topics(self.config)
        self.ledger = Ledger(seed)
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
                self.roles.append(Role(name, arguments, self.folder, list(deaths)))
            self._until(lambda: all(role.ready or role.killed for role in self.roles), "the roles to start")
            self.troubles.begin(self.roles, self.config)
            while self.troubles.coming or not all(role.done for role in self.roles):
                self._turn()
                self._send()
                if self.troubles.happen(self.log, self.sent, self._turn) == "flood":
                    self._append(self.ledger.flood(1500))
            self._append(self.ledger.close(PARTITIONS))
            self._until(lambda: not self._unsent and self._waiting() == 0, "the roles to consume everything")
            self._until(self._served, "the server to follow")
            stops = [role.stop() for role in self.roles]
            killed = sum((role.killed for role in self.roles), Counter[str]())
            return {
                "kills": killed.total(),
                **close_books(self.config, self.log, self.ledger),
                "killed_at": dict(sorted(killed.items())),
                "came_back_without_state": sum(role.wiped for role in self.roles),
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

    def _send(self) -> None:
        if self.sent < EVENTS_PER_S * self.troubles.seconds and self._waiting() < AHEAD_MAX:
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


def _death(rng: random.Random, name: str) -> Death:
    role = name.partition("-")[0]
    points = {"join": [*COMMITS, *JOINS], "learn": [*COMMITS, *LEARNS], "serve": ["time"]}[role]
    point = rng.choice(points) if rng.random() < 0.6 else "time"
    count = rng.randrange(1, 25) if point in COMMITS else 1 if point in LEARNS else rng.randrange(1, 4)
    return Death(point, count, rng.randrange(0, 800), rng.uniform(0.0, 0.3), rng.random() < 0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--log", choices=("sqlite", "kafka"), default="sqlite")
    parser.add_argument("--json", type=Path, help="where the result goes too")
    parser.add_argument("--keep", type=Path, help="keep log, states and what the roles said there")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="freshet-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    warm_up()
    chaos = Chaos(arguments.seed, arguments.kills, arguments.log, folder)
    try:
        result = {"seed": arguments.seed, "log": arguments.log, **chaos.run()}
    except AssertionError as error:
        print(f"chaos: seed {arguments.seed}: {error}\nkept: {folder}", file=sys.stderr)
        print(json.dumps(chaos.schedule), file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps({**result, "schedule": chaos.schedule}))
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
