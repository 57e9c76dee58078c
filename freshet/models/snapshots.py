"""`freshet snapshots`, `rollback` and `resume`: the snapshots of a model's learner, and going back to one.

The learner carries a rollback out, and its servers follow at one place in the log (`learner.role.rollback`).
"""

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from freshet.config import Config
from freshet.errors import OrderError, ReplayError
from freshet.replay.tapes.reading import read_time
from freshet.replay.time_travel import check_fits
from freshet.roles.opening import open_used
from freshet.roles.states import read_state_at
from ground.clock import SYSTEM_CLOCK
from learner.role.shared_snapshots import ListedSnapshot, SharedSnapshots
from stream.group.observer import ObservedMember, Roll
from stream.log.base import EXAMPLES, Log
from stream.orders.names import MAIN, own_name
from stream.orders.orders import Resume, Rollback, give_order

SILENT_S = 10.0
"""A learner without a beat for longer counts as gone."""
LOOK_EVERY_S = 0.2
LABEL = re.compile(r"[\w-]{1,32}", re.ASCII)


def snapshots_of(config: Config) -> SharedSnapshots:
    """The snapshots of this config's model.

    Raises:
        OrderError: the config keeps none to go back to.
    """
    if config.orders_to is None:
        raise OrderError(
            "the config keeps no snapshots to go back to: set group.snapshots_kept, for example to 60 (one "
            "is made every group.snapshot_every_s), and restart learner and servers"
        )
    return SharedSnapshots(config.snapshots, "freshet", kept=config.group.snapshots_kept)


def choose(listed: list[ListedSnapshot], to: str) -> ListedSnapshot:
    """The snapshot that a name, a pin or a time means: of a time, the newest that holds nothing later.

    Raises:
        OrderError: there is none, or none so old.
    """
    for one in listed:
        if to in (one.path.name, one.pin):
            return one
    try:
        at_ms = read_time("--to", to) * 1e3
    except ReplayError:
        names = ", ".join(one.pin or one.path.name for one in listed[:5]) or "there is none"
        raise OrderError(
            f"--to {to}: it is no time, and no snapshot of this model has that name: {names}"
        ) from None
    found = next((one for one in listed if one.ingest_ms <= at_ms), None)
    if found is None:
        kept = f"the oldest is of {_time(listed[-1])}" if listed else "there is none"
        raise OrderError(
            f"--to {to}: no snapshot so old is kept, {kept}; group.snapshots_kept and group.snapshot_every_s "
            "say how far back they reach, and a pinned one stays"
        )
    return found


def print_snapshots(config: Config, pin: str | None, unpin: str | None, as_json: bool) -> None:
    """`freshet snapshots`: list them, or pin or unpin one.

    Raises:
        OrderError: there is no such snapshot, or no such pin.
    """
    snapshots = snapshots_of(config)
    if pin is not None:
        to, _, label = pin.partition("=")
        if not LABEL.fullmatch(label):
            raise OrderError(f"--pin {pin}: expected SNAPSHOT=NAME, up to 32 letters, digits, - and _")
        listed = snapshots.listed()
        if any(label in (one.pin, one.path.name) for one in listed):
            raise OrderError(f"--pin {pin}: there is a snapshot of that name already")
        snapshots.pin(choose(listed, to).path.name, label)
    if unpin is not None and not snapshots.unpin(unpin):
        raise OrderError(f"--unpin {unpin}: no snapshot is pinned under that name")
    listed = snapshots.listed()
    if as_json:
        found = [
            {"name": one.path.name, "pin": one.pin, "time": one.ingest_ms / 1e3, "examples": one.examples}
            for one in listed
        ]
        sys.stdout.write(json.dumps(found) + "\n")
        return
    if not listed:
        print(f"no snapshots in {config.snapshots} yet")
    for one in listed:
        print(f"{one.path.name}  {_time(one)}  {one.examples:>12,} examples  {one.pin}".rstrip())


def roll_back(
    config: Config, to: str, again: bool = False, hold: bool = False, why: str = "", wait_s: float = 60.0
) -> tuple[int, ListedSnapshot]:
    """Order a rollback and wait until the learner has carried it out; returns the order's offset.

    Args:
        to: a time, the name of a snapshot, or that of a pin.
        again: learn what came since again, in place of skipping it.
        hold: learn nothing more until `freshet resume`.

    Raises:
        OrderError: there is no such snapshot, it is of another schema, no learner leads, or it did not obey.
        LogError: the log fails.
    """
    found = choose(snapshots_of(config).listed(), to)
    _check_schema(config, found.path)
    log = open_used(config)
    try:
        roll = _leading(log, config)
        skip_to = {} if again else {p: end for p, (_, end) in enumerate(log.ends(EXAMPLES))}
        order = Rollback(
            config.model or MAIN, found.path.name, SYSTEM_CLOCK.unix_s(), skip_to=skip_to, hold=hold, why=why
        )
        offset = give_order(log, order)
        _wait(roll, config, offset, wait_s)
        return offset, found
    finally:
        log.close()


def print_rollback(config: Config, to: str, again: bool, hold: bool, why: str, as_json: bool) -> None:
    """`freshet rollback`.

    Raises:
        OrderError, LogError: as `roll_back`.
    """
    offset, found = roll_back(config, to, again, hold, why)
    if as_json:
        said = {"order": offset, "snapshot": found.path.name, "time": found.ingest_ms / 1e3}
        sys.stdout.write(json.dumps(said) + "\n")
        return
    name = config.model or MAIN
    print(f"model {name} is back at {found.path.name} of {_time(found)}, by order {offset}")
    print("what came since is learned again" if again else "what came since is skipped")
    if hold:
        print(f"it learns nothing more until `freshet resume{'' if name == MAIN else f' --model {name}'}`")


def print_resume(config: Config, why: str, as_json: bool) -> None:
    """`freshet resume`: a learner that holds since a rollback learns again.

    Raises:
        OrderError: no learner leads, or it did not obey.
        LogError: the log fails.
    """
    snapshots_of(config)
    log = open_used(config)
    try:
        roll = _leading(log, config)
        offset = give_order(log, Resume(config.model or MAIN, SYSTEM_CLOCK.unix_s(), why))
        _wait(roll, config, offset, 60.0)
    finally:
        log.close()
    if as_json:
        sys.stdout.write(json.dumps({"order": offset}) + "\n")
    else:
        print(f"model {config.model or MAIN} learns again, by order {offset}")


def _check_schema(config: Config, snapshot: Path) -> None:
    """Check that a snapshot fits the config."""
    saved = read_state_at(snapshot)["made_for"]
    try:
        check_fits(snapshot, saved, config)
    except ReplayError as error:
        raise OrderError(str(error).replace(" (without --from-snapshot)", "")) from None


def _leading(log: Log, config: Config) -> Roll:
    roll = Roll(log)
    roll.look()
    leaders = _leaders(roll, config)
    if not any(SYSTEM_CLOCK.now_s() - member.at_s <= SILENT_S for member in leaders):
        option = "" if config.model in ("", MAIN) else f" --model {config.model}"
        raise OrderError(
            f"no learner of model {config.model or MAIN} runs, and it is the learner that goes back: start "
            f"`freshet learn{option}`"
        )
    return roll


def _leaders(roll: Roll, config: Config) -> list[ObservedMember]:
    group = own_name("learn", config.model)
    return [member for member in roll.members if member.group == group and member.leads]


def _wait(roll: Roll, config: Config, offset: int, wait_s: float) -> None:
    deadline = SYSTEM_CLOCK.now_s() + wait_s
    while SYSTEM_CLOCK.now_s() < deadline:
        roll.look()
        if any(one.status.numbers.get("order", -1.0) >= offset for one in _leaders(roll, config)):
            return
        SYSTEM_CLOCK.sleep(LOOK_EVERY_S)
    raise OrderError(
        f"order {offset} is in the log, but the learner has not followed it after {wait_s:g} s: see its log "
        "lines"
    )


def _time(one: ListedSnapshot) -> str:
    return f"{datetime.fromtimestamp(one.ingest_ms / 1e3, UTC):%Y-%m-%d %H:%M:%S} UTC"
