"""Data files as requests: CSV, JSON Lines, Parquet, and the two public rating sets, one `Example` at a time.

    for example in read_examples("clicks.csv", DataSettings(label="clicked", request="session")):
        ...

Reading is strict: an unusable line raises a `SourceError` that names file, line, column and what was
expected. With `skip_bad` it is left out and reported to `on_bad`.
"""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from stream.errors import RecordError, SourceError
from stream.files.columns import Convert, DataSettings, RawRow, label_reader, missing_test, shown_reader
from stream.files.record_files import read_layout, read_records
from stream.files.times import Cell, shown, time_reader
from stream.limits import FEATURES_MAX
from stream.records.decoding import check
from stream.records.fields import tidy_value
from stream.records.types import Example, Features, Value

__all__ = ["DataSettings", "LeftOut", "count_examples", "detect_format", "read_examples", "read_lines"]

OnBad = Callable[[SourceError], None]


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


_KNOWN_MAX = 1 << 16  # cells of a column whose values are kept
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
) -> Iterator[Example]:
    """Read the requests of a data file in time order; `decided` is the time of their last line.

    A file of `freshet export` gives its examples unchanged, in their order.

    Args:
        path: a file (`.csv`, `.tsv`, `.jsonl`, `.parquet`; text also as `.gz`), or for the rating sets
            their folder or ratings file.
        settings: how to read it.
        on_bad: called with the error of each line that `skip_bad` leaves out.
        declared: names of the declared features; values of other columns are never errors. None: all
            columns count as declared.

    Raises:
        SourceError: the file cannot be read as configured.
    """
    path, settings = Path(path), settings or DataSettings()
    kind = detect_format(path, settings)
    examples: Iterator[Example]
    try:
        if kind in ("movietweetings", "movielens"):
            from stream.files.movielens import read_ratings

            yield from read_ratings(path, kind, settings, on_bad)
            return
        if kind == "examples":
            yield from _exported(path, settings, on_bad)
            return
        examples = _in_order(path, _requests(path, kind, settings, on_bad, declared), settings, on_bad)
        if settings.sort:
            examples = iter(sorted(examples, key=lambda example: example.time))
        yield from examples
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_lines(path: Path, settings: DataSettings) -> Iterator[Example]:
    """Read the requests of a data file in file order, for trying settings on it.

    Raises:
        SourceError: a line cannot be read as configured.
    """
    kind = detect_format(path, settings)
    if kind in ("movietweetings", "movielens"):
        yield from read_examples(path, settings)
        return
    for _, example, _ in _requests(path, kind, settings, None, None):
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


def _exported(path: Path, settings: DataSettings, on_bad: OnBad | None) -> Iterator[Example]:
    """The examples of a file of `freshet export`, in the order in which they were decided."""
    for record in read_records(
        path, (lambda error: _refuse(error, settings, on_bad)) if settings.skip_bad else None
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


class _Known(dict[str, Value]):
    """A cache of one column's converted cells: most cells recur, and a lookup is faster than a conversion.

    Raises:
        ValueError: a cell that is empty, cannot be converted, or is over a record's limits.
    """

    def __init__(self, convert: Convert, is_missing: Callable[[Cell], bool]) -> None:
        super().__init__()
        self._convert, self._is_missing = convert, is_missing

    def __missing__(self, cell: str) -> Value:
        if self._is_missing(cell):
            raise ValueError("an empty cell")
        value = tidy_value(self._convert(cell))
        if isinstance(value, list):
            return value  # not cached: the caller may change it
        if len(self) >= _KNOWN_MAX:
            self.clear()
        self[cell] = value
        return value


class _Request:
    """A request that is collected from its lines."""

    def __init__(self, line: int, name: str, key: Cell, time: float) -> None:
        self.line, self.name, self.key, self.time, self.decided = line, name, key, time, time
        self.context: Features = {}
        self.candidates: list[Features] = []
        self.labels: list[float] = []

    def example(self) -> Example:
        return Example(self.name, self.time, self.decided, self.candidates, self.labels, self.context)


def _requests(
    path: Path, kind: str, settings: DataSettings, on_bad: OnBad | None, declared: Collection[str] | None
) -> Iterator[tuple[int, Example, bool]]:
    """(first line, request, whether it is known to fit the limits of a record) in file order."""
    from stream.files.tabular import open_table

    rows, convert, default = open_table(path, kind, settings)
    read_time = time_reader(settings.time_unit, settings.time_format)
    read_label = label_reader(settings.positive_from, settings.positive)
    in_context = frozenset(settings.context)
    is_missing = missing_test(settings)
    unlabelled = frozenset(settings.unlabelled)
    grouped = settings.request is not None
    open_request: _Request | None = None
    known: list[tuple[str, _Known]] | None = None
    plain = kind == "csv" and not grouped and not in_context and not unlabelled and not settings.shown
    for row in rows:
        column = settings.time
        try:
            if isinstance(row, SourceError):
                raise row
            if plain:
                if known is None:
                    known = [(name, _Known(convert.get(name, default), is_missing)) for name in row.cells]
                fast = _plain(row, known, read_time, read_label)
                if fast is not None:
                    yield row.line, fast, len(known) <= FEATURES_MAX
                    continue
            if settings.shown:
                column = settings.shown
                if not shown_reader(row.shown):
                    continue  # nobody saw it, so its label says nothing
            column = settings.time
            time = read_time(row.time)
            column = settings.label
            if unlabelled and _as_text(row.label) in unlabelled:
                if on_bad is not None:
                    on_bad(SourceError(f"{path}:{row.line}: {column}: {shown(row.label)} is no label"))
                continue
            label = read_label(row.label)
            context: Features = {}
            features: Features = {}
            for column, cell in row.cells.items():
                if is_missing(cell):
                    continue  # unknown here: the feature is absent, which every model must bear
                try:
                    value = tidy_value(convert.get(column, default)(cell))
                except ValueError:
                    if declared is None or column in declared:
                        raise
                    continue  # no feature: what it holds is not looked at
                if column in in_context:
                    context[column] = value
                else:
                    features[column] = value
            if not grouped:
                yield row.line, Example(str(row.line), time, time, [features], [label], context), False
                continue
            column = str(settings.request)
            name = _request_name(row)
            if open_request is None or open_request.key != row.request:
                if open_request is not None:
                    yield open_request.line, open_request.example(), False
                open_request = _Request(row.line, name, row.request, time)
                open_request.context = context
            elif open_request.context != context:
                column = "context"
                raise ValueError(
                    f"differs from that of line {open_request.line}, of the same request; "
                    "a feature that differs between candidates is no context"
                )
        except SourceError as error:
            _refuse(error, settings, on_bad)
            continue
        except ValueError as error:
            line = row.line if isinstance(row, RawRow) else 0
            _refuse(SourceError(f"{path}:{line}: {column}: {error}"), settings, on_bad)
            continue
        open_request.candidates.append(features)
        open_request.labels.append(label)
        open_request.decided = max(open_request.decided, time)
    if open_request is not None:
        yield open_request.line, open_request.example(), False


def _plain(
    row: RawRow,
    known: list[tuple[str, _Known]],
    read_time: Callable[[Cell], float],
    read_label: Callable[[Cell], float],
) -> Example | None:
    """Convert an ordinary line quickly; None: use the general way."""
    try:
        time = read_time(row.time)
        features = {name: at[cell] for (name, at), cell in zip(known, row.cells.values(), strict=True)}
        return Example(str(row.line), time, time, [features], [read_label(row.label)], {})
    except ValueError:
        return None


def _as_text(cell: Cell) -> str:
    """A cell as `unlabelled` names it; a missing one is empty."""
    return "" if cell is None or cell != cell else str(cell)


def _request_name(row: RawRow) -> str:
    if row.request is None or row.request == "":
        raise ValueError("an empty cell; expected the request's id")
    if isinstance(row.request, str | int):
        return str(row.request)
    raise ValueError(f"{row.request!r} is no request id; expected a string or an integer")


def _in_order(
    path: Path,
    requests: Iterator[tuple[int, Example, bool]],
    settings: DataSettings,
    on_bad: OnBad | None,
) -> Iterator[Example]:
    """Pass on the requests that fit the limits of a record, and check that they are in time order."""
    newest, newest_line = -1.0, 0
    for line, example, fits in requests:
        try:
            if not fits:
                check(example)
        except RecordError as error:
            _refuse(SourceError(f"{path}:{line}: {error}"), settings, on_bad)
            continue
        if example.time < newest and not settings.sort:
            # The file is out of order: skipping the line would silently lose most of the file.
            raise SourceError(
                f"{path}:{line}: {settings.time}: {example.time:.3f} is before {newest:.3f} of line "
                f"{newest_line}; set sort = true in [data] to sort the file in memory"
            )
        newest, newest_line = example.time, line
        yield example


def _refuse(error: SourceError, settings: DataSettings, on_bad: OnBad | None) -> None:
    if not settings.skip_bad:
        hint = "correct it, or leave such lines out with skip_bad = true in [data]"
        raise SourceError(f"{error}; {hint}") from None
    if on_bad is not None:
        on_bad(error)
