"""Which of a partition's outputs are in topic `examples` already, and who else shards them in another way.

The outputs of one commit go to several partitions of the topic, and a crash may leave some of them without
their part. So for each partition of the topic it is noted on its own up to which record its outputs are sent.
Where nothing of a partition is found, they are sent again from the last note on, and readers drop repeats.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from stream.errors import LogError, StateError
from stream.join.outputs import ExamplesOf, offset_of, sender_of
from stream.log.base import EXAMPLES, Log, Record
from stream.log.reading import read_range
from stream.state.role_state import RoleState

LOOK_BACK = (1, 10, 1000)  # records at the end of `examples` that are searched for our newest one


class SentExamples(msgspec.Struct):
    """What is known of the outputs of one partition of `events`.

    Attributes:
        to: by partition of `examples`, the offset of the record that caused the newest example there.
        otherwise: of the record that caused the newest example that is sharded otherwise; -1: none was found.
        how: how that one is sharded.
    """

    to: dict[int, int] = {}
    otherwise: int = -1
    how: str = ""

    @property
    def newest(self) -> int:
        """The offset of the record that caused the newest example; 0: there is none.

        The outputs of earlier records are sent, but for examples: what is sent to one topic at once may
        arrive in part, and all that was sent before it has arrived.
        """
        return max(self.to.values(), default=0)

    def check_moved(self, partition: int, start: int, shard_by: str) -> None:
        """Check that all examples that were sharded in another way are of records before `start`.

        Raises:
            LogError: some are not, so they would be learned twice.
        """
        if self.otherwise >= start:
            raise LogError(
                f"topic {EXAMPLES!r} holds examples that a joiner has sent {placed(self.how)} and not noted: "
                f"of partition {partition} of the events, up to offset {self.otherwise}. This one is to send "
                f"from offset {start} on {placed(shard_by)}; what is sent twice would be learned twice. Set "
                f'join.shard_by = "{self.how}" again, start the joiners with the states that they had, stop '
                "all of them with SIGTERM, and only then change it"
            )


def placed(shard_by: str) -> str:
    """How examples are placed, for messages.

    >>> placed("user"), placed("")
    ('with shard_by = "user"', 'without shard_by')
    """
    return f'with shard_by = "{shard_by}"' if shard_by else "without shard_by"


def find_sent(log: Log, partitions: Collection[int], shard_by: str) -> dict[int, SentExamples]:
    """Search the ends of all partitions of `examples` for the outputs of some partitions of `events`."""
    found = {partition: SentExamples() for partition in partitions}
    for place in range(log.partitions(EXAMPLES)):
        here: dict[int, SentExamples] = {}
        for records in _ends(log, place):
            here = found_in(records, shard_by)
            if here.keys() >= found.keys():
                break
        for partition, sent in here.items():
            if (known := found.get(partition)) is None:
                continue
            known.to |= sent.to
            if sent.otherwise > known.otherwise:
                known.otherwise, known.how = sent.otherwise, sent.how
    return found


def find_beside(log: Log, partition: int) -> SentExamples:
    """Search the same partition of `examples`, where all outputs are that are not sharded.

    If `how` is set, some that the partition holds are sharded, perhaps those of other partitions.
    """
    for records in _ends(log, partition):
        here = found_in(records, "")
        for sent in here.values():
            if sent.how:
                return sent
        if partition in here:
            return here[partition]
    return SentExamples()


def found_in(records: Iterable[Record], shard_by: str) -> dict[int, SentExamples]:
    """What records of one partition of `examples` say, by the partition of the events that caused them."""
    found: dict[int, SentExamples] = {}
    senders: dict[str, ExamplesOf | None] = {}
    for record in records:
        producer = record.producer
        if producer not in senders:
            senders[producer] = sender_of(producer)
        sender = senders[producer]
        if sender is None or record.seq < 0:
            continue
        sent, offset = found.setdefault(sender.partition, SentExamples()), offset_of(record.seq)
        if sender.shard_by == shard_by:
            sent.to = {record.partition: max(offset, sent.to.get(record.partition, 0))}
        elif offset > sent.otherwise:
            sent.otherwise, sent.how = offset, sender.shard_by
    return found


def check_outbox(log: Log, state: RoleState, shard_by: str, others: Sequence[str]) -> None:
    """Check that the examples that a state has still to send may be sent; call it before they are.

    Args:
        shard_by: how they are sharded now.
        others: the members of the group that shard them in another way, and go first.

    Raises:
        StateError: they may not; says what to do.
    """
    waiting: dict[int, int] = {}  # partition of the events -> offset of the first record that caused one
    for block in state.unsent():
        for record in block.records if block.topic == EXAMPLES else ():
            if (sender := sender_of(record.producer)) is None:
                continue
            if sender.shard_by != shard_by:
                raise StateError(
                    f"state {state.path} has examples to send that were made {placed(sender.shard_by)}; now "
                    f'they are made {placed(shard_by)}. Set join.shard_by = "{sender.shard_by}" again, start '
                    "this joiner, stop it with SIGTERM once it works, and only then change it"
                )
            offset = offset_of(record.seq)
            waiting[sender.partition] = min(offset, waiting.get(sender.partition, offset))
    if not waiting:
        return
    begin = f"state {state.path} has examples to send that were made {placed(shard_by)}"
    if any(found.otherwise >= waiting[p] for p, found in look(log, waiting, shard_by).items()):
        raise StateError(
            f"{begin}, and joiners that make them otherwise have gone on without it. Sent again, they would "
            "be learned twice: move the folder away, and start this joiner with the config of the others"
        )
    if others:
        raise StateError(
            f"{begin}, and joiners that make them otherwise are there: {', '.join(others)}. Stop those with "
            "SIGTERM, then start this one"
        )


def look(log: Log, partitions: Collection[int], shard_by: str) -> dict[int, SentExamples]:
    """What of some partitions' outputs is in topic `examples`."""
    if not shard_by:
        beside = {partition: find_beside(log, partition) for partition in partitions}
        if not any(sent.how for sent in beside.values()):
            return beside
    return find_sent(log, partitions, shard_by)


def _ends(log: Log, partition: int) -> Iterator[Iterator[Record]]:
    """More and more of the end of a partition of `examples`."""
    first, end = log.ends(EXAMPLES)[partition]
    for back in LOOK_BACK:  # offsets may have gaps, and others may write to the topic too
        start = max(first, end - back)
        if start < end:
            yield read_range(log, EXAMPLES, partition, start, end)
