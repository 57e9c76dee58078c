"""Keeps the model that answers at the newest update, and its rows in memory within their number."""

import logging
from collections.abc import Callable
from typing import Protocol

from embeddings import SnapshotError
from learner.model.model import Model
from learner.resting import RELIEVED_MAX
from learner.updates.follower import Follower
from learner.updates.format import Update
from serving.replica.answering import LiveModel
from serving.replica.status import NearestStatus

_log = logging.getLogger("freshet.serving")


class Index(Protocol):
    """What follows the model beside the replica."""

    def updated(self, parts: list[Update] | None) -> None:
        """An update was applied, in these parts; None: there is another model. Called with the lock held."""

    def status(self) -> NearestStatus:
        """Its size, and whether it is ready."""


class LiveFollower(Follower):
    """Holds `live.lock` while it updates the model, but not while it reads the log."""

    def __init__(self, live: LiveModel, moved: Callable[[list[Update] | None], None]) -> None:
        super().__init__(live.model)
        self._live = live
        self._moved = moved
        self._crowded = False  # rows could not be sent to rest

    def _move(self, parts: list[Update]) -> None:
        with self._live.lock:
            super()._move(parts)
            self._end(parts)

    def _replace(self, model: Model, last: Update) -> None:
        # the snapshot was loaded into a separate model, without the lock; this only swaps it in
        with self._live.lock:
            super()._replace(model, last)
            self._end(None)

    def _end(self, parts: list[Update] | None) -> None:
        self._live.model = self.model
        self._live.base_ingest_ms = self.ingest_ms
        self._moved(parts)

    def relieve(self) -> None:
        try:
            while self.model.resting.due:
                with self._live.lock:
                    self.model.resting.relieve(RELIEVED_MAX)
            self._crowded = False
        except SnapshotError as error:
            # Requests can be answered while memory has room for the rows that they bring.
            if not self._crowded:
                _log.warning("rows stay in memory: %s", error)
            self._crowded = True
