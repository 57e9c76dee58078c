"""The long run as small charts, one below the other, in an SVG file, and as a table in Markdown."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

WIDTH, HEIGHT, LEFT, RIGHT, TOP = 640, 110, 70, 20, 26
COLOURS = ("#1f6feb", "#bf5b04", "#1a7f37")

Line = tuple[str, Callable[[Row], float | None]]

Charts = tuple[tuple[str, tuple[Line, ...]], ...]

CHARTS: Charts = (
    (
        "requests/s",
        (("learning", lambda r: r["per_s"]), ("with commits", lambda r: r["whole_per_s"])),
    ),
    ("processor time of a request, µs", (("learning and commits", lambda r: r["cpu_us"]),)),
    (
        "memory, disk: MB",
        (
            ("memory", lambda r: r["memory_mb"]),
            ("of the reader", lambda r: r["reader_mb"]),
            ("state on disk", lambda r: r["disk_mb"]),
        ),
    ),
    (
        "rows, millions",
        (
            ("pairs", lambda r: r["rows"]["pairs"] / 1e6),
            ("ids", lambda r: (sum(r["rows"].values()) - r["rows"]["pairs"]) / 1e6),
        ),
    ),
    ("AUC", (("since the last mark", lambda r: r["auc"]),)),
    (
        "score of 50, µs",
        (("median", lambda r: r["score_p50_us"]), ("p99", lambda r: r["score_p99_us"])),
    ),
    (
        "commit of 20,000 requests, ms",
        (("median", lambda r: r["commit_p50_ms"]), ("longest", lambda r: r["commit_max_ms"])),
    ),
    (
        "snapshot, restart: s",
        (("restart", lambda r: r["restart_s"]), ("published snapshot", lambda r: r["publish_s"])),
    ),
)

LIVE_CHARTS: Charts = (
    ("requests/s", (("sent", lambda r: r["sent_per_s"]),)),
    ("not learned yet, requests", (("behind", lambda r: r["requests"] - r["learnt"]),)),
    ("freshness, s", (("of the server", lambda r: r["freshness_s"]),)),
    (
        "memory, MB",
        (
            ("joiner", lambda r: r["memory_mb"]["join"]),
            ("learner", lambda r: r["memory_mb"]["learn"]),
            ("server", lambda r: r["memory_mb"]["serve"]),
        ),
    ),
    (
        "on disk, MB",
        (
            ("log", lambda r: r["log_mb"]),
            ("learner", lambda r: r["state_mb"]["learn"]),
            ("snapshots", lambda r: r["snapshots_mb"]),
        ),
    ),
    (
        "rows, millions",
        (
            ("pairs", lambda r: r["rows"]["pairs"] / 1e6),
            ("ids", lambda r: (sum(r["rows"].values()) - r["rows"]["pairs"]) / 1e6),
        ),
    ),
    ("AUC", (("of the last 10,000", lambda r: r["auc"]),)),
    (
        "score of 10 over HTTP, ms",
        (("median", lambda r: r["score_p50_ms"]), ("p99", lambda r: r["score_p99_ms"])),
    ),
    (
        "commit, ms",
        (("joiner", lambda r: r["commit_ms"]["join"]), ("learner", lambda r: r["commit_ms"]["learn"])),
    ),
)


def round_above(value: float) -> float:
    """The least of 1, 2, 4, 6, 8 and 10 times a power of ten that is not below a value above 0."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 2, 4, 6, 8, 10) if step * unit >= value)


def draw(rows: Sequence[Row], out: Path, charts: Charts = CHARTS) -> None:
    """Write the charts; all begin at 0 and share their x axis, millions of requests."""
    height = len(charts) * HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    last = rows[-1]["requests"]

    def x(requests: float) -> float:
        return LEFT + requests / last * (WIDTH - LEFT - RIGHT)

    for n, (title, lines) in enumerate(charts):
        base = (n + 1) * HEIGHT
        values = [
            [(row["requests"], value) for row in rows if (value := take(row)) is not None]
            for _, take in lines
        ]
        top = round_above(max((value for line in values for _, value in line), default=0.0) or 1.0)
        parts.append(f'<text x="{LEFT}" y="{base - HEIGHT + 16}" font-weight="bold">{title}</text>')
        for share in (0.0, 0.5, 1.0):
            at = base - share * (HEIGHT - TOP)
            parts.append(
                f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="#ddd"/>'
            )
            parts.append(
                f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{share * top:,.10g}</text>'
            )
        for k, (name, _) in enumerate(lines):
            points = " ".join(
                f"{x(at):.1f},{base - value / top * (HEIGHT - TOP):.1f}" for at, value in values[k]
            )
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{COLOURS[k]}" stroke-width="1.8"/>'
            )
            parts.append(
                f'<text x="{WIDTH - RIGHT}" y="{base - HEIGHT + 16}" text-anchor="end" '
                f'dx="{-110 * (len(lines) - 1 - k)}" fill="{COLOURS[k]}">{name}</text>'
            )
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{height - 6}" text-anchor="end">{last / 1e6:g} million requests</text>'
    )
    parts.append("</svg>")
    out.write_text("\n".join(parts) + "\n")


HEAD = (
    "requests", "requests/s", "with commits", "CPU µs", "memory MB", "disk MB", "pairs", "other rows", "AUC",
    "score µs", "commit ms", "snapshot s", "published s", "restart s",
)  # fmt: skip


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))


LIVE_HEAD = (
    "requests", "sent/s", "behind", "memory MB: joiner, learner, server", "log MB", "state MB",
    "snapshots MB", "pairs", "AUC", "score ms", "commit ms: joiner, learner",
)  # fmt: skip


def live_cells(row: Row) -> list[str]:
    """One line of the table of the run through the roles."""
    memory, commit = row["memory_mb"], row["commit_ms"]
    return [
        f"{row['requests']:,}", f"{row['sent_per_s']:,.0f}", f"{row['requests'] - row['learnt']:,}",
        f"{memory['join']:.0f}, {memory['learn']:.0f}, {memory['serve']:.0f}", f"{row['log_mb']:,.0f}",
        f"{row['state_mb']['learn']:,.0f}", f"{row['snapshots_mb']:,.0f}", f"{row['rows']['pairs']:,}",
        "–" if row["auc"] is None else f"{row['auc']:.4f}",
        f"{row['score_p50_ms']:.1f}, {row['score_p99_ms']:.1f}",
        f"{commit['join']:.1f}, {commit['learn']:.1f}",
    ]  # fmt: skip


def cells(row: Row) -> list[str]:
    """One line of the table."""
    rows = row["rows"]
    return [
        f"{row['requests'] / 1e6:.3g} M", f"{row['per_s']:,.0f}", f"{row['whole_per_s']:,.0f}",
        f"{row['cpu_us']:.1f}",
        f"{row['memory_mb']:,.0f}", f"{row['disk_mb']:,.0f}", f"{rows['pairs']:,}",
        f"{sum(rows.values()) - rows['pairs']:,}", "–" if row["auc"] is None else f"{row['auc']:.4f}",
        f"{row['score_p50_us']:.0f}, {row['score_p99_us']:.0f}",
        f"{row['commit_p50_ms']:.0f}, {row['commit_max_ms']:.0f}", f"{row['snapshot_s']:.2f}",
        f"{row['publish_s']:.2f}", f"{row['restart_s']:.1f}",
    ]  # fmt: skip
