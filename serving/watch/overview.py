"""The status of all roles, once a second: for the live page, and for `freshet up` on a terminal.

It has two sources: the server's own numbers (`serving.watch.pulse`), and the status that every role publishes
in the log (`stream.group.observer`). So any server shows all roles, wherever they run. Numbers of roles that
publish nothing are shown as unknown. One thread collects; requests get its latest result.
"""

import gzip
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from ground.threads import HelperThread
from learner.shards.live.watch import is_shard
from serving.watch.alerts import FeatureSight, Sight, Watchman
from serving.watch.history import History
from serving.watch.live import Live, LiveHistory, ModelRow, Now, Role, TableRow
from serving.watch.pulse import MODEL, Own, model_rows, target_rows
from serving.watch.rates import Counters
from stream.errors import LogError
from stream.group.observer import ObservedMember, Roll
from stream.group.signs import Beat, MemberStatus, send_beat
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Log
from stream.log.lag import Lag, LagMeter, Position

EVERY_S = 1.0
NEWEST_POINTS = 15
"""Points in every answer. A client that polls less often must fetch the history again."""
HISTORY_STEPS = 10
"""Steps for which an encoded history is reused: fewer than the points of every answer."""
SILENT_S = 6.0  # without a beat for longer, a role is shown as silent
TITLES = {"join": "joiner", "learn": "learner", "serve": "server"}
"""The names of the roles, by command."""
GROUP = "serve"

logger = logging.getLogger("freshet.serving")


class Overview:
    """Collects the status once a second, in its own thread.

    Args:
        log: of the roles. Topic `roles` must exist.
        own: returns this server's status. None: this is no server; the status of one is read from the log.
    """

    def __init__(self, log: Log, own: Callable[[], Own] | None = None) -> None:
        self.name = ""  # this server's name in its beats; "": it sends none
        self._log = log
        self._own = own
        self._incarnation = uuid.uuid4().hex[:12]
        self._roll = Roll(log)
        self._history = History(Now.__struct_fields__)
        self._watchman = Watchman()
        self._meters = {
            role: LagMeter(log, topic, partial(self._committed, role, topic))
            for role, topic in (("join", EVENTS), ("learn", EXAMPLES))
        }
        self._counters = Counters()
        self._step = self._beats = 0
        self._silent = False  # the last beat could not be sent, and that was logged
        self._up = True
        self._dead_letters: float | None = None
        self._lock = threading.Lock()
        self._encoding = threading.Lock()
        self._encoded = -1, b"", b""  # step, plain, packed
        self._live = Live(
            0, 0.0, self._incarnation, "", False, "", False, True, [], Now(), [], [], self._history.fine(1)
        )
        self._thread = HelperThread("overview", self._run)

    @property
    def live(self) -> Live:
        """The latest result."""
        return self._live

    def history(self) -> LiveHistory:
        """All points; may be called from any thread."""
        with self._lock:
            return LiveHistory(self._step, self._incarnation, self._history.fine(), self._history.coarse())

    def encoded_history(self) -> tuple[bytes, bytes]:
        """The same as JSON, plain and gzipped; made once for all requests within ten steps.

        `live.newest` has the points since then.
        """
        with self._encoding:
            if not self._encoded[1] or self._step - self._encoded[0] > HISTORY_STEPS:
                history = self.history()
                plain = msgspec.json.encode(history)
                self._encoded = history.step, plain, gzip.compress(plain, 1)
            return self._encoded[1:]

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def check(self) -> None:
        """Re-raise the exception that ended the thread, if any."""
        self._thread.check()

    def stop(self, within_s: float = 5.0) -> None:
        """End the thread, which announces in the log that this server leaves.

        Args:
            within_s: time for the log to respond; a thread that waits longer is abandoned.
        """
        self._thread.stop(within_s)

    def look(self) -> Live:
        """Collect now. Call it from one thread only."""
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
            self._say(own.status)
        members = [member for member in self._roll.members if not self._is_own(member)]
        status = own.status if own is not None else _served(members)
        self._count(members, status)
        now = self._numbers(now_s, status, members)
        self._watchman.look(now_s, self._sight(now_s, now, status, members))
        with self._lock:
            self._history.add(now_s, msgspec.structs.astuple(now))
            self._step += 1
            newest = self._history.fine(NEWEST_POINTS)
        roles = [_role(member) for member in members]
        if own is not None:
            frozen = bool(own.status.numbers.get("frozen"))
            roles.append(Role("server", self.name or "this one", "frozen" if frozen else "running", 0.0))
        self._live = Live(
            step=self._step,
            time=now_s,
            life=self._incarnation,
            version=own.version if own is not None else "",
            ready=bool(status.numbers.get("ready")),
            why_not_ready=own.why_not_ready if own is not None else "",
            frozen=bool(status.numbers.get("frozen")),
            log_up=self._up,
            roles=roles,
            now=now,
            tables=self._tables(status, members),
            alerts=self._watchman.alerts,
            newest=newest,
            targets=target_rows(status.numbers),
            models=self._models(status),
        )
        return self._live

    # --- its thread ---

    def _run(self, stop: threading.Event) -> None:
        failing = False
        while not stop.is_set():
            began_s = time.monotonic()
            try:
                self.look()
                failing = False
            except Exception:  # a bug here must not end the server
                if not failing:
                    logger.exception("the overview failed; it tries again each second")
                failing = True
            stop.wait(max(EVERY_S - (time.monotonic() - began_s), 0.05))
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
        """The offsets that a role has committed to the log; none before its first commit."""
        return {p: Position(offset, 0) for p, offset in self._log.committed(role, topic).items()}

    def _say(self, status: MemberStatus | None) -> None:
        """Send a beat with this server's status; None: it leaves."""
        beat = Beat(GROUP, self.name, self._incarnation, self._beats, leaving=status is None, status=status)
        self._beats += 1
        try:
            send_beat(self._log, beat)
            self._silent = False
        except LogError as error:
            if not self._silent:
                logger.warning("could not send this server's status to the log: %s", error)
            self._silent = True

    def _is_own(self, member: ObservedMember) -> bool:
        return member.group == GROUP and member.name == self.name

    # --- from the members' status to the page's numbers ---

    def _count(self, members: list[ObservedMember], own: MemberStatus) -> None:
        for member in members:
            if member.group in ("join", "learn"):
                for name in _COUNTED[member.group]:
                    self._counters.add(
                        f"{member.group}.{name}", member.incarnation, member.status.numbers.get(name)
                    )
                for feature, counts in member.status.tables.items() if _learns(member) else ():
                    for name, count in zip(_TABLE_COUNTS, counts[1:], strict=False):
                        self._counters.add(f"table.{feature}.{name}", member.incarnation, float(count))
        for name in _COUNTED[GROUP]:
            self._counters.add(f"{GROUP}.{name}", "own", own.numbers.get(name))
        for name, number in own.numbers.items():
            if name.startswith(MODEL) and name.endswith("/answered"):
                self._counters.add(name, "own", number)
        for feature, counts in own.tables.items():
            for name, count in zip(_FEATURE_COUNTS, counts[1:], strict=False):
                self._counters.add(f"{GROUP}.{feature}.{name}", "own", float(count))
        self._counters.end_tick()

    def _numbers(self, now_s: float, status: MemberStatus, members: list[ObservedMember]) -> Now:
        numbers = status.numbers.get
        waiting = [h.status.numbers["undecided"] for h in members if "undecided" in h.status.numbers]
        others_frozen = [
            h.status.numbers for h in members if h.group == GROUP and h.status.numbers.get("frozen")
        ]
        frozen = status.numbers if numbers("frozen") else others_frozen[0] if others_frozen else {}
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
            joined_share=_joined_share(members),
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
            mae_base=numbers("mae_base"),
            mae_corrected=numbers("mae_corrected"),
            click_rate=_click_rate(status),
            mean_prediction=_mean_prediction(status),
            scored_examples=numbers("examples_corrected"),
            gate=numbers("gate"),
            evidence=numbers("evidence"),
            shown_coverage=numbers("shown_coverage"),
            shown_gini=numbers("shown_gini"),
            shown_young=numbers("shown_young"),
            table_rows=sum(counts[0] for counts in status.tables.values()) if status.tables else None,
            dead_letters=self._dead_letters,
            dead_letters_per_s=rate("log.dead_letters"),
        )

    def _lag(self, role: str, lags: list[Lag]) -> dict[str, float | None]:
        known = bool(lags) and self._up
        return {
            f"{role}_lag_records": float(sum(lag.records for lag in lags)) if known else None,
            f"{role}_lag_s": max(lag.seconds for lag in lags) if known else None,
        }

    def _sight(self, now_s: float, now: Now, status: MemberStatus, members: list[ObservedMember]) -> Sight:
        numbers = {**status.numbers, "log_up": float(self._up)}
        clocks = [h.status.numbers["clock"] for h in members if "clock" in h.status.numbers]
        if clocks:
            # the newest clock: a partition without producers stands still, which is no problem
            numbers["clock_behind_s"] = now_s - max(clocks)
        for member in members:
            for name in ("skipped", "long_unsaid", "exposed"):
                key = f"{member.group}.{name}"
                numbers[key] = numbers.get(key, 0.0) + member.status.numbers.get(name, 0.0)
        # while the log is away no role is heard; that is not the roles' fault
        heard_s = {f"{TITLES.get(h.group, h.group)} {h.name}": _silent_s(h) for h in members if self._up}
        lags = {role: getattr(now, f"{role}_lag_s") or 0.0 for role in TITLES.values()}
        return Sight(numbers, self._counters.rises, heard_s, lags, self._features(status))

    def _models(self, status: MemberStatus) -> list[ModelRow]:
        rows = model_rows(status.numbers)
        for row in rows:
            row.answered_per_s = self._counters.rate(f"{MODEL}{row.model}/answered")
        return rows

    def _features(self, status: MemberStatus) -> dict[str, FeatureSight]:
        """The counts of each feature over the scores of the last five minutes."""
        rises = self._counters.rises
        scored = rises.get(f"{GROUP}.scored", 0.0)
        return {
            feature: FeatureSight(
                counts[0], scored, *(rises.get(f"{GROUP}.{feature}.{name}", 0.0) for name in _FEATURE_COUNTS)
            )
            for feature, counts in status.tables.items()
            if len(counts) > len(_FEATURE_COUNTS)
        }

    def _tables(self, status: MemberStatus, members: list[ObservedMember]) -> list[TableRow]:
        features = self._features(status)
        learning = any(h.group == "learn" and _learns(h) and h.status.tables for h in members)
        counted = _TABLE_COUNTS if learning else ()
        return [
            TableRow(
                feature,
                counts[0],
                **{f"{n}_per_s": self._counters.rate(f"table.{feature}.{n}") for n in counted},
                unknown_share=features[feature].unknown_share if feature in features else None,
                missing_share=features[feature].missing_share if feature in features else None,
            )
            for feature, counts in status.tables.items()
        ]


_FEATURE_COUNTS = ("ids", "unknown", "missing")
_TABLE_COUNTS = ("admitted", "refused", "expired", "evicted")
_COUNTED: Mapping[str, tuple[str, ...]] = {
    "join": ("records", "impressions", "actions", "examples", "late", "early", "dead_letters", "orphans"),
    "learn": ("records", "dead_letters", "quarantined", "full", "evicted", "examples", "rows_read"),
    GROUP: ("requests", "unlogged", "scored"),
}


def _served(members: list[ObservedMember]) -> MemberStatus:
    """The status of a server: of one that follows updates if there is one, else of any."""
    servers = [member for member in members if member.group == GROUP]
    servers.sort(key=lambda member: (bool(member.status.numbers.get("frozen")), _silent_s(member) > SILENT_S))
    return servers[0].status if servers else MemberStatus()


def _impressions(members: list[ObservedMember]) -> float | None:
    joiners = [member.status.numbers for member in members if member.group == "join"]
    # a joiner omits counts that are still 0
    return sum(numbers.get("impressions", 0.0) for numbers in joiners) if joiners else None


def _joined_share(members: list[ObservedMember]) -> float | None:
    """Over all joiners, each since its state was made."""
    joiners = [member.status.numbers.get for member in members if member.group == "join"]
    met = sum(of(name, 0.0) for of in joiners for name in ("actions", "late", "duplicate_actions"))
    unmet = sum(of("orphans", 0.0) for of in joiners)
    return met / (met + unmet) if met + unmet else None


def _click_rate(status: MemberStatus) -> float | None:
    """The mean label: of a value it is told as such."""
    if (mean := status.numbers.get("mean_corrected")) is not None:
        return mean
    clicks, examples = status.numbers.get("positives_corrected"), status.numbers.get("examples_corrected")
    return clicks / examples if clicks is not None and examples else None


def _mean_prediction(status: MemberStatus) -> float | None:
    rate, calibration = _click_rate(status), status.numbers.get("calibration_corrected")
    return rate * calibration if rate is not None and calibration is not None else None


def _silent_s(member: ObservedMember) -> float:
    return max(time.monotonic() - member.at_s, 0.0)


def _learns(member: ObservedMember) -> bool:
    """Whether a learner publishes: it leads, or is one of several shards, each of which has its own rows."""
    return member.leads or is_shard(member.name)


def _role(member: ObservedMember) -> Role:
    silent_s = _silent_s(member)
    if silent_s > SILENT_S:
        state = "silent"
    elif member.group.partition(".")[0] == "learn" and not _learns(member):
        state = "standing by"
    else:
        state = "frozen" if member.status.numbers.get("frozen") else "running"
    group, _, model = member.group.partition(".")
    name = f"{model} on {member.name}" if model else member.name
    return Role(TITLES.get(group, group), name, state, round(silent_s, 1))
