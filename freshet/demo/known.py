"""What it is worth that Freshet knows items' attributes, people's histories and items' rates by itself.

The requests of the history and of the play are learned once more, three times, from nothing: without what
Freshet knows by itself, with the attributes, and with all of it. Only the fast part learns.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from freshet.config import Config
from freshet.decide.gains import Gains
from learner.entities.filling import fill
from learner.entities.store import EntityStore
from stream.records.entities.record import EntityEvent
from stream.records.types import Example

REQUESTS_MAX = 3_000


class KnownWorth(NamedTuple):
    """The AUC of one set of features over the second half of the requests, and what it has gained."""

    features: str
    auc: float
    gain: str  # empty: nothing was before


def worth_of_known(
    config: Config, told: Sequence[EntityEvent], examples: Sequence[Example]
) -> list[KnownWorth]:
    """What each of the kinds that a config declares is worth, one after the other; empty: none, or too few
    requests.

    Args:
        told: what is true of items.
        examples: in order of time; the last `REQUESTS_MAX` are used.
    """
    used = examples[-REQUESTS_MAX:]

    def read(one: Config) -> Iterator[Example]:
        store = EntityStore(one.features, one.learner)
        for event in told:
            mine = {name: value for name, value in event.set.items() if name in one.features}
            if mine:
                store.tell(msgspec.structs.replace(event, set=mine))
        yield from fill(store, used)

    kept = [name for name, spec in config.features.items() if spec.keeper]
    attributes = [n for n in config.features if n not in kept and config.features[n].describes]
    gains = Gains(read)
    bare = _without(config, [*kept, *attributes])
    found: list[KnownWorth] = []
    before = bare
    for features, left_out in (("with its attributes", kept), ("with histories and rates too", [])):
        after = _without(config, left_out)
        if after.features.keys() == before.features.keys():
            continue
        gain = gains.of(before, after)
        if gain is None:
            return []
        if not found:
            found.append(KnownWorth("ids of people and items alone", gain.reached - gain.auc, ""))
        more = f"{gain.auc:+.4f}" if gain.sure else f"{gain.auc:+.4f}, no more than chance"
        found.append(KnownWorth(features, gain.reached, more))
        before = after
    return found


def lines_of(worth: Sequence[KnownWorth]) -> list[str]:
    """The same for a terminal."""
    if not worth:
        return []
    head = "\nwhat Freshet knows by itself: the same requests, learned once more without it and with it"
    return [head, *(f"  {row.features:<30} AUC {row.auc:.4f}   {row.gain}".rstrip() for row in worth)]


def _without(config: Config, names: Sequence[str]) -> Config:
    return msgspec.structs.replace(
        config, features={name: spec for name, spec in config.features.items() if name not in names}
    )
