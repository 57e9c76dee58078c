"""The replica behind a real learner, over a real log."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from waiting import wait_until

from error_memory import MemorySettings
from ground.sealed import seal
from learner.errors import UpdateError
from learner.features.encoder import FeatureSpec, Request
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from serving.errors import UnavailableError
from serving.replica.replica import Replica
from serving.settings import ServerSettings
from stream.log.base import EXAMPLES, UPDATES, Log, Outgoing
from stream.records.types import Example, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

FEATURES = {"user": FeatureSpec(dim=4), "item": FeatureSpec(dim=4)}
SETTINGS = LearnerSettings(window=500)
ASKED = [Request(1e9, {"user": "u1"}, [{"item": i} for i in range(10)])]


def make_examples(n: int, first: int = 0, *, liked: int = 1) -> list[Example]:
    """n requests of three candidates; odd items are clicked if `liked` is 1, even ones if 0."""
    rng = np.random.default_rng(first + 7)
    found = []
    for i in range(first, first + n):
        items = rng.choice(10, size=3, replace=False).tolist()
        labels = [float(rng.random() < (0.8 if item % 2 == liked else 0.1)) for item in items]
        found.append(
            Example(
                request_id=f"r{i}",
                time=1e9 + i,
                decided=1e9 + i,
                candidates=[{"item": item} for item in items],
                labels=labels,
                context={"user": f"u{rng.integers(0, 5)}"},
            )
        )
    return found


def append(log: Log, examples: list[Example]) -> None:
    """Put examples into the log as a joiner does: numbered per partition."""
    starts = [end for _, end in log.ends(EXAMPLES)]
    out = []
    for i, example in enumerate(examples):
        partition = i % 2
        out.append(
            Outgoing(
                example.request_id.encode(),
                encode(example),
                partition,
                f"joiner-{partition}",
                starts[partition] + i // 2,
            )
        )
    log.append(EXAMPLES, out)


class Role:
    """A learner in its runner, moved by hand."""

    def __init__(self, log: Log, path: Path) -> None:
        self.state = RoleState(path, "learner", Learner.fingerprint(FEATURES, SETTINGS), sync=False)
        self.learner = Learner(FEATURES, SETTINGS, self.state)
        settings = RunnerSettings(commit_every_s=0.0, read_max=50, wait_s=0.0)
        self.runner = Runner(log, self.state, self.learner, Subscription(EXAMPLES, "learn"), settings).open()

    def catch_up(self) -> None:
        while self.runner.step():
            pass

    def close(self) -> None:
        self.state.close()


@pytest.fixture
def make_role(log: Log, tmp_path: Path) -> Iterator[Callable[[str], Role]]:
    opened: list[Role] = []

    def make(name: str = "learner") -> Role:
        opened.append(Role(log, tmp_path / name))
        return opened[-1]

    yield make
    for role in opened:
        role.close()


def make_replica(log: Log, **settings: int) -> Replica:
    return Replica(log, FEATURES, SETTINGS, MemorySettings(), ServerSettings(**settings))  # type: ignore[arg-type]


def catch_up(replica: Replica) -> None:
    while replica.step():
        pass


@pytest.mark.slow
def test_replica_answers_as_its_learner_would(log: Log, make_role) -> None:
    append(log, make_examples(300))
    role = make_role()
    role.catch_up()
    replica = make_replica(log)
    catch_up(replica)
    (answer,) = replica.score(ASKED)
    expected = role.learner.model.score_requests(ASKED).p
    np.testing.assert_allclose(answer.base, expected, rtol=1e-9)
    assert answer.corrected == answer.base  # nothing that the base has not learnt
    assert answer.version == role.learner.model.version
    assert {i % 2 for i in answer.order[:5]} == {1}
    assert answer.freshness_s is not None and answer.freshness_s >= 0.0
    status = replica.status()
    assert (status.ready, status.examples_learnt, status.memory.evidence) == (True, 900, 0)


@pytest.mark.parametrize("rows", ["float16", "int8"])
def test_packed_rows_answer_nearly_the_same_in_less_memory(log: Log, make_role, rows: str) -> None:
    append(log, make_examples(300))
    make_role().catch_up()
    exact, packed = make_replica(log), make_replica(log, rows=rows)  # type: ignore[arg-type]
    catch_up(exact)
    catch_up(packed)
    expected, answered = exact.score(ASKED)[0].base, packed.score(ASKED)[0].base
    assert answered != expected
    assert np.allclose(answered, expected, atol=0.005)
    widths = [replica.model.tables[0].spec.width for replica in (exact, packed)]
    assert widths[1] < widths[0]


def test_replica_without_a_learner_answers_and_learns_by_its_memory(log: Log) -> None:
    replica = make_replica(log)
    catch_up(replica)
    before = replica.score(ASKED)[0]
    assert before.corrected == before.base and before.freshness_s is None
    append(log, make_examples(400))
    catch_up(replica)
    after = replica.score(ASKED)[0]
    assert after.base == before.base
    assert min(after.corrected[1::2]) > max(after.corrected[0::2])
    status = replica.status()
    assert status.examples_observed == 400 and status.memory.evidence == 1200
    base, corrected = status.base.overall["logloss"], status.corrected.overall["logloss"]
    assert base is not None and corrected is not None and corrected < base - 0.05
    assert after.freshness_s is not None


@pytest.mark.slow
def test_live_base_leaves_the_memory_empty(log: Log, make_role) -> None:
    role, replica = make_role(), make_replica(log)
    for first in range(0, 300, 30):
        append(log, make_examples(30, first))
        catch_up(replica)
        assert replica.status().memory.evidence > 0
        role.catch_up()
        catch_up(replica)
        assert replica.status().memory.evidence == 0
        (answer,) = replica.score(ASKED)
        assert answer.corrected == answer.base
    status = replica.status()
    assert (status.examples_observed, status.examples_skipped) == (300, 0)
    # out of sample: what the base says of an example is asked before it has learnt it
    assert status.base.overall["examples"] == 900


@pytest.mark.slow
def test_base_that_is_faster_than_the_memory_is_not_measured_on_what_it_knows(log: Log, make_role) -> None:
    role, replica = make_role(), make_replica(log)
    catch_up(replica)
    append(log, make_examples(2_000))
    role.catch_up()
    catch_up(replica)
    status = replica.status()
    assert status.examples_skipped > 0
    assert status.examples_skipped + status.examples_observed == 2_000
    assert status.base.overall["examples"] == 3 * status.examples_observed
    assert status.memory.evidence == 0


def test_restarted_replica_takes_its_evidence_from_the_log(log: Log, make_role) -> None:
    append(log, make_examples(100))
    make_role().catch_up()
    first = make_replica(log)
    catch_up(first)
    append(log, make_examples(200, 100, liked=0))
    catch_up(first)
    second = make_replica(log)
    catch_up(second)
    assert second.status().memory.evidence == first.status().memory.evidence == 600
    assert second.score(ASKED)[0].corrected == first.score(ASKED)[0].corrected


@pytest.mark.slow
def test_frozen_base_stands_still_and_its_memory_goes_on(log: Log, make_role) -> None:
    role = make_role()
    frozen, live = make_replica(log, freeze_after_examples=600), make_replica(log)
    for first in range(0, 1000, 50):
        append(log, make_examples(50, first, liked=int(first < 400)))
        for replica in (frozen, live):
            catch_up(replica)
        role.catch_up()
        for replica in (frozen, live):
            catch_up(replica)
    status = frozen.status()
    assert status.frozen and not live.status().frozen
    assert 600 <= status.examples_learnt <= 750
    (stale,), (fresh,) = frozen.score(ASKED), live.score(ASKED)
    assert min(stale.base[1::2]) > max(stale.base[0::2])  # it never saw tastes change
    assert np.mean(stale.corrected[0::2]) > np.mean(stale.corrected[1::2])
    assert np.mean(fresh.base[0::2]) > np.mean(fresh.base[1::2])
    recent = frozen.status()
    assert recent.corrected.recent["logloss"] < recent.base.recent["logloss"]  # type: ignore[operator]


def test_learner_that_begins_anew_finds_the_memory_filled_again(log: Log, make_role) -> None:
    append(log, make_examples(200))
    make_role("one").catch_up()
    replica = make_replica(log)
    catch_up(replica)
    assert replica.status().memory.evidence == 0
    again = make_role("two")
    again.runner.step()
    catch_up(replica)
    status = replica.status()
    assert status.version == again.learner.model.version
    assert 0 < status.examples_learnt < 600
    assert status.memory.evidence + status.examples_learnt == 600
    assert status.base.overall["examples"] == 0  # measured already, or learnt before it was seen


def test_examples_sent_twice_count_once_and_bad_ones_not_at_all(log: Log) -> None:
    replica = make_replica(log)
    good = encode(make_examples(1)[0])
    wrong = encode(Example("x", 1e9, 1e9, [{"item": 1.5}], [1.0]))
    twice = Outgoing(b"r0", good, 0, "joiner-0", 0)
    log.append(EXAMPLES, [twice, twice, Outgoing(b"x", wrong, 0), Outgoing(b"y", b"\xc1", 0)])
    catch_up(replica)
    status = replica.status()
    assert (status.examples_observed, status.examples_bad) == (1, 2)


def test_thinned_negatives_do_not_raise_the_correction(log: Log) -> None:
    thinned = make_replica(log)
    # every second negative is left out and the rest says so
    rng = np.random.default_rng(1)
    batch = []
    for e in make_examples(300):
        keep = [i for i, label in enumerate(e.labels) if label == 1.0 or rng.random() < 0.5]
        if keep:
            batch.append(
                msgspec.structs.replace(
                    e,
                    candidates=[e.candidates[i] for i in keep],
                    labels=[e.labels[i] for i in keep],
                    log_odds=float(np.log(0.5)),
                )
            )
    append(log, batch)
    catch_up(thinned)
    calibration = thinned.status().corrected.overall["calibration"]
    assert calibration is not None and 0.85 < calibration < 1.15
    served = np.mean(thinned.score(ASKED)[0].corrected)
    assert abs(served - 0.45) < 0.12  # the rate of the stream before it was thinned


def test_backlog_over_its_limit_is_skipped(log: Log) -> None:
    append(log, make_examples(300))
    replica = make_replica(log, backlog_max=50)
    catch_up(replica)
    status = replica.status()
    assert (status.examples_observed, status.examples_skipped) == (100, 200)  # 50 of each partition


def test_replica_that_has_not_loaded_says_so(log: Log) -> None:
    replica = make_replica(log)
    assert replica.unready() == "the model is still loading"
    with pytest.raises(UnavailableError, match="still loading"):
        replica.score(ASKED)
    catch_up(replica)
    assert replica.unready() == ""


def test_update_of_another_version_stops_the_replica_with_its_reason(log: Log) -> None:
    with make_replica(log) as replica:
        assert replica.wait_ready(60.0)
        update = {"epoch": 1, "seq": 1, "part": 0, "parts": 1, "watermark": {}, "examples": 0, "tables": []}
        strange = msgspec.msgpack.encode({**update, "event_time": 0.0, "ingest_ms": 0, "v": 99})
        log.append(UPDATES, [Outgoing(b"x", seal(strange), 0)])
        wait_until(lambda: replica.failure is not None)
        assert not replica.wait_ready(3600.0)  # at once: it will not come back
    with pytest.raises(UpdateError, match="version 99"):
        replica.check()
    assert "version 99" in replica.unready()


@pytest.mark.process
def test_scoring_never_imports_torch() -> None:
    code = """
import sys
from learner.errors import UpdateError
from learner.features.encoder import FeatureSpec, Request
from learner.model.model import Model
from learner.settings import LearnerSettings
import serving.replica.replica, serving.app.server
Model({"user": FeatureSpec()}, LearnerSettings()).score_requests([Request(0.0, {"user": 1}, [{}])])
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
