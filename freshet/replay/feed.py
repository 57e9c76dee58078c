"""Reads the examples of a replay: checks, hashes and encodes a tape in chunks.

This is Python code that holds the GIL, so a second process reads a long tape while the first one trains. The
chunks are the same either way. A chunk is sent as arrays; the pipe holds few, so the reader waits for a slow
learner.
"""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import xxhash

from freshet.config import Config
from freshet.errors import ReplayError
from freshet.replay.tape import ReplayOptions, Tape, Window, is_log, open_existing, open_played
from freshet.replay.tapes.passed_over import check_not_passed_over
from ground import FreshetError
from learner.features.encoder import Encoder
from learner.features.labelled import CHUNK_ROWS, Labelled, fits
from stream.log.base import EXAMPLES
from stream.records.refusals import Refusals
from stream.records.targets import Targets
from stream.records.types import Example, Forget, canonical, encode

PROCESS_FROM = 50_000
"""Number of requests from which a second process is worth its start-up time of about a second."""
REQUEST_BYTES_MIN = 5
"""A request in a file takes at least this, compressed or not. For files whose requests are not counted."""
GARBAGE_FROM = 200_000
"""Threshold of the garbage collector: a chunk has some 20,000 objects without cycles, and each collection
would scan them all."""


class Chunk(NamedTuple):
    """Some requests of the tape, in order."""

    labelled: Labelled
    refused: int  # number of examples left out because they do not fit the schema
    forgets: tuple[Forget, ...] = ()  # to apply after these requests


class Ended(NamedTuple):
    """Summary of a tape that was played to its end."""

    skipped: int  # records that could not be used
    data_hash: str  # of all examples
    first_bad: str = ""  # the error of the first skipped record
    entities: bytes = b""  # a hash of what is known of entities


class Feed:
    """Chunks of a tape; iterate once, then read `ended`. Close it when done.

    Attributes:
        total: approximate number of requests; None: not known.
        waited_s: seconds that the iterating thread spent reading, or waiting for the reader.
    """

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.ended = Ended(0, "")
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Chunk]:
        chunks = self._chunks()
        while True:
            began = time.perf_counter()
            chunk = next(chunks, None)
            self.waited_s += time.perf_counter() - began
            if chunk is None:
                return
            yield chunk

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the data."""
        raise NotImplementedError

    def _chunks(self) -> Iterator[Chunk]:
        raise NotImplementedError


def open_feed(config: Config, options: ReplayOptions) -> Feed:
    """The examples of the options' range, as chunks.

    Raises:
        FreshetError: the data cannot be opened, or a live model has passed over a part of it.
    """
    from_log = options.data is None or is_log(options.data)
    if from_log and options.journal is None and not options.through_rollbacks:
        with closing(open_existing(options.data or config.log, config)) as log:
            check_not_passed_over(log, config, Window(log, EXAMPLES, options).offsets)
    tape = open_played(config, options)
    if options.journal is not None or _requests_max(tape, options) < PROCESS_FROM:
        return _Inline(tape, Encoder(config.features, config.learner.pairs_max), config.known_targets())
    tape.close()
    return _Beside(tape.total, config, options)


def _requests_max(tape: Tape, options: ReplayOptions) -> float:
    """About how many requests the tape has at most."""
    if tape.total is not None:
        return tape.total
    file = Path(options.data or "")
    return file.stat().st_size / REQUEST_BYTES_MIN if file.is_file() else float("inf")


class _Inline(Feed):
    """Reads the tape in this process."""

    def __init__(self, tape: Tape, encoder: Encoder, targets: Targets) -> None:
        super().__init__(tape.total)
        self._tape = tape
        self._encoder = encoder
        self._targets = targets

    def close(self) -> None:
        self._tape.close()

    def _chunks(self) -> Iterator[Chunk]:
        hasher = xxhash.xxh3_128()
        forgets: list[Forget] = []
        self._tape.on_other = lambda found: forgets.append(found) if isinstance(found, Forget) else None
        refusals = Refusals()
        chunk: list[Example] = []
        rows = 0  # of the chunk and the next example
        for example in self._tape:
            rows += len(example.labels)
            if forgets or (rows > CHUNK_ROWS and chunk):
                yield self._encode(chunk)._replace(forgets=tuple(forgets))
                for forget in forgets:
                    refusals.add(forget)
                    hasher.update(encode(forget))
                chunk = []
                rows = len(example.labels)
                forgets.clear()
            hasher.update(canonical(example))
            left = refusals.admit(example)
            if left is not None:
                chunk.append(left)
        if chunk or forgets:
            yield self._encode(chunk)._replace(forgets=tuple(forgets))
        self.ended = Ended(self._tape.skipped, hasher.hexdigest(), self._tape.first_bad, self._tape.entities)

    def _encode(self, examples: list[Example]) -> Chunk:
        """Encode the examples that fit the schema.

        Raises:
            FeatureError: the tape is strict, and an example does not fit.
        """
        try:
            return Chunk(Labelled.of(self._encoder, examples, self._targets), 0)
        except FreshetError:
            if self._tape.strict:
                raise
        fitting = [example for example in examples if fits(self._encoder, example, self._targets)]
        return Chunk(Labelled.of(self._encoder, fitting, self._targets), len(examples) - len(fitting))


class _Beside(Feed):
    """Reads the tape in a second process."""

    def __init__(self, total: int | None, config: Config, options: ReplayOptions) -> None:
        super().__init__(total)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from freshet.replay.feed import read_for_parent; read_for_parent()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        pickle.dump((config, options), self.process.stdin)
        self.process.stdin.close()

    def close(self) -> None:
        assert self.process.stdout is not None
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()

    def _chunks(self) -> Iterator[Chunk]:
        """Chunks until the end of the tape.

        Raises:
            FreshetError: the error of the reading process.
        """
        assert self.process.stdout is not None
        while True:
            try:
                sent = pickle.load(self.process.stdout)
            except (EOFError, pickle.UnpicklingError):
                raise ReplayError(
                    f"the process that reads the data ended early, with {self.process.wait()}; try again, "
                    "with less data if memory is short"
                ) from None
            if isinstance(sent, Chunk):
                yield sent
            elif isinstance(sent, Ended):
                self.ended = sent
                return
            else:
                raise sent


def read_for_parent() -> None:
    """The reading process: takes (config, options) pickled on stdin, and writes chunks to stdout.

    It ends at the end of the tape, or when its parent closes the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    gc.set_threshold(GARBAGE_FROM)
    config, options = pickle.load(sys.stdin.buffer)
    out = sys.stdout.buffer
    try:
        try:
            tape = open_played(config, options)
            encoder = Encoder(config.features, config.learner.pairs_max)
            with _Inline(tape, encoder, config.known_targets()) as feed:
                for chunk in feed:
                    pickle.dump(chunk, out, protocol=5)
            pickle.dump(feed.ended, out)
        except FreshetError as error:
            pickle.dump(error, out)
        out.flush()
    except BrokenPipeError:
        os._exit(0)  # else Python prints a second error when it flushes stdout at exit
