"""Data files become requests, or errors that say what to do."""

import gzip
import json
import math
import os
import re
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import DATA

from stream.errors import SourceError
from stream.files.columns import LabelColumn, to_id
from stream.files.sources import DataSettings, count_examples, detect_format, read_examples, read_lines
from stream.records.targets import Target, Targets
from stream.records.types import Example

MOVIETWEETINGS = DATA / "movietweetings"
GZIP = gzip.compress(b"time,label,x\n" + b"1,1,1\n" * 999, mtime=0)
CSV = """time,label,user,item,price,tags
1000,1,7,a1,1.5,x|y
1001,0,007,a2,,z
1001.5,1,8,a1,2,
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, settings: DataSettings | None = None) -> list[Example]:
    return list(read_examples(path, settings))


def test_csv_columns_become_typed_features(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", CSV)
    first, second, third = read(path)
    assert first == Example(
        "2", 1000.0, 1000.0, [{"user": 7, "item": "a1", "price": 1.5, "tags": ["x", "y"]}], [1.0]
    )
    assert second.candidates == [{"user": "007", "item": "a2", "tags": ["z"]}]
    assert third.candidates == [{"user": 8, "item": "a1", "price": 2.0}]
    assert count_examples(path) == 3


def test_context_types_and_features_are_chosen(tmp_path: Path) -> None:
    settings = DataSettings(
        features={"who": "user", "cost": "price"}, context=["who"], types={"who": "text", "cost": "number"}
    )
    first, *_ = read(write(tmp_path / "a.csv", CSV), settings)
    assert (first.context, first.candidates) == ({"who": "7"}, [{"cost": 1.5}])


def test_consecutive_lines_form_one_request(tmp_path: Path) -> None:
    text = "time,label,s,user,item\n10,0,A,1,5\n12,1,A,1,6\n13,0,B,2,5\n14,1,A,1,7\n"
    path = write(tmp_path / "a.csv", text)
    a, b, again = read(path, DataSettings(request="s", context=["user"]))
    assert a == Example("A", 10.0, 12.0, [{"item": 5}, {"item": 6}], [0.0, 1.0], {"user": 1})
    assert (b.request_id, b.labels) == ("B", [0.0])
    assert (again.request_id, again.candidates) == ("A", [{"item": 7}])
    assert count_examples(path, DataSettings(request="s")) is None


def test_context_that_differs_within_a_request_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "time,label,s,item\n10,0,A,5\n10,1,A,6\n")
    with pytest.raises(SourceError, match=r"a.csv:3: context: differs from that of line 2"):
        read(path, DataSettings(request="s", context=["item"]))


def test_jsonl_keeps_types_and_takes_each_lines_keys(tmp_path: Path) -> None:
    text = (
        '{"time": "2024-05-31T18:00:00Z", "label": true, "user": "7", "tags": [1, "b"], "x": 0.5}\n'
        '\n{"time": "2024-05-31T20:00:00+02:00", "label": 0, "user": 7, "x": null, "new": false}\n'
    )
    first, second = read(write(tmp_path / "a.jsonl", text))
    assert first.time == second.time == 1717178400.0
    assert first.candidates == [{"user": "7", "tags": [1, "b"], "x": 0.5}]
    assert (second.request_id, second.candidates) == ("3", [{"user": 7, "new": 0}])


def test_fields_of_objects_are_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [
        {"at": {"s": 1000}, "y": 1, "user": {"id": 7, "geo": {"lat": 1.5}}, "item.id": "a"},
        {"at": {"s": 1001}, "y": 0, "user": {"id": 8, "geo": None}, "item": {"id": "b"}, "item.id": "c"},
        {"at": {"s": 1002}, "y": 0, "user": None, "item.id": "d"},
    ]
    settings = DataSettings(
        time="at.s",
        label="y",
        features={"user": "user.id", "lat": "user.geo.lat", "item": "item.id"},
        context=["user"],
    )
    write(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        found = read(tmp_path / name, settings)
        assert [one.time for one in found] == [1000.0, 1001.0, 1002.0]
        assert [one.context for one in found] == [{"user": 7}, {"user": 8}, {}]
        assert [one.candidates for one in found] == [
            [{"lat": 1.5, "item": "a"}], [{"item": "c"}], [{"item": "d"}]
        ], name  # fmt: skip
    deep = '{"time": 1, "label": 1, "user": ' + '{"a": ' * 500 + "1" + "}" * 500 + "}\n"
    wanted = DataSettings(features={"x": "user.a.a.a"})
    with pytest.raises(SourceError, match="is no value; expected a number"):
        read(write(tmp_path / "deep.jsonl", deep), wanted)
    with pytest.raises(SourceError, match=r"no column 'user\.name'"):
        read(tmp_path / "a.parquet", DataSettings(time="", label="y", features={"x": "user.name"}))


def test_parquet_equals_csv(tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    times = [datetime.datetime(2024, 5, 31, 18, i, tzinfo=datetime.UTC) for i in range(3)]
    path = tmp_path / "a.parquet"
    table = {"time": times, "label": [1, 0, 1], "user": [7, 8, None], "tags": [["a"], [], ["b", "c"]]}
    pq.write_table(pa.table(table), path)
    first, _, third = read(path)
    assert first == Example("1", 1717178400.0, 1717178400.0, [{"user": 7, "tags": ["a"]}], [1.0])
    assert third.candidates == [{"tags": ["b", "c"]}]
    assert count_examples(path) == 3


def test_parquet_of_warehouses_is_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    day = [date(2026, 1, 1), date(2026, 1, 2)]
    columns = {
        "time": day, "label": [1, 0], "user": pa.array([Decimal(7), Decimal(8)], pa.decimal128(38, 0)),
        "price": [Decimal("1.50"), Decimal("2.25")], "shop": [b"north", b"s\xc3\xbcd"],
        "age": [math.nan, 3.0],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first, second = read(tmp_path / "a.parquet", DataSettings(missing=["NaN"]))
    assert (first.time, second.time) == (1767225600.0, 1767312000.0)
    assert first.candidates == [{"user": 7, "price": 1.5, "shop": "north"}]
    assert second.candidates == [{"user": 8, "price": 2.25, "shop": "süd", "age": 3.0}]


def test_compressed_tab_separated_and_quoted_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b'time\tlabel\ttitle\n1\t0\t"two\nlines"\n2\t1\tx\n'))
    first, second = read(path)
    assert first.candidates == [{"title": "two\nlines"}]
    assert second.request_id == "4"  # the line where it starts


def test_unsorted_file_is_refused_or_sorted_stably(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "time,label,item\n5,0,1\n3,0,2\n5,1,3\n3,1,4\n")
    with pytest.raises(SourceError, match=r"a.csv:3: time: 3.000 is before 5.000 of line 2; set sort = true"):
        read(path)
    with pytest.raises(SourceError, match="sort = true"):
        read(path, DataSettings(skip_bad=True))
    assert [e.candidates[0]["item"] for e in read(path, DataSettings(sort=True))] == [2, 4, 1, 3]


@pytest.mark.parametrize(
    ("line", "settings", "words"),
    [
        ("1717178400000,1,5", {}, r'a.csv:2: time: .*set time_unit = "ms"'),
        ("1717178400000000,1,5", {}, r'set time_unit = "us"'),
        ("1717178400,1,5", {"time_unit": "ms"}, None),
        ("yesterday,1,5", {}, "expected ISO 8601"),
        ("nan,1,5", {}, "no time from 1970 to 2100"),
        (",1,5", {}, "an empty cell is no time; expected Unix seconds"),
        ("1,4,5", {}, r"a.csv:2: label: '4' is no label; expected 0 or 1 .*positive_from"),
        ("1,,5", {"positive_from": 3.0}, "expected a number to compare with 3"),
        ("1,1,5,6", {}, "a.csv:2: 4 cells; expected 3"),
        ("1,1,x", {"types": {"item": "number"}}, "a.csv:2: item: 'x' is no number"),
        ("1,1,inf", {"types": {"item": "number"}}, "no finite number"),
        ("1,1," + "x" * 2000, {}, "2000 characters"),
        ("1,1,5", {"label": "clicked"}, "no column 'clicked'; the columns are 'time', 'label', 'item'"),
        ("1,1,5", {"context": ["user"]}, "context names 'user', which is no feature"),
        ("1,1,5", {"delimiter": "::"}, "expected one character"),
        ('1,1,"5', {}, "a.csv:2: unexpected end of data"),
    ],
)
def test_errors_name_the_place_and_what_was_expected(
    tmp_path: Path, line: str, settings: dict[str, object], words: str | None
) -> None:
    path = write(tmp_path / "a.csv", f"time,label,item\n{line}\n")
    chosen = DataSettings(**settings)  # type: ignore[arg-type]
    if words is None:
        assert read(path, chosen)[0].time == 1717178.4
        return
    with pytest.raises(SourceError, match=words):
        read(path, chosen)


def test_bad_lines_are_skipped_and_told_when_so_configured(tmp_path: Path) -> None:
    bad = ["{broken", '{"time":2,"label":7}', '{"time":3,"label":0,"x":{}}', "[]"]
    text = "\n".join(['{"time":1,"label":1}', *bad, '{"time":4,"label":0}'])
    path = write(tmp_path / "a.jsonl", text)
    told: list[SourceError] = []
    good = list(read_examples(path, DataSettings(skip_bad=True), told.append))
    assert [e.request_id for e in good] == ["1", "6"]
    assert [str(e).split(":")[1] for e in told] == ["2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"time,label,x,x\n", "same name"),
        ("a.csv", b"time,label,x\n1,1,\xff\xff\n", "not UTF-8"),
        ("a.csv.gz", GZIP[:-9], "damaged"),
        ("a.csv.gz", GZIP[:20] + b"\xff" * 9 + GZIP[29:], "damaged"),
        ("a.csv.gz", b"no gzip", "damaged"),
        ("a.jsonl.gz", b"no gzip", "damaged"),
        ("a.parquet", b"no parquet", "cannot be read as Parquet"),
        ("a.xls", b"", "format cannot be recognised"),
        ("a.csv", GZIP, "packed with gzip; let its name end in .gz"),
        ("a.jsonl", b"PK\x03\x04", "packed with zip"),
        ("a.csv.zip", b"PK\x03\x04", "packed with zip"),
        ("a.xlsx", b"PK\x03\x04", "a spreadsheet.; unzip it, or save it as CSV"),
        ("a.csv.zst", b"\x28\xb5\x2f\xfd", "unpack it with `zstd -d`"),
        ("a.json", b' [{"time": 1}]', r"one JSON array; expected an object a line, which `jq -c '.\[\]'`"),
        (None, b"", "no such file"),
    ],
    ids=[
        "empty",
        "same",
        "utf8",
        "cut",
        "flipped",
        "csv-no-gzip",
        "jsonl-no-gzip",
        "parquet",
        "suffix",
        "csv-gzip",
        "jsonl-zip",
        "zip",
        "sheet",
        "zstd",
        "array",
        "missing",
    ],
)
def test_unusable_file_is_an_error(tmp_path: Path, name: str | None, content: bytes, words: str) -> None:
    path = tmp_path / (name or "missing.csv")
    if name is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=words):
        read(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder; name one file in it"):
        read(tmp_path)


@given(st.text(max_size=30))
def test_ids_never_meet_by_conversion(text: str) -> None:
    assert str(to_id(text)) == text


def small_ratings(folder: Path, zero_padded: bool = True) -> Path:
    one = "0000009" if zero_padded else "9"
    write(folder / "ratings.dat", f"1::{one}::8::7200\n2::{one}::3::3600\n1::12::10::3600\n")
    write(folder / "movies.dat", f"{one}::A: B::C (1999)::Crime|Drama\n")
    return folder


def test_ratings_are_sorted_by_time_with_genres_and_hour(tmp_path: Path) -> None:
    examples = read(small_ratings(tmp_path))
    assert [e.request_id for e in examples] == ["2", "3", "1"]
    assert examples[2] == Example(
        "1", 7200.0, 7200.0, [{"movie": 9, "genres": ["Crime", "Drama"]}], [1.0], {"user": 1, "hour": 2}
    )
    assert [e.labels for e in examples] == [[0.0], [1.0], [1.0]]
    assert examples[1].candidates == [{"movie": 12, "genres": []}]
    assert count_examples(tmp_path) == 3
    path = tmp_path / "ratings.dat"
    assert [e.candidates for e in read_lines(path, DataSettings())] == [e.candidates for e in examples]
    only = read(path, DataSettings(features={"u": "user", "m": "movie"}, positive_from=2))
    assert [(e.context, e.candidates, e.labels) for e in only[:1]] == [({"u": 2}, [{"m": 9}], [1.0])]


def test_movielens_files_are_told_and_read(tmp_path: Path) -> None:
    assert detect_format(small_ratings(tmp_path, zero_padded=False), DataSettings()) == "movielens"
    (tmp_path / "new").mkdir()
    write(tmp_path / "new" / "ratings.csv", "userId,movieId,rating,timestamp\n1,2,4.0,20\n1,3,3.5,10\n")
    movies = 'movieId,title,genres\n2,"The, One (1995)",Comedy|War\n3,B,(no genres listed)\n'
    write(tmp_path / "new" / "movies.csv", movies)
    first, second = read(tmp_path / "new")
    assert (first.labels, first.candidates) == ([0.0], [{"movie": 3, "genres": []}])
    assert (second.labels, second.candidates) == ([1.0], [{"movie": 2, "genres": ["Comedy", "War"]}])
    assert count_examples(tmp_path / "new") == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [("1::2::8", "expected user, movie"), ("1::-2::8::5", "below 0"), ("1::2::8::5e12", '"ms"|1970 to 2100')],
)
def test_bad_rating_is_an_error_or_skipped(tmp_path: Path, line: str, words: str) -> None:
    small_ratings(tmp_path)
    with (tmp_path / "ratings.dat").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SourceError, match=words):
        read(tmp_path)
    assert len(read(tmp_path, DataSettings(skip_bad=True))) == 3


def test_ratings_without_movies_or_with_settings_that_do_not_apply_are_errors(tmp_path: Path) -> None:
    small_ratings(tmp_path)
    wrong: Iterable[tuple[DataSettings, str]] = (
        (DataSettings(request="user"), "request of one"),
        (DataSettings(features={"t": "title"}), "no column 'title'"),
        (DataSettings(context=["x"]), "context names 'x'"),
    )
    for settings, words in wrong:
        with pytest.raises(SourceError, match=words):
            read(tmp_path, settings)
    (tmp_path / "movies.dat").unlink()
    with pytest.raises(SourceError, match=r"movies.dat: no such file"):
        read(tmp_path)


@pytest.mark.slow
def test_movietweetings_is_read_whole() -> None:
    if not MOVIETWEETINGS.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("shared/data/movietweetings is not beside the repository")
        pytest.skip("shared/data/movietweetings is not beside the repository")
    examples = read(MOVIETWEETINGS)
    assert len(examples) == count_examples(MOVIETWEETINGS) == 141_695
    times = [example.time for example in examples]
    assert times == sorted(times)
    assert 0.49 < sum(example.labels[0] for example in examples) / len(examples) < 0.51
    assert all(example.candidates[0].keys() == {"movie", "genres"} for example in examples)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_lines_that_were_not_shown_are_left_out(tmp_path: Path, kind: str) -> None:
    rows = [
        (10, 0, "A", 5, 1),
        (10, 0, "A", 6, 0),
        (11, 1, "A", 7, 1),
        (12, 0, "B", 5, 0),
        (13, 1, "C", 5, 1),
    ]
    names = ("time", "label", "s", "item", "seen")
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        write(path, "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]))
    elif kind == "jsonl":
        found = [dict(zip(names, row, strict=True)) | {"seen": bool(row[4])} for row in rows]
        write(path, "\n".join(map(json.dumps, found)))
    else:
        import pyarrow
        import pyarrow.parquet

        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    grouped = read(path, DataSettings(request="s", shown="seen"))
    assert [(e.candidates, e.labels, e.decided) for e in grouped] == [
        ([{"item": 5}, {"item": 7}], [0.0, 1.0], 11.0),
        ([{"item": 5}], [1.0], 13.0),
    ]
    alone = read(path, DataSettings(shown="seen", features={"item": "item"}))
    assert [e.candidates[0]["item"] for e in alone] == [5, 7, 5]


def test_what_does_not_say_whether_it_was_shown_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "time,label,item,seen\n1,0,5,1\n2,0,5,maybe\n")
    with pytest.raises(SourceError, match=r"a.csv:3: seen: 'maybe' does not say whether it was shown"):
        read(path, DataSettings(shown="seen"))
    assert len(read(path, DataSettings(shown="seen", skip_bad=True))) == 1
    with pytest.raises(SourceError, match="there is no column 'sen'"):
        read(path, DataSettings(shown="sen"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_weights_are_of_each_candidate_and_of_all_its_targets(tmp_path: Path, kind: str) -> None:
    names = ("time", "label", "s", "item", "buy", "by")
    rows = [(10, 1, "A", 5, 1, 0.5), (10, 0, "A", 6, 0, 2.0), (12, 1, "B", 5, 0, 0.0)]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        write(path, "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]))
    elif kind == "jsonl":
        write(path, "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    targets = Targets({"click": Target(), "buy": Target(of="click")})
    settings = DataSettings(request="s", weight="by", labels={"buy": LabelColumn()})
    found = list(read_examples(path, settings, targets=targets))
    assert [(e.target, e.weight) for e in found] == [
        ("", [0.5, 2.0]), ("buy", [0.5]), ("", [0.0]), ("buy", [0.0])
    ]  # fmt: skip
    assert all("by" not in candidate for e in found for candidate in e.candidates)
    alone = read(path, DataSettings(weight="by", features={"item": "item"}))
    assert [e.weight for e in alone] == [[0.5], [2.0], [0.0]]


@pytest.mark.parametrize("cell", ["", "-1", "inf", "nan", "much", "1e9"])
def test_what_is_no_weight_is_an_error(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path / "a.csv", f"time,label,item,by\n1,0,5,1.5\n2,0,5,{cell}\n")
    with pytest.raises(SourceError, match=r"a.csv:3: by: .* is no weight; expected a number of at least 0"):
        read(path, DataSettings(weight="by"))
    assert [e.weight for e in read(path, DataSettings(weight="by", skip_bad=True))] == [[1.5]]
    with pytest.raises(SourceError, match="there is no column 'bye'; did you mean 'by'"):
        read(path, DataSettings(weight="bye"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_places_and_propensities_are_read(tmp_path: Path, kind: str) -> None:
    names, rows = ("time", "label", "s", "item", "pos", "q"), [
        (10, 0, "A", 5, 2, 0.25), (10, 0, "A", 6, 1, 0.75), (12, 0, "B", 5, 3, 1.0),
    ]  # fmt: skip
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        write(path, "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]))
    elif kind == "jsonl":
        write(path, "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    drawn = DataSettings(request="s", place="pos", place_from=1, propensity="q")
    assert [(e.candidates, e.place, e.propensity) for e in read(path, drawn)] == [
        ([{"item": 5}, {"item": 6}], [1, 0], [0.25, 0.75]),
        ([{"item": 5}], [2], [1.0]),
    ]
    alone = read(path, DataSettings(place="pos", features={"item": "item"}))
    assert [(e.place, e.propensity) for e in alone] == [([2], None), ([1], None), ([3], None)]


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ("0,0.5", "pos: '0' is no place; expected a whole number from 1 on"),
        ("1.5,0.5", "pos: '1.5' is no place"),
        (",0.5", "pos: an empty cell is no place"),
        ("top,0.5", "pos: 'top' is no place"),
        ("999999,0.5", "pos: '999999' is no place"),
        ("2,0", "q: '0' is no propensity; expected a probability above 0"),
        ("2,1.2", "q: '1.2' is no propensity"),
        ("2,nan", "q: 'nan' is no propensity"),
        ("2,", "q: an empty cell is no propensity"),
        ("1,0.5", "place must hold 2 different numbers"),
    ],
)
def test_bad_places_and_propensities_are_refused(tmp_path: Path, cells: str, why: str) -> None:
    path = write(tmp_path / "a.csv", f"time,label,s,item,pos,q\n1,0,A,5,1,0.5\n1,0,A,6,{cells}\n")
    settings = DataSettings(request="s", place="pos", place_from=1, propensity="q")
    with pytest.raises(SourceError, match=re.escape(why)):
        read(path, settings)
    with pytest.raises(ValueError, match="name the column of places"):
        DataSettings(place_from=1)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_times_of_kind_age_are_read(tmp_path: Path, kind: str) -> None:
    cells = ["2024-05-31T18:00:00Z", "2024-05-31", "1717171200"]
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        write(path, "\n".join(["time,label,born", *(f"1,0,{cell}" for cell in cells)]))
    elif kind == "jsonl":
        write(
            path, "\n".join(json.dumps({"time": 1, "label": 0, "born": c}) for c in [*cells[:2], 1717171200])
        )
    else:
        import pyarrow
        import pyarrow.parquet

        born = pyarrow.array([1717178400, 1717113600, 1717171200], pyarrow.timestamp("s"))
        pyarrow.parquet.write_table(pyarrow.table({"time": [1] * 3, "label": [0] * 3, "born": born}), path)
    found = read(path, DataSettings(types={"born": "time"}))
    assert [e.candidates[0]["born"] for e in found] == [1717178400.0, 1717113600.0, 1717171200.0]
    write(tmp_path / "b.csv", "time,label,born\n1,0,last week\n")
    with pytest.raises(SourceError, match="born: 'last week' is no time; expected ISO 8601"):
        read(tmp_path / "b.csv", DataSettings(types={"born": "time"}))
