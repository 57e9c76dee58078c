"""Kinds with columns of their own: text, vector, calendar, age, geo and place."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from freshet.config import parse_config
from freshet.errors import ConfigError
from learner.errors import FeatureError
from learner.features.columns import columns_of
from learner.features.content import CODE_BITS, words_of
from learner.features.encoder import Encoder, Request
from learner.features.geo import PARTS
from learner.features.spec import FeatureSpec
from learner.model.explain import explain, read
from learner.model.forgetting import forget
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.train.trainer import Trainer
from stream.limits import LONG_TEXT_MAX
from stream.records.types import Example, Features

HOUR_S = 3600.0
FEATURES = {
    "user": FeatureSpec(),
    "item": FeatureSpec(),
    "title": FeatureSpec(kind="text", of="item"),
    "look": FeatureSpec(kind="vector", length=24, of="item"),
    "when": FeatureSpec(kind="calendar", zone="Europe/Berlin"),
    "age": FeatureSpec(kind="age"),
    "where": FeatureSpec(kind="geo"),
    "place": FeatureSpec(kind="place"),
}
TIME = 1_700_000_000.0


def entries(spec: FeatureSpec, value: Any, time: float = TIME, context: bool = False) -> dict[str, Any]:
    """The entries of one value by column: the keys where each x is 1, else (key, x)."""
    encoder = Encoder({"f": spec})
    said: Features = {} if value is None else {"f": value}
    request = Request(time, said, [{}]) if context else Request(time, {}, [said])
    rows = encoder.encode([request]).rows
    found: dict[str, Any] = {name: [] for name in encoder.names}
    for column, key, x in zip(rows.column, rows.key, rows.x, strict=True):
        found[encoder.names[column]].append(int(key) if x == 1.0 else (int(key), round(float(x), 4)))
    return found


def vector(seed: int, length: int = 24) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).normal(size=length)]


def examples(n: int, seed: int = 0) -> list[Example]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        candidates: list[Features] = [
            {
                "item": int(item),
                "title": f"word{item % 7} word{item % 3} 第{item}回",
                "look": vector(int(item)),
                "age": TIME - 86_400.0 * int(item),
                "where": [float(item % 90), float(item)],
            }
            for item in rng.integers(0, 40, size=3)
        ]
        labels = [float(rng.random() < 0.3) for _ in candidates]
        context: Features = {"user": f"u{rng.integers(0, 9)}"}
        place = [int(p) for p in rng.permutation(3)]
        found.append(Example(str(i), TIME + i, TIME + i, candidates, labels, context, place=place))
    return found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The CAT, the cat!", ["the", "cat", "the", "cat"]),
        ("Ωμέγα Ночь 夜の街 ภาษาไทย", ["ωμέγα", "ночь", "夜の", "の街", "ภาษ", "าไทย"]),
        ("", []),
        (" \n\t…!? 👍", []),
        ("a\u0301 \u212b ﬁn", ["á", "å", "fin"]),
        ("हिन्दी में किताब", ["हिन्दी", "में", "किताब"]),  # vowels are marks, and stand in words
        ("اَلْعَرَبِيَّة، שָׁלוֹם", ["اَلْعَرَبِيَّة", "שָׁלוֹם"]),  # from right to left, with points
        ("\u202eshoe\u202c red\x00blue ❤\ufe0f 1\ufe0f\u20e3", ["shoe", "red", "blue", "1"]),
        ("half \ud83d", ["half"]),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    if "ภาษ" in text:  # pairs of characters in scripts without spaces, marks included
        found = words_of(text)
        assert found[:4] == words[:4] and all(len(word) <= 2 for word in found[4:]) and len(found) > 5
    else:
        assert words_of(text) == words


def test_text_is_a_bag_of_bounded_size_and_weight() -> None:
    once = entries(FeatureSpec(kind="text"), "red shoes red")["f"]
    assert len(once) == 2 and math.isclose(sum(x * x for _, x in once), 1.0, abs_tol=1e-3)
    seldom, often = sorted(x for _, x in once)
    assert math.isclose(often / seldom, 1.0 + math.log(2.0), abs_tol=1e-3), "said twice, it counts for more"
    assert entries(FeatureSpec(kind="text"), "") == entries(FeatureSpec(kind="text"), None) == {"f": []}
    long = " ".join(f"w{i}" for i in range(20_000))[:100_000]
    assert len(entries(FeatureSpec(kind="text"), long)["f"]) == 64
    shifted = " ".join(f"w{i}" for i in range(1_000, 20_000))[:100_000]
    both = {k for k, _ in entries(FeatureSpec(kind="text"), long)["f"]}
    assert len(both & {k for k, _ in entries(FeatureSpec(kind="text"), shifted)["f"]}) > 40


def test_near_vectors_share_codes_and_coordinates() -> None:
    spec = FeatureSpec(kind="vector", length=24)
    base = vector(1)
    near = [x + 0.05 * y for x, y in zip(base, vector(2), strict=True)]
    one, two, far = (entries(spec, value) for value in (base, near, [-x for x in base]))
    assert one["f.code4"] == two["f.code4"] != far["f.code4"]
    a, b, c = (np.array([x for _, x in found["f"]]) for found in (one, two, far))
    assert len(a) == 16 and a @ b > 3.9 and a @ c == pytest.approx(-4.0, abs=0.01)
    scaled = entries(spec, [1e300 * x for x in base])  # only the direction counts
    assert scaled["f.code8"] == one["f.code8"]
    assert entries(spec, [0.0] * 24) == entries(spec, None)
    exact = entries(FeatureSpec(kind="vector", length=2), [3.0, 4])["f"]
    assert exact == [(0, 1.2), (1, 1.6)]


def test_calendar_shows_the_clock_on_the_wall() -> None:
    spec = FeatureSpec(kind="calendar", zone="Europe/Berlin")
    wednesday = entries(spec, None, 1_700_000_000.0)  # 14 November 2023, 23:13 in Berlin: a Tuesday
    assert wednesday == {"f.hour": [23], "f.weekday": [1], "f.week": [47]}
    assert entries(FeatureSpec(kind="calendar"), None, 1_700_000_000.0)["f.hour"] == [22]
    assert entries(spec, 1_700_000_000, 0.0, context=True) == wednesday
    first = 1_698_537_600.0  # 29 October 2023, 00:00 UTC: 2:00 in summer time, and an hour later 2:00 again
    repeated = [entries(spec, None, first + hour * HOUR_S)["f.hour"] for hour in (-1, 0, 1, 2)]
    assert repeated == [[1], [2], [2], [3]]
    spring = 1_679_792_400.0  # 26 March 2023, 01:00 UTC: 3:00 follows 1:00
    assert [entries(spec, None, spring + h * HOUR_S)["f.hour"] for h in (-1, 0)] == [[1], [3]]
    for zone, hour in (("Asia/Kolkata", 3), ("Asia/Kathmandu", 3), ("Australia/Lord_Howe", 9)):  # by halves
        assert entries(FeatureSpec(kind="calendar", zone=zone), None, 1_700_000_000.0)["f.hour"] == [hour]


def test_age_counts_days_up_to_the_request() -> None:
    spec, number = FeatureSpec(kind="age"), FeatureSpec(kind="number")
    for days in (0.0, 0.25, 3.0, 4000.0, -2.0):
        moment = TIME - 86_400.0 * days
        assert entries(spec, moment) == entries(spec, moment, context=True) == entries(number, days)
    encoder = Encoder({"f": spec})
    later = encoder.encode([Request(TIME, {"f": TIME}, [{}]), Request(TIME + 86_400.0, {"f": TIME}, [{}])])
    assert later.numbers[:, 0] == pytest.approx([0.0, 0.1 * math.asinh(1.0)])


def test_geo_cells_of_three_sizes() -> None:
    spec = FeatureSpec(kind="geo")
    gate, tower = entries(spec, [52.5163, 13.3777]), entries(spec, [52.5208, 13.4094])
    assert gate["f.region"] == tower["f.region"] and gate["f.street"] != tower["f.street"]
    assert entries(spec, [10.0, 180.0]) == entries(spec, [10, -180])
    for pole in (90.0, -90.0):
        assert entries(spec, [pole, 5.0])["f.region"] == entries(spec, [0.9999 * pole, -20.0])["f.region"]
    across = [entries(spec, [10.0, longitude])["f.city"] for longitude in (179.99, -180.0, -179.99)]
    assert across[1] == across[2] != across[0]  # the date line is the edge of a cell, and goes through none
    encoder = Encoder({"at": FeatureSpec(kind="geo", latitude="lat", longitude="lon")})
    apart = encoder.encode([Request(TIME, {"lat": 52.5163, "lon": 13.3777}, [{}, {}])]).rows
    assert apart.key[:3].tolist() == [gate[f"f.{part}"][0] for part in ("region", "city", "street")]
    assert encoder.encode([Request(TIME, {"lat": 52.5}, [{}])]).rows.key.size == 0


@pytest.mark.parametrize(
    ("spec", "value", "what"),
    [
        (FeatureSpec(kind="vector", length=3), [1.0, 2.0], "has 2 numbers; expected 3"),
        (FeatureSpec(kind="vector", length=2), [1.0, math.nan], "not finite"),
        (FeatureSpec(kind="vector", length=2), [1.0, math.inf], "not finite"),
        (FeatureSpec(kind="vector", length=2), ["a", 1], "expected a list of numbers"),
        (FeatureSpec(kind="vector", length=2), 0.5, "expected a list of numbers"),
        (FeatureSpec(kind="vector", length=2), [True, 0.5], "expected a list of numbers"),
        (FeatureSpec(kind="vector", length=2), [], "has 0 numbers; expected 2"),
        (FeatureSpec(kind="vector", length=2), [None, 1.0], "expected a list of numbers"),
        (FeatureSpec(kind="text"), 7, "expected text"),
        (FeatureSpec(kind="text"), ["a"], "expected text"),
        (FeatureSpec(kind="text"), "x" * (LONG_TEXT_MAX + 1), "send its beginning"),
        (FeatureSpec(kind="calendar"), 1_700_000_000_000, "expected Unix seconds"),
        (FeatureSpec(kind="calendar"), "noon", "expected Unix seconds"),
        (FeatureSpec(kind="age"), -5.0, "expected Unix seconds"),
        (FeatureSpec(kind="age"), math.nan, "expected Unix seconds"),
        (FeatureSpec(kind="geo"), [100.0, 50.0], "the latitude comes first"),
        (FeatureSpec(kind="geo"), [50.0, 200.0], "-180 to 180"),
        (FeatureSpec(kind="geo"), [180.0, 50.0], "the latitude comes first"),
        (FeatureSpec(kind="geo"), [180.5, 50.0], "a longitude -180 to 180"),
        (FeatureSpec(kind="geo"), [-90.1, 0.0], "-90 to 90"),
        (FeatureSpec(kind="geo"), [0.0, -180.1], "-180 to 180"),
        (FeatureSpec(kind="geo"), ["52.5", "13.4"], "expected a latitude and a longitude"),
        (FeatureSpec(kind="geo"), [50.0], "expected a latitude and a longitude"),
        (FeatureSpec(kind="geo"), [50.0, math.nan], "finite"),
    ],
)
def test_bad_value_is_refused(spec: FeatureSpec, value: Any, what: str) -> None:
    with pytest.raises(FeatureError, match=what):
        entries(spec, value)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ({"kind": "calendar", "zone": "Europe/Berln"}, "did you mean 'Europe/Berlin'"),
        ({"kind": "calendar", "zone": "berlin"}, "did you mean 'Europe/Berlin'"),
        ({"kind": "calendar", "zone": "../../etc/passwd"}, "is no time zone"),
        ({"kind": "calendar", "zone": ""}, "is no time zone"),
        ({"kind": "calendar", "zone": "Europe"}, "is no time zone"),
        ({"kind": "calendar", "zone": "Europe/Berlin\0"}, "without the character"),
        ({"kind": "calendar", "zone": "UTC+25"}, "is no time zone"),
        ({"kind": "calendar", "zone": "x" * 5_000}, "is no time zone"),
        ({"kind": "id", "zone": "UTC"}, "belongs to features of kind calendar"),
        ({"kind": "vector", "length": 0}, "length must be 1 to 4096"),
        ({"kind": "vector", "length": 5000}, "length must be 1 to 4096"),
        ({"kind": "vector", "directions": 65}, "directions must be 1 to 64"),
        ({"kind": "text", "directions": 8}, "belongs to kind vector"),
        ({"kind": "geo", "latitude": "lat"}, "name two values"),
        ({"kind": "geo", "latitude": "x", "longitude": "x"}, "name two values"),
        ({"kind": "hour", "of": "user"}, "`of` belongs to"),
        ({"kind": "text", "counts": True}, "counts belong to"),
    ],
)
def test_bad_setting_is_refused(table: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse_config({"features": {"f": table}}, "here")


def test_schema_that_cannot_be_is_refused() -> None:
    with pytest.raises(FeatureError, match="which is not declared"):
        Encoder({"f": FeatureSpec(kind="text", of="itme")})
    with pytest.raises(FeatureError, match="rename one"):
        Encoder({"f": FeatureSpec(kind="calendar"), "f.hour": FeatureSpec()})


def test_content_makes_no_pairs_with_what_it_describes() -> None:
    names = Encoder(FEATURES).column_names()
    assert "user*title" in names and "user*look.code4" in names and "title*where.region" in names
    assert not {"item*title", "item*look", "look*look.code4", "when.hour*when.weekday"} & set(names)
    assert not [name for name in names if "*" in name and ("age" in name or "place" in name)]


@pytest.mark.parametrize("deep", ["none", "dcn"])
def test_rows_do_not_depend_on_what_is_beside_them(deep: str) -> None:
    """One request or many, one call or several: the same entries, and the same model."""
    told = examples(60)
    encoder = Encoder(FEATURES)
    whole = encoder.encode(told).rows
    for i, example in enumerate(told):
        alone = encoder.encode([example]).rows
        for r in range(3):
            a, b = slice(*whole.start[3 * i + r :][:2]), slice(*alone.start[r:][:2])
            assert np.array_equal(whole.key[a], alone.key[b]) and np.array_equal(whole.x[a], alone.x[b])
    learned = []
    for size in (60, 7):
        trainer = Trainer(Model(FEATURES, LearnerSettings(deep=deep, group=16), learning=True))
        done = [g for at in range(0, 60, size) for g in trainer.learn(told[at : at + size])]
        done += trainer.finish()
        learned.append((np.concatenate([g.z for g in done]), trainer.model))
    assert np.array_equal(learned[0][0], learned[1][0])
    for one, two in zip(learned[0][1].tables, learned[1][1].tables, strict=True):
        assert one.digest(int(TIME)) == two.digest(int(TIME))


def test_explain_and_forget_know_the_columns() -> None:
    model = Model(FEATURES, LearnerSettings(), learning=True)
    trainer = Trainer(model)
    trainer.learn(examples(80))
    trainer.finish()
    asked = examples(1, seed=5)[0]
    request = Request(asked.time, asked.context, [asked.candidates[0] | {"title": "word1 unheard"}])
    batch = model.encoder.encode([request])
    told = explain(model, request, batch, read(model, batch))
    assert {"title", "look", "look.code4", "look.code8", "when.hour", "when.weekday", "when.week", "age",
            "where.region", "where.city", "where.street", "user*title"} <= set(told.weights[0])  # fmt: skip
    assert "place" not in told.weights[0]
    assert told.unknown[0]["title"] == ["unheard"]
    total = (told.bias + sum(told.weights[0].values())) * told.share[0] + told.deep[0] + told.rate
    assert total == pytest.approx(told.scores.z[0], abs=1e-4)
    before = len(model.tables[-1])
    user = asked.context["user"]
    assert isinstance(user, str)
    forget(model, {"user": [user]})
    assert len(model.tables[-1]) < before  # its pairs with words, codes and cells went with it
    assert model.score(batch).unknown > told.scores.unknown


@pytest.mark.parametrize("deep", ["none", "dcn"])
def test_prediction_does_not_depend_on_where_a_candidate_was_shown(deep: str) -> None:
    """What is scored, live, frozen or while learning, is what a request that knows no places is answered."""
    told = examples(100)
    last = examples(1, seed=9)[0]
    said = []
    for place in ([0, 1, 2], [17, 2, 900], None):
        trainer = Trainer(Model(FEATURES, LearnerSettings(deep=deep), learning=True))
        trainer.learn(told)
        trainer.finish()
        shown = msgspec.structs.replace(last, place=place, time=TIME + 100)
        asked = Request(shown.time, shown.context, shown.candidates)
        model = trainer.model
        said += [model.score_requests([asked]).z, model.score_requests([shown]).z]
        learned = np.concatenate([g.z for g in [*trainer.learn([shown]), *trainer.finish()]])
        assert learned == pytest.approx(said[0], abs=0.05)  # with the place's share of the variance
    for z in said[1:]:
        assert np.array_equal(z, said[0])


def test_place_takes_away_what_the_first_place_gives() -> None:
    """Both items are as good; one is shown first in nine of ten requests."""
    rng = np.random.default_rng(0)
    told = []
    for i in range(3000):
        place = [0, 1] if rng.random() < 0.9 else [1, 0]
        labels = [float(rng.random() < (0.4, 0.15)[at]) for at in place]
        told.append(Example(str(i), TIME + i, TIME + i, [{"item": 1}, {"item": 2}], labels, place=place))
    apart = {}
    for name, more in (("without", {}), ("with", {"place": FeatureSpec(kind="place")})):
        trainer = Trainer(Model({"item": FeatureSpec()} | more, LearnerSettings(deep="none"), learning=True))
        trainer.learn(told)
        z = trainer.model.score_requests([Request(TIME, {}, [{"item": 1}, {"item": 2}])]).z
        apart[name] = float(z[0] - z[1])
    assert apart["without"] > 0.8 and abs(apart["with"]) < 0.4


def test_columns_of_kinds_with_several() -> None:
    features = {
        "t": FeatureSpec(kind="text", dim=4),
        "v": FeatureSpec(kind="vector", length=3, dim=4),
        "c": FeatureSpec(kind="calendar", dim=4, pairs=True),
        "n": FeatureSpec(kind="number", dim=4),
        "i": FeatureSpec(dim=4, pairs=False),
        "g": FeatureSpec(kind="geo", dim=4),
    }
    found = {column.name: (column.spec.kind, column.dim, column.pairs) for column in columns_of(features)}
    assert {name: about for name, about in found.items() if name[0] not in "cg"} == {
        "t": ("ids", 4, True),
        "v": ("ids", 4, True),
        **{f"v.code{bits}": ("id", 0, True) for bits in CODE_BITS},
        "n": ("number", 4, False),
        "i": ("id", 4, False),
    }
    assert {name for name, (_, dim, pairs) in found.items() if name[0] == "c" and not (dim or pairs)} == {
        "c.week"
    }
    assert {name: (dim, pairs) for name, (_, dim, pairs) in found.items() if name[0] == "g"} == {
        f"g.{part}": (4 * (part == "city"), part != "street") for part in PARTS
    }
