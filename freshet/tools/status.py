"""`freshet status`: which roles run, since when, and how far they are.

Every role sends a beat to topic `roles` each second (`stream.group.membership`), so one read of the log finds
the roles of all machines. The server that the config names is also asked over HTTP whether it is ready.
"""

import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from freshet.config import Config
from freshet.files import Json
from freshet.progress import duration
from freshet.roles.opening import open_used
from freshet.roles.voice import printable
from stream.group.signs import Beat, read_sign
from stream.join.exposures import LONG_SLATE, UNSAID_MAX
from stream.limits import TIME_MAX_S
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, UPDATES, Log

LOOK_BACK = 5_000
"""Records of topic `roles` that are read: half an hour of beats of a joiner, a learner and a server."""
ASK_S = 2.0
STARTED = ("join", "learn", "serve")
"""Roles that a Freshet needs, in the order of the output."""


class RoleStatus(msgspec.Struct):
    """One role, as its beats show it."""

    role: str
    name: str
    state: str  # "runs", "silent" or "stopped"
    leads: bool
    since: float  # Unix seconds
    heard_s: float  # since its last beat
    numbers: dict[str, float]


def look(log: Log, config: Config, now: float) -> list[RoleStatus]:
    """The roles whose beats are among the newest in topic `roles`, sorted by role and name.

    Args:
        now: Unix seconds, by this machine's clock. Ages are wrong by its difference from the log's clock.
    """
    first, end = log.ends(ROLES)[0]
    position = max(first, end - LOOK_BACK)
    found: dict[tuple[str, str], RoleStatus] = {}
    incarnations: dict[tuple[str, str], str] = {}
    while position < end:
        records = log.read(ROLES, 0, position)
        if not records:
            break
        position = records[-1].offset + 1
        for record in records:
            beat = read_sign(record)
            if isinstance(beat, Beat):
                _take(found, incarnations, beat, record.ingest_ms / 1e3, config.group.beat_s)
    for seen in found.values():
        seen.heard_s = max(now - seen.heard_s, 0.0)
        if seen.state == "runs" and seen.heard_s > config.group.timeout_s:
            seen.state = "silent"
    return [seen for _, seen in sorted(found.items())]


def _take(
    found: dict[tuple[str, str], RoleStatus],
    incarnations: dict[tuple[str, str], str],
    beat: Beat,
    at: float,
    beat_s: float,
) -> None:
    member = beat.group, beat.name
    if incarnations.get(member) != beat.incarnation:
        incarnations[member] = beat.incarnation
        # the first beat may be older than the records that were read; beats are `beat_s` apart
        since = max(at - beat.number * beat_s, 0.0)
        found[member] = RoleStatus(beat.group, beat.name, "runs", False, since, at, {})
    seen = found[member]
    seen.heard_s = at
    seen.leads = beat.leading >= 0
    seen.state = "stopped" if beat.leaving else "runs"
    if beat.status is not None:
        seen.numbers = dict(beat.status.numbers)


def ask_server(config: Config) -> tuple[str, str]:
    """The state of the server that the config names, and its address: ("ready", "http://...")."""
    host = "127.0.0.1" if config.server.host in ("", "0.0.0.0", "::") else config.server.host
    if config.server.port == 0:
        return "unknown", "the config names no port (server.port = 0)"
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/v2/health/ready", timeout=ASK_S):
            return "ready", url
    except urllib.error.HTTPError as error:
        with error:
            return ("not ready" if error.code == 503 else f"answers {error.code}"), url
    except (OSError, ValueError):
        return "does not answer", url


def print_status(config: Config, as_json: bool) -> bool:
    """Print which roles run; returns whether a joiner and a learner do.

    Raises:
        ConfigError: there is no such log.
        LogError: the log cannot be read.
    """
    now = time.time()
    log = open_used(config)
    try:
        members = look(log, config, now)
        ends = {topic: log.ends(topic) for topic in (EVENTS, EXAMPLES, UPDATES, DEAD_LETTERS)}
    finally:
        log.close()
    server, url = ask_server(config)
    held = {topic: sum(end - first for first, end in spans) for topic, spans in ends.items()}
    if as_json:
        found: Json = {
            "log": config.log, "records": held, "members": members, "server": {"state": server, "url": url},
        }  # fmt: skip
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        print("\n".join(_lines(config, members, held, server, url)))
    running = {seen.role for seen in members if seen.state == "runs"}
    return {"join", "learn"} <= running


def _lines(
    config: Config, members: list[RoleStatus], held: dict[str, int], server: str, url: str
) -> Iterator[str]:
    counts = ", ".join(f"{topic} {n:,}" for topic, n in held.items())
    yield f"log      {printable(config.log)}"
    yield f"records  {counts}"
    for role in STARTED:
        mine = [seen for seen in members if seen.role == role]
        if not mine:
            yield f"{role:<9}none runs: no beat in the log; start it with `freshet {role}` or `freshet up`"
        yield from (_member(seen) for seen in mine)
    yield from (_member(seen) for seen in members if seen.role not in (*STARTED, "serve"))
    yield f"{'health':<9}{server + ' ':<9}{url}"
    joiners = [seen.numbers for seen in members if seen.role == "join"]
    unsaid = sum(numbers.get("long_unsaid", 0.0) for numbers in joiners)
    if unsaid > UNSAID_MAX and not any(numbers.get("exposed") for numbers in joiners):
        yield (
            f"warning  {unsaid:,.0f} requests of over {LONG_SLATE} candidates were learned whole: nobody "
            "says what was shown (server.show, or `show` in requests)"
        )


def _member(seen: RoleStatus) -> str:
    since = datetime.fromtimestamp(seen.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    state = "leads" if seen.leads and seen.state == "runs" else seen.state
    line = f"{printable(seen.role):<8} {state + ' ':<9}{printable(seen.name)}"
    if seen.state != "runs":
        return f"{line}, last beat {duration(seen.heard_s)} ago"
    line += f", since {since}"
    what = {"records": "records", "examples": "examples", "undecided": "undecided"}
    counts = [f"{seen.numbers[key]:,.0f} {name}" for key, name in what.items() if key in seen.numbers]
    if counts:
        line += ": " + ", ".join(counts)
    if 0.0 < (clock := seen.numbers.get("clock", 0.0)) <= TIME_MAX_S:
        line += f", event time {datetime.fromtimestamp(clock, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return line
