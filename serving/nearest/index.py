"""The index of items: follows topic `examples` and the model's updates, and finds the best for a context.

One thread keeps it. It reads the log from its oldest example on, so after a start it takes a while until the
index is ready. What a search returns has been scored by the whole model, and has a row in it at that moment.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.clock import SYSTEM_CLOCK, Clock
from ground.retry import Backoff, Pauses
from ground.rows import Rows
from ground.threads import HelperThread
from learner.entities.filling import filled
from learner.errors import FeatureError
from learner.features.encoder import Request
from learner.updates.format import Update
from serving.errors import RequestError, UnavailableError
from serving.nearest.catalogue import ItemCatalogue
from serving.nearest.entries import Entries, Ints, Keys
from serving.nearest.search import own_rows, search
from serving.nearest.settings import NearestSettings
from serving.replica.answering import LiveModel
from serving.replica.ranking import Ranking
from serving.replica.status import NearestStatus, Scored
from stream.errors import LogError, RecordError
from stream.log.base import EXAMPLES, Log
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.refusals import Refusals
from stream.records.types import Example, Features, Forget

READ_RECORDS = 256
PUT_ITEMS = 512
SCORE_AT_ONCE = 128  # a millisecond with the lock
PENDING_KEYS_MAX = 1 << 20  # of updates not taken yet; of more, all entries are read again
IDLE_S = 0.02
AWAY_PAUSES = Pauses(first_s=0.1, longest_s=5.0)


class FoundItems(NamedTuple):
    """The best items for a context, best first."""

    items: list[int | str]
    candidates: list[Features]
    scored: Scored
    tried: int  # items that the whole model scored


class Nearest:
    """The index. `updated` and `find` may be called from any thread.

    Args:
        log: the source of examples.
        live: the model.
        settings: which items, and its limits.
        loaded: says whether there is a model.
        clock: says when to read all weights again.

    Use it as a context manager (`with nearest:` starts and stops its thread), or call `step` yourself.
    """

    def __init__(
        self,
        log: Log,
        live: LiveModel,
        settings: NearestSettings,
        loaded: Callable[[], bool] = lambda: True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.settings = settings
        self._log = log
        self._live = live
        self._loaded = loaded
        self._clock = clock
        self._catalogue = ItemCatalogue(live.model.features, settings.of, settings.items_max)
        self._entries = self._new_entries()
        self._decode = Decoder[Example | Forget | EntityEvent](
            Example, Forget, EntityEvent, targets=live.model.targets
        ).decode
        self._refusals = Refusals()
        self._next: list[int] = []  # by partition, the next offset to read
        self._ends: list[int] = []  # by partition, where the log ended at the start
        self._read = self._bad = 0
        self._pending: deque[tuple[int, Keys]] = deque()  # (table, keys) of updates
        self._pending_keys = 0
        self._all = True  # all entries are to be read again
        self._read_all_s = clock.now_s()
        self._built = False
        self._event_time = 0.0
        self._thread = HelperThread("nearest", self._run, clock=clock)

    def __repr__(self) -> str:
        return f"<Nearest of {self.settings.of}: {len(self._catalogue)} items>"

    def __enter__(self) -> Nearest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.stop()

    @property
    def entries(self) -> Entries:
        """The entries of the items; others may take their place."""
        return self._entries

    def check(self) -> None:
        """Raise the error that stopped the thread, if there is one."""
        self._thread.check()

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the thread."""
        return self._thread.failure

    # --- what is asked of it ---

    def find(
        self,
        request: Request,
        k: int,
        exclude: Sequence[int | str] = (),
        ranking: Ranking | None = None,
    ) -> FoundItems:
        """The k best items for a context, or as many as there are.

        Args:
            request: its time and context; its candidates are not looked at.
            exclude: ids that are not wanted.

        Raises:
            FeatureError: a value is not of its feature's declared kind.
            RequestError: more items are asked for than are scored.
            RankError: an item lacks a number of the ranking.
            UnavailableError: the index is not ready.
        """
        if why := self.unready():
            raise UnavailableError(why)
        if not 1 <= k <= self.settings.score:
            raise RequestError(f"k is {k}; expected 1 to {self.settings.score} (server.nearest.score)")
        entries, catalogue = self._entries, self._catalogue
        n = len(catalogue.ids)
        fit = np.where(entries.existing(n), np.float32(0.0), np.float32(-np.inf))
        unwanted = [place for one in exclude if 0 <= (place := catalogue.place_of(one)) < n]
        fit[unwanted] = -np.inf

        def score(places: Ints) -> npt.NDArray[np.float64]:
            parts = [
                self._live.rank_values(self._request(request, part), ranking)
                for part in np.array_split(places, max(-(-len(places) // SCORE_AT_ONCE), 1))
            ]
            return np.concatenate(parts)

        places, values = search(
            self._live, entries, fit, request.time, request.context, self.settings.score, score
        )
        best = places[np.argsort(-values, kind="stable")]
        found = best[self._existing(best, request.time)][:k]
        items = [catalogue.ids[place] for place in found.tolist()]
        if not len(found):  # nothing was scored, but a bad value is one all the same
            self._live.model.encoder.encode([Request(request.time, request.context, [{}])])
        asked = self._request(request, found)
        (scored,) = self._live.score([asked], ranking)
        # what was forgotten meanwhile is not returned
        kept = self._existing(found, request.time)
        order = [i for i in scored.order if kept[i] and items[i] == catalogue.ids[found[i]]]
        return FoundItems(
            [item for i in order if (item := items[i]) is not None],
            [asked.candidates[i] for i in order],
            _reordered(scored, order),
            len(places),
        )

    def unready(self) -> str:
        """Why items cannot be found yet, and what to do; "" if they can."""
        if self.failure is not None:
            return f"the index of {self.settings.of} has stopped: {self.failure}"
        if not self._loaded():
            return "the model is still loading; /v2/health/ready says when it is ready"
        if self._built:
            return ""
        total = sum(self._ends)
        return (
            f"the index of {self.settings.of} is being built ({self._read:,} of {total:,} examples read); "
            "ask again in a few seconds, or POST /v1/score with candidates of your own; GET /v1/model says "
            "in `nearest` when it is ready"
        )

    def status(self) -> NearestStatus:
        """Its size, and whether it is ready."""
        why = self.unready()
        return NearestStatus(
            of=self.settings.of,
            ready=not why,
            why_not_ready=why,
            items=int(np.count_nonzero(self._there())),
            known=len(self._catalogue),
            entries=len(self._entries),
            evicted=self._catalogue.evicted,
            examples_read=self._read,
            examples_bad=self._bad,
        )

    def updated(self, parts: list[Update] | None) -> None:
        """Note what an update of the model has written and deleted; None: all of it. Only appends."""
        if parts is None and not self._there().any():
            self._built = False  # until the entries of the first model are read
        if parts is None or self._pending_keys > PENDING_KEYS_MAX:
            self._pending.clear()
            self._pending_keys = 0
            self._all = True
            return
        names = self._live.model.table_names
        for part in parts:
            for piece in part.tables:
                for raw in (piece.deleted, piece.keys):
                    if raw:
                        keys = np.frombuffer(raw, dtype=np.uint64)
                        self._pending.append((names.index(piece.name), keys))
                        self._pending_keys += len(keys)

    # --- its thread ---

    def _run(self, stop: threading.Event) -> None:
        backoff = Backoff(AWAY_PAUSES, self._clock)
        while not stop.is_set():
            try:
                if not self.step():
                    self._clock.wait(stop, IDLE_S)
                backoff.reset()
            except LogError:
                backoff.wait(stop)  # the replica says so

    def step(self) -> bool:
        """Read new examples, take what has changed; returns whether there was anything.

        Raises:
            LogError: the log fails; call again.
        """
        took = self._read_examples()
        moved = self._put_changed()
        moved |= self._take_updates()
        if moved:
            self._entries.settle(len(self._catalogue.ids))
        took |= moved
        at_end = all(offset >= end for offset, end in zip(self._next, self._ends, strict=True))
        self._built = self._built or (at_end and not took and not self._all)
        return took

    def _read_examples(self) -> bool:
        if not self._next:
            ends = self._log.ends(EXAMPLES)
            self._next, self._ends = [first for first, _ in ends], [end for _, end in ends]
        took = False
        for partition, offset in enumerate(self._next):
            records = self._log.read(EXAMPLES, partition, offset, READ_RECORDS)
            for record in records:
                self._next[partition] = record.offset + 1
                try:
                    found = self._decode(record.value)
                except RecordError:
                    self._bad += 1
                    continue
                if isinstance(found, EntityEvent):
                    self._catalogue.touch(found.feature, found.id)
                elif isinstance(found, Forget):
                    self._refusals.add(found)
                    self._catalogue.forget(found.entity)
                elif (example := self._refusals.admit(found)) is not None:
                    self._event_time = max(self._event_time, example.time)
                    self._catalogue.take(example, self._there)
            self._read += len(records)  # and taken
            took |= bool(records)
        return took

    def _there(self) -> npt.NDArray[np.bool_]:
        """Which places (items_max,) hold an item with a row in the model."""
        return self._entries.existing(self.settings.items_max)

    def _put_changed(self) -> bool:
        if self._entries.full:
            self._rebuild()
        places = self._catalogue.changed(PUT_ITEMS)
        if len(places):
            self._put(self._entries, places)
        return bool(len(places))

    def _put(self, entries: Entries, places: Ints) -> None:
        request = self._request(Request(self._event_time, {}, []), places)
        try:
            rows = own_rows(self._live, request)
        except FeatureError:
            if len(places) > 1:  # one of them
                for place in places:
                    self._put(entries, np.array([place]))
                return
            none = np.zeros(0, dtype=np.int64)
            rows = Rows(np.zeros(2, np.int64), none.astype(np.int32), none.view(np.uint64), none.astype("f4"))
        entries.put(places, rows, int(self._event_time))

    def _take_updates(self) -> bool:
        now = self._clock.now_s()
        took = self._all or now - self._read_all_s > self.settings.refresh_s
        if took:
            self._all = False
            self._read_all_s = now
            self._entries.take_all(int(self._event_time))
        while self._pending:
            table, keys = self._pending.popleft()
            self._pending_keys -= len(keys)
            self._entries.take(table, keys, int(self._event_time))
            took = True
        return took

    def _rebuild(self) -> None:
        """Begin new entries: those of items that went, or of features that have changed, are left out."""
        made = self._new_entries()
        self._catalogue.all_changed()
        while len(places := self._catalogue.changed(PUT_ITEMS)):
            self._put(made, places)
        made.settle(len(self._catalogue.ids))
        self._entries = made

    def _new_entries(self) -> Entries:
        return Entries(self._live, self.settings.of, self.settings.items_max)

    # --- items ---

    def _request(self, request: Request, places: Ints) -> Request:
        candidates = self._catalogue.candidates
        asked = request._replace(candidates=[candidates[place] for place in places.tolist()])
        return filled(self._live.model.entities, asked)

    def _existing(self, places: Ints, time: float) -> npt.NDArray[np.bool_]:
        """Which items have a row in the model at a time, and were not forgotten."""
        catalogue = self._catalogue
        keys = catalogue.keys[places]
        with self._live.lock:
            model = self._live.model
            there = model.tables[model.encoder.column_of(self.settings.of)].find(keys, int(time)) >= 0
        return there & np.array([catalogue.ids[place] is not None for place in places.tolist()], dtype=bool)


def _reordered(scored: Scored, order: list[int]) -> Scored:
    """A score with its candidates in another order, or without some."""

    def pick(values: list[float]) -> list[float]:
        return [values[i] for i in order]

    targets, further = scored.targets, scored.further
    return scored._replace(
        base=pick(scored.base),
        corrected=pick(scored.corrected),
        order=list(range(len(order))),
        coverage=None,
        targets=targets and {name: type(t)(pick(t.base), pick(t.corrected)) for name, t in targets.items()},
        further=further and {name: type(t)(pick(t.base), pick(t.corrected)) for name, t in further.items()},
    )
