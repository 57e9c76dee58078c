"""Who uses the roles: producers, people who ask to forget, clients who ask for scores."""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ledger import BEGIN_S, ITEMS, USERS, Ledger
from sim_machines import Machine
from sim_world import Process, ProcessClock

from ground.retry import Backoff, Pauses
from learner.features.encoder import FeatureSpec, Request
from learner.model.forgetting import widened
from serving.errors import UnavailableError
from serving.replica.replica import Replica
from serving.replica.status import NearestStatus, Scored
from stream.errors import LogAwayError
from stream.log.base import EVENTS, Log, Outgoing
from stream.records.entities.record import EntityEvent, entity_key
from stream.records.forgetting import forget_records
from stream.records.types import Action, Forget, Impression, encode

ASK_EVERY_S = 3.0
FORGET_EVERY_S = 8.0
TELL_EVERY_S = 1.5
TELLS = 24
TOLD_OF = 24  # items, and people: few, so that they are told of more than once
TOLD_S = 30.0  # of event time, in which what is said begins to be true
PRODUCE_PAUSES = Pauses(first_s=0.2, longest_s=2.0)
WRONG = "w-"
"""What the request ids of producers with wrong clocks begin with."""

Main = Callable[[Process], None]


class Answer(NamedTuple):
    """What a server answered, and which updates its model was at before and after."""

    request: Request
    scored: Scored
    before: str
    after: str
    corrected: bool  # its error memory held something


class Forgets:
    """Requests to forget, and what they name.

    Args:
        features: the schema.
    """

    def __init__(self, features: Mapping[str, FeatureSpec]) -> None:
        self.asked: list[Forget] = []
        self._features = features

    def choose(self, ledger: Ledger, now_s: float, rng: random.Random) -> Forget | None:
        """A request to forget ids of the ledger's requests; None: it has none yet."""
        if not ledger.examples:
            return None
        example = rng.choice(ledger.examples)
        candidate = rng.choice(example.candidates)
        entity: dict[str, list[int | str]] = {"once": [str(candidate["once"])]}
        user, item = example.context.get("user"), candidate.get("item")
        if isinstance(user, int) and rng.random() < 0.5:
            entity["user"] = [user]
        if isinstance(item, int) and rng.random() < 0.3:
            entity["item"] = [item]
        refuse_s = rng.choice((0.0, 0.0, 2.0, 1e6))
        time_s = example.time if rng.random() < 0.5 else now_s
        widened_entity = widened(self._features, entity)  # as the command and the server do
        asked = Forget(f"f{len(self.asked)}", time_s, widened_entity, refuse_s=refuse_s)
        self.asked.append(asked)
        return asked

    def names(self, features: dict[str, object]) -> bool:
        """Whether some features have an id that was asked to be forgotten."""
        return any(features.get(name) in ids for asked in self.asked for name, ids in asked.entity.items())


class Watch:
    """Sees each model that a server answers with, and notes those that are older than the one before."""

    def __init__(self, replica: Replica) -> None:
        self.back: list[tuple[int, int, int]] = []  # epoch, number before, lower number after
        self._replica = replica
        self._newest = 0, 0  # epoch and number

    def updated(self, parts: object) -> None:
        """There is another model."""
        model = self._replica.model
        epoch, seq = self._newest
        if model.epoch == epoch and model.seq < seq:
            self.back.append((epoch, seq, model.seq))
        self._newest = model.epoch, model.seq

    def status(self) -> NearestStatus:
        """Nobody asks an index for it."""
        raise NotImplementedError


class WrongClock:
    """A producer whose clock is wrong: the source of its records.

    Args:
        off_s: how far ahead of the others' event times it is.
    """

    def __init__(self, rng: random.Random, begin_s: float, off_s: float) -> None:
        self.values: list[bytes] = []  # sent so far
        self.off_s = off_s
        self._rng = rng
        self._begin_s = begin_s
        self._count = 0

    def take(self, requests: int) -> list[Outgoing]:
        """The records of so many requests: an impression and an action each."""
        records = []
        for _ in range(requests):
            self._count += 1
            name, time_s = f"{WRONG}{self._count}", self._begin_s + self._count * 0.3 + self.off_s
            candidates = [{"item": self._rng.randrange(ITEMS), "once": f"{name}:0"}]
            shown = Impression(request_id=name, time=time_s, candidates=candidates)
            for event in (shown, Action(request_id=name, time=time_s + 1.0, candidate=0)):
                value = encode(event)
                self.values.append(value)
                records.append(Outgoing(name.encode(), value, producer="wrong", seq=len(self.values)))
        return records


def ask(process: Process, replica: Replica, answers: list[Answer]) -> None:
    """Ask for scores now and then, and keep what was answered."""
    clock = ProcessClock(process)
    rng = random.Random(process.world.random.getrandbits(32))
    while not clock.wait(process.stop, rng.uniform(0.2, ASK_EVERY_S)):
        request = Request(
            BEGIN_S,
            {"user": rng.randrange(USERS)},
            [{"item": rng.randrange(ITEMS)} for _ in range(rng.randint(1, 4))],
        )
        before = replica.model.version
        try:
            (scored,) = replica.score([request])
        except UnavailableError:
            continue
        held = replica.memory.evidence
        answers.append(Answer(request, scored, before, replica.model.version, bool(held)))


def producer(machine: Machine, source: Callable[[int], list[Outgoing]], requests: int, at_once: int) -> Main:
    """Sends so many requests of a source, as a client does that repeats what was not confirmed.

    It is never killed: what it has made up and not sent yet would be lost with it.
    """

    def main(process: Process) -> None:
        clock = ProcessClock(process)
        log = machine.connect()
        left = requests
        while left > 0:
            count = min(left, at_once)
            records = source(count)
            left -= count
            send(log, records, clock)
            clock.sleep(0.3)

    return main


def forgetter(machine: Machine, ledger: Ledger, forgets: Forgets, requests: int) -> Main:
    """Asks to forget ids that the ledger's requests have, now and then."""

    def main(process: Process) -> None:
        clock = ProcessClock(process)
        log = machine.connect()
        for _ in range(requests):
            clock.sleep(process.world.random.random() * FORGET_EVERY_S)
            request = forgets.choose(ledger, clock.unix_s(), process.world.random)
            if request is not None:
                send(log, forget_records(request, log.partitions(EVENTS)), clock)

    return main


def teller(machine: Machine, begin_s: float, tells: int) -> Main:
    """Says what is true of items and people, in any order of time."""

    def main(process: Process) -> None:
        clock = ProcessClock(process)
        log = machine.connect()
        rng = process.world.random
        for number in range(tells):
            clock.sleep(rng.random() * TELL_EVERY_S)
            feature, name = rng.choice((("item", "brand"), ("user", "town")))
            value = None if rng.random() < 0.1 else f"{name}-{number % 5}"
            since_s = begin_s + rng.uniform(-1.0, TOLD_S)
            event = EntityEvent(feature, rng.randrange(TOLD_OF), since_s, {name: value})
            key = entity_key(event.feature, event.id)
            send(log, [Outgoing(key, encode(event), producer="teller", seq=number)], clock)

    return main


def send(log: Log, records: list[Outgoing], clock: ProcessClock) -> None:
    """Append to the events until the log has confirmed it."""
    backoff = Backoff(PRODUCE_PAUSES, clock)
    while records:
        try:
            log.append(EVENTS, records)
            return
        except LogAwayError:
            backoff.sleep()
