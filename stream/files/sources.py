"""Data files as requests: CSV, JSON Lines, Parquet, and the two public rating sets, one `Example` at a time.

    for example in read_examples("clicks.csv", DataSettings(label="clicked", request="session")):
        ...

Reading is strict: an unusable line raises a `SourceError` that names file, line, column and what was
expected. With `skip_bad` it is left out and reported to `on_bad`.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from stream.errors import RecordError, SourceError
from stream.files.columns import DataSettings
from stream.files.outcomes import LabelColumns, Outcome, split
from stream.files.record_files import read_layout, read_records
from stream.files.requests import OnBad, Read, read_requests, refuse
from stream.records.decoding import check
from stream.records.targets import UNDECLARED, Targets
from stream.records.types import Example

__all__ = [
    "DataSettings",
    "LeftOut",
    "count_examples",
    "detect_format",
    "read_examples",
    "read_labelled",
    "read_lines",
]


class LeftOut:
    """An `on_bad` that counts the lines that are left out.

    Attributes:
        lines: how many were left out.
        first: the error of the first of them.
    """

    def __init__(self) -> None:
        self.lines = 0
        self.first = ""

    def __call__(self, error: SourceError) -> None:
        self.lines += 1
        self.first = self.first or str(error)

    def phrase(self) -> str:
        """The count as the end of a sentence; empty if no line was left out."""
        return f"; {self.lines:,} left out that cannot be used, the first: {self.first}" if self.lines else ""


_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def read_examples(
    path: str | Path,
    settings: DataSettings | None = None,
    on_bad: OnBad | None = None,
    declared: Collection[str] | None = None,
    targets: Targets = UNDECLARED,
) -> Iterator[Example]:
    """Read the requests of a data file in time order; `decided` is the time of their last line.

    A file of `freshet export` gives its examples unchanged, in their order. A request with labels of further
    targets is an example of each that has a sample in it.

    Args and errors are those of `read_labelled`.
    """
    for example, outcomes in read_labelled(path, settings, on_bad, declared, targets):
        if outcomes:
            yield from split(example, outcomes)
        else:
            yield example


def read_labelled(
    path: str | Path,
    settings: DataSettings | None = None,
    on_bad: OnBad | None = None,
    declared: Collection[str] | None = None,
    targets: Targets = UNDECLARED,
) -> Iterator[tuple[Example, list[Outcome]]]:
    """Read the requests of a data file in time order, with each candidate's labels of further targets.

    Args:
        path: a file (`.csv`, `.tsv`, `.jsonl`, `.parquet`; text also as `.gz`), or for the rating sets
            their folder or ratings file.
        settings: how to read it.
        on_bad: called with the error of each line that `skip_bad` leaves out.
        declared: names of the declared features; values of other columns are never errors. None: all
            columns count as declared. A `Declared` says which of them are vectors and texts.
        targets: those that labels may be of.

    Raises:
        SourceError: the file cannot be read as configured.
    """
    path, settings = Path(path), settings or DataSettings()
    kind = detect_format(path, settings)
    try:
        labels = LabelColumns(settings, targets)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    try:
        if kind in ("movietweetings", "movielens"):
            from stream.files.movielens import read_ratings

            yield from read_ratings(path, kind, settings, labels, on_bad)
            return
        if kind == "examples":
            yield from ((example, []) for example in _exported(path, settings, on_bad, targets))
            return
        found = read_requests(path, kind, settings, on_bad, declared, labels)
        requests = _in_order(path, found, settings, on_bad, targets)
        if settings.sort:
            requests = iter(sorted(requests, key=lambda request: request[0].time))
        yield from requests
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_lines(
    path: Path,
    settings: DataSettings,
    declared: Collection[str] | None = None,
    targets: Targets = UNDECLARED,
) -> Iterator[Example]:
    """Read the requests of a data file in file order, for trying settings on it.

    Args:
        declared: as for `read_examples`.
        targets: the first one says what a label is.

    Raises:
        SourceError: a line cannot be read as configured.
    """
    kind = detect_format(path, settings)
    if kind in ("movietweetings", "movielens"):
        yield from read_examples(path, settings)
        return
    alone = msgspec.structs.replace(settings, labels={})
    for _, example, _, _ in read_requests(path, kind, alone, None, declared, LabelColumns(alone, targets)):
        yield example


def detect_format(path: Path, settings: DataSettings) -> str:
    """The name of the format: as configured, or recognised by the file's name and first bytes.

    Raises:
        SourceError: the file does not exist, or its format cannot be recognised.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder")
    if settings.format != "auto":
        if path.is_dir() and settings.format not in ("movietweetings", "movielens"):
            raise SourceError(f"{path}: is a folder; name the {settings.format} file in it")
        return settings.format
    from stream.files.movielens import detect_ratings

    found = detect_ratings(path)
    if found is None and path.is_file():
        name = path.with_suffix("") if path.suffix == ".gz" else path
        found = _SUFFIXES.get(name.suffix.lower())
        if found == "parquet" and read_layout(path) is not None:
            found = "examples"
    if found is None:
        if path.is_dir():
            raise SourceError(
                f"{path}: is a folder; name one file in it (only MovieLens and MovieTweetings are read as "
                "folders)"
            )
        if path.is_file():
            from stream.files.tabular import refuse_packed

            refuse_packed(path)
        raise SourceError(
            f"{path}: the format cannot be recognised from the name; let it end in .csv, .tsv, .jsonl or "
            ".parquet (also with .gz), or set format in [data] to csv, jsonl, parquet, movietweetings or "
            "movielens"
        )
    return found


def count_examples(path: str | Path, settings: DataSettings | None = None) -> int | None:
    """Estimate quickly how many requests `read_examples` will return, for a progress bar; None: unknown.

    Raises:
        SourceError: the file does not exist or its format cannot be recognised.
    """
    path, settings = Path(path), settings or DataSettings()
    kind = detect_format(path, settings)
    if kind == "examples":
        layout = read_layout(path)
        return None if layout is None else layout.records
    if settings.request is not None or path.suffix == ".gz":
        return None
    try:
        if kind == "parquet":
            from stream.files.tabular import count_parquet

            return count_parquet(path)
        header = 1 if kind == "csv" and not settings.columns else 0
        if kind in ("movietweetings", "movielens"):
            from stream.files.movielens import ratings_file

            path = ratings_file(path)
            header = 1 if path.suffix == ".csv" else 0
        return max(_count_lines(path) - header, 0)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error


def _exported(
    path: Path, settings: DataSettings, on_bad: OnBad | None, targets: Targets
) -> Iterator[Example]:
    """The examples of a file of `freshet export`, in the order in which they were decided."""
    for record in read_records(
        path, (lambda error: refuse(error, settings, on_bad)) if settings.skip_bad else None, targets
    ):
        if not isinstance(record, Example):
            raise SourceError(
                f"{path}: holds events, not examples; a joiner makes examples of them: send them with "
                "`freshet produce --events`, then export topic examples"
            )
        yield record


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def _in_order(
    path: Path,
    requests: Iterator[Read],
    settings: DataSettings,
    on_bad: OnBad | None,
    targets: Targets,
) -> Iterator[tuple[Example, list[Outcome]]]:
    """Pass on the requests that fit the limits of a record, and check that they are in time order."""
    newest, newest_line = -1.0, 0
    for line, example, fits, outcomes in requests:
        try:
            if not fits:
                check(example, targets)
        except RecordError as error:
            refuse(SourceError(f"{path}:{line}: {error}"), settings, on_bad)
            continue
        if example.time < newest and not settings.sort:
            # The file is out of order: skipping the line would silently lose most of the file.
            raise SourceError(
                f"{path}:{line}: {settings.time}: {example.time:.3f} is before {newest:.3f} of line "
                f"{newest_line}; set sort = true in [data] to sort the file in memory"
            )
        newest, newest_line = example.time, line
        yield example, outcomes
