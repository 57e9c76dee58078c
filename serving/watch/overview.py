"""All of a Freshet at a glance, once a second: for the page, and for `freshet up` on a terminal.

What there is to see comes from two places: the server that shows it knows itself (`serving.watch.pulse`), and
everybody tells in the log (`stream.group.observer`) how they do. So any server of a log can show all of it,
wherever
the other roles run, and one that hears of no other role shows what it knows and says what it does not.
One thread does the looking; whoever asks is handed what it found last.
"""

import gzip
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from serving.watch.alerts import Alert, FeatureSight, Sight, Watchman
from serving.watch.history import History, Span
from serving.watch.pulse import Own
from serving.watch.rates import Counters
from stream.errors import LogError
from stream.group.membership import Beat, MemberStatus, send_beat
from stream.group.observer import ObservedMember, Roll
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Log
from stream.log.lag import Lag, LagMeter, Position

EVERY_S = 1.0
NEWEST_POINTS = 15
"""Points that every answer carries; whoever asks less often than that asks for the history again."""
HISTORY_STEPS = 10
"""So much older than the newest point an encoded history may be: less than the points of every answer."""
SILENT_S = 6.0  # a role that says nothing for longer is shown as silent
TITLES = {"join": "joiner", "learn": "learner", "serve": "server"}
"""What people are told of a role, by its command."""
GROUP = "serve"

logger = logging.getLogger("freshet.serving")


class Now(msgspec.Struct):
    """The numbers of one moment; None: not known (yet). `docs/operations.md` says what each means.

    `frozen` is the base of a server that follows no updates any more, where one runs on this log.
    """

    events_per_s: float | None = None
    impressions: float | None = None  # that the joiners accepted since their states were made
    impressions_per_s: float | None = None
    examples_per_s: float | None = None
    requests_per_s: float | None = None
    score_p99_s: float | None = None  # over the last five minutes
    joiner_lag_records: float | None = None
    joiner_lag_s: float | None = None
    learner_lag_records: float | None = None
    learner_lag_s: float | None = None
    server_lag_records: float | None = None
    server_lag_s: float | None = None
    undecided: float | None = None  # requests that wait for their window
    freshness_s: float | None = None
    base_freshness_s: float | None = None
    auc_frozen: float | None = None
    auc_base: float | None = None
    auc_corrected: float | None = None
    logloss_frozen: float | None = None
    logloss_base: float | None = None
    logloss_corrected: float | None = None
    calibration_base: float | None = None
    calibration_corrected: float | None = None
    click_rate: float | None = None  # of the recent examples
    mean_prediction: float | None = None  # of the same, corrected
    scored_examples: float | None = None  # that quality is measured on
    gate: float | None = None  # share of the correction that is applied
    evidence: float | None = None  # examples that the error memory stands on
    table_rows: float | None = None
    dead_letters: float | None = None  # that the log keeps
    dead_letters_per_s: float | None = None


class Role(msgspec.Struct):
    """A process that tells of itself in the log."""

    role: str  # joiner, learner, server
    name: str
    state: str  # well, frozen, standing by, silent
    heard_s: float  # seconds since it was heard last


class TableRow(msgspec.Struct):
    """One embedding table; rates are the learner's, None while none tells."""

    feature: str
    rows: int
    admitted_per_s: float | None = None
    refused_per_s: float | None = None  # sightings that made no row (yet): admission, or the row budget
    expired_per_s: float | None = None
    evicted_per_s: float | None = None
    unknown_share: float | None = None  # of the ids that were scored in five minutes, those without a row
    missing_share: float | None = None  # of the candidates, those without a value


class Live(msgspec.Struct):
    """Everything that the page shows at one moment."""

    step: int  # rises by one with each point
    time: float  # Unix seconds
    life: str  # of the process that looks: steps of another are not comparable
    version: str  # of the model
    ready: bool
    why_not_ready: str
    frozen: bool
    log_up: bool
    roles: list[Role]
    now: Now
    tables: list[TableRow]
    alerts: list[Alert]
    newest: Span


class LiveHistory(msgspec.Struct):
    """The numbers over time, as far back as this process remembers."""

    step: int  # of the newest fine point
    life: str
    fine: Span
    coarse: Span


class Overview:
    """Looks once a second, in a thread of its own.

    Args:
        log: whose roles are looked at. Topic `roles` must exist.
        own: how the server itself does; None: this is no server, and shows what servers tell in the log.
    """

    def __init__(self, log: Log, own: Callable[[], Own] | None = None) -> None:
        self.name = ""  # under which this server tells of itself; "": it does not
        self._log = log
        self._own = own
        self._life = uuid.uuid4().hex[:12]
        self._roll = Roll(log)
        self._history = History(Now.__struct_fields__)
        self._watchman = Watchman()
        self._meters = {
            role: LagMeter(log, topic, partial(self._committed, role, topic))
            for role, topic in (("join", EVENTS), ("learn", EXAMPLES))
        }
        self._counters = Counters()
        self._step = self._beats = 0
        self._silent = False  # a sign of life could not be sent, and that was said
        self._up = True
        self._dead_letters: float | None = None
        self._lock = threading.Lock()
        self._encoding = threading.Lock()
        self._encoded = -1, b"", b""  # step, plain, packed
        self._live = Live(
            0, 0.0, self._life, "", False, "", False, True, [], Now(), [], [], self._history.fine(1)
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def live(self) -> Live:
        """What was found last."""
        return self._live

    def history(self) -> LiveHistory:
        """All points; may be called from any thread."""
        with self._lock:
            return LiveHistory(self._step, self._life, self._history.fine(), self._history.coarse())

    def encoded_history(self) -> tuple[bytes, bytes]:
        """The same as JSON, and that packed by gzip: made once for all who ask within ten steps.

        What is missing of the newest is in `live.newest`.
        """
        with self._encoding:
            if not self._encoded[1] or self._step - self._encoded[0] > HISTORY_STEPS:
                history = self.history()
                plain = msgspec.json.encode(history)
                self._encoded = history.step, plain, gzip.compress(plain, 1)
            return self._encoded[1:]

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="overview", daemon=True)
        self._thread.start()

    def stop(self, within_s: float = 5.0) -> None:
        """End the thread, which says in the log that this server leaves.

        Args:
            within_s: for the log to answer; a thread that waits for it longer is left behind.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(within_s)
            self._thread = None

    def look(self) -> Live:
        """Look now; to be called from one thread."""
        now_s = time.time()
        own = self._own() if self._own is not None else None
        try:
            self._look_into_log()
            self._up = True
        except LogError as error:
            if self._up:
                logger.warning("the overview cannot reach the log: %s", error)
            self._up = False
        if self._up and own is not None and self.name:
            self._say(own.told)
        members = [heard for heard in self._roll.members if not self._is_own(heard)]
        told = own.told if own is not None else _served(members)
        self._count(members, told)
        now = self._numbers(now_s, told, members)
        self._watchman.look(now_s, self._sight(now_s, now, told, members))
        with self._lock:
            self._history.add(now_s, msgspec.structs.astuple(now))
            self._step += 1
            newest = self._history.fine(NEWEST_POINTS)
        roles = [_role(heard) for heard in members]
        if own is not None:
            frozen = bool(own.told.numbers.get("frozen"))
            roles.append(Role("server", self.name or "this one", "frozen" if frozen else "well", 0.0))
        self._live = Live(
            step=self._step,
            time=now_s,
            life=self._life,
            version=own.version if own is not None else "",
            ready=bool(told.numbers.get("ready")),
            why_not_ready=own.why_not_ready if own is not None else "",
            frozen=bool(told.numbers.get("frozen")),
            log_up=self._up,
            roles=roles,
            now=now,
            tables=self._tables(told, members),
            alerts=self._watchman.alerts,
            newest=newest,
        )
        return self._live

    # --- its thread ---

    def _run(self) -> None:
        failing = False
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                self.look()
                failing = False
            except Exception:  # who watches must not harm who is watched
                if not failing:
                    logger.exception("the overview failed; it tries again each second")
                failing = True
            self._stop.wait(max(EVERY_S - (time.monotonic() - began_s), 0.05))
        if self.name and self._up:
            self._say(None)

    def _look_into_log(self) -> None:
        self._roll.look()
        for meter in self._meters.values():
            meter.measure()
        self._counters.add("log.events", "log", float(sum(end for _, end in self._log.ends(EVENTS))))
        ((first, end),) = self._log.ends(DEAD_LETTERS)
        self._dead_letters = float(end - first)
        self._counters.add("log.dead_letters", "log", float(end))

    def _committed(self, role: str, topic: str) -> dict[int, Position]:
        """Where a role is, as it told the log; nothing before it was there."""
        return {p: Position(offset, 0) for p, offset in self._log.committed(role, topic).items()}

    def _say(self, told: MemberStatus | None) -> None:
        """Tell in the log how this server does; None: it leaves."""
        beat = Beat(GROUP, self.name, self._life, self._beats, leaving=told is None, told=told)
        self._beats += 1
        try:
            send_beat(self._log, beat)
            self._silent = False
        except LogError as error:
            if not self._silent:
                logger.warning("could not tell the log how this server does: %s", error)
            self._silent = True

    def _is_own(self, heard: ObservedMember) -> bool:
        return heard.group == GROUP and heard.name == self.name

    # --- from what was told to what is shown ---

    def _count(self, members: list[ObservedMember], own: MemberStatus) -> None:
        for heard in members:
            if heard.group in ("join", "learn"):
                for name in _COUNTED[heard.group]:
                    self._counters.add(f"{heard.group}.{name}", heard.life, heard.told.numbers.get(name))
                for feature, counts in heard.told.tables.items() if heard.leads else ():
                    for name, count in zip(_TABLE_COUNTS, counts[1:], strict=False):
                        self._counters.add(f"table.{feature}.{name}", heard.life, float(count))
        for name in _COUNTED[GROUP]:
            self._counters.add(f"{GROUP}.{name}", "own", own.numbers.get(name))
        for feature, counts in own.tables.items():
            for name, count in zip(_FEATURE_COUNTS, counts[1:], strict=False):
                self._counters.add(f"{GROUP}.{feature}.{name}", "own", float(count))
        self._counters.end_tick()

    def _numbers(self, now_s: float, told: MemberStatus, members: list[ObservedMember]) -> Now:
        numbers = told.numbers.get
        waiting = [h.told.numbers["undecided"] for h in members if "undecided" in h.told.numbers]
        others_frozen = [h.told.numbers for h in members if h.group == GROUP and h.told.numbers.get("frozen")]
        frozen = told.numbers if numbers("frozen") else others_frozen[0] if others_frozen else {}
        rate = self._counters.rate
        return Now(
            events_per_s=rate("log.events"),
            impressions=_impressions(members),
            impressions_per_s=rate("join.impressions"),
            examples_per_s=rate("join.examples"),
            requests_per_s=rate(f"{GROUP}.requests"),
            score_p99_s=numbers("score_p99_s"),
            **self._lag("joiner", self._meters["join"].lags),
            **self._lag("learner", self._meters["learn"].lags),
            server_lag_records=numbers("lag_records"),
            server_lag_s=numbers("lag_s"),
            undecided=sum(waiting) if waiting else None,
            freshness_s=numbers("freshness_s"),
            base_freshness_s=numbers("base_freshness_s"),
            auc_frozen=frozen.get("auc_base"),
            auc_base=numbers("auc_base"),
            auc_corrected=numbers("auc_corrected"),
            logloss_frozen=frozen.get("logloss_base"),
            logloss_base=numbers("logloss_base"),
            logloss_corrected=numbers("logloss_corrected"),
            calibration_base=numbers("calibration_base"),
            calibration_corrected=numbers("calibration_corrected"),
            click_rate=_click_rate(told),
            mean_prediction=_mean_prediction(told),
            scored_examples=numbers("examples_corrected"),
            gate=numbers("gate"),
            evidence=numbers("evidence"),
            table_rows=sum(counts[0] for counts in told.tables.values()) if told.tables else None,
            dead_letters=self._dead_letters,
            dead_letters_per_s=rate("log.dead_letters"),
        )

    def _lag(self, role: str, lags: list[Lag]) -> dict[str, float | None]:
        known = bool(lags) and self._up
        return {
            f"{role}_lag_records": float(sum(lag.records for lag in lags)) if known else None,
            f"{role}_lag_s": max(lag.seconds for lag in lags) if known else None,
        }

    def _sight(self, now_s: float, now: Now, told: MemberStatus, members: list[ObservedMember]) -> Sight:
        numbers = {**told.numbers, "log_up": float(self._up)}
        clocks = [h.told.numbers["clock"] for h in members if "clock" in h.told.numbers]
        if clocks:
            # a partition, or a joiner of several, that nobody sends to stands still and is no trouble
            numbers["clock_behind_s"] = now_s - max(clocks)
        for heard in members:
            key = f"{heard.group}.skipped"
            numbers[key] = numbers.get(key, 0.0) + heard.told.numbers.get("skipped", 0.0)
        # while the log is away nobody can be heard, which is no fault of theirs
        heard_s = {f"{TITLES.get(h.group, h.group)} {h.name}": _silent_s(h) for h in members if self._up}
        lags = {role: getattr(now, f"{role}_lag_s") or 0.0 for role in TITLES.values()}
        return Sight(numbers, self._counters.rises, heard_s, lags, self._features(told))

    def _features(self, told: MemberStatus) -> dict[str, FeatureSight]:
        """What of each feature was scored in the last five minutes."""
        rises = self._counters.rises
        scored = rises.get(f"{GROUP}.scored", 0.0)
        return {
            feature: FeatureSight(
                counts[0], scored, *(rises.get(f"{GROUP}.{feature}.{name}", 0.0) for name in _FEATURE_COUNTS)
            )
            for feature, counts in told.tables.items()
            if len(counts) > len(_FEATURE_COUNTS)
        }

    def _tables(self, told: MemberStatus, members: list[ObservedMember]) -> list[TableRow]:
        features = self._features(told)
        learning = any(h.group == "learn" and h.leads and h.told.tables for h in members)
        counted = _TABLE_COUNTS if learning else ()
        return [
            TableRow(
                feature,
                counts[0],
                **{f"{n}_per_s": self._counters.rate(f"table.{feature}.{n}") for n in counted},
                unknown_share=features[feature].unknown_share if feature in features else None,
                missing_share=features[feature].missing_share if feature in features else None,
            )
            for feature, counts in told.tables.items()
        ]


_FEATURE_COUNTS = ("ids", "unknown", "missing")
_TABLE_COUNTS = ("admitted", "refused", "expired", "evicted")
_COUNTED: Mapping[str, tuple[str, ...]] = {
    "join": ("records", "impressions", "actions", "examples", "late", "early", "dead_letters"),
    "learn": ("records", "dead_letters", "quarantined", "full", "evicted"),
    GROUP: ("requests", "unlogged", "scored"),
}


def _served(members: list[ObservedMember]) -> MemberStatus:
    """What the servers tell, to one who is none: the one that follows updates, else any."""
    servers = [heard for heard in members if heard.group == GROUP]
    servers.sort(key=lambda heard: (bool(heard.told.numbers.get("frozen")), _silent_s(heard) > SILENT_S))
    return servers[0].told if servers else MemberStatus()


def _impressions(members: list[ObservedMember]) -> float | None:
    joiners = [heard.told.numbers for heard in members if heard.group == "join"]
    # a joiner does not tell counts of which there is nothing yet
    return sum(numbers.get("impressions", 0.0) for numbers in joiners) if joiners else None


def _click_rate(told: MemberStatus) -> float | None:
    clicks, examples = told.numbers.get("positives_corrected"), told.numbers.get("examples_corrected")
    return clicks / examples if clicks is not None and examples else None


def _mean_prediction(told: MemberStatus) -> float | None:
    rate, calibration = _click_rate(told), told.numbers.get("calibration_corrected")
    return rate * calibration if rate is not None and calibration is not None else None


def _silent_s(heard: ObservedMember) -> float:
    return max(time.monotonic() - heard.at_s, 0.0)


def _role(heard: ObservedMember) -> Role:
    silent_s = _silent_s(heard)
    if silent_s > SILENT_S:
        state = "silent"
    elif heard.group == "learn" and not heard.leads:
        state = "standing by"
    else:
        state = "frozen" if heard.told.numbers.get("frozen") else "well"
    return Role(TITLES.get(heard.group, heard.group), heard.name, state, round(silent_s, 1))
