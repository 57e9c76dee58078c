"""Data files as people have them, made up with their truth: what each column is, and how many lines.

Every choice is drawn by hypothesis: the dialect, whether there are names, what stands before them, how times,
labels, numbers, ids and lists are written, what stands for nothing, and whether a column tells the label.
"""

import csv
import gzip
import io
import json
import math
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

BEGIN_S = 1_717_171_200

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Truth(NamedTuple):
    """What was generated.

    Attributes:
        path: of the file.
        lines: of data in it.
        label: the column's name; of a file without names c1, c2 and so on.
        time: the column's name, or none.
        roles: what each other column is, by its name: id, number, ids; left out, leak.
        unlabelled: lines without a label.
    """

    path: Path
    lines: int
    label: str
    time: str
    roles: dict[str, str]
    unlabelled: int


class _Column(NamedTuple):
    names: tuple[str, ...]
    role: str
    cell: Callable[[int], Any]  # of line i


class _World:
    """Who sees what, and whether they like it: the truth behind a file's lines."""

    def __init__(self, seed: int, lines: int) -> None:
        self.rng = rng = random.Random(seed)
        self.user = [rng.randrange(25) for _ in range(lines)]
        self.item = [min(int(rng.expovariate(0.12)), 39) for _ in range(lines)]
        taste = [rng.gauss(0.0, 1.2) for _ in range(40)]
        self.clicked = [int(rng.random() < 1.0 / (1.0 + math.exp(0.8 - taste[i]))) for i in self.item]
        self.age = [max(18, min(90, int(rng.gauss(40.0, 13.0)))) for _ in range(25)]
        self.price = [round(rng.lognormvariate(3.0, 1.0), 2) + 0.01 for _ in range(40)]
        self.count = [min(int(rng.expovariate(0.05)), 400) for _ in range(lines)]
        self.hash = [rng.getrandbits(63) - (1 << 62) for _ in range(40)]
        self.long = [rng.randrange(10**9, 4 * 10**9) for _ in range(25)]
        self.words = [rng.choice("abcdefghij") + str(rng.randrange(100, 999)) for _ in range(40)]


def _ids(world: _World) -> list[_Column]:
    """Columns that name something, as they are found in the wild."""
    user, item = world.user, world.item
    return [
        _Column(("user_id", "visitorid", "uid", "用户编号", "kunde"), "id", lambda i: f"u{user[i]}"),
        _Column(("item_id", "itemid", "product", "商品", "artikel"), "id", lambda i: 1_000 + 17 * item[i]),
        _Column(("device_hash", "x1", "feature_b"), "id", lambda i: world.hash[item[i]]),
        _Column(("account", "x2", "列二"), "id", lambda i: world.long[user[i]]),
        _Column(("category", "x3", "kategorie"), "id", lambda i: item[i] % 7),
        _Column(("brand_id", "x4"), "id", lambda i: f"{float(item[i] % 11):.1f}" if i % 9 else None),
        _Column(("site", "x5"), "id", lambda i: world.words[item[i]]),
        _Column(("app_hash", "x6"), "id", lambda i: f"{world.hash[user[i] % 9] & 0xFFFFFFFF:08x}z"),
        _Column(("flag", "is_new"), "id", lambda i: "true" if user[i] % 3 else "false"),
    ]


def _numbers(world: _World) -> list[_Column]:
    user, item = world.user, world.item
    return [
        _Column(("price", "preis", "价格", "y1"), "number", lambda i: world.price[item[i]]),
        _Column(("score_before", "y2", "z"), "number", lambda i: round(user[i] / 9 - item[i] / 7 - 0.05, 3)),
        _Column(("count", "views", "n_seen"), "number", lambda i: world.count[i]),
        _Column(("age", "alter_years"), "number", lambda i: world.age[user[i]] + 0.5),
        _Column(("amount", "length"), "number", lambda i: world.count[i] * 3 + 1 if i % 8 else None),
    ]


def _others(world: _World) -> list[_Column]:
    user, item, clicked = world.user, world.item, world.clicked
    return [
        _Column(("tags", "genres"), "ids", lambda i: [f"t{item[i] % 4}", f"g{item[i] % 3}"]),
        _Column(("country", "version"), "left out", lambda i: "at"),
        _Column(("line", "nr"), "left out", lambda i: i),
        _Column(("not_clicked", "w1"), "leak", lambda i: 1 - clicked[i]),
        _Column(("paid_at_price", "w2"), "leak", lambda i: world.price[item[i]] if clicked[i] else None),
        _Column(("state", "w3"), "leak", lambda i: ("open", "gone", "shut")[clicked[i] * (1 + i % 2)]),
        _Column(("seconds_seen", "w4"), "leak", lambda i: 30 + user[i] if clicked[i] else i % 9),
    ]


_LABELS: dict[str, tuple[tuple[str, ...], Callable[[int, int], Any]]] = {
    "01": (("click", "label", "clicked", "is_click", "target"), lambda y, i: y),
    "01 with a fraction": (("label", "click"), lambda y, i: f"{y}.000"),
    "01 with an exponent": (("label", "clicked"), lambda y, i: f"{y:.1e}"),
    "words": (("event", "action"), lambda y, i: ("view", "click")[y]),
    "yes and no": (("clicked", "response"), lambda y, i: ("no", "yes")[y]),
    "truths": (("label", "clicked"), lambda y, i: ("False", "True")[y]),
    "rating": (("rating", "stars"), lambda y, i: 4 + i % 2 if y else 1 + i % 3),
    "rating with none": (("rating",), lambda y, i: -1 if i % 6 == 0 else 4 + i % 2 if y else 1 + i % 3),
    "minus one and one": (("label", "target"), lambda y, i: 2 * y - 1),
    "one and two": (("label", "response"), lambda y, i: y + 1),
}

_TIMES: dict[str, Callable[[int], Any]] = {
    "s": lambda s: s,
    "s with a fraction": lambda s: f"{s}.25",
    "ms": lambda s: 1_000 * s,
    "us": lambda s: 1_000_000 * s,
    "iso": lambda s: _utc(s).strftime("%Y-%m-%d %H:%M:%S"),
    "iso with a zone": lambda s: _utc(s).isoformat(),
    "days first": lambda s: _utc(s + 20 * 86_400).strftime("%d.%m.%Y %H:%M"),
    "slashes": lambda s: _utc(s).strftime("%Y/%m/%d %H:%M:%S"),
    "digits": lambda s: _utc(s).strftime("%Y%m%d%H%M%S"),
}


_FRACTION = re.compile(r"\d+\.\d+(e[+-]\d+)?").fullmatch


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def make_file(draw: Draw, folder: Path) -> Truth:
    """A file, with its truth."""
    lines = draw(st.integers(220, 420))
    world = _World(draw(st.integers(0, 1 << 30)), lines)
    form = draw(st.sampled_from(["csv", "csv", "csv", "jsonl", "parquet"]))
    named = form != "csv" or draw(st.booleans()) or draw(st.booleans())
    chosen = draw(st.lists(st.sampled_from(range(9)), min_size=2, max_size=5, unique=True))
    columns = [_ids(world)[k] for k in chosen]
    columns += [
        _numbers(world)[k] for k in draw(st.lists(st.sampled_from(range(5)), max_size=3, unique=True))
    ]
    columns += [_others(world)[k] for k in draw(st.lists(st.sampled_from(range(7)), max_size=2, unique=True))]
    label_form = draw(st.sampled_from(list(_LABELS)))
    if not named:
        # Without names only the values speak.
        label_form = draw(st.sampled_from(["01", "truths", "01 with a fraction"]))
        columns = [
            c for c in columns if c.role != "left out" and "flag" not in c.names and "w1" not in c.names
        ]
    label_names, label_cell = _LABELS[label_form]
    time_form = draw(st.sampled_from([*_TIMES, ""]))
    if not named and time_form == "digits":
        time_form = "iso"
    table: list[tuple[str, str, list[Any]]] = []
    if time_form:
        name = draw(st.sampled_from(["time", "timestamp", "ts", "event_time", "时间"]))
        table.append((name, "time", [_TIMES[time_form](BEGIN_S + 37 * i) for i in range(lines)]))
    for column in columns:
        table.append(
            (draw(st.sampled_from(column.names)), column.role, [column.cell(i) for i in range(lines)])
        )
    label_cells = [label_cell(world.clicked[i], i) for i in range(lines)]
    at = draw(st.sampled_from([0, len(table)]))
    table.insert(at, (draw(st.sampled_from(label_names)), "label", label_cells))
    if not named:
        table = [(f"c{k}", role, cells) for k, (_, role, cells) in enumerate(table, 1)]
    path = _WRITERS[form](draw, folder, table, named)
    roles = {name: role for name, role, _ in table if role not in ("time", "label")}
    label = next(name for name, role, _ in table if role == "label")
    time = next((name for name, role, _ in table if role == "time"), "")
    none = sum(cell == -1 for cell in label_cells) if label_form == "rating with none" else 0
    return Truth(path, lines, label if named else "label", time if named or not time else "time", roles, none)


def _write_csv(draw: Draw, folder: Path, table: list[tuple[str, str, list[Any]]], named: bool) -> Path:
    delimiter = draw(st.sampled_from([",", ",", ";", "\t", "|"]))
    decimal = draw(st.sampled_from([".", ","])) if delimiter in ";\t|" else "."
    if any(
        isinstance(c, str) and _FRACTION(c) for _, role, cells in table for c in cells if role != "number"
    ):
        decimal = "."  # a file writes all of its fractions alike
    missing = draw(st.sampled_from(["", "", "NULL", "NaN", "\\N"]))
    listed = draw(st.sampled_from(["brackets", ";" if delimiter != ";" else "|"]))
    before = draw(st.sampled_from(["", "", "sep", "title"])) if named and delimiter in ",;" else ""

    def cell(value: Any, role: str) -> str:
        if value is None:
            return missing
        if isinstance(value, list):
            return json.dumps(value) if listed == "brackets" else listed.join(value)
        if isinstance(value, float) and role in ("number", "leak"):
            return str(value).replace(".", decimal)
        return str(value)

    out = io.StringIO()
    if before == "sep":
        out.write(f"sep={delimiter}\n")
    elif before == "title":
        out.write("Clicks of the last days\n")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=draw(st.sampled_from(["\n", "\r\n"])))
    if named:
        writer.writerow([name for name, _, _ in table])
    for row in zip(*(cells for _, _, cells in table), strict=True):
        writer.writerow([cell(value, role) for value, (_, role, _) in zip(row, table, strict=True)])
    data = out.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig"])))
    name = draw(st.sampled_from(["clicks.csv", "clicks.txt", "clicks.csv.gz"]))
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def _write_jsonl(draw: Draw, folder: Path, table: list[tuple[str, str, list[Any]]], named: bool) -> Path:
    nothing = draw(st.sampled_from([None, math.nan, "absent"]))
    path = folder / "clicks.jsonl"
    lines = []
    for row in zip(*(cells for _, _, cells in table), strict=True):
        found = {name: _typed(value) for value, (name, _, _) in zip(row, table, strict=True)}
        if nothing == "absent":
            found = {name: value for name, value in found.items() if value is not None}
        lines.append(
            json.dumps({k: nothing if v is None else v for k, v in found.items()}, ensure_ascii=False)
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _typed(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _write_parquet(draw: Draw, folder: Path, table: list[tuple[str, str, list[Any]]], named: bool) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "clicks.parquet"
    pq.write_table(pa.table({name: [_typed(value) for value in cells] for name, _, cells in table}), path)
    return path


_WRITERS = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}
