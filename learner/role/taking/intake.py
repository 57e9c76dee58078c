"""What a learner takes of topic `examples`: examples without refused ids, with the attributes they lack."""

from learner.entities import saved
from learner.entities.filling import filled
from learner.entities.store import Change, EntityStore
from learner.role.taking.saved_refusals import SavedRefusals
from stream.log.base import Record
from stream.records.decoding import Decoder
from stream.records.entities.record import EntityEvent
from stream.records.refusals import Refusals
from stream.records.targets import Targets
from stream.records.types import Example, Forget
from stream.state.role_state import Commit, RoleState

Learned = Example | Forget | EntityEvent
"""What topic `examples` holds."""


class Intake:
    """Decodes records, and takes what they say of entities.

    Args:
        entities: the model's.
        targets: that examples may be of.
        news: gets the entity events that say what was not known; None: nobody wants them.
    """

    def __init__(
        self, entities: EntityStore, targets: Targets, news: list[EntityEvent] | None = None
    ) -> None:
        self._entities = entities
        self._news = news
        self._decode = Decoder[Learned](Example, Forget, EntityEvent, targets=targets).decode
        self._refusals = SavedRefusals()

    @property
    def refusals(self) -> Refusals:
        """The forgotten ids that are refused for a time."""
        return self._refusals.refusals

    def read(self, record: Record) -> Example | Forget | None:
        """What a record holds; None: an entity event, which is taken.

        Raises:
            FreshetError: it cannot be used.
        """
        found = self._decode(record.value)
        if not isinstance(found, EntityEvent):
            return found
        if self.tell(found) and self._news is not None:
            self._news.append(found)
        return None

    def tell(self, event: EntityEvent) -> bool:
        """Take an entity event, without the ids that are refused, unless it concerns other models only.

        Returns:
            Whether it says what was not known.

        Raises:
            FeatureError: it does not fit the schema.
        """
        if event.feature not in self._entities.owners:
            return False
        self._entities.check(event)
        admitted = self.refusals.admit_entity(event)
        return admitted is not None and self._entities.tell(admitted)

    def admit(self, example: Example) -> Example | None:
        """The part of an example that may be learned, with the attributes that it lacks; None: nothing."""
        left = self.refusals.admit(example)
        return None if left is None else filled(self._entities, left, see=True)

    def forget(self, request: Forget) -> None:
        """Forget the ids of a request, and refuse them for as long as it says."""
        self._entities.forget(request.entity)
        self.refusals.add(request)

    def load(self, state: RoleState, refusals_clock: float) -> None:
        """Go on from a state."""
        saved.load(self._entities, state)
        self._refusals = SavedRefusals(state, refusals_clock)

    def save(self, commit: Commit) -> list[Change]:
        """Write what has changed into a commit; returns what has changed of entities."""
        self._refusals.save(commit)
        changes = self._entities.changes()
        saved.save(changes, commit)
        return changes
