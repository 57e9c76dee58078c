"""The embedding tables of a model: one for each feature, and one for the pairs."""

from collections.abc import Sequence

import msgspec

from embeddings import Table, TableSpec
from embeddings.rest.table import RestingTable
from embeddings.views.fetching import Readers, readers_of
from embeddings.views.packed import PackedTable, serving_table
from learner.fast.part import FURTHER_PAIR_SPEEDS
from learner.features.encoder import Encoder
from learner.features.spec import FeatureSpec, eviction_of
from learner.settings import LearnerSettings

TICKS_PER_TTL = 8
"""Expiry counts in ticks of an eighth of the shortest TTL: a row stays for ttl_s, at most a tick longer."""

PAIRS = "pairs"

RATE_OF = {"adam": 0.1}
"""Factors on `embedding_rate` by optimizer: Adam's first steps are as long as its rate."""


def tick_s(encoder: Encoder, settings: LearnerSettings) -> int:
    """The length of a tick in seconds of event time; 0: nothing expires."""
    ttls = [int(spec.ttl_s) for spec in encoder.specs if spec.ttl_s]
    if settings.pairs_ttl_s and encoder.pairs:
        ttls.append(int(settings.pairs_ttl_s))
    return max(min(ttls) // TICKS_PER_TTL, 1) if ttls else 0


def memory_rows_of(encoder: Encoder, settings: LearnerSettings) -> list[int | None]:
    """Of each table, how many rows stay in memory; None: all."""
    found = [feature.memory_rows for feature in encoder.specs]
    if encoder.pairs:
        found.append(settings.pairs_memory_rows)
    return [None if rows is msgspec.UNSET else rows for rows in found]


def make_tables(
    specs: Sequence[TableSpec], encoder: Encoder, settings: LearnerSettings, rows: str | None
) -> list[Table]:
    """The tables of these specs, empty.

    Args:
        specs: from `table_specs`; `serving()` of them, for a model that only predicts.
        rows: how such a model holds its rows; None: the model learns.
    """
    found: list[Table] = []
    for t, (spec, memory_rows) in enumerate(zip(specs, memory_rows_of(encoder, settings), strict=True)):
        if rows is not None:
            held = "float32" if t in encoder.states else rows  # what Freshet keeps itself is no weights
            found.append(serving_table(spec, held, memory_rows))
        else:
            found.append(Table(spec) if memory_rows is None else RestingTable(spec, memory_rows))
    return found


def table_specs(
    encoder: Encoder, settings: LearnerSettings, makes_room: bool, targets: int = 1
) -> list[TableSpec]:
    """The specs of all tables, as a learner has them: of the features in their order, then of the pairs.

    Args:
        makes_room: see `learner.model.model.Model`.
        targets: how many there are.
    """
    tick = tick_s(encoder, settings)
    specs = [
        _spec_of(name, feature, dim, encoder.states.get(c, 0), settings, tick, makes_room, targets)
        for c, (name, feature, dim) in enumerate(zip(encoder.names, encoder.specs, encoder.dims, strict=True))
    ]
    return [*specs, _spec_of_pairs(encoder, settings, tick, makes_room, targets)] if encoder.pairs else specs


def readers_if_plain(tables: Sequence[Table]) -> Readers | None:
    """The readers of tables; None if rows are packed: such tables, and sequences, are read one by one."""
    return None if any(isinstance(table, PackedTable) for table in tables) else readers_of(tables)


def _spec_of(
    name: str,
    feature: FeatureSpec,
    dim: int,
    words: int,
    settings: LearnerSettings,
    tick: int,
    makes_room: bool,
    targets: int,
) -> TableSpec:
    return TableSpec(
        name=name,
        dim=feature.row_dim if dim else 0,
        optimizer=feature.optimizer,
        learning_rate=feature.rate or settings.embedding_rate * RATE_OF.get(feature.optimizer, 1.0),
        initial_accumulator=settings.embedding_accumulator,
        init="normal",
        # Attention multiplies three vectors with each other: products of small ones would vanish.
        init_scale=0.3 if feature.kind == "sequence" else 0.01,
        seed=settings.seed,
        extra=words or (0 if feature.kind == "sequence" else 2 * len(settings.speeds) * targets),
        ttl_s=int(feature.ttl_s),
        tick_s=tick,
        admit_after=feature.admit_after,
        admit_share=feature.admit_share,
        rows_max=feature.rows_max,
        evict=feature.eviction(makes_room),
    )


def _spec_of_pairs(
    encoder: Encoder, settings: LearnerSettings, tick: int, makes_room: bool, targets: int
) -> TableSpec:
    kinds = encoder.specs
    ttl = max(int(spec.ttl_s) for spec in kinds) if all(spec.ttl_s for spec in kinds) else 0
    return TableSpec(
        name=PAIRS,
        dim=0,
        optimizer="none",
        extra=2 * (len(settings.pair_speeds) + FURTHER_PAIR_SPEEDS * (targets - 1)),
        ttl_s=int(settings.pairs_ttl_s) or ttl,
        tick_s=tick,
        seed=settings.seed,
        admit_after=settings.pairs_admit_after,
        rows_max=settings.pairs_rows_max,
        evict=eviction_of(settings.pairs_evict, settings.pairs_rows_max, makes_room),
    )
