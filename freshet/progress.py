"""Progress of a long command on stderr: a bar on a terminal, else a line every few seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_AFTER_S = 5.0  # the first line; shorter work prints none
LINE_EVERY_S = 30.0


@contextmanager
def progress(doing: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar or lines inside a `with`; call the yielded function with the number of items just done.

    Args:
        doing: a word before the bar: "replaying".
        total: number of items; None: not known.
    """
    if not sys.stderr.isatty():
        yield _Lines(doing.strip(), total).advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, rate="")
        began, done = time.perf_counter(), 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            bar.update(task, advance=n, rate=f"{done / (time.perf_counter() - began):,.0f}/s")

        yield advance


class _Lines:
    """Progress as lines, without a terminal."""

    def __init__(self, doing: str, total: int | None) -> None:
        self._doing = doing
        self._total = total
        self._done = 0
        self._began_s = time.perf_counter()
        self._next_s = self._began_s + LINE_AFTER_S

    def advance(self, n: int) -> None:
        """Count `n` more items as done."""
        self._done += n
        now_s = time.perf_counter()
        if now_s < self._next_s:
            return
        self._next_s = now_s + LINE_EVERY_S
        rate = self._done / (now_s - self._began_s)
        line = f"{self._doing}: {self._done:,}"
        if self._total is not None:
            line += f" of {self._total:,}"
        line += f", {rate:,.0f}/s" if rate >= 10.0 else f", {60.0 * rate:,.1f} a minute"
        if self._total is not None and self._done < self._total and rate > 0.0:
            line += f", about {duration((self._total - self._done) / rate)} left"
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A duration in the largest fitting unit.

    >>> duration(42.3), duration(600), duration(9000), duration(400_000)
    ('42 s', '10 min', '2.5 h', '4.6 days')
    """
    for size, unit in ((86400.0, "days"), (3600.0, "h")):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60.0:.0f} min" if seconds >= 120.0 else f"{seconds:.0f} s"
