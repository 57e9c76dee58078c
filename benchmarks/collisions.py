"""What it costs to keep ids in a hashed table: how many ids meet, and what that does to AUC.

Two parts.

1. Table 1 of Monolith (Liu et al. 2022, arXiv 2209.07663): MovieLens-25M's 162,541 users and 59,047
   rated movies, hashed by md5 into 10⁶ places, leave 149,970 and 57,361. The paper does not say what it
   hashed. Its figures come out exactly from the ids numbered 0, 1, 2, ... in decimal, with the digest
   read as one big-endian number; so nothing but the two counts is needed, and no data set.

2. MovieTweetings, learnt in time order by Freshet's learner as `freshet replay` does: once as it is, and
   with user and movie replaced by hash(id) mod rows before the learner sees them, for tables that have
   as many, half, a quarter and a tenth as many rows as there are ids. Pairs of features are made of the
   hashed ids, so they collide as well, as in a system that hashes first. Genres and hours are few and
   stay. AUC is progressive: every rating is predicted before it is learnt.

    .venv/bin/python benchmarks/collisions.py [--quick] [--data FOLDER] [--json OUT]

`--quick` learns with the fast part alone and with two seeds.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import xxhash
from table_parts.movies import parse_options

from freshet.config import Config, default_config, override_config
from ground import FreshetError
from learner.metrics import summarize
from learner.role.learner import Learner
from stream.files.sources import read_examples
from stream.records.types import Example

PLACES = 1_000_000
TABLE_1 = {"users": (162_541, 149_970), "movies": (59_047, 57_361)}  # before and after, as published
ROWS_PER_ID = (1.0, 0.5, 0.25, 0.1)
CHUNK_REQUESTS = 512


def md5_place(text: str) -> int:
    """Where md5 puts an id among PLACES."""
    return int(hashlib.md5(text.encode()).hexdigest(), 16) % PLACES


def left_by_md5(ids: Iterable[int]) -> int:
    """How many different places ids take: what is left of them after hashing."""
    return len({md5_place(str(i)) for i in ids})


def hashed(value: int, seed: int, rows: int) -> int:
    """The row of an id in a hashed table."""
    return xxhash.xxh3_64_intdigest(value.to_bytes(8, "little"), seed=seed) % rows


def with_hashed_ids(examples: Sequence[Example], rows: dict[str, int], seed: int) -> list[Example]:
    """The same examples with the ids of features `rows` replaced by their rows."""
    users = {e.context["user"] for e in examples}
    movies = {c["movie"] for e in examples for c in e.candidates}
    # Another seed for each feature: each has a table of its own.
    user_row = {u: hashed(int(str(u)), 2 * seed, rows["user"]) for u in users}
    movie_row = {m: hashed(int(str(m)), 2 * seed + 1, rows["movie"]) for m in movies}
    return [
        msgspec.structs.replace(
            e,
            context={**e.context, "user": user_row[e.context["user"]]},
            candidates=[{**c, "movie": movie_row[c["movie"]]} for c in e.candidates],
        )
        for e in examples
    ]


def learn(config: Config, examples: Sequence[Example]) -> dict[str, float]:
    """Predict and learn all examples in order; AUC and log loss, overall and of the last half."""
    learner = Learner(config.features, config.learner)
    done = []
    for first in range(0, len(examples), CHUNK_REQUESTS):
        done += learner.learn(examples[first : first + CHUNK_REQUESTS])
        for table in learner.model.tables:
            table.drain_delta()
    done += learner.finish()
    p, y, group = (np.concatenate([getattr(g, name) for g in done]) for name in ("p", "y", "group"))
    half = len(y) // 2
    overall = summarize(p, y, group)
    last = summarize(p[half:], y[half:], group[half:])
    return {
        "auc": overall["auc"],
        "auc_last_half": last["auc"],
        "logloss": overall["logloss"],
        "logloss_last_half": last["logloss"],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (of the sample) and range."""
    return {
        "mean": float(np.mean(values)),
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "least": min(values),
        "most": max(values),
    }


def bench_table_1() -> dict[str, dict[str, int]]:
    """Monolith's Table 1 again."""
    found = {}
    for what, (before, published) in TABLE_1.items():
        left = left_by_md5(range(before))
        found[what] = {"before": before, "after": left, "published": published}
        agrees = "as published" if left == published else f"published: {published:,}"
        print(f"md5 into {PLACES:,}: {before:,} {what} leave {left:,} ({agrees})")
    return found


def bench_auc(data: Path, seeds: int, deep: str) -> dict[str, object]:
    """AUC by the size of the hashed table; says why where the data cannot be read."""
    try:
        if not data.is_dir():
            raise FreshetError(f"{data} is not there; name MovieTweetings' folder with --data")
        config = override_config(default_config("movietweetings"), [f"learner.deep={deep}"])
        examples = list(read_examples(data, config.data))
    except FreshetError as error:
        print(f"AUC with collisions: skipped: {error}")
        return {"skipped": str(error)}
    ids = {
        "user": len({e.context["user"] for e in examples}),
        "movie": len({c["movie"] for e in examples for c in e.candidates}),
    }
    exact = learn(config, examples)
    print(
        f"{len(examples):,} ratings, {ids['user']:,} users, {ids['movie']:,} movies, deep part {deep}, "
        f"{seeds} seeds\n"
        f"{'collisionless':28s} AUC {exact['auc']:.4f}   last half {exact['auc_last_half']:.4f}"
    )
    by_size: list[dict[str, object]] = []
    for ratio in ROWS_PER_ID:
        rows = {name: max(int(ratio * count), 1) for name, count in ids.items()}
        runs = []
        shared = []
        for seed in range(1, seeds + 1):
            mapped = with_hashed_ids(examples, rows, seed)
            shared.append(1.0 - len({e.context["user"] for e in mapped}) / ids["user"])
            runs.append(learn(config, mapped))
        lost = {name: spread([exact[name] - run[name] for run in runs]) for name in exact}
        by_size.append(
            {
                "rows_per_id": ratio,
                "rows": rows,
                "users_merged": spread(shared),
                **{name: spread([run[name] for run in runs]) for name in exact},
                "lost": lost,
            }
        )
        print(
            f"hashed, {ratio:4.2f} rows per id        AUC {exact['auc'] - lost['auc']['mean']:.4f}"
            f"   last half {exact['auc_last_half'] - lost['auc_last_half']['mean']:.4f}"
            f"   lost {lost['auc']['mean']:.4f} ± {lost['auc']['deviation']:.4f}"
            f" / {lost['auc_last_half']['mean']:.4f} ± {lost['auc_last_half']['deviation']:.4f}"
            f"   ({np.mean(shared):.0%} of the users merged away)",
            flush=True,
        )
    return {
        "ratings": len(examples),
        "ids": ids,
        "deep": deep,
        "seeds": seeds,
        "exact": exact,
        "hashed": by_size,
    }


def main() -> None:
    """Run both parts, print a line for each, write JSON if asked."""
    options = parse_options(__doc__, quick="less of it; under a minute")
    result = {
        "benchmark": "collisions",
        "quick": options.quick,
        "table_1": bench_table_1(),
        "movietweetings": bench_auc(
            options.data, 2 if options.quick else 5, "none" if options.quick else "dcn"
        ),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
