"""The guard: labels that are flipped from one minute on, and what does not make it act."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from loaded import ready
from scraping import free_port, running
from waiting import wait_until

from freshet.config import Config, load_config, parse_config
from freshet.errors import ConfigError, OrderError
from freshet.models.snapshots import print_resume
from freshet.roles.opening import open_topics
from freshet.roles.roles import run_learn, run_serve
from serving.models.guard import Guard
from serving.replica.example_reader import Seen
from serving.settings import GuardSettings
from stream.log.base import EXAMPLES, Log, Outgoing, Record
from stream.orders.orders import OrderReader, Rollback
from stream.records.types import Example, Served, ServedTarget, encode

pytestmark = pytest.mark.slow

CONFIG = """
log = "sqlite:log.db"
[stream.log]
sync = false
[group]
snapshot_every_s = 0.5
snapshots_kept = 200
[features.user]
[features.item]
[learner]
deep = "none"
publish_every_s = 0.05
[server]
port = PORT
[server.guard]
enabled = true
for_s = 5.0
examples_min = 200
"""
PER_S = 20  # requests a second of event time
BEGIN_S = 1e9
AHEAD_MAX = 5 * PER_S  # examples


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "freshet.toml").write_text(CONFIG.replace("PORT", str(free_port())))
    return load_config(tmp_path / "freshet.toml")


class Feed:
    """Odd items are clicked, at eight times the pace of event time, or as fast as learner and server take it.

    Args:
        read: how many examples the server has read; may be taken away.
    """

    def __init__(self, log: Log, read: Callable[[], int]) -> None:
        self._log = log
        self._rng = np.random.default_rng(0)
        self.read: Callable[[], int] | None = read
        self.flips = False
        self.at_s = 0.0
        self.number = 0

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.05):
            learned, read = self._log.committed("learn", EXAMPLES).get(0, 0), self.read
            if self.number - min(learned, read() if read else learned) > AHEAD_MAX:
                continue  # a slow machine's event time is slow
            examples = [self._example() for _ in range(PER_S * 8 // 20)]
            self._log.append(EXAMPLES, [Outgoing(e.request_id.encode(), encode(e), 0) for e in examples])

    def _example(self) -> Example:
        self.number += 1
        self.at_s = self.number / PER_S
        items = self._rng.integers(0, 10, 4).tolist()
        labels = [float(self._rng.random() < 0.05 + 0.4 * (item % 2)) for item in items]
        if self.flips:
            labels = [1.0 - label for label in labels]
        at, who = BEGIN_S + self.at_s, {"user": self.number % 50}
        return Example(f"r{self.number}", at, at, [{"item": item} for item in items], labels, who)


def resumed(config: Config) -> bool:
    """Let the model learn again, if its learner is heard of."""
    with contextlib.suppress(OrderError):
        print_resume(config, "the join is repaired", as_json=False)
        return True
    return False


@pytest.mark.process
@pytest.mark.timeout(300)
def test_flipped_labels_let_the_model_go_back_within_a_minute_of_event_time(config: Config) -> None:
    url = f"http://127.0.0.1:{config.server.port}"

    def told(path: str = "/v1/model") -> dict:
        found: dict = httpx.get(f"{url}{path}", timeout=60.0).json()
        return found

    def odd_is_better() -> bool:
        body = {"context": {"user": 1}, "candidates": [{"item": 2}, {"item": 3}], "log": False}
        even, odd = httpx.post(f"{url}/v1/score", json=body, timeout=60.0).json()["corrected"]
        return bool(odd > 2.0 * even)

    stop = threading.Event()
    with running(config, run_learn, run_serve), contextlib.closing(open_topics(config)) as log:
        ready(url)
        feed = Feed(log, lambda: told()["examples_observed"] + told()["examples_skipped"])
        feeding = threading.Thread(target=feed.run, args=(stop,))
        feeding.start()
        try:
            wait_until(lambda: feed.at_s > 40.0, "it to be fed")
            wait_until(lambda: told()["guard"]["armed"] and odd_is_better(), "the guard to be armed")
            assert not told()["held"]
            feed.flips, flip_s = True, feed.at_s
            wait_until(lambda: told()["held"], "the guard to act")
            back_s, feed.read = feed.at_s, None  # what it reads is counted anew
            assert odd_is_better()  # as before the flip, though all labels since say otherwise
            (order,) = (placed.order for placed in OrderReader(log).read())
            assert isinstance(order, Rollback) and order.hold and "log loss" in order.why
            assert back_s < flip_s + 60.0
            metrics = httpx.get(f"{url}/metrics", timeout=60.0).text
            assert "freshet_held 1.0" in metrics and "freshet_guard_rollbacks_total 1.0" in metrics
            wait_until(lambda: "FreshetHeld" in {a["name"] for a in told("/v1/live")["alerts"]}, "an alert")
            learned = told()["examples_learnt"]
            time.sleep(0.5)
            # the poison goes on, and nobody learns it
            assert told()["examples_learnt"] == learned and odd_is_better()
            assert len(OrderReader(log).read()) == 1
            feed.flips = False
            sent = feed.number  # one more may be on its way, of those that are flipped
            wait_until(
                lambda: log.committed("learn", EXAMPLES).get(0, 0) > sent + PER_S, "it does not read on"
            )
            wait_until(lambda: resumed(config), "the learner to be heard of")  # a slow one is silent
            wait_until(lambda: told()["examples_learnt"] > learned + 100, "it to learn again")
            assert not told()["held"] and odd_is_better()
        finally:
            stop.set()
            feeding.join()


def seen(second: float, label: float, p: float, other: float | None = None) -> Seen:
    at = BEGIN_S + second
    models = {name: ServedTarget([said], [said]) for name, said in (("main", p), ("kept", other)) if said}
    served = Served([p], [p], "1-1", models=models if other else {})
    example = Example(f"r{second}", at, at, [{"item": 1}], [label], {"user": 1}, served)
    return Seen(Record(EXAMPLES, 0, 0, b"", b"", ingest_ms=int(second * 1000) + 1), example, None, 0)  # type: ignore[arg-type]


def guard_of(
    *stretches: tuple[float, float, float], kept: Sequence[tuple[float, float]] = (), every: int = 1
) -> Guard:
    """A guard that has seen stretches of 20 s: each a rate of positives, and what is said of them and of
    the others; `kept`: what the model says that it is compared with, of one in `every` candidates."""
    guard = Guard(GuardSettings(for_s=5.0, examples_min=50, against="kept"), "main")
    one = np.ones(1)
    rng = np.random.default_rng(0)
    for n, (rate, of_positives, of_others) in enumerate(stretches):
        for i in range(800):
            label = float(rng.random() < rate)
            p = of_positives if label else of_others
            other = kept[n][0 if label else 1] if n < len(kept) and i % every == 0 else None
            guard.add([seen(20.0 * n + i / 40, label, p, other)], one * 0.5, one * label, one, one * 0.0)
    return guard


def test_guard_acts_only_on_a_model_that_was_better_than_a_constant() -> None:
    good, new, poor = (0.2, 0.5, 0.1), (0.2, 0.5, 0.5), (0.8, 0.1, 0.5)
    assert guard_of(good).trouble() is None and guard_of(good).status().armed
    assert guard_of(new, poor).trouble() is None  # it has not learned anything yet
    found = guard_of(good, poor).trouble()
    assert found is not None and found.worst.excess > 0.05 and found.worst.of == "the best constant"
    assert 15_000 < found.before_ms <= 26_000
    guard = guard_of(good, poor)
    guard.acted()
    assert guard.trouble() is None and guard.status().rollbacks == 1 and not guard.status().armed
    # a little worse than a constant is within the margin
    assert guard_of(good, (0.2, 0.22, 0.22)).trouble() is None


def test_guard_compares_with_a_model_that_is_held_too() -> None:
    good, dull, poor = (0.2, 0.6, 0.1), (0.2, 0.3, 0.16), (0.8, 0.1, 0.5)  # dull: better than the constant
    kept = good[1:]
    assert guard_of(good, dull).trouble() is None
    found = guard_of(good, dull, kept=[kept, kept]).trouble()
    assert found is not None and found.worst.of == "model kept" and found.worst.excess > 0.05
    assert guard_of(good, dull, kept=[kept, kept], every=40).trouble() is None, "of 5 candidates in 5 s"
    # it was never as good: it has time to learn
    assert guard_of(dull, dull, kept=[kept, kept]).trouble() is None
    # labels that are inverted: the one that is held is worse than all, and the constant finds the trouble
    found = guard_of(good, poor, kept=[kept, (0.02, 0.9)]).trouble()
    assert found is not None and found.worst.of == "the best constant"
    assert guard_of(good, good, kept=[dull[1:], dull[1:]]).trouble() is None


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        ({"enabled": True}, "server.guard needs snapshots to go back to: set group.snapshots_kept"),
        ({"margin": 0.0}, "margin must be over 0"),
        ({"for_s": 0.5}, "for_s must be 1 to 3600"),
        ({"examples_min": 0}, "examples_min must be at least 1"),
        ({"against": "kept"}, "server.guard.against: there is no section [models.kept]"),
        ({"against": "main"}, "server.guard.against: there is no section [models.main]"),
        ({"margn": 0.1}, "server.guard.margn is unknown; did you mean server.guard.margin?"),
    ],
)
def test_settings_that_cannot_be_are_refused(guard: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"features": {"user": {}}, "server": {"guard": guard}}, "test.toml")
    assert said in str(caught.value)


def test_a_value_has_no_log_loss_to_guard() -> None:
    table = {
        "features": {"user": {}},
        "targets": {"minutes": {"kind": "value"}, "click": {}},
        "group": {"snapshots_kept": 60},
        "server": {"guard": {"enabled": True}},
    }
    with pytest.raises(ConfigError, match="the first target, minutes, has not, as it is a value"):
        parse_config(table, "test.toml")
    parse_config({**table, "targets": {"click": {}, "minutes": {"kind": "value"}}}, "test.toml")
