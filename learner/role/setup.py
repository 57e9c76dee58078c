"""What one learner of a group is given, in three parts: where its data is, what it learns, whom it calls."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from learner.features.spec import FeatureSpec
from learner.resting import rows_rest
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from stream.records.targets import UNDECLARED, Targets
from stream.run.contract import RunnerSettings
from stream.run.runner import Runner
from stream.state.disk import ROCKS_DISK, Disk


class Folders(NamedTuple):
    """Where a learner keeps its data."""

    state: Path  # of this learner alone
    snapshots: Path  # that all learners of the group share
    disk: Disk = ROCKS_DISK  # on which both are


class Learning(NamedTuple):
    """What is learned, and how.

    Fields:
        model: the name under which the learner takes orders from topic `models`; None: it takes none.
    """

    features: Mapping[str, FeatureSpec]
    settings: LearnerSettings
    runner: RunnerSettings
    targets: Targets = UNDECLARED
    model: str | None = None

    @property
    def rest(self) -> bool:
        """Whether rows of a table rest in the learner's state."""
        return rows_rest(self.features, self.settings)


class Callbacks(NamedTuple):
    """What a learner calls.

    Fields:
        on_ready: called once, when the learner leads or could lead.
        at_work: entered with each learner that is made, and left when that learner is closed. It gives a
            function that is called after each turn of the learner, some times a second.
    """

    on_ready: Callable[[], None]
    at_work: Callable[[Runner, Learner], AbstractContextManager[Callable[[], None]]]
