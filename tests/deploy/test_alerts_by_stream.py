"""Each alert over four streams: busy, a night with gaps, bursts, and one that has stopped.

While all is well no alert fires in any of them. With a fault from minute 45 on, an alert fires in the
streams in which its text is then true, and in no other.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT

from serving.watch.alerts import RULES

FOLDER = ROOT / "deploy" / "prometheus"
MINUTES = 288
FAULT = 45  # the minute from which on something is wrong
AFTER = 60
"""Minutes that a fault lasts: twice the longest range of a rule and its longest `for`, 15 minutes each."""

Series = dict[str, list[float]]
J, L, S = (f'job="freshet",instance="{name}"' for name in ("join", "learn", "serve"))


def busy(minute: int) -> int:
    return 600


def night(minute: int) -> int:
    """One to three requests, then nothing for 4, 17, 45 or 74 minutes."""
    return {0: 3, 5: 1, 23: 2, 69: 1}.get(minute % 144, 0)


def bursts(minute: int) -> int:
    return 60_000 if minute % 30 == 0 else 0


def stopped(minute: int) -> int:
    return 600 if minute < 10 else 0


STREAMS: dict[str, Callable[[int], int]] = {f.__name__: f for f in (busy, night, bursts, stopped)}


def totals(per_minute: list[float]) -> list[float]:
    found, total = [], 0.0
    for n in per_minute:
        total += n
        found.append(total)
    return found


LAST = dict.fromkeys(STREAMS, FAULT + AFTER) | {"night": 216}
"""How many minutes a scene with a fault has: of the night, all of its gaps come after it."""


def healthy(stream: Callable[[int], int]) -> Series:
    """What Prometheus scrapes once a minute, by series."""
    n = [float(stream(minute)) for minute in range(MINUTES)]
    last = 0
    age: list[float] = []  # seconds since the newest example
    clock: list[float] = []
    for minute, count in enumerate(n):
        last = minute if count else last
        age.append(60.0 * (minute - last))
        clock.append(60.0 * last)
    half = [count // 2 for count in n]
    seen = totals(n)
    series: Series = {}
    for labels in (J, L, S):
        series[f"up{{{labels}}}"] = [1.0] * MINUTES
        series[f"freshet_log_up{{{labels}}}"] = [1.0] * MINUTES
    for labels, role, topic in (
        (J, "joiner", "events"),
        (L, "learner", "examples"),
        (S, "server", "updates"),
    ):
        lag = [20.0 if count > 10_000 else 0.2 for count in n]
        series[f'freshet_lag_seconds{{{labels},role="{role}",topic="{topic}",partition="0"}}'] = lag
        series[f'freshet_records_skipped_total{{{labels},role="{role}"}}'] = [0.0] * MINUTES
    for labels, role in ((J, "joiner"), (L, "learner")):
        series[f'freshet_records_taken_total{{{labels},role="{role}"}}'] = seen
        series[f'freshet_dead_letters_total{{{labels},stage="{role}"}}'] = [0.0] * MINUTES
    series |= {
        # the first request after a gap is slow, and one of those of the first night is cut off
        f'freshet_requests_total{{{S},path="/v1/score",status="200"}}': seen,
        f'freshet_requests_total{{{S},path="/v1/score",status="503"}}': totals(
            [float(m == 5) for m in range(MINUTES)]
        ),
        # who asks whether a server is ready is told 503 while it loads
        f'freshet_requests_total{{{S},path="/v2/health/ready",status="503"}}': totals(
            [12.0 if m < 10 else 0.0 for m in range(MINUTES)]
        ),
        f'freshet_requests_total{{{S},path="/v2/health/ready",status="200"}}': totals(
            [0.0 if m < 10 else 12.0 for m in range(MINUTES)]
        ),
        f'freshet_request_seconds_bucket{{{S},path="/v1/score",le="0.05"}}': totals(
            [max(c - 1.0, 0.0) for c in n]
        ),
        f'freshet_request_seconds_bucket{{{S},path="/v1/score",le="0.1"}}': seen,
        f'freshet_request_seconds_bucket{{{S},path="/v1/score",le="+Inf"}}': seen,
        f"freshet_impressions_unlogged_total{{{S}}}": [0.0] * MINUTES,
        # half of the ids are new to the model, and a tenth of the candidates lack the feature
        f"freshet_candidates_total{{{S}}}": [10.0 * c for c in seen],
        scored("ids"): [9.0 * c for c in seen],
        scored("unknown_ids"): [4.5 * c for c in seen],
        scored("missing"): seen,
        f"freshet_examples_learnt_total{{{S}}}": [20_000.0 + c for c in seen],
        f'freshet_table_rows{{{S},table="item"}}': [500.0] * MINUTES,
        f"freshet_ready{{{S}}}": [float(m > 0) for m in range(MINUTES)],
        f"freshet_frozen{{{S}}}": [0.0] * MINUTES,
        f"freshet_held{{{S}}}": [0.0] * MINUTES,
        f"freshet_freshness_seconds{{{S}}}": [a + 0.4 for a in age],
        f"freshet_base_freshness_seconds{{{S}}}": [a + 0.9 for a in age],
        f"freshet_join_examples_total{{{J}}}": seen,
        f"freshet_join_actions_total{{{J}}}": totals(half),
        f"freshet_join_late_actions_total{{{J}}}": totals([c // 100 for c in n]),
        f"freshet_join_early_requests_total{{{J}}}": [0.0] * MINUTES,
        f"freshet_join_orphan_actions_total{{{J}}}": totals([c // 100 for c in n]),
        # long slates of which nobody says what was shown are too few to speak of
        f"freshet_join_long_unsaid_requests_total{{{J}}}": [500.0] * MINUTES,
        f"freshet_join_exposed_requests_total{{{J}}}": [0.0] * MINUTES,
        f'freshet_join_clock_timestamp_seconds{{{J},partition="0"}}': clock,
        f'freshet_join_clock_timestamp_seconds{{{J},partition="1"}}': [0.0] * MINUTES,  # nobody is sent there
        f"freshet_learn_quarantined_groups_total{{{L}}}": [0.0] * MINUTES,
        f"freshet_learn_sightings_full_total{{{L}}}": [0.0] * MINUTES,
        f'freshet_learn_rows_evicted_total{{{L},table="item"}}': [0.0] * MINUTES,
        # a tenth of the candidates has a row on disk
        f"freshet_learn_examples_total{{{L}}}": [10.0 * c for c in seen],
        f"freshet_learn_rows_read_total{{{L}}}": seen,
        # the first handful of clicks says little of calibration, and less of the error memory
        quality("calibration", "corrected"): [1.7 if c < 1_000 else 1.05 for c in seen],
        quality("logloss", "corrected"): [0.35 if c < 1_000 else 0.3 for c in seen],
        quality("logloss", "base"): [0.3] * MINUTES,
        quality("positives", "corrected"): [min(c // 20, 2_000.0) for c in seen],
        # so do the first purchases; of many that come after observe_s the metrics see none
        quality("calibration", "corrected", "buy"): [1.7 if c < 10_000 else 1.05 for c in seen],
        quality("logloss", "corrected", "buy"): [0.35 if c < 10_000 else 0.3 for c in seen],
        quality("logloss", "base", "buy"): [0.3] * MINUTES,
        quality("positives", "corrected", "buy"): [min(c // 200, 2_000.0) for c in seen],
        f'freshet_target_complete{{{S},target="buy"}}': [1.0] * MINUTES,
        quality("calibration", "corrected", "later"): [1.9] * MINUTES,
        quality("positives", "corrected", "later"): [500.0] * MINUTES,
        f'freshet_target_complete{{{S},target="later"}}': [0.0] * MINUTES,
        f'freshet_trust_ratio{{{S},target="buy"}}': [1.0] * MINUTES,
    }  # fmt: skip
    return series


def scored(name: str) -> str:
    return f'freshet_scored_{name}_total{{{S},feature="item"}}'


def quality(metric: str, prediction: str, target: str = "") -> str:
    """Of the first target, or of a further one."""
    labels = f'metric="{metric}",prediction="{prediction}",span="recent"'
    return (
        f'freshet_target_quality{{{S},target="{target}",{labels}}}'
        if target
        else f"freshet_quality{{{S},{labels}}}"
    )


def from_fault(values: list[float], faulty: Callable[[int, float], float]) -> list[float]:
    return [faulty(m, v) if m >= FAULT else v for m, v in enumerate(values)]


def share_of(series: Series, of: str, share: float) -> list[float]:
    """A counter that rises with another one, by a share of it."""
    values = series[of]
    return from_fault([0.0] * MINUTES, lambda m, _: float(round(share * (values[m] - values[FAULT - 1]))))


def faults(series: Series) -> dict[str, Series]:
    """What is other than well, by alert."""
    lag = f'freshet_lag_seconds{{{L},role="learner",topic="examples",partition="0"}}'
    calls_ok = f'freshet_requests_total{{{S},path="/v1/score",status="200"}}'
    failed = f'freshet_requests_total{{{S},path="/v1/score",status="503"}}'
    fast = f'freshet_request_seconds_bucket{{{S},path="/v1/score",le="0.05"}}'
    taken = f'freshet_records_taken_total{{{J},role="joiner"}}'
    letters = f'freshet_dead_letters_total{{{J},stage="joiner"}}'
    clock = f'freshet_join_clock_timestamp_seconds{{{J},partition="0"}}'
    late = f"freshet_join_late_actions_total{{{J}}}"
    weights = f"freshet_base_freshness_seconds{{{S}}}"
    newest = f"freshet_freshness_seconds{{{S}}}"
    since = [m for m in range(FAULT) if series[calls_ok][m] > series[calls_ok][max(m - 1, 0)]][-1]
    calls = f'freshet_request_seconds_bucket{{{S},path="/v1/score",le="+Inf"}}'
    positives = quality("positives", "corrected")
    stuck = series[clock][FAULT - 1]

    def steady(name: str, value: float) -> Series:
        return {name: from_fault(series[name], lambda m, v: value)}

    enough = {positives: [500.0] * MINUTES}
    bought = {quality("positives", "corrected", "buy"): [500.0] * MINUTES}
    return {
        "FreshetRoleDown": steady(f"up{{{L}}}", 0.0),
        "FreshetLogAway": steady(f"freshet_log_up{{{S}}}", 0.0),
        "FreshetLagging": {lag: from_fault(series[lag], lambda m, v: 60.0 * (m - FAULT))},
        "FreshetServerNotReady": steady(f"freshet_ready{{{S}}}", 0.0),
        "FreshetHeld": steady(f"freshet_held{{{S}}}", 1.0),
        "FreshetServerErrors": {failed: share_of(series, calls_ok, 0.1)},
        "FreshetServerSlow": {fast: from_fault(series[fast], lambda m, v: series[fast][FAULT - 1])},
        "FreshetImpressionsUnlogged": {
            f"freshet_impressions_unlogged_total{{{S}}}": share_of(series, calls, 1.0)
        },
        # the learner stands: what the error memory sees is not in the weights
        "FreshetStale": {
            weights: from_fault(series[weights], lambda m, v: 60.0 * (m - since)),
            newest: series[newest],
        },
        "FreshetDeadLetters": {letters: share_of(series, taken, 0.05)},
        "FreshetClockStuck": {clock: from_fault(series[clock], lambda m, v: stuck)},
        "FreshetLateActions": {late: share_of(series, taken, 0.3)},
        "FreshetActionsUnmet": {f"freshet_join_orphan_actions_total{{{J}}}": share_of(series, taken, 0.3)},
        "FreshetExposureUnknown": steady(f"freshet_join_long_unsaid_requests_total{{{J}}}", 5_000.0),
        "FreshetPendingFull": {f"freshet_join_early_requests_total{{{J}}}": share_of(series, taken, 1.0)},
        "FreshetRecordsSkipped": steady(f'freshet_records_skipped_total{{{J},role="joiner"}}', 7.0),
        "FreshetTableFull": steady(f"freshet_learn_sightings_full_total{{{L}}}", 1.0),
        "FreshetTableEvicts": {
            f'freshet_learn_rows_evicted_total{{{L},table="item"}}': share_of(series, taken, 0.5)
        },
        "FreshetRowsThrash": {f"freshet_learn_rows_read_total{{{L}}}": share_of(series, taken, 80.0)},
        "FreshetQuarantine": steady(f"freshet_learn_quarantined_groups_total{{{L}}}", 1.0),
        # the caller sends other ids from then on, or none
        "FreshetUnknownIds": {
            scored("unknown_ids"): from_fault(
                series[scored("unknown_ids")], lambda m, v: 2.0 * v - 4.5 * series[taken][FAULT - 1]
            )
        },
        "FreshetFeatureMissing": {
            scored("missing"): from_fault(
                series[taken], lambda m, v: 10.0 * v - 9.0 * series[taken][FAULT - 1]
            )
        },
        "FreshetMiscalibrated": steady(quality("calibration", "corrected"), 1.6)
        | enough
        | {quality("logloss", "corrected"): [0.3] * MINUTES},
        "FreshetCorrectionHarms": steady(quality("logloss", "corrected"), 0.4)
        | enough
        | {quality("calibration", "corrected"): [1.0] * MINUTES},
        "FreshetTargetMiscalibrated": steady(quality("calibration", "corrected", "buy"), 1.6)
        | bought
        | {quality("logloss", "corrected", "buy"): [0.3] * MINUTES},
        "FreshetTargetCorrectionHarms": steady(quality("logloss", "corrected", "buy"), 0.4)
        | bought
        | {quality("calibration", "corrected", "buy"): [1.0] * MINUTES},
        "FreshetUntrusted": steady(f'freshet_trust_ratio{{{S},target="buy"}}', 0.1),
    }


ALL = frozenset(STREAMS)
FIRES_IN = {
    # These are true at any time, whatever comes in.
    **dict.fromkeys(
        (
            "FreshetRoleDown", "FreshetLogAway", "FreshetLagging", "FreshetServerNotReady", "FreshetHeld",
            "FreshetExposureUnknown", "FreshetRecordsSkipped", "FreshetQuarantine", "FreshetTableFull",
            "FreshetMiscalibrated", "FreshetCorrectionHarms", "FreshetTargetMiscalibrated",
            "FreshetTargetCorrectionHarms", "FreshetUntrusted",
        ),
        ALL,
    ),
    # The weights fall behind only where examples come.
    "FreshetStale": ALL - {"stopped"},
    # These are of what comes in, and have to last: a burst of a minute is over before.
    **dict.fromkeys(
        (
            "FreshetServerErrors", "FreshetServerSlow", "FreshetDeadLetters", "FreshetClockStuck",
            "FreshetLateActions", "FreshetActionsUnmet", "FreshetUnknownIds", "FreshetFeatureMissing",
            "FreshetTableEvicts", "FreshetRowsThrash",
        ),
        frozenset(("busy",)),
    ),
    # One of these is enough, again and again, at night too.
    **dict.fromkeys(("FreshetImpressionsUnlogged", "FreshetPendingFull"), frozenset(("busy", "night"))),
}  # fmt: skip


Rules = list[dict[str, Any]]
GROUPS = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
WRITTEN: Rules = [rule for group in GROUPS for rule in group["rules"]]
"""Recording rules, then alerts, as Prometheus reads them."""


def metric_of(series: str) -> str:
    return series.partition("{")[0]


def metrics_in(rule: dict[str, Any]) -> set[str]:
    return set(re.findall(r"\bfreshet[\w:]*|\bup\b", rule["expr"]))


def touched_by(changed: Series) -> Rules:
    """The rules that read a changed series, or a record of such a rule. The others do as they do while all is
    well.
    """
    metrics = {metric_of(series) for series in changed}
    found = []
    for rule in WRITTEN:
        if metrics & metrics_in(rule):
            found.append(rule)
            metrics.add(rule.get("record", ""))
    return found


def needed_by(rules: Rules) -> Rules:
    """These rules, and the recording rules that they read."""
    metrics = {metric for rule in rules for metric in metrics_in(rule)}
    found = []
    for rule in reversed(WRITTEN):
        if rule in rules or rule.get("record") in metrics:
            found.append(rule)
            metrics |= metrics_in(rule)
    return found[::-1]


def write_scene(folder: Path, name: str, series: Series, minutes: int, expected: dict[str, bool]) -> str:
    """A file for promtool: whether each of some alerts, "A" or "A|B", fires at some time in so many minutes.
    It has the rules and the series that these alerts need. Returns the file's name.
    """
    alerts = {alert for names in expected for alert in names.split("|")}
    rules = needed_by([rule for rule in WRITTEN if rule.get("alert") in alerts])
    read = {metric for rule in rules for metric in metrics_in(rule)}
    inputs = [
        {"series": of, "values": " ".join(f"{v:g}" for v in values[:minutes])}
        for of, values in series.items()
        if metric_of(of) in read
    ]
    ever = 'clamp_max(sum(count_over_time(ALERTS{{alertstate="firing",alertname=~"{}"}}[12h])), 1)'
    queries = [
        {
            "expr": ever.format(names),
            "eval_time": f"{minutes - 1}m",
            "exp_samples": [{"labels": "{}", "value": 1}] if fired else [],
        }
        for names, fired in expected.items()
    ]
    test = {"name": name, "interval": "1m", "input_series": inputs, "promql_expr_test": queries}
    (folder / f"{name}.rules").write_text(json.dumps({"groups": [{"name": "tried", "rules": rules}]}))
    whole = {"rule_files": [f"{name}.rules"], "evaluation_interval": "1m", "tests": [test]}
    (folder / f"{name}.json").write_text(json.dumps(whole))
    return f"{name}.json"


@pytest.mark.process
@pytest.mark.parametrize("stream", STREAMS)
def test_alert_fires_only_where_its_text_is_true(promtool: str, tmp_path: Path, stream: str) -> None:
    usual = healthy(STREAMS[stream])
    files = [write_scene(tmp_path, "well", usual, MINUTES, {rule.name: False for rule in RULES})]
    for alert, changed in faults(usual).items():
        others = [rule["alert"] for rule in touched_by(changed) if rule.get("alert", alert) != alert]
        expected = {alert: stream in FIRES_IN[alert]} | ({"|".join(others): False} if others else {})
        files.append(write_scene(tmp_path, alert, usual | changed, LAST[stream], expected))
    # a short run needs neither Go's garbage collector nor its threads, which take two fifths of the time
    environment = {**os.environ, "GOGC": "800", "GOMAXPROCS": "1"}
    done = subprocess.run(
        [promtool, "test", "rules", *files],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_rules_that_a_fault_touches_are_found_through_records() -> None:
    usual = healthy(busy)
    touched = touched_by(faults(usual)["FreshetServerErrors"])
    assert "freshet:request_errors:ratio_rate5m" in {rule.get("record") for rule in touched}
    assert "FreshetServerErrors" in {rule.get("alert") for rule in touched}
    (slow,) = [rule for rule in WRITTEN if rule.get("alert") == "FreshetServerSlow"]
    assert [rule.get("record") for rule in needed_by([slow])] == [
        "freshet:scores:increase5m", "freshet:score_seconds:p99_5m", None
    ]  # fmt: skip


def test_every_rule_is_tried() -> None:
    written = re.findall(r"- alert: (\w+)", (FOLDER / "rules.yml").read_text())
    assert written == [rule.name for rule in RULES] and set(FIRES_IN) == set(written)
