"""Numbers as labels: the thresholds from which they may count as 1, or the number itself as a value."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from freshet.init.answers import Answer, AsValue
from freshet.init.column import Column
from stream.limits import TARGET_NAME_MAX, VALUE_MAX

VALUE_WORDS = {
    "watch", "watched", "watchtime", "dwell", "dwelltime", "duration", "listen", "listened", "play", "played",
    "playtime", "stay", "seconds", "minutes", "spent", "spend", "revenue", "sales", "income", "profit", "gmv",
    "amount", "paid", "value", "progress", "completion", "commission", "earnings", "tip", "tips",
}  # fmt: skip
CUT_SHARES = (0.05, 0.95)  # of the lines that reach a bar that is offered
LEVELS_MIN = 3  # different numbers of a value
_PLAIN = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{TARGET_NAME_MAX - 1}}}").fullmatch
SKEWED = 1.0  # skewness from which on amounts are learned on a logarithmic scale


def cuts(column: Column) -> list[tuple[float, float]]:
    """Possible thresholds of a column of numbers, the likeliest first: (threshold, share of the lines that
    reach it).
    """
    numbers = sorted(column.numbers or ())
    if not numbers:
        return []
    found: dict[float, float] = {}
    wanted = [
        0.8 * numbers[-1],
        numbers[len(numbers) // 2],
        numbers[3 * len(numbers) // 4],
        numbers[0] + 1e-9,
    ]
    for bar in wanted:
        reached = [number for number in numbers if number >= bar]
        share = len(reached) / len(numbers)
        if reached and CUT_SHARES[0] <= share <= CUT_SHARES[1]:
            found.setdefault(reached[0], share)
    return list(found.items())[:3]


def offers(columns: Sequence[Column]) -> str:
    """Possible labels and thresholds, each as the options that set it."""
    lines = []
    for column in columns:
        for bar, share in cuts(column)[:2]:
            lines.append(
                f"  --label {column.name} --positive-from {bar:g}   ({share:.0%} of the lines count as 1)"
            )
        if may_be_value(column):
            lines.append(f"  --label {column.name}   (its numbers are predicted)")
    return "\n".join(lines[:8])


def may_be_value(column: Column) -> bool:
    """Whether a column has numbers that a target of kind "value" can have."""
    numbers = column.numbers
    if numbers is None or not 0.0 <= min(numbers) <= max(numbers) <= VALUE_MAX:
        return False
    return len(set(numbers)) >= LEVELS_MIN


def as_value(column: Column) -> Answer | None:
    """The column as the label of a value; None: it cannot be one."""
    if not may_be_value(column):
        return None
    numbers = np.sort(np.array(column.numbers))
    scale, why_scale = scale_of(numbers)
    median = numbers[len(numbers) // 2]
    above = numbers[numbers > median]
    # where most lines have the highest number, it is the one to compare with
    middle = float(above[0] if len(above) else median)
    why = f"numbers from {numbers[0]:g} to {numbers[-1]:g}, predicted as a value"
    for bar, share in cuts(column)[:1]:
        why += f"; --positive-from {bar:g} predicts whether it is reached ({share:.0%} of the lines)"
    return Answer(column, {}, {"": why}, 1.0, AsValue(scale, why_scale, middle))


def read_middle(answer: Answer, middle: float) -> list[float | None]:
    """Of each line whether a value is at least `middle`; None: it has none."""
    assert answer.column is not None
    numbers = map(answer.column.number_of, answer.column.cells)
    return [None if number is None else float(number >= middle) for number in numbers]


def scale_of(values: npt.NDArray[np.float64]) -> tuple[str, str]:
    """The scale on which a value is learned, and the reason."""
    skew = skewness(values)
    if skew < SKEWED:
        return "linear", ""
    return "log1p", f"a few are far above the rest (skewness {skew:.1f})"


def skewness(values: npt.NDArray[np.float64]) -> float:
    """The third standardised moment; 0 if all are equal.

    >>> round(skewness(np.array([1.0, 1.0, 1.0, 9.0])), 2), skewness(np.array([2.0, 2.0]))
    (1.15, 0.0)
    """
    spread = values.std()
    return float(np.mean(((values - values.mean()) / spread) ** 3)) if spread > 0.0 else 0.0


def in_doubt(columns: Sequence[Column], first: str, taken: Sequence[str]) -> list[str]:
    """Comments that propose amounts as further targets, because the sample leaves doubt.

    Args:
        columns: no features, because they tell the label.
        first: the name of the first target.
        taken: names of the targets that the config declares; empty: it declares none.
    """
    found: list[str] = []
    for column in columns:
        if not column.words & VALUE_WORDS or not may_be_value(column) or column.name in taken:
            continue
        if len(column.filled) < len(column.cells) or _PLAIN(column.name) is None:
            continue
        scale, _ = scale_of(np.array(column.numbers))
        found += [f"# {column.name} may be an outcome to predict, of all lines. If so, remove these #:"]
        found += [] if taken else [f"# [targets.{first}]"]
        found += [f"# [targets.{column.name}]", '# kind = "value"']
        found += [f'# scale = "{scale}"'] if scale != "linear" else []
        found += [f"# [data.labels.{column.name}]", f'# column = "{column.name}"', ""]
        taken = [*taken, first, column.name]
    return found
