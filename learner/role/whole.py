"""A learner written whole into an empty state, for a model that lives without a log."""

from learner.role.learner import Learner
from stream.state.role_state import Commit


class _EmptyState:
    """A commit of a state in which there is nothing to delete."""

    def __init__(self, commit: Commit) -> None:
        self.put = commit.put
        self.delete = commit.delete

    def delete_range(self, first: bytes, end: bytes) -> None:
        """Nothing is there."""


def write_whole(learner: Learner, commit: Commit) -> None:
    """Put everything that `Learner(state=...)` resumes from into a commit; publishes nothing.

    The learner stays as it is: writing it again gives the same bytes.
    """
    learner.settle()
    learner.leads = False
    for table in learner.model.tables:
        table.expire(int(learner.trainer.clock), max(table.slots_used, 1))
        table.drain_delta()  # new snapshots then take all rows as changed, whoever took changes before
    snapshots = learner.new_snapshots()
    for snapshot in snapshots:
        snapshot.save_base(commit)
        snapshot.save_whole(_EmptyState(commit))
    learner.snapshots = snapshots
    learner.saved_metrics.renew()
    seq = learner.meta.seq
    learner.flush(commit)
    learner.meta.seq = learner.model.seq = seq
    learner.snapshots = []
