"""Records through Parquet and back: nothing is lost, nothing is half written, memory is bounded."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from depth import many
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.errors import SourceError
from stream.files import record_files
from stream.files.record_columns import Holds
from stream.files.record_files import read_layout, read_records, whole_or_nothing, write_records
from stream.files.sources import DataSettings, count_examples, read_examples
from stream.records.targets import Target, Targets
from stream.records.types import Action, Event, Example, Exposure, Impression, Served, ServedTarget, canonical

Record = Example | Event
TARGETS = Targets({"click": Target(), "buy": Target(of="click"), "minutes": Target(kind="value")})

ids = st.integers(-(1 << 63), (1 << 63) - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.one_of(
    ids, st.floats(allow_nan=False, allow_infinity=False), texts, st.lists(st.one_of(ids, texts), max_size=3)
)
# few names, so that they meet: as context and candidate, and with columns that are no features
names = st.sampled_from(["user", "item", "label", "base", "context:label", "shown", "価格"])
features = st.dictionaries(names, values, max_size=4)
times = st.floats(0.0, 4e9)
chances = st.floats(0.0, 1.0)


@st.composite
def requests(draw: st.DrawFn, decided: bool) -> Example | Impression:
    n = draw(st.integers(1, 3))
    labels = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n))
    served = None
    if draw(st.booleans()):
        base, corrected = (draw(st.lists(chances, min_size=n, max_size=n)) for _ in range(2))
        also = {"buy": ServedTarget(base, corrected)} if draw(st.booleans()) else {}
        served = Served(base, corrected, draw(texts), also)
    place = draw(st.one_of(st.none(), st.permutations(range(n))))
    propensity = draw(st.one_of(st.none(), st.lists(st.floats(0.01, 1.0), min_size=n, max_size=n)))
    request, time, context = draw(st.text(min_size=1, max_size=3)), draw(times), draw(features)
    candidates = draw(st.lists(features, min_size=n, max_size=n))
    if decided:
        odds, late = draw(st.floats(-9.0, 0.0)), draw(st.booleans())
        return Example(
            request, time, draw(times), candidates, labels, context, served, odds, late, place, propensity,
            candidate_count=draw(st.sampled_from([0, 20])), target=draw(st.sampled_from(["", "buy"])),
            weight=draw(st.sampled_from([None, labels])), before=draw(st.sampled_from([None, labels])),
        )  # fmt: skip
    known = draw(st.sampled_from([None, labels]))
    shown = draw(st.none() | st.lists(st.integers(0, n - 1), unique=True))
    more = {
        "weight": draw(st.sampled_from([None, 0.0, labels])),
        "outcomes": {"buy": [y or None for y in labels]} if known else None,
    }
    return Impression(request, time, candidates, context, served, known, place, propensity, shown, **more)  # type: ignore[arg-type]


actions = st.builds(
    lambda time, candidate, label, said: Action("r", time, candidate, label, said[0], value=said[1]),
    times,
    st.integers(0, 1999),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([("click", None), ("buy", None), ("minutes", 0.0), ("minutes", 2.5)]),
)
exposures = st.builds(
    Exposure,
    st.just("r"),
    times,
    st.lists(st.integers(0, 1999), max_size=4, unique=True),
    st.none() | st.integers(0, 2000),
)


@pytest.mark.slow
@settings(
    max_examples=many(24),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_records_come_back_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr(record_files, "GROUP_ROWS_MAX", 4)
    monkeypatch.setattr(record_files, "READ_ROWS", 3)
    holds: Holds = data.draw(st.sampled_from(["examples", "events"]))
    kinds = requests(True) if holds == "examples" else st.one_of(requests(False), actions, exposures)
    records: list[Record] = data.draw(st.lists(kinds, min_size=1, max_size=6))
    write_records(tmp_path / "r.parquet", holds, records)
    again = list(read_records(tmp_path / "r.parquet", targets=TARGETS))
    assert again == records
    # equal is not the same: 1 == 1.0
    assert [canonical(record) for record in again] == [canonical(record) for record in records]


def an_example(number: int, **features: object) -> Example:
    return Example(f"r{number}", 1e9 + number, 1e9 + number, [{**features}], [1.0], {"user": number})  # type: ignore[dict-item]


def test_columns_have_the_types_that_other_programs_expect(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_records(
        path, "examples", [an_example(1, item="a", price=1.5, tags=["x"]), an_example(2, item="b", tags=[])]
    )
    table = pq.read_table(path)
    assert [str(table.schema.field(name).type) for name in ("user", "item", "price")] == [
        "int64",
        "string",
        "double",
    ]
    assert table["tags"].to_pylist() == [["x"], []]
    assert table["price"].to_pylist() == [1.5, None]
    assert table["label"].to_pylist() == [1.0, 1.0]


def test_a_plain_reader_takes_an_export_for_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    records: list[Record] = [an_example(n, item=n) for n in range(5)]
    write_records(path, "examples", records)
    assert list(read_examples(path)) == records
    assert count_examples(path) == 5
    as_table = DataSettings(format="parquet", request="request_id", features={"item": "item"})
    assert [example.candidates for example in read_examples(path, as_table)] == [
        [{"item": n}] for n in range(5)
    ]


def test_row_groups_end_where_memory_would_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.parquet"
    monkeypatch.setattr(record_files, "GROUP_BYTES_MAX", 10_000)
    # a long context weighs as often as it has candidates
    record = Example("r", 1e9, 1e9, [{"item": i} for i in range(50)], [0.0] * 50, {"text": "x" * 1000})
    write_records(path, "examples", [record, record, record])
    assert pq.ParquetFile(path).num_row_groups == 3


def test_what_is_not_written_whole_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_records(path, "examples", [an_example(1)])
    before = path.read_bytes()
    with pytest.raises(RuntimeError), whole_or_nothing(path) as making:
        making.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["r.parquet"]


def test_files_of_others_and_of_other_versions_are_told_apart(tmp_path: Path) -> None:
    plain, later, broken = (tmp_path / f"{name}.parquet" for name in ("plain", "later", "broken"))
    table = pa.table({"time": [1.0], "label": [1.0]})
    pq.write_table(table, plain)
    pq.write_table(table.replace_schema_metadata({b"freshet": b'{"v": 9, "holds": "examples"}'}), later)
    broken.write_bytes(b"PAR1")
    assert read_layout(plain) is None
    with pytest.raises(SourceError, match="version 9"):
        read_layout(later)
    with pytest.raises(SourceError, match="Parquet"):
        read_layout(broken)


def test_an_export_that_was_tampered_with_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    write_records(path, "examples", [an_example(1), an_example(2)])
    table = pq.read_table(path)
    label = table.schema.get_field_index("label")
    pq.write_table(table.set_column(label, "label", pa.array([1.0, 0.5])), path)
    with pytest.raises(SourceError, match=r"'r2'.*0\.5"):
        list(read_examples(path))
    skipped: list[SourceError] = []
    assert len(list(read_examples(path, DataSettings(skip_bad=True), skipped.append))) == len(skipped) == 1
    pq.write_table(table.drop_columns(["decided"]), path)
    with pytest.raises(SourceError, match="decided"):
        list(read_examples(path))
