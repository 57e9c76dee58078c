"""Examples sharded by an entity: whatever dies when, each arrives once, in the partition of its entity."""

import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from ground.clock import ManualClock
from stream.errors import LogAwayError, LogError, StateError
from stream.group.membership import GroupSettings, Member
from stream.join.assignment import Shares
from stream.join.joiner import Joiner, JoinSettings
from stream.join.sharding.places import Place, Places
from stream.join.sharding.sent import check_outbox
from stream.join.sharding.skew import ENTITIES_MAX, Skew
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, Outgoing, partition_of
from stream.log.testing import Faults, FaultyLog, MemoryLog
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent, key_of_event
from stream.records.forgetting import forget_records
from stream.records.targets import UNDECLARED, Target, Targets
from stream.records.types import Action, Example, Forget, Impression, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState
from stream.state.testing import MemoryDisk

T = 1_700_000_000.0
WINDOW_S = 4.0
EVENT_PARTITIONS, PLACES = 3, 5
SHOP = Targets(
    {
        "click": Target(window_s=WINDOW_S),
        "buy": Target(of="click", observe_s=6.0, window_s=12.0),
        "minutes": Target(kind="value", of="click", window_s=9.0),
    }
)
SEEDS = count(1)  # of the joiners' clocks, and so of what tells two processes apart
BY_HAND = GroupSettings(beat_s=60.0, timeout_s=180.0)  # beats when the test says so
EAGER = RunnerSettings(commit_every_s=0.0, read_max=9)
USERS = ("ann", "bob", 7, "7", -3, "ü" * 40, None, ["ann", "bob"], 2.5)
"""The value of `user` in the context; some are no id."""


def new_log() -> MemoryLog:
    log = MemoryLog()
    for topic, partitions in ((EVENTS, EVENT_PARTITIONS), (EXAMPLES, PLACES), (DEAD_LETTERS, 1), (ROLES, 1)):
        log.create_topic(topic, partitions)
    return log


class Joining:
    """One joiner on a disk in memory and a log that fails, which holds all partitions of the events."""

    def __init__(
        self,
        log: MemoryLog,
        name: str,
        disk: MemoryDisk,
        seed: int = 0,
        shard_by: str = "user",
        targets: Targets = UNDECLARED,
        late: str = "learn",
    ) -> None:
        self.disk, clock = disk, ManualClock(next(SEEDS))
        self.log = FaultyLog(log, seed, Faults(), clock)
        self.state = RoleState(Path(name), "joiner", {}, clock=clock, disk=disk)
        join = JoinSettings(window_s=WINDOW_S, late=late, shard_by=shard_by, pending_max_memory=5)  # type: ignore[arg-type]
        if shard_by:
            join = msgspec.structs.replace(join, partitions=log.partitions(EXAMPLES))
        self.member = Member(log, "join", name, BY_HAND, clock, way=shard_by)
        self.member.join()
        check_outbox(self.log, self.state, shard_by, self.member.held_up_by())
        self.joiner = Joiner(self.state, join, targets=targets, partitions=EVENT_PARTITIONS)
        topic = Subscription(EVENTS, "join", partitions=())
        self.runner = Runner(self.log, self.state, self.joiner, topic, EAGER, clock).open()
        self.shares = Shares(self.log, self.state, self.joiner, self.runner, self.member, clock)
        try:
            for partition in range(log.partitions(EVENTS)):
                self.shares.acquire(partition)
        except LogError:
            self.member.leave()
            raise

    def step(self, times: int = 100_000) -> None:
        for _ in range(times):
            if not self.runner.step():
                return

    def end(self) -> None:
        """Send all, note where others go on, and leave the disk, as after SIGTERM."""
        self.runner.end()
        self.note()
        self.member.leave()
        self.state.close()

    def note(self) -> None:
        """Do what it does about once a second: note where it is, and beat."""
        self.runner.commit()
        self.shares.note()
        self.member.beat()


def stream(seed: int, n: int, targets: Targets) -> list[Outgoing]:
    """Requests of some users, and what they do, in time and late; entities, and ids to forget."""
    rng = random.Random(seed)
    names = list(targets.names) if targets.declared else [""]
    arriving: list[tuple[float, list[Outgoing]]] = []

    def one(time: float, event: Impression | Action | EntityEvent) -> None:
        arriving.append((time, [Outgoing(key_of_event(event), encode(event))]))

    for i in range(n):
        time, user = T + 0.15 * i, rng.choice(USERS)
        context = {} if user is None else {"user": user, "country": "no"}
        alone = i % 5 == 0  # as in a data file: the candidate has it all
        labels = [1.0, 0.0] if rng.random() < 0.1 else None
        candidates = [{"item": j, **(context if alone else {})} for j in range(2)]
        shown = Impression(f"r{i}", time, candidates, {} if alone else context, labels=labels)
        one(time, shown)
        for _ in range(rng.randrange(4)):
            acted = time + rng.uniform(0, 3 * WINDOW_S)
            one(acted, Action(f"r{i}", acted, rng.randrange(2), float(rng.random() < 0.8), rng.choice(names)))
    for number, ids in enumerate(({"item": [1]}, {"user": ["ann", 7]}, {"user": ["bob"], "item": [0]})):
        at = T + rng.uniform(0, 0.15 * n)
        arriving.append((at, forget_records(Forget(f"f{number}", at, ids), EVENT_PARTITIONS)))
        one(at, EntityEvent("item", number, at, {"brand": "acme"}))
        one(at, EntityEvent("user", "ann", at, {"age": number}))
    arriving.sort(key=lambda entry: entry[0])
    return [record for _, records in arriving for record in records]


def taken(log: MemoryLog, topic: str) -> dict[tuple[int, str], list[tuple[int, bytes, bytes]]]:
    """A topic as readers let it through, by partition and producer: number, key and value."""
    found: dict[tuple[int, str], list[tuple[int, bytes, bytes]]] = {}
    for partition in range(log.partitions(topic)):
        for record in log.read(topic, partition, 0, 1_000_000, 1 << 30):
            one = found.setdefault((partition, record.producer), [])
            if not one or record.seq > one[-1][0]:
                one.append((record.seq, record.key, record.value))
    return found


def examples(log: MemoryLog, targets: Targets) -> Iterator[tuple[int, bytes, Example]]:
    decode = Decoder(Example, Forget, EntityEvent, targets=targets).decode
    for (partition, _), records in taken(log, EXAMPLES).items():
        for _, key, value in records:
            if isinstance(found := decode(value), Example):
                yield partition, key, found


def labels(log: MemoryLog, targets: Targets) -> Counter[object]:
    """What is to be learned, without where it lies."""
    return Counter(
        (e.request_id, e.target, e.time, e.late, str(e.before), str(e.labels), str(e.candidates))
        for _, _, e in examples(log, targets)
    )


@pytest.mark.slow
@settings(max_examples=many(12), deadline=None)
@given(
    seed=st.integers(0, 10**6),
    targets=st.sampled_from([UNDECLARED, SHOP]),
    late=st.sampled_from(["learn", "drop"]),
    plan=st.lists(
        st.tuples(
            st.integers(0, 2),  # which joiner
            st.sampled_from(["step", "note", "doubt", "doubt", "late", "kill", "wipe"]),
            st.integers(1, 25),
        ),
        min_size=4,
        max_size=16,
    ),
)
def test_whatever_dies_when_each_example_arrives_once_in_its_entitys_partition(
    seed: int, targets: Targets, late: str, plan: Sequence[tuple[int, str, int]]
) -> None:
    sent = stream(seed, 160, targets)
    alone, unsharded, log = new_log(), MemoryLog(), new_log()
    for topic, partitions in ((EVENTS, 3), (EXAMPLES, 3), (DEAD_LETTERS, 1), (ROLES, 1)):
        unsharded.create_topic(topic, partitions)
    for one in (alone, unsharded, log):
        one.append(EVENTS, sent)
    Joining(alone, "one", MemoryDisk(), targets=targets, late=late).step()
    Joining(unsharded, "one", MemoryDisk(), shard_by="", targets=targets, late=late).step()

    joinings: dict[int, Joining] = {}
    disks = [MemoryDisk() for _ in range(4)]
    for number, what, times in [*plan, (3, "step", 100_000)]:
        joining = joinings.get(number)
        if joining is None:  # it goes on from its own state, or takes over
            joining = Joining(log, f"m{number}", disks[number], seed + number, "user", targets, late)
            joinings[number] = joining
        if what in ("kill", "wipe"):
            joinings.pop(number).log.settle()  # what was on its way comes
            disks[number].crash()
            if what == "wipe":
                disks[number].remove(Path(f"m{number}"))
            continue
        joining.log.faults = Faults(
            append_in_doubt=0.5 if what == "doubt" else 0.0, append_late=0.3 if what == "late" else 0.0
        )
        for _ in range(times):
            with contextlib.suppress(LogAwayError):
                if not joining.runner.step():
                    break
        joining.log.faults = Faults()
        if what == "note":
            joining.note()
    for joining in joinings.values():
        joining.log.settle()
    assert taken(log, EXAMPLES) == taken(alone, EXAMPLES)
    assert taken(log, DEAD_LETTERS) == taken(alone, DEAD_LETTERS)
    assert labels(log, targets) == labels(unsharded, targets), "the same examples as without"
    where: dict[str, set[int]] = {}
    for partition, key, example in examples(log, targets):
        user = example.context.get("user")
        named = isinstance(user, int | str)
        assert key == (str(user) if named else example.request_id).encode()
        assert partition == partition_of(key, PLACES), "any client of Kafka finds it"
        where.setdefault(str(user) if named else example.request_id, set()).add(partition)
    assert all(len(places) == 1 for places in where.values()) and len(where) > len(USERS)


def test_ids_to_forget_go_everywhere_and_attributes_where_they_are_needed() -> None:
    log = new_log()
    log.append(EVENTS, forget_records(Forget("f", T, {"user": ["ann"]}), EVENT_PARTITIONS))
    of_item, of_user = (EntityEvent(f, "ann", T, {"age": 3}) for f in ("item", "user"))
    log.append(EVENTS, [Outgoing(key_of_event(event), encode(event)) for event in (of_item, of_user)])
    Joining(log, "one", MemoryDisk()).step()
    decode = Decoder(Forget, EntityEvent).decode
    found = {
        partition: Counter(
            type(one).__name__ if isinstance(one := decode(record.value), Forget) else one.feature
            for record in log.read(EXAMPLES, partition, 0)
        )
        for partition in range(PLACES)
    }
    for partition, counts in found.items():
        assert counts["Forget"] == EVENT_PARTITIONS and counts["item"] == 1
        assert counts["user"] == (partition == partition_of(b"ann", PLACES))


def busy(log: MemoryLog, begin: int, end: int) -> None:
    """More requests, whose labels are known."""
    log.append(
        EVENTS,
        [
            Outgoing(b"%d" % i, encode(Impression(f"r{i}", T + i, [{}], {"user": i % 9}, labels=[1.0])))
            for i in range(begin, end)
        ],
    )


@pytest.mark.parametrize(("before", "after"), [("", "user"), ("user", "country"), ("user", "")])
@pytest.mark.parametrize("kept", [True, False], ids=["own state", "new machine"])
def test_who_stops_all_joiners_first_may_shard_otherwise(before: str, after: str, kept: bool) -> None:
    log, disk = MemoryLog(), MemoryDisk()
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS, ROLES):
        log.create_topic(topic, EVENT_PARTITIONS if topic in (EVENTS, EXAMPLES) else 1)
    busy(log, 0, 300)
    one = Joining(log, "one", disk, shard_by=before)
    one.step()
    one.end()
    busy(log, 300, 400)
    other = Joining(log, "one", disk if kept else MemoryDisk(), shard_by=after)
    other.step()
    assert sorted(example.request_id for _, _, example in examples(log, UNDECLARED)) == sorted(
        f"r{i}" for i in range(400)
    )
    names = {producer for _, producer in taken(log, EXAMPLES)}
    assert len(names) == 2 * EVENT_PARTITIONS, "each way has its own"


@pytest.mark.parametrize(("before", "after"), [("", "user"), ("user", "country"), ("user", "")])
def test_sharding_otherwise_after_a_crash_is_refused_until_all_is_sent(before: str, after: str) -> None:
    log, disk = MemoryLog(), MemoryDisk()
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS, ROLES):
        log.create_topic(topic, EVENT_PARTITIONS if topic in (EVENTS, EXAMPLES) else 1)
    busy(log, 0, 300)
    one = Joining(log, "one", disk, shard_by=before)
    one.step(5)
    one.note()
    one.step(5)
    one.log.faults = Faults(append_in_doubt=1.0)
    with pytest.raises(LogAwayError):
        one.step()
    disk.crash()
    with pytest.raises(StateError, match=rf'examples to send .*join\.shard_by = "{before}" again'):
        Joining(log, "one", disk, shard_by=after)
    disk.crash()
    with pytest.raises(LogError, match=rf'learned twice\. Set join\.shard_by = "{before}" again'):
        Joining(log, "new", MemoryDisk(), shard_by=after)
    again = Joining(log, "one", disk, shard_by=before)
    again.step(1)
    again.end()
    Joining(log, "one", disk, shard_by=after).step()
    assert sorted(example.request_id for _, _, example in examples(log, UNDECLARED)) == sorted(
        f"r{i}" for i in range(300)
    )


def test_who_was_left_behind_sends_nothing_in_the_old_way() -> None:
    log, disk = new_log(), MemoryDisk()
    busy(log, 0, 300)
    one = Joining(log, "one", disk, shard_by="country")
    one.step(5)
    one.note()
    one.log.faults = Faults(append_lost=1.0)
    with pytest.raises(LogAwayError):
        one.step()
    one.member.leave()
    other = Joining(log, "other", MemoryDisk())  # which had all that was sent
    other.step()
    other.end()
    disk.crash()
    with pytest.raises(StateError, match=r"have gone on without it\..*move the folder away"):
        Joining(log, "one", disk, shard_by="country")
    assert sorted(example.request_id for _, _, example in examples(log, UNDECLARED)) == sorted(
        f"r{i}" for i in range(300)
    )


def test_joiners_of_two_ways_do_not_work_beside_each_other() -> None:
    log = new_log()
    members = {
        name: Member(log, "join", name, BY_HAND, ManualClock(next(SEEDS)), way=way)
        for name, way in (("c", ""), ("b", "user"), ("a", ""))
    }

    def shares() -> dict[str, set[int]]:
        for _ in range(2):
            for member in members.values():
                member.look()
                member.share(4)
                member.beat()
        return {name: member.share(4) for name, member in members.items()}

    for member in members.values():
        member.join()
    assert shares() == {"c": {0, 1, 2, 3}, "b": set(), "a": set()}
    assert members["b"].held_up_by() == ["c"] and members["a"].held_up_by() == ["b"]
    members.pop("c").leave()
    assert shares() == {"b": {0, 1, 2, 3}, "a": set()}, "who came first"
    members.pop("b").leave()
    assert shares() == {"a": {0, 1, 2, 3}}


def test_joiner_that_is_held_up_says_so_once_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    log = new_log()
    other = Member(log, "join", "other", BY_HAND, ManualClock(next(SEEDS)), way="")
    other.join()
    joining = Joining(log, "state", MemoryDisk())
    shares = joining.shares
    with caplog.at_level("INFO"):
        for _ in range(3):
            shares.settle()
        assert len([r for r in caplog.records if r.message.startswith("waits, because joiners")]) == 1
        assert "there: other;" in caplog.text and "works now" not in caplog.text
        other.leave()
        joining.member.look()
        for _ in range(3):
            shares.settle()
    assert len([r for r in caplog.records if r.message.endswith("works now")]) == 1


def test_places_are_the_same_from_an_example_and_from_its_request() -> None:
    places = Places("user", 7)
    for user in (*USERS, "", True, 2**62, -(2**63)):
        context = {} if user is None else {"a": [1.0, 2.0], "user": user, "z": "x"}
        example = Example("r1", T, T, [{"item": 1}], [1.0], context)  # type: ignore[arg-type]
        assert places.of_example(encode(example)) == places.of_request("r1", example.context)
        one = Impression("r1", T, [{"item": 1, "user": user}, {"user": user}] if context else [{}])  # type: ignore[dict-item,list-item]
        made = places.completed(one)
        found = places.of_request("r1", made.context)
        assert found == places.of_request("r1", {}, one.candidates) and found.named == (made is not one)
    differ = Impression("r1", T, [{"user": "ann"}, {"user": "bob"}])
    assert places.completed(differ) is differ
    assert places.of_request("r", {"user": 7}) == places.of_request("s", {"user": "7"})
    assert places.of_example(encode(Example("r1", T, T, [{}], [0.0]))).named is False


def test_entity_that_is_half_of_all_traffic_is_named(caplog: pytest.LogCaptureFixture) -> None:
    skew, rng = Skew("user", 8), random.Random(1)
    places = Places("user", 8)
    for i in range(20_000):
        user = "bot" if rng.random() < 0.5 else rng.randrange(10**6)
        skew.note(places.of_request(f"r{i}", {"user": user}))
    bound = 1.0 / (ENTITIES_MAX + 1)
    assert 0.48 - bound < skew.largest_entity < 0.52
    assert sum(skew.sent) == 20_000 and 4.0 < skew.largest < 5.0
    assert [r.message for r in caplog.records if "user 'bot' alone has at least" in r.message][1:] == []
    assert "partition" in caplog.text and "'bot'" in caplog.text

    even = Skew("user", 8)
    for i in range(20_000):
        even.note(Place(b"%d" % (i % 997), i % 8, True))
    assert even.largest == 1.0 and even.largest_entity < 0.02
