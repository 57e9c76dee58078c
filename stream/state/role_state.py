"""A role's state: one RocksDB folder that one process holds, written in whole commits.

A commit is one atomic write of everything that a step changed: the role's own entries, the offsets
it has consumed, and the records it wants sent (the outbox). So after a crash, state, offsets and
outputs are consistent. Outputs are sent after their commit. Until a later commit records that they were
sent, they are sent again after a restart; receivers drop duplicates by (producer, seq).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

import msgspec

from ground import UNDECODABLE, rocks
from ground.clock import SYSTEM_CLOCK, Clock
from ground.threads import HelperThread
from stream.errors import StateDamagedError, StateError, StateFullError
from stream.log.base import Outgoing
from stream.state.disk import ROCKS_DISK, Database, Disk, Writes
from stream.state.layout import DATA, META_KEY, OFFSET, OUTBOX, PURGE_KEY, offset_key
from stream.state.meta import FORMAT_VERSION, StateMeta
from stream.state.outbox import Outbox, OutboxBlock, block_key, encode_block
from stream.state.view import StateView, scanned

T = TypeVar("T")
_log = logging.getLogger("freshet.state")

PURGE_AGAIN_S = 5.0  # until a purge that failed, on a full disk say, is tried again


class Commit:
    """The changes of one step, gathered until `RoleState.commit` writes them all or none.
    Reads of the state do not see them before. A commit that is never written changes nothing."""

    def __init__(self, batch: Writes) -> None:
        self.taken: list[tuple[int, int, int]] = []  # (partition, start, end) consumed, in order
        self.purge = False  # data deleted up to this commit must be removed from the files, see `purge`
        self._batch = batch
        self._sending: list[tuple[str, list[Outgoing]]] = []  # runs of one topic

    def put(self, key: bytes, value: bytes) -> None:
        """Set one entry."""
        self._batch.put(DATA + key, value)

    def delete(self, key: bytes) -> None:
        """Remove one entry; no harm if it is not there."""
        self._batch.delete(DATA + key)

    def set_offset(self, topic: str, partition: int, next_offset: int) -> None:
        """Note that a partition has been consumed up to before `next_offset`."""
        self._batch.put(offset_key(topic, partition), next_offset.to_bytes(8, "big"))

    def forget_offset(self, topic: str, partition: int) -> None:
        """Note that nothing of a partition is in the state."""
        self._batch.delete(offset_key(topic, partition))

    def emit(self, topic: str, record: Outgoing) -> None:
        """Put one record into the outbox, to be sent once this commit is written."""
        sending = self._sending
        if sending and sending[-1][0] == topic:
            sending[-1][1].append(record)
        else:
            sending.append((topic, [record]))


class RoleState:
    """The state of one role, in one folder, held by one process.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, RoleState(folder, "joiner", {}) as state:
    ...     commit = state.begin()
    ...     commit.put(b"seen", b"1")
    ...     commit.set_offset("events", 0, 7)
    ...     state.commit(commit)
    ...     state.get(b"seen"), state.offset("events", 0)
    (b'1', 7)
    """

    def __init__(
        self,
        path: str | Path,
        role: str,
        fingerprint: Mapping[str, str] | None,
        sync: bool = True,
        clock: Clock = SYSTEM_CLOCK,
        disk: Disk = ROCKS_DISK,
        rows: bool = False,
    ) -> None:
        """Open the folder, or make it.

        Args:
            path: the folder.
            role: whose state it is; another role's is refused.
            fingerprint: what the state depends on (name -> canonical text); kept when the state is made,
                compared whenever it is opened. None: an existing state, of any configuration.
            sync: a commit returns when the disk has it; False: when the operating system has it.
            disk: where the folder lies.
            rows: rows of tables rest in it.

        Raises:
            StateLockedError: another process holds it.
            StateFullError: the disk is full.
            StateError: it is damaged, of another role, configuration or version, or cannot be opened.
        """
        self.path = Path(path)
        self._disk = disk
        self._clock = clock
        self._purge_again_s = float("-inf")  # a purge that failed is tried again then
        self._db: Database | None = None
        self._broken: StateError | None = None
        self._views: WeakSet[StateView] = WeakSet()
        self._asking = threading.Lock()  # between a commit that asks for a purge and the end of one
        try:
            self._lock = disk.hold(self.path, clock)
        except OSError as error:
            trouble = rocks.read_error(error)
            kind = StateFullError if trouble is not None and trouble.kind == "full" else StateError
            raise kind(f"state {self.path}: the folder cannot be made: {error.strerror}") from None
        try:
            self._db = self._open(sync, rows)
            self.fingerprint = self._check_meta(role, fingerprint)
            self._outbox = self._load_outbox()
            self._purge_due = self._get(PURGE_KEY) is not None
        except BaseException:
            self._release()
            raise
        self._purging = HelperThread("purge", self._merge_all, daemon=False, clock=clock)
        self.purges = 0  # done since the state was opened

    def __repr__(self) -> str:
        return f"<RoleState {self.path}>"

    def get(self, key: bytes) -> bytes | None:
        """One entry's value, None if there is none."""
        return self._get(DATA + key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of entries, None where there is none, in one read."""
        return self._try(lambda database: database.get_many([DATA + key for key in keys]))

    def scan(self, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Entries whose key begins with `prefix`, from key `start` on, in key order."""
        return self._scan(DATA, prefix, start)

    def view(self) -> StateView:
        """What is committed now, to be read beside later commits; it ends with the state."""
        view = StateView(self._try(lambda database: database.view()), self._failure)
        self._views.add(view)
        return view

    def offset(self, topic: str, partition: int) -> int | None:
        """The next offset of a partition to consume, None if none of it was."""
        value = self._get(offset_key(topic, partition))
        return None if value is None else int.from_bytes(value, "big")

    def partitions(self, topic: str) -> list[int]:
        """The partitions of a topic of which something was consumed."""
        prefix = topic.encode() + b"/"
        return [int.from_bytes(key[len(prefix) :], "big") for key, _ in self._scan(OFFSET, prefix, b"")]

    def begin(self) -> Commit:
        """A new, empty commit."""
        return Commit(self._database().batch())

    def commit(self, commit: Commit) -> None:
        """Write a commit atomically: after an error, none of it is visible to this process.

        Raises:
            StateFullError: the disk is full.
            StateError: it is failing. In both cases the state must be opened anew, which finds the last
                commit that was written.
        """
        if self._broken is not None:
            raise self._broken
        batch = commit._batch
        blocks = self._outbox.cut(commit._sending)
        for block in blocks:
            batch.put(OUTBOX + block_key(block.number), encode_block(block))
        for number in self._outbox.struck:
            batch.delete(OUTBOX + block_key(number))
        if commit.purge:
            batch.put(PURGE_KEY, b"")
        try:
            if commit.purge:
                with self._asking:
                    self._database().write(batch)
                    self._purge_due = True
            else:
                self._database().write(batch)
        except Exception as error:
            trouble = rocks.read_error(error)
            if trouble is None:
                raise
            helps = trouble.helps or "repair the disk, then start again"
            kind = StateFullError if trouble.kind == "full" else StateError
            self._broken = kind(
                f"state {self.path}: the commit could not be written ({error}); {helps}: the commit before "
                "it is intact"
            )
            raise self._broken from None
        self._outbox.keep(blocks)

    def unsent(self) -> list[OutboxBlock]:
        """Committed records not known to be sent, in the order they were emitted."""
        return list(self._outbox.blocks)

    def mark_sent(self, number: int) -> None:
        """Note that the log has a block; it leaves the disk with the next commit."""
        self._outbox.strike(number)

    def purge(self) -> None:
        """Start to rewrite the files without the deleted data, if a commit has requested it.

        A deleted value stays in the files of a RocksDB until they are merged, which may never happen by
        itself. Here all are merged, beside the thread that commits; a purge that a crash cuts short is
        begun anew with the state. Does nothing while records wait to be sent, because they may
        hold deleted data: call it again.

        Raises:
            StateDamagedError: the files of an earlier purge could not be read: only without this folder is
                the deleted data gone.
        """
        self._purging.check()
        if not self._purge_due or self._purging.alive or self._outbox.blocks:
            return
        if self._clock.now_s() < self._purge_again_s:
            return
        self._purge_due = False
        self.commit(self.begin())  # takes what was sent out of the outbox
        self._purging.start()

    def finish_purging(self) -> None:
        """Wait for a purge that runs, and run one that was requested since.

        Raises:
            StateDamagedError: as of `purge`.
        """
        self._purging.join()
        self._purge_again_s = float("-inf")
        while self._purge_due and not self._broken and not self._outbox.blocks:
            self.purge()
            self._purging.join()
            if self._purge_again_s > 0.0:
                break  # it failed; the next who opens the state tries again
        self._purging.check()

    def _merge_all(self, stop: threading.Event) -> None:
        try:
            database = self._database()
            database.merge()
            with self._asking:  # a purge asked for in the meantime is to find its mark, and begin anew
                if not self._purge_due:
                    database.delete(PURGE_KEY)
            database.flush()
            self.purges += 1
        except Exception as error:
            trouble = rocks.read_error(error)
            if trouble is None:
                raise
            if trouble.kind == "damaged":
                # it would fail each time, and what was deleted would stay
                self._broken = self._damaged(error)
                raise self._broken from None
            _log.warning(
                "state %s: what was deleted may still be in its files (%s); tries again in %.0f s",
                self.path,
                error,
                PURGE_AGAIN_S,
            )
            with self._asking:
                self._purge_again_s = self._clock.now_s() + PURGE_AGAIN_S
                self._purge_due = True

    def copy_to(self, folder: Path) -> None:
        """Copy the state of one moment, between two commits, into a database folder that must not exist.

        May be called beside the thread that commits. What does not change is linked, not copied, where
        the file system allows.

        Raises:
            StateError: it cannot be written there.
        """
        try:
            self._database().copy_to(folder)
        except Exception as error:
            trouble = rocks.read_error(error)
            if trouble is None:
                raise
            helps = f"; {trouble.helps}" if trouble.helps else ""
            raise StateError(f"state {self.path} cannot be copied to {folder}: {error}{helps}") from None

    def close(self) -> None:
        """Close, and release the folder. Safe to call twice."""
        if self._db is None:
            return
        try:
            if self._outbox.struck and not self._broken:
                self.commit(self.begin())  # a clean stop sends nothing twice
            self.finish_purging()
        finally:
            self._release()

    def __enter__(self) -> RoleState:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # an error that is on its way says more than one that closing meets
        with suppress(StateError) if error else nullcontext():
            self.close()

    def _database(self) -> Database:
        if self._db is None:
            raise StateError(f"state {self.path} is closed")
        return self._db

    def _open(self, sync: bool, rows: bool) -> Database:
        try:
            return self._disk.open(self.path / "db", sync, rows)
        except Exception as error:
            raise self._failure(error) from None

    def _get(self, key: bytes) -> bytes | None:
        return self._try(lambda database: database.get(key))

    def _try(self, read: Callable[[Database], T]) -> T:
        try:
            return read(self._database())
        except Exception as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> Exception:
        """What to raise for an error of the database; any other error as it is."""
        trouble = rocks.read_error(error)
        if trouble is None:
            return error
        if trouble.kind == "damaged":
            return self._damaged(error)
        kind = StateFullError if trouble.kind == "full" else StateError
        helps = trouble.helps or "start it again; if that does not help, look at the disk"
        return kind(f"state {self.path}: cannot be used now ({error}); {helps}: what it holds is intact")

    def _damaged(self, error: Exception) -> StateDamagedError:
        return StateDamagedError(
            f"state {self.path}: the database in {self.path / 'db'} cannot be read ({error}); "
            "restore the folder from a copy, or move it away: a learner then begins from its newest "
            "snapshot, any other role from what the log keeps"
        )

    def _check_meta(self, role: str, fingerprint: Mapping[str, str] | None) -> dict[str, str]:
        """What the state was made with, after comparing."""
        saved = self._get(META_KEY)
        if saved is None:
            if next(self._scan(b"", b"", b""), None) is not None:
                raise self._damaged(ValueError("it holds entries but not what role they belong to"))
            made = dict(fingerprint or {})
            self._put_meta(msgspec.json.encode(StateMeta(FORMAT_VERSION, role, made)))
            return made
        try:
            meta = msgspec.json.decode(saved, type=StateMeta)
        except UNDECODABLE as error:
            raise self._damaged(error) from None
        meta.check(self.path, role, fingerprint)
        if (grown := msgspec.json.encode(meta)) != saved:
            self._put_meta(grown)
        return meta.fingerprint

    def _put_meta(self, meta: bytes) -> None:
        batch = self._database().batch()
        batch.put(META_KEY, meta)
        self._try(lambda database: database.write(batch))

    def _load_outbox(self) -> Outbox:
        try:
            return Outbox(self._scan(OUTBOX, b"", b""))
        except UNDECODABLE as error:
            raise self._damaged(error) from None

    def _scan(self, kind: bytes, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        return scanned(lambda first: self._database().items(first), kind, prefix, start, self._failure)

    def _release(self) -> None:
        db, self._db = self._db, None
        try:
            for view in self._views:
                view.close()
            if db is not None:
                db.close()
        except Exception:
            # what could not be flushed is in the journal, from which the next open recovers it
            if not self._broken:
                raise
        finally:
            self._lock.release()
