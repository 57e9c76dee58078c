"""Reads the contents of a role's state, without a lock and without changes."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from rocksdict import AccessType, Options, Rdict

from freshet.files import Json
from ground import UNDECODABLE
from ground.rocks import read_error
from ground.sealed import unseal
from learner.meta import KEY as LEARNER_META
from stream.errors import StateError
from stream.join.settings import COUNTS_KEY
from stream.state.journal import NEXT_KEY
from stream.state.layout import DATA, META_KEY, OFFSET, OUTBOX, read_offset_key
from stream.state.outbox import decode_block

_RESTING = b"/rest"  # the description of a table's rows at rest, as `embeddings/rest` writes it
_UNREADABLE = "the state may be from another version of Freshet, or damaged"


def read_state(folder: Path) -> Json:
    """The contents of a state, as plain values; the role may run meanwhile.

    Raises:
        StateError: the folder has no state, or it cannot be read.
    """
    database = folder / "db"
    if not (database / "CURRENT").is_file():
        found = (*folder.glob("*/db"), *folder.glob("shards-*/*/db"))
        inside = sorted(p.parent.relative_to(folder).as_posix() for p in found)
        hint = f"; it has states of {', '.join(inside)}" if inside else ""
        raise StateError(f"{folder}: there is no role's state in this folder{hint}")
    return _read_database(folder, database)


def read_state_at(database: Path) -> Json:
    """The contents of a snapshot of a state, as plain values; raises as `read_state`."""
    return _read_database(database, database)


def _read_database(folder: Path, database: Path) -> Json:
    try:
        db = Rdict(str(database), Options(raw_mode=True), access_type=AccessType.read_only())
    except Exception as error:
        trouble = read_error(error)
        if trouble is None:
            raise
        helps = trouble.helps or _UNREADABLE
        raise StateError(f"{folder}: cannot be read ({error}); {helps}") from None
    try:
        return _read(folder, db)
    except (KeyError, ValueError, *UNDECODABLE) as error:
        raise StateError(f"{folder}: cannot be read ({error}); {_UNREADABLE}") from None
    finally:
        db.close()


def _read(folder: Path, db: Any) -> Json:  # rocksdict annotates only its object mode
    meta = msgspec.json.decode(db[META_KEY])
    entries: Counter[str] = Counter()
    offsets: dict[str, int] = {}
    rows: dict[str, int] = {}  # of tables whose rows rest
    unsent = 0
    for key, value in db.items():
        kind, rest = key[:1], key[1:]
        if kind == OFFSET:
            topic, partition = read_offset_key(rest)
            offsets[f"{topic}/{partition}"] = int.from_bytes(value, "big")
        elif kind == OUTBOX:
            unsent += len(decode_block(rest, value).records)
        elif kind == DATA:
            entries[_group(rest)] += 1
            if rest.startswith(b"table/") and rest.endswith(_RESTING):
                rows[rest.split(b"/")[1].decode()] = msgspec.msgpack.decode(unseal(value))["rows"]
    found: Json = {
        "state": str(folder),
        "role": meta["role"],
        "format": meta["format"],
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "commits": int.from_bytes(db.get(DATA + NEXT_KEY) or b"", "big"),
        "unsent_or_just_sent": unsent,
        "next_offsets": offsets,
        "entries": dict(sorted(entries.items())),
    }
    if rows:
        found["rows_with_those_at_rest"] = rows
    counts = db.get(DATA + COUNTS_KEY)
    if counts is not None:
        found["joined"] = msgspec.msgpack.decode(counts)
    learner = db.get(DATA + LEARNER_META)
    if learner is not None:
        found["learnt"] = msgspec.msgpack.decode(learner, strict=False)
        found["learnt"].pop("watermark", None)
    found["made_for"] = meta["fingerprint"]
    return found


def _group(key: bytes) -> str:
    """The kind of an entry: the leading words of its key."""
    words: list[str] = []
    for part in key.split(b"/")[:2]:
        if not part.isascii() or not part.replace(b"_", b"").isalpha() or len(part) > 24:
            break
        words.append(part.decode())
    return "/".join(words).replace(" ", "_") or "other"
