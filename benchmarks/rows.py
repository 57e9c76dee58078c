"""What serving from packed rows costs in AUC, and what it saves in bytes.

A learner learns MovieTweetings in time order. Beside it stand servers' models, which differ in how they hold
their rows alone: each takes the same updates every CHUNK_REQUESTS ratings and predicts the next ones before
they are learnt. So what an AUC loses against float32 is lost to packing. The last lines
pack in ways that no setting offers: `vector + columns` names how the vector and how the caller's columns (the
fast part's evidence) are held.

    .venv/bin/python benchmarks/rows.py [--quick] [--data FOLDER] [--json OUT]
"""

import json

import numpy as np
from table_parts.movies import parse_options

from embeddings.save.delta import apply, drain
from embeddings.views import packed
from freshet.config import default_config, override_config
from ground import FreshetError
from learner.metrics import auc
from learner.model.model import Model
from learner.role.learner import Learner
from stream.files.sources import read_examples
from stream.records.types import Example

CHUNK_REQUESTS = 256
TARGETS = {"float16": 0.0005, "int8": 0.001}
EXTREMES = {
    "int8 + int8": (packed.Int8Packing, packed.Int8Packing),
    "float32 + int8": (packed.Float32Packing, packed.Int8Packing),
    "float32 + float16 unscaled": (packed.Float32Packing, packed.Float16Packing),
}


def bench(examples: list[Example], deep: str) -> dict[str, dict[str, float]]:
    """AUC and bytes by kind of rows."""
    config = override_config(default_config("movietweetings"), [f"learner.deep={deep}"])
    learner = Learner(config.features, config.learner)
    kinds = ["float32", "float16", "int8", *EXTREMES]
    packed.PACKINGS.update(EXTREMES)
    models = {kind: Model(config.features, config.learner, rows=kind) for kind in kinds}
    said: dict[str, list[object]] = {kind: [] for kind in kinds}
    labels = []
    for first in range(0, len(examples), CHUNK_REQUESTS):
        chunk = examples[first : first + CHUNK_REQUESTS]
        labels += [label for example in chunk for label in example.labels]
        for kind, model in models.items():
            said[kind].append(model.score_requests(chunk).p)
        learner.learn(chunk)
        arrays = learner.model.arrays()
        for t, table in enumerate(learner.model.tables):
            piece = drain(table).served(table).whole(table.spec.name)
            for model in models.values():
                apply(model.tables[t], piece)
        for model in models.values():
            for name, array in model.arrays().items():
                array[...] = arrays[name]
            model.weights_moved()
    y = np.array(labels)
    half = len(y) // 2
    found = {}
    exact = np.concatenate(said["float32"])
    for kind, model in models.items():
        p = np.concatenate(said[kind])
        rows = sum(len(table) for table in model.tables)
        found[kind] = {
            "auc": auc(p, y),
            "auc_last_half": auc(p[half:], y[half:]),
            "lost": auc(exact, y) - auc(p, y),
            "lost_last_half": auc(exact[half:], y[half:]) - auc(p[half:], y[half:]),
            "logit_error_max": float(np.abs(logit(p) - logit(exact)).max()),
            "row_bytes": sum(len(t) * t.spec.width * 4 for t in model.tables) / rows,
            "row_bytes_user": model.tables[0].spec.width * 4,
        }
    return found


def logit(p: np.ndarray) -> np.ndarray:
    """ln p / (1 - p)."""
    return np.log(p) - np.log1p(-p)


def main() -> None:
    """Run, print a line for each kind, write JSON if asked."""
    options = parse_options(__doc__, quick="the first 30,000 ratings")
    report: dict[str, object] = {"benchmark": "rows", "quick": options.quick}
    try:
        if not options.data.is_dir():
            raise FreshetError(f"{options.data} is not there; name MovieTweetings' folder with --data")
        examples = list(read_examples(options.data, default_config("movietweetings").data))
    except FreshetError as error:
        print(f"rows: skipped: {error}")
        report["skipped"] = str(error)
    else:
        if options.quick:
            examples = examples[:30_000]
        found = bench(examples, "dcn")
        report |= {"ratings": len(examples), "rows": found, "targets": TARGETS}
        for kind, figures in found.items():
            target = f", target {TARGETS[kind]}" if kind in TARGETS else ""
            print(
                f"{kind:28s} AUC {figures['auc']:.5f}   lost {figures['lost']:+.6f}{target}"
                f" (last half {figures['lost_last_half']:+.6f})   logit off by"
                f" {figures['logit_error_max']:.4f} at most"
                f"   {figures['row_bytes_user']:.0f} bytes a user's row"
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
