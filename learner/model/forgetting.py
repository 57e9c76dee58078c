"""Forgetting an entity: removes all rows of its ids from a model and from an error memory.

An id has a row in its feature's table, and a row for each pair in which it was seen. A pair's key is a hash
of both ids and cannot be inverted. So the pairs of an id are found by joining it with every id in the tables
of the other features. A pair is not found if its other id was evicted, was never admitted (`admit_after`),
or expired before the pair. Such a row stays until the ttl of pairs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from embeddings import Table
from embeddings.rest.table import RestingTable
from error_memory import ErrorMemory
from ground.distinct import distinct
from ground.keys import key_of
from learner.errors import FeatureError
from learner.features.known.filling import in_parts
from learner.features.known.given import KEYS, as_signed
from learner.features.spec import FeatureSpec
from learner.features.values import both_spellings, ids_of_type
from learner.model.model import Model
from stream.limits import FORGET_IDS_IN_RECORD_MAX, FORGET_IDS_MAX

FORGETTABLE = ("id", "ids", "sequence", "history")

Keys = npt.NDArray[np.uint64]


def widened(
    features: Mapping[str, FeatureSpec], entity: Mapping[str, Sequence[int | str]]
) -> dict[str, list[int | str]]:
    """The entity with the sequences that hold its ids: forgetting an item removes it from histories.

    Ids of a declared type are named as integers and as text, since records may hold either.

    Raises:
        FeatureError: a feature is not declared or holds no ids, or it names no ids or too many.
    """
    found: dict[str, list[int | str]] = {}
    for name, ids in entity.items():
        spec = features.get(name)
        if spec is None or spec.kind not in FORGETTABLE:
            known = ", ".join(n for n, s in features.items() if s.kind in FORGETTABLE)
            why = "is not declared" if spec is None else f"is of kind {spec.kind} and holds no ids"
            raise FeatureError(f"feature {name!r} {why}; ids to forget may be of: {known}")
        if not 1 <= len(ids) <= FORGET_IDS_MAX:
            raise FeatureError(f"entity names {len(ids)} ids of {name!r}; expected 1 to {FORGET_IDS_MAX}")
        type_ = features.get(spec.held, spec).id_type
        if type_ is not None:
            ids = both_spellings(ids_of_type(name, spec.kind, type_, ids))
        holders = [name, *(n for n, s in features.items() if s.held == name)]
        named: dict[str, Sequence[int | str]] = dict.fromkeys(holders, ids)
        for holder in holders:  # what a server filled in names ids by their keys
            if features[holder].kind == "history":
                named[holder + KEYS] = [as_signed(key_of(one)) for one in ids]
        for holder, mine in named.items():
            found[holder] = list(dict.fromkeys([*found.get(holder, []), *mine]))
            if len(found[holder]) > FORGET_IDS_IN_RECORD_MAX:
                raise FeatureError(
                    f"entity names {len(found[holder])} ids of {holder!r}, with those of the feature that it "
                    f"holds and as integers and text; at most {FORGET_IDS_IN_RECORD_MAX}: send fewer at once"
                )
    return found


def keys_by_column(model: Model, entity: Mapping[str, Sequence[int | str]]) -> dict[int, Keys]:
    """The keys (k,) of an entity's ids, by column of the model; unknown features are skipped."""
    columns = {name: model.encoder.column_of(name) for name in entity}
    return {
        column: np.array(sorted({key_of(one) for one in entity[name]}), dtype=np.uint64)
        for name, column in columns.items()
        if column >= 0
    }


def pair_keys(
    model: Model, keys: Mapping[int, Keys], partners: Callable[[int], Iterable[Keys]]
) -> Iterator[tuple[int, Keys]]:
    """All possible pairs of some ids: (column, keys), in bounded pieces.

    Args:
        keys: by column of a feature.
        partners: gives the known ids of a feature's column, (n,) in some parts.
    """
    encoder = model.encoder
    for pair, (left, right) in enumerate(encoder.pairs):
        column = len(encoder.names) + pair
        for mine, other in ((left, right), (right, left)):
            if mine not in keys:
                continue
            for part in in_parts(partners(other), len(keys[mine])):
                sides = (keys[mine], part) if mine == left else (part, keys[mine])
                yield column, encoder.pair_keys(pair, *sides)


def _ids_of(table: Table, now: int | None = None) -> Iterator[Keys]:
    """The ids that have a row, some at a time if rows rest on disk."""
    if isinstance(table, RestingTable):
        yield from (keys for keys, _ in table.pages(now))
    else:
        yield table.items(now)[0]


def forget(model: Model, entity: Mapping[str, Sequence[int | str]], now: int | None = None) -> list[int]:
    """Take an entity's ids out of a learning model's tables; returns the numbers of the tables touched.

    It removes rows, counters of admission and pairs; the next delta of each table lists them as deleted. The
    dense weights and the priors keep what they have learned from all examples together.

    Args:
        now: event time, Unix seconds: pairs are found by the ids that exist then, and counts have what does.
            None: by all that no sweep has met yet, which depends on when the tables were swept.
    """
    keys = keys_by_column(model, entity)
    tables = model.tables
    touched = []
    if any(side in keys for pair in model.encoder.pairs for side in pair):
        pairs = tables[-1]
        found: list[Keys] = [np.zeros(0, dtype=np.uint64)]
        for _, candidates in pair_keys(model, keys, lambda column: _ids_of(tables[column], now)):
            found.append(candidates[pairs.has(candidates)])
        pairs.forget(distinct(np.concatenate(found)), now or 0)
        touched.append(len(tables) - 1)
    if model.filler is not None:
        touched += model.filler.forget(keys, lambda column: _ids_of(tables[column], now), now or 0)
    for column, mine in keys.items():
        tables[column].forget(mine, now or 0)
        touched.append(column)
    return sorted(set(touched))


def forget_in_memory(memory: ErrorMemory, model: Model, entity: Mapping[str, Sequence[int | str]]) -> None:
    """Remove an entity's ids, and the pairs with them, from an error memory beside a model."""
    keys = keys_by_column(model, entity)
    for column, mine in keys.items():
        for place in model.memory_columns_of(column):
            memory.forget(place, mine)

    def known(column: int) -> Iterator[Keys]:
        """The possible partners: the ids in the memory and in the tables."""
        held = memory.candidates(column)
        if len(held):  # a memory without keys holds no pairs
            yield held
            yield from _ids_of(model.tables[column])

    for column, pairs in pair_keys(model, keys, known):
        for place in model.memory_columns_of(column):
            memory.forget(place, pairs)
