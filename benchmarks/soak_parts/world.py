"""A world that never repeats: eight id features, new people, items and campaigns all the time.

A request's person is a recent one: ids count on as requests do, and each request picks among the last so
many, the newest most often. So every id is common for a while and then never seen again, and the pairs of
ids are mostly new. Effects are hashes of ids, so nothing has to be remembered of anybody.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FEATURES = ("user", "item", "campaign", "category", "publisher", "city", "device", "hour")
OF_USER = ("user", "city", "device")
START = 1_700_000_000
REQUESTS_PER_S = 100  # of event time
BLOCK = 100_000  # requests that are drawn at once, from a seed of their own


class Turnover(NamedTuple):
    """How many ids of a kind are about, how many come with each request, and how the newest lead."""

    active: int
    per_request: float
    skew: float


USERS = Turnover(200_000, 0.02, 4.0)
ITEMS = Turnover(20_000, 0.002, 5.0)
CAMPAIGNS = Turnover(300, 0.00003, 3.0)
EFFECTS = {"user": 0.5, "item": 0.7, "campaign": 0.4, "publisher": 0.4, "city": 0.2, "hour": 0.2}
TASTE = 0.8  # of a segment of people for a category
SEGMENTS = 16
BIAS = -1.8


def _hash(ids: Ints, salt: int) -> npt.NDArray[np.uint64]:
    """64 mixed bits of each id."""
    x = ids.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _effect(ids: Ints, salt: int) -> Floats:
    """A number of each id, uniform with mean 0 and deviation 1."""
    share = _hash(ids, salt).astype(np.float64) / 2.0**64
    return (share - 0.5) * np.sqrt(12.0)


def _recent(rng: np.random.Generator, number: Ints, kind: Turnover) -> Ints:
    back = kind.active * rng.random(len(number)) ** kind.skew
    return (kind.active + number * kind.per_request - back).astype(np.int64)


class Requests(NamedTuple):
    """Requests of one candidate: each feature's ids, and the labels; all (n,)."""

    number: Ints
    ids: dict[str, Ints]
    label: Ints

    def time(self) -> Floats:
        """Event time, Unix seconds."""
        return START + self.number / REQUESTS_PER_S


def block(first: int, count: int) -> Requests:
    """`count` requests from number `first` on; the same for the same arguments."""
    rng = np.random.default_rng((7, first))
    number = np.arange(first, first + count, dtype=np.int64)
    user = _recent(rng, number, USERS)
    item = _recent(rng, number, ITEMS)
    ids = {
        "user": user,
        "item": item,
        "campaign": _recent(rng, number, CAMPAIGNS),
        "category": (_hash(item, 1) % np.uint64(40)).astype(np.int64),
        "publisher": (200 * rng.random(count) ** 4.0).astype(np.int64),
        "city": (_hash(user, 2) % np.uint64(300)).astype(np.int64),
        "device": (_hash(user, 3) % np.uint64(3)).astype(np.int64),
        "hour": (START // 3600 + number // (3600 * REQUESTS_PER_S)) % 24,
    }
    logit = np.full(count, BIAS)
    for salt, (name, size) in enumerate(EFFECTS.items(), 10):
        logit += size * _effect(ids[name], salt)
    segment = (_hash(user, 4) % np.uint64(SEGMENTS)).astype(np.int64)
    logit += TASTE * _effect(segment * 1_000 + ids["category"], 5)
    label = (rng.random(count) < 1.0 / (1.0 + np.exp(-logit))).astype(np.int64)
    return Requests(number, ids, label)


def blocks(requests: int, first: int = 0) -> Iterator[Requests]:
    """The requests [first, requests)."""
    for start in range(first - first % BLOCK, requests, BLOCK):
        whole = block(start, BLOCK)
        part = slice(max(first - start, 0), min(BLOCK, requests - start))
        ids = {name: values[part] for name, values in whole.ids.items()}
        yield Requests(whole.number[part], ids, whole.label[part])


def write_csv(path: Path, requests: int, first: int = 0) -> None:
    """The requests [first, requests) as a CSV file."""
    names = ["time", "label", *FEATURES]
    schema = pa.schema([(name, pa.float64() if name == "time" else pa.int64()) for name in names])
    with csv.CSVWriter(path, schema, write_options=csv.WriteOptions(quoting_style="none")) as writer:
        for part in blocks(requests, first):
            columns = [part.time(), part.label, *(part.ids[name] for name in FEATURES)]
            writer.write_batch(pa.record_batch([pa.array(c) for c in columns], schema=schema))
