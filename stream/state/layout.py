"""How a state is laid out: `lock` in its folder holds the pid of its process, `db` is its database.

There each key begins with a byte for its kind.
So a role's own keys cannot clash with the rest, and `freshet inspect` can list the contents.
"""

DATA, META, OFFSET, OUTBOX = b"d", b"m", b"o", b"x"
UNDO = b"u"  # + any key: what the last commit has replaced there, see `stream.state.undo`
META_KEY = META + b"role"
PURGE_KEY = META + b"purge"


def offset_key(topic: str, partition: int) -> bytes:
    """Where the next offset of a partition to consume is noted, as 8 bytes.

    >>> read_offset_key(offset_key("events", 3)[1:])
    ('events', 3)
    """
    return OFFSET + topic.encode() + b"/" + partition.to_bytes(4, "big")


def read_offset_key(rest: bytes) -> tuple[str, int]:
    """Topic and partition of such a key without its first byte."""
    return rest[:-5].decode(), int.from_bytes(rest[-4:], "big")
