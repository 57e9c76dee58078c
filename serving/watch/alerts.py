"""The alerts of the live page: the rules of deploy/prometheus/rules.yml, evaluated by a server.

Names, thresholds and durations are the same in both places (tested). Prometheus reads every role; the page
uses the status that roles publish in the log. `runbook.md` says what to do about each alert.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec

ENDED_MAX = 20
"""Number of ended alerts that are still shown, the newest ones."""

ERRORS_MIN = 5.0
"""Requests with a 5xx status in five minutes; with fewer, their share is not meaningful."""
SCORES_MIN = 100.0
"""Scores in five minutes; with fewer, p99 is not meaningful."""
CLICKS_MIN = 100.0
"""Clicks among the recent examples; with fewer, calibration and log loss are mostly chance."""
RMSE_COST = 0.05
"""Of a value, the share by which the error memory may raise the root of the mean squared error."""

SCORED_MIN = 1000.0
"""Ids, or candidates, scored in five minutes; with fewer, a share of them is not meaningful."""
LEARNT_MIN = 10_000.0
"""Examples in the weights; with fewer, most ids are new to any model."""

UNMET_MIN = 20.0
"""Actions without impression in five minutes; fewer are no share of anything."""

READ_MIN = 1000.0
"""Rows that came back from the disk in five minutes; fewer cost nothing."""

TARGET = "target/"
"""Begins the names of further targets' numbers: `target/NAME/FIELD`."""
TRUST = "trust/"
"""Begins the names of the shares of the model beside the running rate: `trust/NAME`."""

Severity = Literal["page", "warn"]


class FeatureSight(NamedTuple):
    """One feature: the rows of its table now, and the counts of the last five minutes."""

    rows: int
    candidates: float  # scored
    ids: float  # looked up
    unknown: float  # ids without a row
    missing: float  # candidates without a value

    @property
    def unknown_share(self) -> float | None:
        """The share of the ids; None: there were none."""
        return self.unknown / self.ids if self.ids else None

    @property
    def missing_share(self) -> float | None:
        """The share of the candidates; None: there were none."""
        return self.missing / self.candidates if self.candidates else None


class Sight(NamedTuple):
    """The input of the rules at one moment. Unknown numbers are left out."""

    numbers: Mapping[str, float]  # now
    rises: Mapping[str, float]  # increase of each counter in the last five minutes
    silent: Mapping[str, float]  # role -> seconds since its last beat
    lags: Mapping[str, float]  # role -> age in seconds of the oldest record that it has not read
    features: Mapping[str, FeatureSight] = MappingProxyType({})  # that the server scores


Found = Iterable[tuple[str, str]]
"""The conditions that hold now: (subject, or "" if there is only one; a sentence)."""


class Rule(NamedTuple):
    """One alert."""

    name: str
    severity: Severity
    for_s: float  # that it must last
    over: float  # the threshold
    find: Callable[[Sight, float], Found]  # with the threshold


class Alert(msgspec.Struct):
    """An alert that fires, or has ended."""

    name: str
    severity: Severity
    about: str
    summary: str
    since: float  # Unix seconds
    until: float | None = None  # None: it fires


class Watchman:
    """Evaluates one `Sight` after another, and remembers since when each condition holds."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}
        self._firing: dict[tuple[str, str], Alert] = {}
        self._ended: deque[Alert] = deque(maxlen=ENDED_MAX)

    @property
    def alerts(self) -> list[Alert]:
        """Firing alerts, then ended ones; the newest first."""
        firing = sorted(self._firing.values(), key=lambda alert: -alert.since)
        return [*firing, *reversed(self._ended)]

    def look(self, now_s: float, sight: Sight) -> None:
        """Evaluate the rules for a moment; `now_s` is Unix seconds and never decreases."""
        wrong: dict[tuple[str, str], str] = {}
        rules = {}
        for rule in RULES:
            for about, summary in rule.find(sight, rule.over):
                wrong[rule.name, about] = summary
                rules[rule.name] = rule
        for key in [key for key in self._since if key not in wrong]:
            del self._since[key]
            if (alert := self._firing.pop(key, None)) is not None:
                alert.until = now_s
                self._ended.append(alert)
        for key, summary in wrong.items():
            since = self._since.setdefault(key, now_s)
            rule = rules[key[0]]
            if key in self._firing:
                self._firing[key].summary = summary
            elif now_s - since >= rule.for_s:
                self._firing[key] = Alert(rule.name, rule.severity, key[1], summary, since)


def _role_down(sight: Sight, over: float) -> Found:
    for role, silent_s in sight.silent.items():
        if silent_s > over:
            yield role, f"no heartbeat of {role} for {_time(silent_s)}"


def _log_away(sight: Sight, over: float) -> Found:
    if sight.numbers.get("log_up", 1.0) == over:
        yield "", "this server cannot reach the log"


def _lagging(sight: Sight, over: float) -> Found:
    for role, lag_s in sight.lags.items():
        if lag_s > over:
            yield role, f"the {role} is {_time(lag_s)} behind"


def _not_ready(sight: Sight, over: float) -> Found:
    if sight.numbers.get("ready", 1.0) == over:
        yield "", "this server should not be sent requests"


def _held(sight: Sight, over: float) -> Found:
    if sight.numbers.get("held", 0.0) > over:
        yield "", "the model went back, and nothing is learned until `freshet resume`"


def _errors(sight: Sight, over: float) -> Found:
    share = sight.numbers.get("errors_share", 0.0)
    if share > over and sight.numbers.get("errors_lately", 0.0) >= ERRORS_MIN:
        yield "", f"{share:.1%} of requests end with 5xx"


def _slow(sight: Sight, over: float) -> Found:
    p99_s = sight.numbers.get("score_p99_s", 0.0)
    if p99_s > over and sight.numbers.get("scores_lately", 0.0) >= SCORES_MIN:
        yield "", f"the p99 latency of scores is {p99_s * 1e3:.0f} ms"


def _unlogged(sight: Sight, over: float) -> Found:
    if sight.rises.get("serve.unlogged", 0.0) > over:
        yield "", "the log does not confirm this server's impressions: nothing is learned from them"


def _stale(sight: Sight, over: float) -> Found:
    # the age of the weights alone is no alert: without new events, everything gets older
    weights_s, newest_s = sight.numbers.get("base_freshness_s"), sight.numbers.get("freshness_s")
    if weights_s is None or newest_s is None or sight.numbers.get("frozen"):
        return
    if weights_s - newest_s > over:
        yield "", f"the weights are {_time(weights_s - newest_s)} behind the newest example"


def _dead_letters(sight: Sight, over: float) -> Found:
    for role, name in (("join", "joiner"), ("learn", "learner")):
        taken = sight.rises.get(f"{role}.records", 0.0)
        share = sight.rises.get(f"{role}.dead_letters", 0.0) / taken if taken else 0.0
        if share > over:
            yield name, f"{share:.1%} of the records that the {name} reads cannot be used"


def _clock_stuck(sight: Sight, over: float) -> Found:
    behind_s = sight.numbers.get("clock_behind_s", 0.0)
    if behind_s > over and sight.rises.get("join.records", 0.0) > 0.0:
        yield "", f"event time does not advance: it is {_time(behind_s)} behind"


def _late(sight: Sight, over: float) -> Found:
    late, on_time = sight.rises.get("join.late", 0.0), sight.rises.get("join.actions", 0.0)
    share = late / (late + on_time) if late else 0.0
    if share > over:
        yield "", f"{share:.1%} of actions arrive after their request was decided"


def _unmet(sight: Sight, over: float) -> Found:
    unmet = sight.rises.get("join.orphans", 0.0)
    met = sight.rises.get("join.late", 0.0) + sight.rises.get("join.actions", 0.0)
    share = unmet / (unmet + met) if unmet >= UNMET_MIN else 0.0
    if share > over:
        yield "", f"{share:.1%} of actions do not meet their impression"


def _exposure_unknown(sight: Sight, over: float) -> Found:
    unsaid = sight.numbers.get("join.long_unsaid", 0.0)
    if unsaid > over and not sight.numbers.get("join.exposed"):
        yield (
            "",
            f"{unsaid:,.0f} long requests were learnt whole: nobody says what was shown",
        )


def _pending_full(sight: Sight, over: float) -> Found:
    if sight.rises.get("join.early", 0.0) > over:
        yield "", "requests are decided early: pending_max is reached"


def _skipped(sight: Sight, over: float) -> Found:
    for role, name in (("join", "joiner"), ("learn", "learner")):
        if sight.numbers.get(f"{role}.skipped", 0.0) > over:
            yield name, f"the log dropped records before the {name} had read them"


def _quarantine(sight: Sight, over: float) -> Found:
    if sight.rises.get("learn.quarantined", 0.0) > over:
        yield "", "groups of rows were skipped: their loss was not finite"


def _table_full(sight: Sight, over: float) -> Found:
    if sight.rises.get("learn.full", 0.0) > over:
        yield "", "a table is full: new ids are not learned"


def _table_evicts(sight: Sight, over: float) -> Found:
    if sight.rises.get("learn.evicted", 0.0) > over:
        yield "", "a table has reached its limit: the least used ids are evicted"


def _rows_thrash(sight: Sight, over: float) -> Found:
    read, learned = (sight.rises.get(f"learn.{name}", 0.0) for name in ("rows_read", "examples"))
    if read > over * learned and read >= READ_MIN:
        yield "", "the learner reads many rows from disk for each candidate: memory_rows is too small"


def _unknown_ids(sight: Sight, over: float) -> Found:
    for feature, counts in _learnt(sight):
        share = counts.unknown_share or 0.0
        if share > over and counts.ids >= SCORED_MIN:
            yield feature, f"{share:.1%} of the ids of feature {feature} are unknown to the model"


def _feature_missing(sight: Sight, over: float) -> Found:
    for feature, counts in _learnt(sight):
        share = counts.missing_share or 0.0
        if share > over and counts.candidates >= SCORED_MIN:
            yield (
                feature,
                f"{share:.1%} of the scored candidates lack feature {feature}, which the model uses",
            )


def _learnt(sight: Sight) -> Iterable[tuple[str, FeatureSight]]:
    """The features for which the model has enough examples to judge the requests."""
    enough = sight.numbers.get("learnt", 0.0) >= LEARNT_MIN
    return [(name, counts) for name, counts in sight.features.items() if enough and counts.rows > 0]


def _miscalibrated(sight: Sight, over: float) -> Found:
    ratio = sight.numbers.get("calibration_corrected", 1.0)
    if sight.numbers.get("positives_corrected", 0.0) >= CLICKS_MIN and not 1.0 / over <= ratio <= over:
        what = "clicks are" if "mae_corrected" not in sight.numbers else "of the target's value is"
        yield "", f"{ratio:.2f} times as many {what} predicted as occur"


def _correction_harms(sight: Sight, over: float) -> Found:
    numbers = sight.numbers.get
    if numbers("positives_corrected", 0.0) < CLICKS_MIN:
        return
    base, corrected = numbers("rmse_base"), numbers("rmse_corrected")
    if base and corrected is not None:
        if corrected / base - 1.0 > RMSE_COST:
            more = f"{corrected / base - 1.0:.0%}"
            yield "", f"the error memory raises the root of the mean squared error by {more}"
        return
    base, corrected = numbers("logloss_base"), numbers("logloss_corrected")
    if base is not None and corrected is not None and corrected - base > over:
        yield "", f"the error memory costs {corrected - base:.3f} nats of log loss"


def _targets(sight: Sight) -> dict[str, dict[str, float]]:
    """The numbers of each further target that has enough positives."""
    found: dict[str, dict[str, float]] = {}
    for key, number in sight.numbers.items():
        name, _, field = key.removeprefix(TARGET).rpartition("/")
        if key.startswith(TARGET) and name:
            found.setdefault(name, {})[field] = number
    return {name: of for name, of in found.items() if of.get("positives", 0.0) >= CLICKS_MIN}


def _target_miscalibrated(sight: Sight, over: float) -> Found:
    for name, of in _targets(sight).items():
        ratio = of.get("calibration", 1.0)
        # what comes after observe_s is in no metric, so of such a target too much seems to be predicted
        if ratio < 1.0 / over or (ratio > over and of.get("complete", 1.0)):
            yield name, f"{ratio:.2f} times as much {name} is predicted as occurs"


def _target_correction_harms(sight: Sight, over: float) -> Found:
    for name, of in _targets(sight).items():
        if "logloss" in of and "logloss_base" in of and of["logloss"] - of["logloss_base"] > over:
            cost = f"{of['logloss'] - of['logloss_base']:.3f} nats of log loss"
        elif of.get("rmse", 0.0) > (1.0 + RMSE_COST) * of.get("rmse_base", float("inf")):
            cost = f"{of['rmse'] / of['rmse_base'] - 1.0:.0%} of the squared error's root"
        else:
            continue
        yield name, f"the error memory of {name} costs {cost}"


def _untrusted(sight: Sight, over: float) -> Found:
    for key, share in sight.numbers.items():
        if key.startswith(TRUST) and share < over:
            name = key.removeprefix(TRUST)
            yield name, f"the model of {name} predicts worse than its running rate, and counts {share:.0%}"


RULES = (
    Rule("FreshetRoleDown", "page", 0.0, 60.0, _role_down),
    Rule("FreshetLogAway", "page", 60.0, 0.0, _log_away),
    Rule("FreshetLagging", "page", 120.0, 30.0, _lagging),
    Rule("FreshetServerNotReady", "page", 120.0, 0.0, _not_ready),
    Rule("FreshetHeld", "page", 0.0, 0.0, _held),
    Rule("FreshetServerErrors", "page", 300.0, 0.01, _errors),
    Rule("FreshetServerSlow", "warn", 600.0, 0.05, _slow),
    Rule("FreshetImpressionsUnlogged", "warn", 300.0, 0.0, _unlogged),
    Rule("FreshetStale", "page", 120.0, 60.0, _stale),
    Rule("FreshetDeadLetters", "warn", 300.0, 0.01, _dead_letters),
    Rule("FreshetClockStuck", "warn", 600.0, 600.0, _clock_stuck),
    Rule("FreshetLateActions", "warn", 900.0, 0.05, _late),
    Rule("FreshetActionsUnmet", "warn", 900.0, 0.2, _unmet),
    Rule("FreshetExposureUnknown", "warn", 0.0, 1000.0, _exposure_unknown),
    Rule("FreshetPendingFull", "warn", 300.0, 0.0, _pending_full),
    Rule("FreshetRecordsSkipped", "page", 0.0, 0.0, _skipped),
    Rule("FreshetQuarantine", "warn", 0.0, 0.0, _quarantine),
    Rule("FreshetTableFull", "warn", 0.0, 0.0, _table_full),
    Rule("FreshetTableEvicts", "warn", 900.0, 0.0, _table_evicts),
    Rule("FreshetRowsThrash", "warn", 900.0, 5.0, _rows_thrash),
    Rule("FreshetUnknownIds", "warn", 900.0, 0.9, _unknown_ids),
    Rule("FreshetFeatureMissing", "warn", 900.0, 0.99, _feature_missing),
    Rule("FreshetMiscalibrated", "warn", 900.0, 1.25, _miscalibrated),
    Rule("FreshetCorrectionHarms", "warn", 900.0, 0.005, _correction_harms),
    Rule("FreshetTargetMiscalibrated", "warn", 900.0, 1.25, _target_miscalibrated),
    Rule("FreshetTargetCorrectionHarms", "warn", 900.0, 0.005, _target_correction_harms),
    Rule("FreshetUntrusted", "warn", 900.0, 0.5, _untrusted),
)


def _time(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.0f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"
