"""What is known of entities at each example of a tape, as a learner knows it: from log and files."""

from collections.abc import Iterator, Sequence

from freshet.config import Config
from ground import FreshetError
from learner.entities.store import Change, EntityStore
from learner.role.taking.intake import Intake
from stream.records.entities.record import EntityEvent
from stream.records.types import Example, Forget


class KnownEntities:
    """Fills the examples of one play of a tape.

    Args:
        config: of the replay.
        begin: the entities that a snapshot knows.
        events: of files, in the order of their times: each is known from its time on.
    """

    def __init__(self, config: Config, begin: Sequence[Change], events: Sequence[EntityEvent]) -> None:
        self._store = EntityStore(config.features, config.learner)
        self._store.load(begin)
        self._intake = Intake(self._store, config.known_targets())
        self._events = events
        self._told = 0  # how many of them
        self.skipped = 0  # events of the log that do not fit the schema

    def take(self, found: Forget | EntityEvent) -> None:
        """Take a record of the log that is no example."""
        if isinstance(found, Forget):
            self._intake.forget(found)
            return
        try:
            self._intake.tell(found)
        except FreshetError:
            self.skipped += 1

    def filled(self, examples: Iterator[Example]) -> Iterator[Example]:
        """The examples with the attributes that they lack, and without refused ids.

        Raises:
            FeatureError: an event of a file does not fit the schema.
        """
        for example in examples:
            while self._told < len(self._events) and self._events[self._told].time <= example.time:
                self._intake.tell(self._events[self._told])
                self._told += 1
            left = self._intake.admit(example)
            if left is not None:
                yield left

    def digest(self) -> bytes:
        """A hash of what is known now."""
        return self._store.digest()
