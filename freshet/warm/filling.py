"""Writes vectors into a learner's tables, and weights into its network, and says what matched."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freshet.errors import WarmError
from freshet.warm.vectors import Vectors, read_state_dict, read_vectors
from ground.id_types import IdType
from ground.keys import key_of
from learner.errors import FeatureError
from learner.features.values import ids_of_type
from learner.model.forgetting import FORGETTABLE
from learner.role.learner import Learner

CHUNK = 1 << 16
SIGHTINGS_MAX = 512
"""How often an id is shown to a table that admits ids only after several sightings, or by chance."""


class Filled(NamedTuple):
    """What became of a feature's vectors."""

    feature: str
    where: str
    read: int
    filled: int  # rows that hold one of them now
    repeated: int  # ids that were there again; the last vector counts
    not_finite: int
    refused: int  # the table was full, or evicted them again
    note: str = ""

    def __str__(self) -> str:
        less = [
            f"{count:,} {what}"
            for count, what in (
                (self.repeated, "repeated an id (its last vector counts)"),
                (self.not_finite, "were not finite"),
                (self.refused, "found no room (rows_max)"),
            )
            if count
        ]
        return (
            f"features.{self.feature}: {self.filled:,} rows from {self.read:,} vectors of {self.where}"
            + ("; " + ", ".join(less) if less else "")
            + (f"; {self.note}" if self.note else "")
        )


class Matched(NamedTuple):
    """What became of a network's weights, by name."""

    matched: list[str]
    without: list[str]  # of the network, for which the file has nothing
    unused: list[str]  # of the file, which the network does not have
    other_shape: list[str]  # as sentences

    def __str__(self) -> str:
        parts = [
            f"{len(names):,} {what}: {', '.join(names[:8])}{', …' * (len(names) > 8)}"
            for names, what in (
                (self.matched, "taken"),
                (self.other_shape, "of another shape, not taken"),
                (self.without, "without a value, as they were"),
                (self.unused, "of the file not used"),
            )
            if names
        ]
        return "network: " + "; ".join(parts)


def warm(
    learner: Learner, vectors: Iterable[tuple[str, str]], network: str | None, time: float, folder: Path
) -> list[Filled | Matched]:
    """Fill a learner that has learned nothing.

    Args:
        vectors: pairs of a feature and its file, see `read_vectors`.
        network: a file of weights, see `read_state_dict`.
        time: event time at which the ids count as last seen, Unix seconds.
        folder: where relative paths start.

    Raises:
        WarmError: a file cannot be read or does not fit.
    """
    done: list[Filled | Matched] = []
    for feature, text in vectors:
        done.append(fill_table(learner, feature, read_vectors(text, folder), time))
    if network is not None:
        done.append(fill_network(learner, read_state_dict(folder / network), network))
    return done


def fill_table(learner: Learner, feature: str, vectors: Vectors, time: float) -> Filled:
    """Give ids of a feature their vectors. Rows have no fast weights yet, and count as never seen.

    Args:
        time: event time at which the ids count as last seen, Unix seconds.

    Raises:
        WarmError: the feature has no ids, or vectors of another width; or an id is not of its type.
    """
    model = learner.model
    spec = model.features.get(feature)
    if spec is None or spec.kind not in FORGETTABLE:
        known = ", ".join(name for name, one in model.features.items() if one.kind in FORGETTABLE)
        why = "is not declared" if spec is None else f"is of kind {spec.kind} and has no rows by id"
        raise WarmError(f"feature {feature!r} {why}; vectors may be of: {known}")
    column = model.encoder.column_of(feature)
    width = vectors.values.shape[1]
    if width != spec.row_dim:
        twice = ", of which a decoupled sequence has two in a row" if spec.row_dim != spec.dim else ""
        dim = width * spec.dim // spec.row_dim
        raise WarmError(
            f"{vectors.where}: its vectors have {width} numbers, rows of {feature} {spec.row_dim}{twice}; "
            f"set features.{feature}.dim = {dim}, or give vectors of {spec.row_dim}"
        )
    keys = _keys(feature, spec.kind, model.features.get(spec.held, spec).id_type, vectors)
    finite = np.isfinite(vectors.values).all(axis=1)
    keys, values = keys[finite], vectors.values[finite]
    # of a repeated id the last vector counts
    _, last = np.unique(keys[::-1], return_index=True)
    kept = np.sort(len(keys) - 1 - last)
    table = model.tables[column]
    for first in range(0, len(kept), CHUNK):
        part = kept[first : first + CHUNK]
        slots = table.upsert(keys[part], int(time))
        for _ in range(SIGHTINGS_MAX):
            missing = np.flatnonzero(slots < 0)
            if len(missing) == 0 or (table.spec.admit_after <= 1 and table.spec.admit_share >= 1.0):
                break
            slots[missing] = table.upsert(keys[part][missing], int(time))
        there = slots >= 0
        table.set_vectors(slots[there], values[part][there])
    filled = int(np.count_nonzero(table.find(keys[kept], int(time)) >= 0))
    return Filled(
        feature=feature,
        where=vectors.where,
        read=len(vectors.ids),
        filled=filled,
        repeated=len(keys) - len(kept),
        not_finite=int(np.count_nonzero(~finite)),
        refused=len(kept) - filled,
        note=_note(feature, spec.id_type, vectors),
    )


def fill_network(learner: Learner, found: Mapping[str, npt.NDArray[np.generic]], where: str) -> Matched:
    """Give the network the weights of a state_dict whose names and shapes are its own.

    Raises:
        WarmError: there is no network, nothing matches, or a weight is not finite.
    """
    model = learner.model
    if model.network is None:
        raise WarmError(f"{where}: learner.deep = 'none' has no network")
    shapes = model.network.shapes()
    for prefix in ("module.", "_orig_mod."):  # of DataParallel, of torch.compile
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    views = model.network.split(model.deep_weights)
    matched = [name for name in shapes if name in found and found[name].shape == shapes[name]]
    others = [
        f"{name} {found[name].shape} for {shapes[name]}"
        for name in shapes
        if name in found and name not in matched
    ]
    result = Matched(
        matched,
        [name for name in shapes if name not in found],
        [name for name in found if name not in shapes],
        others,
    )
    if not matched:
        raise WarmError(
            f"{where}: no weight has a name and shape of the network {model.settings.deep}; it has "
            f"{_listed([f'{name} {shape}' for name, shape in shapes.items()])}; the file has "
            f"{_listed([f'{name} {value.shape}' for name, value in found.items()])}"
        )
    for name in matched:
        if not np.isfinite(found[name].astype(np.float64)).all():
            raise WarmError(f"{where}: weight {name} is not finite")
    for name in matched:
        views[name][...] = found[name]
    model.weights_moved()
    return result


def _keys(feature: str, kind: str, type_: IdType | None, vectors: Vectors) -> npt.NDArray[np.uint64]:
    ids = vectors.ids
    try:
        if type_ is not None:
            ids = ids_of_type(feature, kind, type_, ids)
        return np.fromiter((key_of(one) for one in ids), dtype=np.uint64, count=len(ids))
    except (FeatureError, OverflowError) as error:
        raise WarmError(f"{vectors.where}: {error}") from None


def _note(feature: str, type_: str | None, vectors: Vectors) -> str:
    ids = vectors.ids[:1000]
    if type_ is None and ids and all(isinstance(one, str) and one.isdecimal() for one in ids):
        return (
            f'its ids are text such as "{ids[0]}", which is not the integer {ids[0]}: if your events have '
            f"integers, set features.{feature}.type"
        )
    return ""


def _listed(texts: list[str]) -> str:
    return ", ".join(texts[:8]) + ", …" * (len(texts) > 8) if texts else "none"
