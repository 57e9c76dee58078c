"""No quote swallows a line: what cannot be taken apart costs one line, said with both line numbers."""

import csv
import io
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import SourceError
from stream.files.columns import DataSettings
from stream.files.csv_rows import CELL_LINES_MAX, Dialect, read_rows
from stream.files.sources import LeftOut, read_examples


def table(quotes: dict[int, str], lines: int = 60) -> list[str]:
    """A line of names and lines of data, tabs between; `quotes` has the last cell of some lines."""
    rows = [f"{1767225600 + i}\tu{i % 4}\t{i % 5}\t{i % 2}\t{quotes.get(i, 'x')}\n" for i in range(lines)]
    return ["time\tuser\titem\tlabel\ttitle\n", *rows]


@pytest.mark.parametrize(
    ("quotes", "bad"),
    [
        ({4: '"Great'}, "quote opens a cell that has not ended by line 15"),
        ({4: '"Great', 54: 'Great"'}, "quote opens a cell that has not ended by line 15"),
        ({4: '"Great', 6: 'Great"'}, "quote opens a cell that ends at line 8, and the lines between"),
        ({58: '"Great'}, "unexpected end of data .in a cell that ends at line 61"),
        ({4: '"Gre"at'}, "expected after"),
    ],
)
def test_stray_quote_costs_one_line(tmp_path: Path, quotes: dict[int, str], bad: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("".join(table(quotes)))
    with pytest.raises(SourceError, match=bad):
        list(read_examples(path))
    left_out = LeftOut()
    read = list(read_examples(path, DataSettings(skip_bad=True), left_out))
    assert len(read) == 59 and left_out.lines == 1
    assert f"{path}:{min(quotes) + 2}: " in left_out.first
    assert len(list(read_examples(path, DataSettings(quote="")))) == 60


def test_cell_of_a_few_lines_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    text = "\n".join(f"part {i}" for i in range(CELL_LINES_MAX))
    path.write_text(f'time,label,text\n1e9,1,"{text}"\n1e9,0,x\n')
    assert [e.candidates[0]["text"] for e in read_examples(path)] == [text, "x"]
    path.write_text(f'time,label,text\n1e9,1,"{text}\nand"\n1e9,0,x\n')
    with pytest.raises(SourceError, match=f":2: .*not ended by line {CELL_LINES_MAX + 1}"):
        list(read_examples(path))


def test_cell_of_two_lines_is_read_in_a_row_of_many_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('time,label,user,item,text\n1e9,1,u,i,"one,\nand two"\n1e9,0,u,i,x\n')
    assert [e.candidates[0]["text"] for e in read_examples(path)] == ["one,\nand two", "x"]


def test_escaped_quotes_and_lines_before_the_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('sep=;\ntime;label;text\n1e9;1;"say \\"a; b\\""\n')
    settings = DataSettings(delimiter=";", escape="\\", skip_lines=1)
    (example,) = read_examples(path, settings)
    assert example.candidates == [{"text": 'say "a; b"'}] and example.request_id == "3"


def test_integers_written_as_fractions_and_lines_without_a_label(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,label,user\n1e9,5,7.0\n1e9,-1,8.0\n1e9,,9.0\n1e9,1,\n")
    left_out = LeftOut()
    settings = DataSettings(positive_from=4.0, unlabelled=["-1", ""], types={"user": "int"})
    read = list(read_examples(path, settings, left_out))
    assert [(e.labels, e.candidates) for e in read] == [([1.0], [{"user": 7}]), ([0.0], [{}])]
    assert left_out.lines == 2 and "'-1' is no label" in left_out.first


cells = st.text(st.sampled_from("ab\",;\n\t '\\"), max_size=6)


@pytest.mark.slow
@given(st.lists(st.lists(cells, min_size=5, max_size=5), max_size=8))
def test_what_a_csv_writer_wrote_is_read_back_or_said_to_be_bad(rows: list[list[str]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    text = out.getvalue()
    found = list(read_rows(io.StringIO(text, newline=""), Dialect()))
    if not any(row.error for row in found):
        assert [row.cells for row in found if row.cells] == rows
    for row, after in itertools.pairwise(found):
        assert after.line > row.line


@given(st.text(st.sampled_from('a",\n'), max_size=60), st.sampled_from(['"', ""]))
def test_every_line_is_in_a_row_or_in_an_error(text: str, quote: str) -> None:
    lines = text.splitlines(keepends=True)
    found = list(read_rows(lines, Dialect(quote=quote)))
    inside = sum(cell.count("\n") for row in found for cell in row.cells)
    assert len(found) + inside == len(lines)
