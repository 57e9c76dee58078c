"""MovieTweetings and MovieLens: public sets of movie ratings, read as requests of one in time order.

- MovieTweetings (Dooms et al. 2013): `ratings.dat` and `movies.dat`, ratings 0 to 10, liked from 8.
- MovieLens (Harper and Konstan 2015): `ratings.csv` and `movies.csv`, or the older sets' `.dat`; ratings
  0.5 to 5, liked from 4.

Features: context `user` (int) and `hour` (0 to 23, UTC); candidate `movie` (int) and `genres` (list of str).
The files are in order of user, so they are always sorted by time here, ties in file order.
"""

from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from stream.errors import SourceError
from stream.files.columns import DataSettings, to_list
from stream.files.outcomes import LabelColumns, Outcome, label_reader
from stream.files.times import time_reader
from stream.records.types import Example, Features

FEATURES = ("user", "hour", "movie", "genres")
_CONTEXT = ("user", "hour")
_POSITIVE_FROM = {"movietweetings": 8.0, "movielens": 4.0}
_MOVIES_MAX = 10_000_000


def detect_ratings(path: Path) -> str | None:
    """ "movietweetings" or "movielens" if the folder or file looks like one of them."""
    try:
        file = ratings_file(path)
    except SourceError:
        return None
    with file.open("rb") as opened:
        first = opened.readline(200).strip()
    if file.suffix == ".csv":
        return "movielens" if first.startswith(b"userId,movieId,rating,timestamp") else None
    cells = first.split(b"::")
    if len(cells) != 4:
        return None
    # IMDb's numbers have seven digits, zeros in front; MovieLens counts from 1.
    return "movietweetings" if len(cells[1]) >= 7 else "movielens"


def ratings_file(path: Path) -> Path:
    """The ratings file itself, given it or its folder.

    Raises:
        SourceError: there is none.
    """
    if path.is_file():
        if path.name in ("ratings.dat", "ratings.csv"):
            return path
        raise SourceError(f"{path}: expected a folder or a file with the name ratings.dat or ratings.csv")
    for name in ("ratings.dat", "ratings.csv"):
        if (path / name).is_file():
            return path / name
    raise SourceError(f"{path}: there is no ratings.dat or ratings.csv in it")


def read_ratings(
    path: Path,
    kind: str,
    settings: DataSettings,
    further: LabelColumns,
    on_bad: Callable[[SourceError], None] | None = None,
) -> Iterator[tuple[Example, list[Outcome]]]:
    """Each rating as an `Example` with the ratings file's line number as its request_id.

    The only column of labels is `rating`. `settings.features` may choose and rename among user, hour, movie
    and genres; `context` and `positive_from` hold as for other files, the latter by default 8
    (MovieTweetings) or 4 (MovieLens).

    Raises:
        SourceError: a file is missing, a line cannot be used, or a setting that does not apply.
    """
    context, candidate = _chosen(path, settings)
    file = ratings_file(path)
    movies_file = file.with_name("movies" + file.suffix)
    genres = {movie: names for movie, _, names in movies_of(movies_file, kind)}
    positive_from = _POSITIVE_FROM[kind] if settings.positive_from is None else settings.positive_from
    if set(further.columns) - {"rating"}:
        raise SourceError(f"{path}: labels of further targets are in column 'rating', the only one")
    lines, users, movies, times, labels, outcomes = _read_columns(
        file, positive_from, settings, further, on_bad
    )
    unknown: list[str] = []  # a rating may name a movie that the movies' file lacks
    order = np.argsort(np.frombuffer(times, dtype=np.float64), kind="stable") if times else ()
    for i in order:
        time, movie = times[i], movies[i]
        values: Features = {
            "user": users[i],
            "hour": int(time // 3600) % 24,
            "movie": movie,
            "genres": list(genres.get(movie, unknown)),
        }
        example = Example(
            str(lines[i]),
            time,
            time,
            [{name: values[column] for name, column in candidate}],
            [float(labels[i])],
            {name: values[column] for name, column in context},
        )
        yield example, [outcomes[i]] if further else []


def _chosen(path: Path, settings: DataSettings) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(feature name, column) of the context and of the candidate."""
    if settings.request is not None:
        raise SourceError(f"{path}: request does not apply to a set of ratings: each is a request of one")
    chosen = settings.features or {name: name for name in FEATURES}
    for name, column in chosen.items():
        if column not in FEATURES:
            raise SourceError(
                f"{path}: feature {name!r}: no column {column!r}; there are {', '.join(FEATURES)}"
            )
    for name in settings.context:
        if name not in chosen:
            raise SourceError(
                f"{path}: context names {name!r}, which is no feature; there are {', '.join(chosen)}"
            )
    if settings.context:
        context = [(name, column) for name, column in chosen.items() if name in settings.context]
    else:
        context = [(name, column) for name, column in chosen.items() if column in _CONTEXT]
    return context, [item for item in chosen.items() if item not in context]


def _read_columns(
    file: Path,
    positive_from: float,
    settings: DataSettings,
    further: LabelColumns,
    on_bad: Callable[[SourceError], None] | None,
) -> "tuple[array[int], array[int], array[int], array[float], array[int], list[Outcome]]":
    """Line, user, movie, time in seconds, label (0 or 1), further labels of each rating, in file order."""
    outcomes: list[Outcome] = []
    lines, users, movies = array("q"), array("q"), array("q")
    times, labels = array("d"), array("b")
    separator = b"," if file.suffix == ".csv" else b"::"
    skip = 1 if file.suffix == ".csv" else 0
    read_time, read_label = time_reader("s"), label_reader(positive_from)
    with file.open("rb") as opened:
        for line, text in enumerate(islice(opened, skip, None), skip + 1):
            cells = text.split(separator)
            try:
                if len(cells) != 4:
                    raise ValueError("expected user, movie, rating, time")
                user, movie = int(cells[0]), int(cells[1])
                time, label = read_time(cells[3]), read_label(cells[2])
                said = further.read(label, [cells[2].decode()] * len(further.columns)) if further else None
                if (user | movie) >> 63:  # negative, or more than 63 bits
                    raise ValueError("an id below 0 or beyond 63 bits")
            except ValueError as error:
                wrong = SourceError(f"{file}:{line}: {error}; expected user, movie, rating, time in seconds")
                if not settings.skip_bad:
                    raise wrong from None
                if on_bad is not None:
                    on_bad(wrong)
                continue
            lines.append(line)
            users.append(user)
            movies.append(movie)
            times.append(time)
            labels.append(int(label))
            if said is not None:
                outcomes.append(said)
    return lines, users, movies, times, labels, outcomes


def movies_of(file: Path, kind: str | None = None) -> Iterator[tuple[int, str, list[int | float | str]]]:
    """(movie, title, genres) of `movies.dat` or `movies.csv`; the title between may hold any separator.

    Args:
        kind: "movietweetings" or "movielens"; None: the ratings beside the file say it.

    Raises:
        SourceError: the file is missing, or a line cannot be used.
    """
    separator = "," if file.suffix == ".csv" else "::"
    kind = kind or detect_ratings(file.parent) or "movietweetings"
    # The older MovieLens sets are Latin-1; everything since, and MovieTweetings, is UTF-8.
    encoding = "latin-1" if kind == "movielens" and file.suffix == ".dat" else "utf-8"
    try:
        with file.open(encoding=encoding) as opened:
            for line, text in enumerate(opened, 1):
                if line == 1 and file.suffix == ".csv":
                    continue
                movie, found, rest = text.rstrip("\r\n").partition(separator)
                title, found_too, names = rest.rpartition(separator)
                if not (found and found_too and movie.isdecimal()):
                    raise SourceError(f"{file}:{line}: expected movie{separator}title{separator}genres")
                if line > _MOVIES_MAX:
                    raise SourceError(f"{file}: more than {_MOVIES_MAX:,} movies")
                yield int(movie), title.strip('"'), [str(name) for name in to_list(names, "|")]
    except FileNotFoundError:
        raise SourceError(f"{file}: no such file; the genres are read from it, beside the ratings") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{file}: not {encoding}: {error.reason}") from None
