"""Data files of many shapes, as people have them, in which there is something to learn."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BEGIN_S = 1_717_171_200.0


class Row(NamedTuple):
    """One line's truth, before any format has it."""

    at_s: float
    user: int
    item: int
    clicked: int


def rows(n: int, seed: int = 0) -> list[Row]:
    """n lines in which some items are liked more than others, three lines of a user in a row."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 40, n // 3 + 1), rng.integers(0, 30, n)
    quality = rng.normal(size=30)
    found = []
    for i in range(n):
        user, item = int(users[i // 3]), int(items[i])
        clicked = int(rng.random() < 1.0 / (1.0 + np.exp(1.0 - 2.0 * quality[item])))
        found.append(Row(BEGIN_S + 60.0 * (i // 3), user, item, clicked))
    return found


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def no_header(folder: Path, n: int) -> Path:
    """No line of names; spaces between, as the older public sets have it; label last."""
    path = folder / "u.data"
    path.write_text("".join(f"{r.user + 900} {r.item} {r.at_s:.0f} {r.clicked}\n" for r in rows(n)))
    return path


def iso_times(folder: Path, n: int) -> Path:
    """ISO times with a space in them, words for ids, a price, and what happened in words."""
    path = folder / "shop.csv"
    lines = ["event_time,event_type,product_id,price,user_id,row"]
    for i, r in enumerate(rows(n)):
        kind = ("purchase" if i % 5 == 0 else "cart") if r.clicked else "view"
        lines.append(
            f"{_iso(r.at_s)} UTC,{kind},p{r.item},{r.item * 1.5:.2f},u{r.user},{i}".replace(" UTC", "")
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def epoch_ms(folder: Path, n: int) -> Path:
    """RetailRocket's shape: milliseconds, newest first."""
    path = folder / "events.csv"
    body = [f"{r.at_s * 1e3:.0f},{r.user},{'addtocart' if r.clicked else 'view'},{r.item}" for r in rows(n)]
    path.write_text("\n".join(["timestamp,visitorid,event,itemid", *reversed(body)]) + "\n")
    return path


def quoted_lists(folder: Path, n: int) -> Path:
    """Semicolons, CRLF, lists in quotes and in brackets, and cells with the delimiter in them."""
    path = folder / "articles.txt"
    lines = ["when;userId;articleId;tags;topics;title;liked"]
    for r in rows(n):
        tags = json.dumps([f"t{r.item % 7}", f"t{r.item % 5}"]).replace('"', "'")
        when = datetime.fromtimestamp(r.at_s, UTC).strftime("%d/%m/%Y %H:%M")
        lines.append(
            f'{when};{r.user};{r.item};"{tags}";"a{r.item % 3},b{r.item % 4}";'
            f'"About; {r.item} and {r.user}";{"True" if r.clicked else "False"}'
        )
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode("utf-8-sig"))
    return path


def tabs_without_time(folder: Path, n: int) -> Path:
    """Criteo's shape: tabs, no names, no time, label first, numbers and hashed ids, many cells empty."""
    path = folder / "train.txt"
    lines = []
    for r in rows(n):
        numbers = [str(r.item * 3 - 5), "" if r.user % 4 == 0 else str(r.user * 7)]
        ids = [
            f"{r.user * 2654435761 % 2**32:08x}",
            f"{r.item * 40503 % 2**32:08x}",
            "" if r.item % 2 else "f1",
        ]
        lines.append("\t".join([str(r.clicked), *numbers, *ids]))
    path.write_text("\n".join(lines) + "\n")
    return path


def wide(folder: Path, n: int) -> Path:
    """30 columns, slates held together by a request id, another outcome and columns of no use among them."""
    path = folder / "wide.csv"
    extra = [f"f{i}" for i in range(20)]
    names = [
        "row",
        "request_id",
        "ts",
        "user_id",
        "age",
        "country",
        "item_id",
        "price",
        "clicked",
        "purchased",
    ]
    lines = [",".join(names + extra)]
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 9, size=(n, 20))
    for i, r in enumerate(rows(n)):
        cells: list[Any] = [
            i,
            f"r{i // 3}",
            r.at_s,
            r.user,
            20 + r.user % 40,
            "at",
            r.item,
            r.item * 0.5,
            r.clicked,
        ]
        lines.append(",".join(map(str, [*cells, r.clicked * (i % 2), *noise[i]])))
    path.write_text("\n".join(lines) + "\n")
    return path


def gzipped_lines(folder: Path, n: int) -> Path:
    """JSON Lines, compressed, with microseconds and lists."""
    path = folder / "log.jsonl.gz"
    lines = [
        json.dumps(
            {"ts": int(r.at_s * 1e6), "user": f"u{r.user}", "item": r.item, "cats": [r.item % 3, r.item % 4],
             "price": r.item * 2, "meta": {"v": 1}, "clicked": bool(r.clicked)}
        )
        for r in rows(n)
    ]  # fmt: skip
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def parquet(folder: Path, n: int) -> Path:
    """Parquet with typed times and lists, ratings for labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "ratings.parquet"
    data = rows(n)
    stars = [4 + r.item % 2 if r.clicked else 1 + r.user % 3 for r in data]
    table = {
        "user": [r.user for r in data],
        "movie": [f"m{r.item}" for r in data],
        "tags": [[f"t{r.item % 3}", "all"] for r in data],
        "rating": stars,
        "rated_at": [datetime.fromtimestamp(r.at_s, UTC) for r in data],
    }
    pq.write_table(pa.table(table), path)
    return path


SHAPES = {
    shape.__name__: shape
    for shape in (
        no_header,
        iso_times,
        epoch_ms,
        quoted_lists,
        tabs_without_time,
        wide,
        gzipped_lines,
        parquet,
    )
}
