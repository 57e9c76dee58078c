"""The tables of docs/quality.md: what a quality run comes to; `quality_parts/table.py` has all of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from quality_parts.streams import APART
from quality_parts.table import Results, at, number, over_seeds, table

AGES = ("live", "2 s", "1 min", "10 min", "1 h", "5 h", "daily", "stops", "frozen")
MEMORIES = ("sketch", "knn")


def summary(results: Results) -> str:
    """Four tables: against other learners, behind a frozen base, by age, and against other memories."""
    streams = [stream for stream in results if stream != "permuted"]
    parts = {
        "The base against other online learners": _learners(results),
        "The error memory behind a frozen base": _frozen(results, streams),
        "By the age of the served base": _ages(results, streams),
        "Against other memories": _memories(results),
    }
    return "\n".join(f"## {title}\n\n{chr(10).join(lines)}\n" for title, lines in parts.items())


def _learners(results: Results) -> list[str]:
    rows = []
    for stream, by_seed in results.items():

        def mean(*path: str, by_seed: Any = by_seed) -> float:
            return over_seeds(by_seed, at(*path))[0]

        def half(who: str, figure: str, mean: Any = mean) -> float:
            return float(mean("learners", who, "last_half", figure))

        pair = ("differences", "freshet base - vw")
        spread = over_seeds(by_seed, at(*pair, "auc"))[1]
        rows.append(
            [
                stream,
                str(len(by_seed)),
                f"{number(half('freshet base', 'auc'), 4)} / {number(half('freshet base', 'logloss'), 4)}",
                f"{number(half('vw', 'auc'), 4)} / {number(half('vw, best log loss', 'logloss'), 4)}",
                f"{_signed(mean(*pair, 'auc'))} / {_signed(mean(*pair, 'logloss'))}",
                number(spread, 4) if len(by_seed) > 1 else "",
                ", ".join(number(half(f"river {who}", "auc"), 4) for who in ("lr", "ftrl", "fm")),
                f"{number(half('freshet base', 'calibration'), 3)}, {number(half('freshet base', 'ece'), 4)}",
            ]
        )
    head = (
        "stream", "seeds", "base AUC / log loss", "best VW AUC / log loss", "difference",
        "its spread (AUC)", "River LR, FTRL, FM: AUC", "calibration, ECE of base",
    )  # fmt: skip
    return table(head, rows)


def _frozen(results: Results, streams: Sequence[str]) -> list[str]:
    rows = []
    for stream in streams:
        by_seed = results[stream]

        def auc(who: str, by_seed: Any = by_seed) -> str:
            return number(over_seeds(by_seed, at("staleness", "frozen", who, "auc"))[0], 4)

        live = over_seeds(by_seed, at("learners", "freshet base", "last_half", "auc"))[0]
        regained, spread = over_seeds(by_seed, at("regained"))
        share = f"{regained:.0%}" + (f" ({spread:.0%})" if len(by_seed) > 1 else "")
        rows.append(
            [stream, auc("base"), auc("corrected"), number(live, 4), share, auc("sketch"), auc("knn")]
        )
    head = ("stream", "frozen base", "corrected", "live", "regained (spread)", "best sketch", "best kNN")
    return table(head, rows)


def _ages(results: Results, streams: Sequence[str]) -> list[str]:
    rows = []
    for stream in streams:
        row = [stream]
        for age in AGES:
            base, auc, loss = (
                over_seeds(results[stream], at("staleness", age, *path))[0]
                for path in (
                    ("base", "auc"), ("corrected - base", "auc"), ("corrected - base", "logloss")
                )
            )  # fmt: skip
            row.append(f"{base:.4f} {1e4 * auc:+.1f} / {1e4 * loss:+.1f}")
        rows.append(row)
    return table(("stream", *AGES), rows)


def _memories(results: Results) -> list[str]:
    rows = []
    counted = [stream for stream in results if stream not in APART]
    for age in AGES:
        worse, means = [], []
        for memory in MEMORIES:
            found = [
                [over_seeds(results[s], at("staleness", age, f"corrected - {memory}", f))[0] for s in counted]
                for f in ("auc", "logloss")
            ]
            auc, loss = np.array(found)
            known = ~np.isnan(auc)
            worse.append(f"{int(((auc < 0) | (loss > 0))[known].sum())} of {int(known.sum())}")
            means.append(f"{auc[known].mean():+.4f} / {loss[known].mean():+.4f}" if known.any() else "")
        rows.append([age, *worse, *means])
    head = (
        "age", "corrected below the sketch", "corrected below kNN", "mean over streams, to the sketch",
        "mean over streams, to kNN",
    )  # fmt: skip
    return table(head, rows)


def _signed(value: float) -> str:
    return "" if np.isnan(value) else f"{value:+.4f}"
