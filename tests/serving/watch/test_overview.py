"""What the live page shows: from what roles tell in a real log, and from the server itself."""

import math
import re
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from paths import ROOT
from waiting import wait_until

from learner.metrics import Metrics
from serving.replica.status import Quality, TargetStatus
from serving.watch.alerts import RULES, FeatureSight, Sight, Watchman
from serving.watch.history import COARSE_POINTS, FINE_POINTS, History
from serving.watch.live import Live, Now
from serving.watch.overview import Overview
from serving.watch.pulse import Own, quantile, target_numbers
from stream.errors import LogError
from stream.group.membership import GroupSettings, Member
from stream.group.observer import MEMBERS_MAX, Roll
from stream.group.signs import Beat, MemberStatus, send_beat
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, Log, Outgoing

RULES_FILE = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
FAST = GroupSettings(beat_s=0.05, timeout_s=60.0)
OWN = MemberStatus({"ready": 1.0, "gate": 0.5, "auc_base": 0.7, "requests": 10.0}, {"user": [7]})


def own(**numbers: float) -> Own:
    return Own(MemberStatus({**OWN.numbers, **numbers}, OWN.tables), "1-2", "")


def quality(*, value: bool = False, p: list[float] | None = None, y: list[float] | None = None) -> Quality:
    metrics = Metrics(100, value)
    if p and y:
        metrics.add(np.array(p), np.array(y), np.zeros(len(p), np.uint64))
    return Quality(metrics.summary(), metrics.recent())


@pytest.fixture
def joiner(log: Log) -> Iterator[Member]:
    with Member(log, "join", "a", FAST) as member:
        yield member


def look_until(overview: Overview, done: str) -> Live:
    """Look until the named number is known."""
    live: Live = overview.look()

    def known() -> bool:
        nonlocal live
        live = overview.look()
        return live.now is not None and getattr(live.now, done) is not None

    wait_until(known, lambda: live)
    return live


def test_server_that_hears_of_no_role_shows_what_it_knows(log: Log) -> None:
    live = Overview(log, own).look()
    assert (live.ready, live.version, live.now.gate, live.now.auc_base) == (True, "1-2", 0.5, 0.7)
    assert (live.now.table_rows, [t.feature for t in live.tables]) == (7.0, ["user"])
    assert [role.role for role in live.roles] == ["server"]
    assert live.now.examples_per_s is live.now.undecided is live.now.joiner_lag_records is None
    assert live.tables[0].admitted_per_s is None and live.alerts == []


def test_value_first_is_told_in_its_own_units_and_its_alerts_go_by_errors(log: Log) -> None:
    told = {
        "examples_corrected": 500.0, "positives_corrected": 500.0, "mean_corrected": 12.0, "mae_base": 2.0,
        "mae_corrected": 3.0, "rmse_base": 3.0, "rmse_corrected": 4.0, "calibration_corrected": 0.5,
    }  # fmt: skip
    now = Overview(log, lambda: own(**told)).look().now
    assert (now.click_rate, now.mean_prediction, now.mae_base, now.mae_corrected) == (12.0, 6.0, 2.0, 3.0)
    found = {
        rule.name: text
        for rule in RULES
        for _, text in rule.find(Sight({**told, "log_up": 1.0}, {}, {}, {}, {}), rule.over)
    }
    assert "0.50 times as many of the target's value is predicted" in found["FreshetMiscalibrated"]
    assert "raises the root of the mean squared error by 33%" in found["FreshetCorrectionHarms"]


def test_further_targets_reach_every_page_by_the_log(log: Log) -> None:
    further = {
        "buy": TargetStatus("event", "click", quality(), quality(p=[0.2, 0.6], y=[0.0, 1.0])),
        "minutes": TargetStatus("value", "click", quality(), quality(value=True, p=[3.0, 4.0], y=[2.0, 8.0])),
        "like": TargetStatus("event", "", quality(), quality()),
    }
    known = {name: number for name, number in target_numbers(further).items() if number is not None}
    buy, minutes, like = Overview(log, lambda: own(**known)).look().targets
    assert (buy.target, buy.value, buy.examples, buy.mean, buy.auc) == ("buy", False, 2.0, 0.5, 1.0)
    assert buy.calibration == pytest.approx(0.8) and buy.mae is None and buy.logloss is not None
    assert (minutes.value, minutes.mean, minutes.mae, minutes.calibration) == (True, 5.0, 2.5, 0.7)
    assert minutes.auc is None and (like.target, like.examples, like.auc) == ("like", 0.0, None)

    # `freshet up`, and a page elsewhere, read a server's beats; what they do not know they leave out
    odd = {"target/": 1.0, "target/value": 1.0, "target/buy/new_field": 1.0}
    send_beat(log, Beat("serve", "a", "a", 0, status=MemberStatus({**OWN.numbers, **known, **odd})))
    assert Overview(log).look().targets == [buy, minutes, like]
    assert Overview(log, own).look().targets == []
    assert b'"targets"' not in msgspec.json.encode(Overview(log, own).look())


def test_roles_are_seen_by_what_they_tell_in_the_log(log: Log, joiner: Member) -> None:
    overview = Overview(log, own)
    joiner.report(MemberStatus({"examples": 100.0, "undecided": 3.0}))
    live = look_until(overview, "undecided")
    assert live.now.undecided == 3.0
    assert live.roles[0].role == "joiner" and (live.roles[0].name, live.roles[0].state) == ("a", "running")
    joiner.report(MemberStatus({"examples": 150.0, "undecided": 0.0}))
    wait_until(lambda: overview.look().now.examples_per_s)


def test_impressions_are_the_joiners_and_none_yet_is_none_lost(log: Log) -> None:
    overview = Overview(log, own)
    assert overview.look().now.impressions is None  # no joiner to tell
    send_beat(log, Beat("join", "a", "a", 0, status=MemberStatus({"records": 0.0})))
    now = overview.look().now
    assert (now.impressions, now.impressions_per_s) == (0.0, None)
    send_beat(log, Beat("join", "a", "a", 1, status=MemberStatus({"impressions": 5.0})))
    send_beat(log, Beat("join", "b", "b", 0, status=MemberStatus({"impressions": 7.0})))
    assert overview.look().now.impressions == 12.0
    send_beat(log, Beat("join", "b", "b", 1, status=MemberStatus({"impressions": 9.0})))
    now = overview.look().now
    assert now.impressions == 14.0 and now.impressions_per_s is not None and now.impressions_per_s > 0.0


def test_status_that_nobody_can_show_does_not_take_away_the_page(log: Log) -> None:
    numbers = dict.fromkeys(("clock", "undecided", "impressions", "auc_base", "frozen"), math.nan)
    for group in ("join", "serve"):
        send_beat(log, Beat(group, "strange", "x", 0, status=MemberStatus(numbers, {"item": []})))
    live = Overview(log).look()
    assert [role.name for role in live.roles] == ["strange", "strange"]
    assert live.now is not None and live.now.undecided is None and live.tables == []


def test_events_lag_and_dead_letters_are_read_off_the_log(log: Log) -> None:
    overview = Overview(log, own)
    overview.look()
    log.append(EVENTS, [Outgoing(b"k", b"v", 0)] * 6)
    log.append(DEAD_LETTERS, [Outgoing(b"k", b"v", 0)] * 2)
    log.commit("join", EVENTS, {0: 4})
    now = overview.look().now
    assert (now.joiner_lag_records, now.learner_lag_records, now.dead_letters) == (2.0, None, 2.0)
    assert now.events_per_s is not None and now.events_per_s > 0.0
    assert now.joiner_lag_s is not None and now.joiner_lag_s >= 0.0
    log.commit("join", EVENTS, {0: 6})
    log.commit("learn", EXAMPLES, {0: 0})
    now = overview.look().now
    assert (now.joiner_lag_records, now.joiner_lag_s, now.learner_lag_records) == (0.0, 0.0, 0.0)


def test_table_rates_are_the_leading_learners(log: Log) -> None:
    overview = Overview(log, own)
    for life, leading, counts in (("x", 5, [1, 10, 2, 0, 0]), ("y", -1, [1, 900, 900, 900, 900])):
        send_beat(
            log, Beat("learn", life, life, 0, leading=leading, status=MemberStatus({}, {"user": counts}))
        )
    overview.look()
    send_beat(log, Beat("learn", "x", "x", 1, leading=5, status=MemberStatus({}, {"user": [1, 30, 2, 5, 0]})))
    send_beat(log, Beat("learn", "y", "y", 1, status=MemberStatus({}, {"user": [1, 999, 999, 999, 999]})))
    live = overview.look()
    (row,) = live.tables
    assert row.rows == 7  # this server's own, not the learner's
    assert row.admitted_per_s is not None and row.expired_per_s is not None
    assert row.admitted_per_s == pytest.approx(4 * row.expired_per_s) and row.refused_per_s == 0.0
    assert [r.state for r in live.roles if r.role == "learner"] == ["running", "standing by"]


def test_shards_all_run_and_table_rates_are_of_all_of_them(log: Log) -> None:
    overview = Overview(log, own)
    for beat, rows in enumerate((10, 30)):
        for rank in range(2):
            status = MemberStatus({}, {"user": [rank + 1, rows * (rank + 1), rows, 0, 0]})
            name = f"shard-{rank}-of-2"
            send_beat(log, Beat("learn", name, name, beat, leading=5 - 6 * rank, status=status))
        live = overview.look()
    (row,) = live.tables
    assert row.admitted_per_s is not None and row.refused_per_s is not None
    assert row.admitted_per_s == pytest.approx(1.5 * row.refused_per_s) and row.refused_per_s > 0.0
    assert [r.state for r in live.roles if r.role == "learner"] == ["running", "running"]


def test_server_tells_the_others_and_shows_the_frozen_one(log: Log) -> None:
    frozen = Overview(log, lambda: own(frozen=1.0, auc_base=0.55))
    frozen.name = "host:1"
    frozen.look()
    live = Overview(log, own)
    live.name = "host:2"
    shown = live.look()
    assert (shown.now.auc_frozen, shown.now.auc_base) == (0.55, 0.7)
    assert [(r.name, r.state) for r in shown.roles] == [("host:1", "frozen"), ("host:2", "running")]
    watcher = Overview(log).look()  # no server: it shows the one that follows updates
    assert (watcher.now.auc_base, watcher.now.auc_frozen, watcher.ready) == (0.7, 0.55, True)
    live.start()
    live.stop()
    assert [r.name for r in Overview(log).look().roles] == ["host:1"]


class AwayLog:
    """A log that does not answer for a while."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.away = False

    def __getattr__(self, name: str) -> object:
        if self.away:
            raise LogError("away")
        return getattr(self._log, name)


def test_log_that_is_away_takes_away_only_what_it_knows(log: Log) -> None:
    away = AwayLog(log)
    overview = Overview(away, own)  # type: ignore[arg-type]
    log.commit("join", EVENTS, {0: 0})
    assert overview.look().now.joiner_lag_records == 0.0
    away.away = True
    live = overview.look()
    assert (live.log_up, live.now.joiner_lag_records, live.now.gate) == (False, None, 0.5)
    away.away = False
    assert overview.look().log_up


def test_points_are_numbered_and_end_with_now(log: Log) -> None:
    overview = Overview(log, own)
    for _ in range(20):
        live = overview.look()
    history = overview.history()
    assert (live.step, history.step, len(history.fine.time), len(live.newest.time)) == (20, 20, 20, 15)
    assert history.life == live.life and list(history.fine.columns) == list(Now.__struct_fields__)
    assert history.fine.columns["gate"][-1] == live.newest.columns["gate"][-1] == 0.5
    plain, packed = overview.encoded_history()
    assert msgspec.json.decode(plain)["step"] == 20 and len(packed) < len(plain)


def test_history_is_bounded_and_minutes_are_means() -> None:
    history = History(["a", "b"])
    for i in range(60 * (COARSE_POINTS + 5)):
        history.add(float(i), [float(i % 60), None if i < 90 else 1.0])
    fine, coarse = history.fine(), history.coarse()
    assert len(fine.time) == FINE_POINTS and len(coarse.time) == COARSE_POINTS
    assert fine.columns["a"][-1] == 59.0
    assert set(coarse.columns["a"]) == {29.5}
    assert coarse.time[-1] - coarse.time[-2] == 60.0
    young = History(["b"])
    for i, value in ((30, None), (45, None), (70, 2.0), (80, 4.0), (130, 9.0)):
        young.add(float(i), [value])
    assert young.coarse().columns["b"] == [None, 3.0]


def test_roll_forgets_who_leaves_and_who_is_too_many(log: Log) -> None:
    roll = Roll(log)
    log.append(ROLES, [Outgoing(b"", b"no beat", 0)])
    for i in range(MEMBERS_MAX + 5):
        send_beat(log, Beat("serve", f"s{i:03}", "x", 0))
    roll.look()
    assert len(roll.members) == MEMBERS_MAX
    send_beat(log, Beat("serve", "s204", "another life", 1, leaving=True))
    send_beat(log, Beat("serve", "s203", "x", 1, leaving=True))
    roll.look()
    names = {heard.name for heard in roll.members}
    assert "s204" in names and "s203" not in names


def test_alerts_are_those_of_prometheus() -> None:
    written = re.findall(
        r"- alert: (\w+)\n +expr: (.*?)\n(?: +for: (\w+)\n)? +labels: {severity: (\w+)}",
        RULES_FILE,
        re.DOTALL,
    )
    assert [name for name, *_ in written] == [rule.name for rule in RULES]
    for (name, expr, lasts, severity), rule in zip(written, RULES, strict=True):
        assert severity == rule.severity, name
        if name == "FreshetRoleDown":  # heard of once a second there and here: silence is what lasts
            assert lasts == f"{rule.over / 60:.0f}m"
            continue
        assert rule.for_s == (60.0 * int(lasts[:-1]) if lasts else 0.0), name
        assert float(rule.over) in map(float, re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", expr)), name


def sight(rises: dict[str, float] | None = None, **numbers: float) -> Sight:
    return Sight(numbers, rises or {}, {}, {})


WRONG = {
    "FreshetRoleDown": Sight({}, {}, {"joiner a": 61.0}, {}),
    "FreshetLogAway": sight(log_up=0.0),
    "FreshetLagging": Sight({}, {}, {}, {"learner": 31.0}),
    "FreshetServerNotReady": sight(ready=0.0),
    "FreshetHeld": sight(held=1.0),
    "FreshetServerErrors": sight(errors_share=0.02, errors_lately=9.0),
    "FreshetServerSlow": sight(score_p99_s=0.06, scores_lately=200.0),
    "FreshetImpressionsUnlogged": sight({"serve.unlogged": 1.0}),
    "FreshetStale": sight(base_freshness_s=61.5, freshness_s=0.4),
    "FreshetDeadLetters": sight({"join.records": 100.0, "join.dead_letters": 2.0}),
    "FreshetClockStuck": sight({"join.records": 1.0}, clock_behind_s=601.0),
    "FreshetLateActions": sight({"join.late": 6.0, "join.actions": 94.0}),
    "FreshetActionsUnmet": sight({"join.orphans": 21.0, "join.actions": 79.0}),
    "FreshetExposureUnknown": sight(**{"join.long_unsaid": 1001.0, "join.exposed": 0.0}),
    "FreshetPendingFull": sight({"join.early": 1.0}),
    "FreshetRecordsSkipped": sight(**{"learn.skipped": 1.0}),
    "FreshetQuarantine": sight({"learn.quarantined": 1.0}),
    "FreshetTableFull": sight({"learn.full": 1.0}),
    "FreshetTableEvicts": sight({"learn.evicted": 1.0}),
    "FreshetRowsThrash": sight({"learn.rows_read": 1001.0, "learn.examples": 200.0}),
    "FreshetUnknownIds": Sight(
        {"learnt": 1e4}, {}, {}, {}, {"item": FeatureSight(3, 500.0, 1000.0, 901.0, 0.0)}
    ),
    "FreshetFeatureMissing": Sight(
        {"learnt": 1e4}, {}, {}, {}, {"item": FeatureSight(3, 1000.0, 9.0, 0.0, 991.0)}
    ),
    "FreshetMiscalibrated": sight(calibration_corrected=0.79, positives_corrected=100.0),
    "FreshetCorrectionHarms": sight(logloss_base=0.3, logloss_corrected=0.306, positives_corrected=100.0),
    "FreshetTargetMiscalibrated": sight(
        **{"target/buy/calibration": 1.26, "target/buy/positives": 100.0, "target/buy/complete": 1.0}
    ),
    "FreshetTargetCorrectionHarms": sight(
        **{"target/buy/logloss": 0.306, "target/buy/logloss_base": 0.3, "target/buy/positives": 100.0}
    ),
    "FreshetUntrusted": sight(**{"trust/buy": 0.4}),
}
WELL = Sight(
    {"log_up": 1.0, "ready": 1.0, "errors_share": 0.01, "errors_lately": 9.0, "score_p99_s": 0.05,
     "scores_lately": 900.0, "base_freshness_s": 7200.0, "freshness_s": 7140.0, "positives_corrected": 100.0,
     "clock_behind_s": 600.0, "calibration_corrected": 1.25, "logloss_base": 0.3, "logloss_corrected": 0.304,
     "join.skipped": 0.0, "learnt": 1e6, "join.long_unsaid": 5000.0, "join.exposed": 1.0,
     "target/buy/calibration": 1.25, "target/buy/positives": 100.0, "target/buy/complete": 1.0,
     "target/buy/logloss": 0.304, "target/buy/logloss_base": 0.3,
     "target/later/calibration": 2.0, "target/later/positives": 100.0, "target/later/complete": 0.0,
     "target/few/calibration": 9.0, "target/few/positives": 99.0, "target/few/logloss": 9.0,
     "target/few/logloss_base": 1.0, "target/minutes/calibration": 0.8, "target/minutes/positives": 100.0,
     "target/minutes/rmse": 10.4, "target/minutes/rmse_base": 10.0, "trust/click": 1.0, "trust/buy": 0.5},
    {"join.examples": 5.0, "join.records": 100.0, "join.dead_letters": 1.0, "join.late": 5.0,
     "join.actions": 95.0, "join.orphans": 25.0, "join.early": 0.0,
     "learn.quarantined": 0.0, "learn.full": 0.0, "learn.evicted": 0.0,
     "learn.rows_read": 5000.0, "learn.examples": 1000.0},
    {"joiner a": 60.0}, {"learner": 30.0},
    {"new": FeatureSight(0, 2000.0, 2000.0, 2000.0, 2000.0),
     "few": FeatureSight(9, 999.0, 999.0, 999.0, 999.0),
     "some": FeatureSight(9, 2000.0, 2000.0, 1800.0, 1980.0)},
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_alert_fires_once_it_has_lasted_and_ends(rule) -> None:
    watchman = Watchman()
    watchman.look(1000.0, WRONG[rule.name])
    assert [a.name for a in watchman.alerts] == ([rule.name] if rule.for_s == 0.0 else [])
    if rule.for_s:
        watchman.look(1000.0 + rule.for_s - 1.0, WRONG[rule.name])
        assert watchman.alerts == []
        watchman.look(1000.0 + rule.for_s, WRONG[rule.name])
    (alert,) = watchman.alerts
    assert (alert.name, alert.since, alert.until) == (rule.name, 1000.0, None) and alert.summary
    watchman.look(9000.0, WELL)
    (alert,) = watchman.alerts
    assert alert.until == 9000.0


def test_alerts_of_targets_name_each_that_is_wrong() -> None:
    watchman = Watchman()
    wrong = sight(
        **{"target/later/calibration": 0.7, "target/later/positives": 100.0, "target/later/complete": 0.0,
           "target/minutes/rmse": 10.6, "target/minutes/rmse_base": 10.0, "target/minutes/positives": 500.0,
           "target/minutes/calibration": 1.3, "trust/click": 0.1, "trust/buy": 0.3}
    )  # fmt: skip
    for at in (0.0, 900.0):
        watchman.look(at, wrong)
    assert {(alert.name, alert.about) for alert in watchman.alerts} == {
        ("FreshetTargetMiscalibrated", "later"),
        ("FreshetTargetMiscalibrated", "minutes"),
        ("FreshetTargetCorrectionHarms", "minutes"),
        ("FreshetUntrusted", "click"),
        ("FreshetUntrusted", "buy"),
    }


def test_alert_that_comes_and_goes_does_not_fire() -> None:
    watchman = Watchman()
    for at in range(0, 1000, 10):
        watchman.look(float(at), WRONG["FreshetLagging"] if at % 100 else WELL)
    assert watchman.alerts == []


def test_frozen_server_is_not_stale_and_all_well_is_quiet() -> None:
    watchman = Watchman()
    for at in (0.0, 10_000.0):
        watchman.look(at, WELL)
        watchman.look(at + 1.0, sight(base_freshness_s=9e3, freshness_s=1.0, frozen=1.0))
    assert watchman.alerts == []


def test_quantile_is_of_what_came_between() -> None:
    before = ((0.001, 10.0), (0.01, 10.0), (float("inf"), 10.0))
    after = ((0.001, 10.0), (0.01, 19.0), (float("inf"), 20.0))
    assert quantile(0.5, before, after) == pytest.approx(0.001 + 0.009 * 5 / 9)
    assert quantile(0.99, before, after) == 0.01  # beyond the last bound nothing more is known
    assert quantile(0.99, after, after) is None
