"""How examples are sharded: checks that need more than section [join]."""

import difflib
from collections.abc import Mapping

import msgspec

from freshet.sections.stream_and_metrics import StreamSettings
from learner.features.spec import FeatureSpec
from stream.join.outputs import producer_of
from stream.join.settings import JoinSettings
from stream.log.base import PARTITIONS_MAX, PRODUCER_BYTES_MAX
from stream.records.targets import Targets


def sharded(join: JoinSettings, entity: str, partitions: int, learners: int) -> JoinSettings:
    """The settings with everything filled in that says how examples are sharded, if they are.

    Args:
        entity: the feature that they are sharded by where nothing else is said.
        partitions: of topic `events`, and so of the examples where nothing else is said.
        learners: shards of the learner; several want the examples of an entity together.
    """
    if not (join.shard_by or join.partitions or (entity and learners > 1)):
        return join
    return msgspec.structs.replace(
        join, shard_by=join.shard_by or entity, partitions=join.partitions or partitions
    )


def check_sharding(
    join: JoinSettings, features: Mapping[str, FeatureSpec], targets: Targets, stream: StreamSettings
) -> None:
    """Check that examples can be sharded as `join` says, if it says anything.

    Raises:
        ValueError: naming the key and what was expected.
    """
    by = join.shard_by
    if not (by or join.partitions):
        return
    ids = [name for name, spec in features.items() if spec.kind == "id" and not spec.of]
    known = ", ".join(ids) or "none is declared"
    expected = f"expected a feature of kind id that requests have in their context: {known}"
    if not by:
        raise ValueError(f"join.partitions = {join.partitions} shards examples, but by what? {expected}")
    if by not in features:
        near = difflib.get_close_matches(by, ids, 1, 0.6)
        raise ValueError(
            f"join.shard_by is {by!r}, which is not declared; "
            + (f"did you mean {near[0]!r}?" if near else expected)
        )
    spec = features[by]
    if by not in ids:
        kind = f"an attribute of {spec.describes}" if spec.kind == "id" else f"of kind {spec.kind}"
        raise ValueError(f"join.shard_by is {by!r}, {kind}; {expected}")
    longest = producer_of(PARTITIONS_MAX, max(targets.names, key=lambda name: len(name.encode())), by)
    if len(longest.encode()) > PRODUCER_BYTES_MAX:
        raise ValueError(
            f"join.shard_by is {by[:40]!r}…: the name is too long for the names of producers of examples, "
            f"which have up to {PRODUCER_BYTES_MAX} bytes; shorten it"
        )
    names = stream.partitions * len(targets)
    if names > stream.runner.producers_max:
        raise ValueError(
            f"{stream.partitions} partitions of events and {len(targets)} targets are {names:,} producers in "
            f"each partition of examples; a reader remembers {stream.runner.producers_max:,}: set "
            f"stream.runner.producers_max to {names:,} or more"
        )
