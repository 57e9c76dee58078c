"""`freshet vectors`: the ids and vectors of a feature at one moment, or what changed since an earlier export.

The model is the newest one that the log has: its last snapshot, and the updates after it. A row holds the
64-bit key of its id. An integer id is its own key; of a text the key is a hash, so texts are looked up among
the examples that the log still has.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from freshet.config import Config
from freshet.errors import ExportError
from freshet.progress import progress
from freshet.replay.tape import open_existing
from freshet.roles.opening import need_features
from ground import FreshetError
from ground.distinct import distinct
from ground.keys import key_of
from learner.errors import UpdateDamagedError
from learner.model.forgetting import FORGETTABLE
from learner.model.model import Model
from learner.updates.follower import Follower
from learner.updates.format import decode_update
from stream.files.record_files import whole_or_nothing
from stream.log.base import EXAMPLES, UPDATES, Log
from stream.records.decoding import Decoder
from stream.records.targets import UNKNOWN
from stream.records.types import Example, Forget

READ_RECORDS = 1_000
ROWS_AT_ONCE = 1 << 16
VERSION = b"freshet.version"

Keys = npt.NDArray[np.uint64]


class Exported(NamedTuple):
    """What was written."""

    version: str  # of the model
    rows: int
    deleted: int
    unnamed: int  # rows whose id is no longer among the log's examples


def export_vectors(config: Config, feature: str, to: Path, since: str | None = None) -> Exported:
    """Write a Parquet file with the columns `key`, `id`, `vector` and, with `since`, `deleted`.

    Args:
        to: the file.
        since: an earlier file of this function, or a model's version: write only what changed after it.

    Raises:
        ExportError: the feature has no ids, the log has no model of this config, updates since then are gone,
            or the file cannot be written.
        FreshetError: the log cannot be read.
    """
    need_features(config)
    spec = config.features.get(feature)
    if spec is None or spec.kind not in FORGETTABLE:
        known = ", ".join(name for name, one in config.features.items() if one.kind in FORGETTABLE)
        raise ExportError(f"feature {feature!r} has no vectors by id; those that do: {known}")
    log = open_existing(config.log, config)
    try:
        model, event_time = _newest(config, log)
        table = model.tables[model.encoder.column_of(feature)]
        keys, _ = table.items(int(event_time))
        deleted = np.empty(0, dtype=np.uint64)
        if since is not None:
            changed = _changed(log, model, feature, _version(since))
            there = np.isin(changed, keys)
            keys, deleted = changed[there], changed[~there]
        names = _names(log, model, feature, np.concatenate([keys, deleted]), spec.held or feature)
        try:
            with whole_or_nothing(to) as making:
                _write(making, model, feature, keys, deleted, names, since is not None)
        except OSError as error:
            raise ExportError(f"{to}: cannot be written: {error.strerror}") from None
    finally:
        log.close()
    unnamed = sum(int(key) not in names for key in keys)
    return Exported(model.version, len(keys), len(deleted), unnamed)


def run_vectors(config: Config, feature: str, to: Path, since: str | None) -> None:
    """`freshet vectors`: export, and print what was written.

    Raises:
        FreshetError: as `export_vectors`.
    """
    done = export_vectors(config, feature, to, since)
    changed = f", {done.deleted:,} deleted" if since is not None else ""
    unnamed = (
        f"; {done.unnamed:,} have a key only: no example in the log has their id" if done.unnamed else ""
    )
    print(
        f"wrote {done.rows:,} vectors of {feature}{changed} to {to}, of model {done.version}{unnamed}",
        file=sys.stderr,
    )


def _newest(config: Config, log: Log) -> tuple[Model, float]:
    """The model at the end of topic `updates`, and its event time."""
    follower = Follower(Model(config.features, config.learner, config.known_targets()))
    follower.start(log)
    while follower.poll(log):
        pass
    if follower.other:
        raise ExportError(follower.other)
    if follower.seq == 0:
        raise ExportError(f"{log} has no model yet: start a learner, or wait for its first update")
    return follower.model, follower.event_time


def _version(text: str) -> tuple[int, int]:
    """The epoch and number of the last update in an earlier export."""
    version = text
    if text.endswith(".parquet"):
        try:
            found = (pq.read_schema(text).metadata or {}).get(VERSION)
        except (OSError, pa.ArrowException) as error:
            raise ExportError(f"--since {text}: cannot be read: {error}") from None
        if found is None:
            raise ExportError(f"--since {text}: is no export of vectors")
        version = found.decode()
    epoch, dash, seq = version.partition("-")
    if not (dash and epoch.isdecimal() and seq.isdecimal()):
        raise ExportError(
            f"--since {text}: expected an earlier export (.parquet), or a version: EPOCH-NUMBER"
        )
    return int(epoch), int(seq)


def _changed(log: Log, model: Model, feature: str, since: tuple[int, int]) -> Keys:
    """The keys that updates after `since`, up to the model's, have written or deleted."""
    gone = ExportError(
        f"the log has not all updates since version {since[0]}-{since[1]} (the model is at {model.version}): "
        "export all vectors, without --since"
    )
    if since[0] != model.epoch or since[1] > model.seq:
        raise gone
    found = [np.empty(0, dtype=np.uint64)]
    seen = {since[1]}
    for value in _values(log, UPDATES, 0):
        try:
            update = decode_update(value)
        except UpdateDamagedError:
            continue  # then one number is not seen
        if update.epoch != model.epoch or not since[1] < update.seq <= model.seq or update.parts == 0:
            continue
        seen.add(update.seq)
        for piece in update.tables:
            if piece.name == feature:
                found += [np.frombuffer(raw, dtype=np.uint64) for raw in (piece.deleted, piece.keys)]
    if len(seen) != model.seq - since[1] + 1:
        raise gone
    return distinct(np.concatenate(found))


def _names(log: Log, model: Model, feature: str, keys: Keys, id_of: str) -> dict[int, int | str]:
    """The ids of keys. Where ids are declared as integers, a key is its id."""
    type_ = model.features.get(id_of, model.features[feature]).id_type
    if type_ == "int":
        signed = keys.view(np.int64).tolist()
        return dict(zip(keys.tolist(), signed, strict=True))
    wanted = set(keys.tolist())
    found: dict[int, int | str] = {}
    decode = Decoder[Example | Forget](Example, Forget, targets=UNKNOWN).decode
    partitions = log.partitions(EXAMPLES)
    ends = log.ends(EXAMPLES)
    with progress("looking for ids", sum(end - first for first, end in ends)) as advance:
        for partition in range(partitions):
            for value in _values(log, EXAMPLES, partition):
                advance(1)
                try:
                    example = decode(value)
                except FreshetError:
                    continue
                if isinstance(example, Forget):
                    continue
                for features in (example.context, *example.candidates):
                    for one in _ids(features.get(feature)):
                        one = str(one) if type_ == "text" else one
                        key = key_of(one)
                        if key in wanted:
                            found[key] = one
    return found


def _ids(value: object) -> Iterator[int | str]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, int | str):
            yield one


def _values(log: Log, topic: str, partition: int) -> Iterator[bytes]:
    offset, end = log.ends(topic)[partition]
    while offset < end:
        records = log.read(topic, partition, offset, READ_RECORDS)
        if not records:
            return
        for record in records:
            yield record.value
        offset = records[-1].offset + 1


def _write(
    to: Path,
    model: Model,
    feature: str,
    keys: Keys,
    deleted: Keys,
    names: dict[int, int | str],
    changes: bool,
) -> None:
    texts = {name for name in names.values() if isinstance(name, str)}
    if texts and len(texts) != len(set(names.values())):
        raise ExportError(
            f"the ids of {feature} are integers and texts, for which a column has no type; set "
            f'type = "int" or "text" in [features.{feature}]'
        )
    table = model.tables[model.encoder.column_of(feature)]
    kind = pa.string() if texts else pa.int64()
    dim = model.features[feature].row_dim
    fields = [("key", pa.uint64()), ("id", kind), ("vector", pa.list_(pa.float32(), dim))]
    fields += [("deleted", pa.bool_())] if changes else []
    schema = pa.schema(fields, {VERSION: model.version.encode(), b"freshet.feature": feature.encode()})
    with pq.ParquetWriter(to, schema, compression="zstd") as writer:
        for gone, part in ((False, keys), (True, deleted)):
            for first in range(0, len(part), ROWS_AT_ONCE):
                some = part[first : first + ROWS_AT_ONCE]
                columns = [
                    pa.array(some),
                    pa.array([names.get(key) for key in some.tolist()], kind),
                    pa.nulls(len(some), schema.field("vector").type)
                    if gone
                    else pa.FixedSizeListArray.from_arrays(table.read(some)[0].ravel(), dim),
                ]
                if changes:
                    columns.append(pa.array(np.full(len(some), gone)))
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
