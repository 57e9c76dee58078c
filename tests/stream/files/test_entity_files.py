"""Files of entities: events as lines of JSON, tables with attributes as columns, and which file is which."""

from pathlib import Path

import pytest

from learner.features.columns import declared_by
from learner.features.spec import FeatureSpec
from stream.errors import SourceError
from stream.files.entities import EntityColumns, EntitySchema, is_movies, read_entities
from stream.records.entities.record import EntityEvent

FEATURES = {
    "item": FeatureSpec(),
    "brand": FeatureSpec(of="item"),
    "price": FeatureSpec(kind="number", of="item"),
    "user": FeatureSpec(),
    "town": FeatureSpec(of="user"),
}
SCHEMA = EntitySchema(declared_by(FEATURES), {"brand": "auto", "price": "number", "town": "auto"}, {})


def read(path: Path, text: str, feature: str = "") -> list[EntityEvent]:
    path.write_text(text)
    return list(read_entities(path, SCHEMA, feature=feature))


def test_lines_that_are_events_say_whose_they_are(tmp_path: Path) -> None:
    lines = [
        '{"feature": "item", "id": 7, "set": {"brand": "b1", "price": 2.5}}',
        "",
        '{"type": "entity", "time": 9.0, "feature": "user", "id": "ann", "set": {"town": "ulm"}}',
    ]
    assert read(tmp_path / "a.jsonl", "\n".join(lines) + "\n") == [
        EntityEvent("item", 7, 0.0, {"brand": "b1", "price": 2.5}),
        EntityEvent("user", "ann", 9.0, {"town": "ulm"}),
    ]
    with pytest.raises(SourceError, match=r"a\.jsonl:2: "):
        read(tmp_path / "a.jsonl", lines[0] + '\n{"feature": "item", "id": 7}\n')


def test_lines_without_all_of_it_are_rows_of_the_feature_whose_id_they_have(tmp_path: Path) -> None:
    rows = '{"item": 7, "brand": "b1"}\n' + "\n" * 98 + '{"item": 8, "price": 3.0}\n'
    assert read(tmp_path / "a.jsonl", rows) == [
        EntityEvent("item", 7, 0.0, {"brand": "b1"}),
        EntityEvent("item", 8, 0.0, {"price": 3.0}),
    ]
    far = rows.replace("\n" * 98, "\n" * 99).replace('"item": 8', '"item": 8, "brand": "b2"')
    assert read(tmp_path / "a.jsonl", far)[1].set == {"brand": "b2"}, (
        "of names only the first 100 lines count"
    )
    assert read(tmp_path / "users.csv", "time,user,town\n5,ann,ulm\n") == [
        EntityEvent("user", "ann", 5.0, {"town": "ulm"})
    ]
    with pytest.raises(SourceError, match="no column is the id of an entity; expected one of 'item', 'user'"):
        read(tmp_path / "a.csv", "thing,brand\n7,b1\n")
    with pytest.raises(SourceError, match="no column is an attribute of user"):
        read(tmp_path / "a.csv", "user,brand\n7,b1\n")


def test_numbers_and_names_are_read_as_the_section_says(tmp_path: Path) -> None:
    columns = {"item": EntityColumns(delimiter=";", decimal=",", thousands=".")}
    (tmp_path / "a.csv").write_text("item;price\n7;1.250,5\n")
    schema = SCHEMA._replace(columns=columns)
    assert [event.set for event in read_entities(tmp_path / "a.csv", schema)] == [{"price": 1250.5}]
    (tmp_path / "a.jsonl").write_text('{"item": {"id": 7, "cost": {"eur": 2.5}}}\n')
    columns = {"item": EntityColumns(id="item.id", features={"price": "item.cost.eur"})}
    schema = SCHEMA._replace(columns=columns)
    assert list(read_entities(tmp_path / "a.jsonl", schema)) == [EntityEvent("item", 7, 0.0, {"price": 2.5})]
    with pytest.raises(ValueError, match="expected two that differ"):
        EntityColumns(decimal=",", thousands=",")


def test_movies_are_told_by_their_name_and_their_first_line(tmp_path: Path) -> None:
    for name, text, expected in (
        ("movies.dat", "1::A (1999)::Drama\n", True),
        ("movies.csv", "movieId,title,genres\n1,A,Drama\n", True),
        ("movies.csv", "item,title\n1,A\n", False),
        ("films.csv", "movieId,title,genres\n1,A,Drama\n", False),
    ):
        (tmp_path / name).write_text(text)
        assert is_movies(tmp_path / name) == expected, (name, text)
