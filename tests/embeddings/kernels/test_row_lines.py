"""Which columns of a row are prefetched: one on each line that a kernel needs, wherever the row begins."""

import numpy as np
import pytest

from embeddings import TableSpec
from embeddings.core.store import OWN_COLUMNS, TAIL, rules_of
from embeddings.kernels import lookup

LINE = 16  # columns
ROWS = [
    {"dim": 1, "optimizer": "sgd"},
    {"dim": 16, "optimizer": "rowwise_adagrad"},
    {"dim": 16, "optimizer": "rowwise_adagrad", "extra": 9},
    {"dim": 16, "optimizer": "adagrad"},
    {"dim": 17, "optimizer": "adam", "extra": 3},
    {"dim": 64, "optimizer": "ftrl"},
    {"dim": 0, "extra": 40},
    {"dim": 100, "optimizer": "sgd", "extra": 150},
]


def asked(spec: TableSpec, width: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    columns: list[int] = []
    monkeypatch.setattr(lookup, "prefetch", lambda bits, slot, column: columns.append(int(column)))
    bits = np.zeros((1, spec.width + OWN_COLUMNS), dtype=np.uint32)
    lookup.ask_for_row.py_func(bits, 0, lookup.lines_of.py_func(bits, width, rules_of(spec)))
    return columns


@pytest.mark.parametrize("evict", ["none", "least_recent"])
@pytest.mark.parametrize("settings", ROWS, ids=str)
def test_each_needed_line_of_a_row_is_prefetched(settings, evict, monkeypatch):
    spec = TableSpec(**settings, evict=evict)
    end = spec.width + OWN_COLUMNS
    for width in {0, 1, min(16, spec.width), min(17, spec.width), spec.dim, spec.width}:
        needed = {*range(width), *range(end - TAIL, end)}
        if evict != "none":
            needed.add(spec.age_column)
        columns = asked(spec, width, monkeypatch)
        assert all(0 <= column < end for column in columns)
        for begin in range(LINE):  # where in its first line the row begins
            lines = {(begin + column) // LINE for column in columns}
            assert {(begin + column) // LINE for column in needed} <= lines


def test_no_line_of_a_usual_row_is_prefetched_twice(monkeypatch):
    spec = TableSpec(dim=16, optimizer="rowwise_adagrad", evict="least_recent")
    assert len(asked(spec, 16, monkeypatch)) == 3  # 88 bytes lie on two or three lines
