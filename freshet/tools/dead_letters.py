"""`freshet dead-letters`: list, show and retry records that could not be used."""

import json
import sys
from datetime import UTC, datetime

import msgspec

from freshet.config import Config
from freshet.files import Json
from freshet.roles.opening import open_used
from freshet.roles.voice import printable
from ground import UNDECODABLE
from stream.errors import DeadLetterError
from stream.files.times import time_reader
from stream.records.types import encode_json
from stream.run.dead_letters import DeadLetters, Found, LetterFilter

REASON_CHARACTERS = 100  # characters of a line of the list
SHOWN_BYTES = 4096  # shown of an original that is neither JSON nor MessagePack


def make_filter(stage: str, topic: str, reason: str, since: str | None, until: str | None) -> LetterFilter:
    """The filter of a command line; times are ISO 8601 or Unix seconds.

    Raises:
        DeadLetterError: a time cannot be read.
    """
    everything = LetterFilter()
    return LetterFilter(
        stage=stage,
        topic=topic,
        reason=reason,
        begin_ms=everything.begin_ms if since is None else _ms("--since", since),
        end_ms=everything.end_ms if until is None else _ms("--until", until),
    )


def list_letters(config: Config, wanted: LetterFilter, limit: int, as_json: bool) -> None:
    """Print the newest letters: a line each, or whole as JSON Lines."""
    log = open_used(config)
    try:
        listing = DeadLetters(log).newest(wanted, limit)
    finally:
        log.close()
    if as_json:
        for found in listing.letters:
            print(json.dumps(_as_json(found)))
        return
    if not listing.total:
        print("no dead letters" if wanted == LetterFilter() else "no dead letters match")
        return
    print(f"{'offset':>8}  {'written (UTC)':<19}  {'stage':<8}  {'came from':<20}  reason")
    for offset, buried_ms, letter, sent_again in listing.letters:
        came_from = f"{letter.topic}/{letter.partition} at {letter.offset}"
        reason = printable(letter.reason)
        if len(reason) > REASON_CHARACTERS:
            reason = reason[: REASON_CHARACTERS - 1] + "…"
        mark = " [sent again]" if sent_again else ""
        print(f"{offset:>8}  {_utc(buried_ms)}  {letter.stage:<8}  {came_from:<20}  {reason}{mark}")
    stages = ", ".join(f"{n:,} by the {stage}" for stage, n in sorted(listing.by_stage.items()))
    print(f"{len(listing.letters):,} of {listing.total:,} shown; {stages}")


def show_letter(config: Config, offset: int, as_json: bool, raw: bool) -> None:
    """Print one letter with its original; `raw`: only the original's bytes.

    Raises:
        DeadLetterError: there is none at this offset.
    """
    log = open_used(config)
    try:
        found = DeadLetters(log).get(offset)
    finally:
        log.close()
    letter = found.letter
    if raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(letter.original)
        sys.stdout.buffer.flush()
    elif as_json:
        print(json.dumps(_as_json(found)))
    else:
        again = f"{found.sent_again} times" if found.sent_again else "no"
        for name, value in (
            ("offset", str(offset)),
            ("buried", f"{_utc(found.buried_ms)} UTC"),
            ("stage", letter.stage),
            ("came from", f"topic {letter.topic}, partition {letter.partition}, offset {letter.offset}"),
            ("key", printable(letter.key.decode(errors="backslashreplace"))),
            ("sent again", again),
            ("reason", printable(letter.reason)),
        ):
            print(f"{name:<12}{value}")
        print(f"original    {len(letter.original):,} bytes")
        print(_readable(letter.original))


def retry_letters(
    config: Config, offsets: list[int], wanted: LetterFilter | None, again: bool, dry_run: bool
) -> None:
    """Send originals to their topic again, and print a summary.

    Args:
        offsets: the letters' offsets.
        wanted: also the letters that match this filter; None: no others.

    Raises:
        DeadLetterError: nothing is named, or there is no letter at an offset.
        LogError: the log fails; call again.
    """
    if not offsets and wanted is None:
        raise DeadLetterError(
            "name the letters to send again: their offsets, or --stage, --topic, --reason, --since, "
            "--until, or --all"
        )
    log = open_used(config)
    try:
        letters = DeadLetters(log)
        chosen = sorted({*offsets, *(letters.select(wanted) if wanted is not None else [])})
        if dry_run:
            print(f"would send {len(chosen):,} letters again" + (f": {_some(chosen)}" if chosen else ""))
            return
        done = letters.retry(chosen, again)
    finally:
        log.close()
    if done.finished:
        print(f"finished {done.finished} earlier retry that was interrupted", file=sys.stderr)
    if done.before:
        print(
            f"warning: {len(done.before):,} letters were retried before and are skipped: "
            f"{_some(done.before)}; --again sends them too",
            file=sys.stderr,
        )
    where = ", ".join(f"{n:,} to {topic}" for topic, n in sorted(done.sent.items()))
    print(f"sent {sum(done.sent.values()):,} letters again" + (f": {where}" if where else ""))


def _as_json(found: Found) -> Json:
    fields = json.loads(encode_json(found.letter))
    fields.pop("type")
    at = {"letter": found.offset, "buried": found.buried_ms / 1e3, "sent_again": found.sent_again}
    return {**at, **fields}


def _readable(original: bytes) -> str:
    """The original for people: JSON and MessagePack as indented JSON, other bytes escaped."""
    for decode in (msgspec.json.decode, msgspec.msgpack.decode):
        try:
            value = decode(original)
        except UNDECODABLE:
            continue
        if isinstance(value, dict | list):
            return json.dumps(value, indent=2, default=repr)
    cut = original[:SHOWN_BYTES]
    more = f" … and {len(original) - len(cut):,} bytes more" if len(original) > len(cut) else ""
    return repr(cut)[2:-1] + more


def _some(offsets: list[int]) -> str:
    shown = ", ".join(map(str, offsets[:10]))
    return shown + (f" and {len(offsets) - 10:,} more" if len(offsets) > 10 else "")


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1e3, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _ms(option: str, text: str) -> int:
    try:
        return int(time_reader("auto")(text) * 1e3)
    except ValueError as error:
        raise DeadLetterError(f"{option}: {error}") from None
