"""The end of a run of chaos: what learners, log and followers hold, against the ledger."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from chaos_shards import read_shards
from ledger import Ledger

from freshet.config import Config
from learner.errors import UpdateGapError
from learner.model.model import Model
from learner.resting import rows_rest
from learner.role.learner import Learner
from learner.settings import LearnerSettings
from learner.updates.chain import Chain, UpdatePosition
from learner.updates.follower import Follower
from learner.updates.format import decode_update
from stream.log.base import EXAMPLES, UPDATES, Log
from stream.log.reading import read_range
from stream.records.decoding import Decoder
from stream.records.types import Example
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.journal import JournalStretch, read_journal
from stream.state.role_state import RoleState


class Published(NamedTuple):
    """What learners have published, as far as it counts."""

    examples: int
    terms: set[int]
    fenced: int  # records that do not count


def close_books(
    config: Config, log: Log, ledger: Ledger, shards: LearnerSettings | None = None
) -> dict[str, Any]:
    """Compare everything with the ledger; each number under `books` must be 0.

    Args:
        shards: the settings of a learner in shards.
    """
    fingerprint = Learner.fingerprint(config.features, config.learner, ledger.targets)
    rest = rows_rest(config.features, config.learner)
    # on the roles' disk: the folder is removed with the model
    rest_in = Path(config.state) / "books"
    follower = Follower(Model(config.features, config.learner, ledger.targets, rest_in=rest_in))
    follower.start(log)
    while follower.poll(log, 1.0):
        pass
    digests: list[str] = []
    journal: list[list[JournalStretch]] = []
    books: dict[str, int] = {}
    learnt = requests = 0
    if shards is not None:
        return _close_shards(config, shards, log, ledger, follower)
    for folder in sorted(Path(config.state).glob("learn-*")):
        with RoleState(folder, "learner", fingerprint, rows=rest) as state:
            learner = Learner(config.features, config.learner, state, ledger.targets)
            if learner.meta.seq != follower.seq or books:
                digests += [learner.digest()] if learner.meta.seq == follower.seq else []
                continue
            digests.append(learner.digest())
            replica_off = _compare(follower, learner)
            journal = list(read_journal(state))
            learnt, requests = learner.meta.examples, learner.meta.requests
            books = {**ledger.balance(log, learner), **replica_off}
    assert books, "no learner is where the updates end"
    if shard_by := config.joining.shard_by:
        books["in_two_partitions"] = _in_two_partitions(log, shard_by)
    told = published(log)
    with (
        tempfile.TemporaryDirectory() as folder,
        RoleState(folder, "learner", fingerprint, rows=rest) as state,
    ):
        again = Learner(config.features, config.learner, state, ledger.targets)
        again.leads = False
        Runner(
            log, state, again, Subscription(EXAMPLES, "again", commits_offsets=False), config.stream.runner
        ).open().follow(journal)
        books["one_life_off"] = sum(digest != again.digest() for digest in digests)
    return {
        "balanced": not any(books.values()),
        "books": books,
        "requests_learnt": requests,
        "rows_learnt": learnt,
        "updates": follower.seq,
        "terms": len(told.terms),
        "fenced_records": told.fenced,
        "learners_compared": len(digests),
    }


def _close_shards(
    config: Config, settings: LearnerSettings, log: Log, ledger: Ledger, follower: Follower
) -> dict[str, Any]:
    learner, books = read_shards(config, settings, log, ledger)
    books |= {"updates_off": learner.meta.seq - follower.seq, **ledger.balance(log, learner)}
    books |= _compare(follower, learner)
    if shard_by := config.joining.shard_by:
        books["in_two_partitions"] = _in_two_partitions(log, shard_by)
    told = published(log)
    return {
        "balanced": not any(books.values()),
        "books": books,
        "requests_learnt": learner.meta.requests,
        "rows_learnt": learner.meta.examples,
        "updates": follower.seq,
        "terms": len(told.terms),
        "fenced_records": told.fenced,
        "shards_compared": settings.shards.count,
    }


def published(log: Log) -> Published:
    """What the updates that the log still holds say."""
    chain = Chain(UpdatePosition())
    terms: set[int] = set()
    examples = 0
    for record in _records(log):
        update = decode_update(record.value)
        try:
            parts = chain.take(update)
        except UpdateGapError:  # those before it were trimmed
            chain.jump(update.epoch, update.seq, update.term)
            continue
        if parts is not None:
            terms.add(update.term)
            examples = parts[-1].examples
    return Published(examples, terms, chain.fenced)


def _in_two_partitions(log: Log, shard_by: str) -> int:
    """Entities whose examples lie in more than one partition."""
    found: dict[str, set[int]] = {}
    decode = Decoder(Example).decode_again
    for partition, (first, end) in enumerate(log.ends(EXAMPLES)):
        for record in read_range(log, EXAMPLES, partition, first, end):
            entity = decode(record.value).context.get(shard_by)
            if isinstance(entity, int | str):  # what is no id goes by its request
                found.setdefault(str(entity), set()).add(partition)
    assert found, "no example names an entity"
    return sum(1 for places in found.values() if len(places) > 1)


def _records(log: Log) -> Any:
    first, end = log.ends(UPDATES)[0]
    while first < end:
        for record in log.read(UPDATES, 0, first, wait_s=1.0):
            first = record.offset + 1
            yield record


def _compare(follower: Follower, learner: Any) -> dict[str, int]:
    """Rows, arrays and entities in which one who follows the updates differs from the learner."""
    wrong = 0
    for mine, theirs in zip(follower.model.tables, learner.model.tables, strict=True):
        found = _served(mine)
        wrong += sum(found.get(key) != row for key, row in _served(theirs).items())
        wrong += abs(len(mine) - len(theirs))
    for name, array in learner.model.arrays().items():
        wrong += follower.model.arrays()[name].tobytes() != array.tobytes()
    if follower.model.entities.digest() != learner.model.entities.digest():
        wrong += 1
    follower.model.resting.close()
    return {"replica_rows_off": wrong, "replica_gaps": follower.gaps}


def _served(table: Any) -> dict[int, bytes]:
    """The rows of a table as servers have them."""
    return {
        key: row.tobytes()
        for keys, rows in table.pages()
        for key, row in zip(keys.tolist(), table.served(rows), strict=True)
    }
