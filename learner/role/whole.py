"""A learner written whole into an empty state, for a model that lives without a log."""

from embeddings.rest.table import RestingTable
from embeddings.save.snapshot import TableSnapshot
from learner.keepers import RestingCopy, TableKeeper, keepers_of, prefix_of
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
        if isinstance(table, RestingTable):
            continue
        table.drain_delta()  # new snapshots then take all rows as changed, whoever took changes before
    snapshots: list[TableKeeper] = []
    for name, table in zip(learner.model.table_names, learner.model.tables, strict=True):
        if isinstance(table, RestingTable):
            snapshots.append(RestingCopy(table, prefix_of(name)))
            continue
        [snapshot] = keepers_of([name], [table], None)
        assert isinstance(snapshot, TableSnapshot)
        snapshot.save_base(commit)
        snapshot.save_whole(_EmptyState(commit))
        snapshots.append(snapshot)
    learner.snapshots = snapshots
    learner.saved_metrics.renew()
    learner.model.entities.renew()
    seq = learner.meta.seq
    learner.flush(commit)
    learner.meta.seq = learner.model.seq = seq
    learner.snapshots = []
