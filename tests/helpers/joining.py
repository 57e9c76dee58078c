"""A joiner on a log, which a test may restart on its state."""

from pathlib import Path

from stream.join.joiner import Joiner, JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Log
from stream.records.targets import UNDECLARED, Targets
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState


class RestartableJoiner:
    """A log with the joiner's topics, and a joiner that commits each step.

    Args:
        log: without topics.
        folder: of the joiner's state.
    """

    def __init__(
        self,
        log: Log,
        folder: Path,
        settings: JoinSettings,
        partitions: int = 1,
        targets: Targets = UNDECLARED,
    ) -> None:
        self.log = log
        self.log.create_topic(EVENTS, partitions)
        self.log.create_topic(EXAMPLES, partitions)
        self.log.create_topic(DEAD_LETTERS, 1)
        self.settings = settings
        self.folder = folder
        self.targets = targets
        self.open()

    def open(self) -> None:
        self.state = RoleState(self.folder, "joiner", {}, sync=False)
        self.joiner = Joiner(self.state, self.settings, targets=self.targets)
        self.runner = Runner(
            self.log,
            self.state,
            self.joiner,
            Subscription(EVENTS, "joiner"),
            RunnerSettings(commit_every_s=0.0),
        ).open()

    def restart(self) -> None:
        self.state.close()
        self.open()

    def take_all(self) -> None:
        """Let the joiner take what the log has."""
        while self.runner.step():
            pass
        self.runner.commit()
