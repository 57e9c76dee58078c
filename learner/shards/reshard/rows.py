"""Rows move to the shards that own them now; what is equal at all shards is taken over as it is."""

from collections.abc import Sequence

import numpy as np

from embeddings import Table
from embeddings.rest.dealing import NewPart, deal_rest
from embeddings.save.dealing import deal
from learner.shards.owners import Keys, Owners
from learner.shards.shard import Shard


def deal_table(olds: Sequence[Table], news: Sequence[Table], clock: float) -> list[Keys]:
    """Fill the parts of one table that new shards own, from those that old shards owned.

    Args:
        olds, news: by rank; `news` are empty.
        clock: the trainers', event time in Unix seconds.

    Returns:
        For each new shard the keys without a row that followers may still have, see `deal`.

    Raises:
        TableError: a part gets more rows than it has room for.
    """
    before, after = Owners(len(olds)), Owners(len(news))
    return deal(olds, news, int(clock), after.of, after.sources(before))


def deal_resting_table(olds: Sequence[Table], news: Sequence[NewPart], clock: float) -> list[int]:
    """Write the parts of one table that new shards own, whose rows rest, from those that old shards owned.

    Args:
        olds, news: by rank; `news` are empty.
        clock: the trainers', event time in Unix seconds.

    Returns:
        How many rows each new shard has.

    Raises:
        TableError: a part gets more rows than it has room for.
    """
    before, after = Owners(len(olds)), Owners(len(news))
    return deal_rest(olds, news, int(clock), after.of, after.sources(before))


def take_over(olds: Sequence[Shard], news: Sequence[Shard]) -> None:
    """Let new shards, which have learned nothing, go on where old ones are.

    Raises:
        TableError: a shard gets more rows of a table than it has room for.
    """
    first = olds[0]
    for t in range(len(first.tables)):
        before, after = ([shard.tables[t].table for shard in shards] for shards in (olds, news))
        deal_table(before, after, first.trainer.clock)
    for new in news:
        theirs = first.common_arrays()
        for name, array in new.common_arrays().items():
            np.copyto(array, theirs[name])
        new.trainer.tick, new.trainer.clock = first.trainer.tick, first.trainer.clock
        new.trainer.quarantined = first.trainer.quarantined
        new.trainer.restored()
