"""The trials of a sweep: all combinations of given values, or random ones."""

import itertools
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from freshet.errors import SweepError

TRIALS_MAX = 10_000
DRAWS_PER_TRIAL = 50  # then stop: there are not enough different ones


class Trial(NamedTuple):
    """One configuration: the keys that are changed and their values, as on the command line."""

    values: tuple[tuple[str, str], ...] = ()

    def overrides(self) -> list[str]:
        """As values of `--set`."""
        return [f"{key}={value}" for key, value in self.values]


def make_trials(grids: Sequence[str], ranges: Sequence[str], count: int | None, seed: int) -> list[Trial]:
    """The unchanged config, then the trials.

    Args:
        grids: KEY=VALUE,VALUE,... each.
        ranges: KEY=LOW..HIGH each, drawn evenly on a logarithmic scale; whole numbers if both ends are whole.
        count: draw so many at random; None: all combinations of the grids.
        seed: of the draws.

    Raises:
        SweepError: an option is malformed, or there is nothing to try.

    >>> [trial.overrides() for trial in make_trials(["learner.group=16,32"], [], None, 0)]
    [[], ['learner.group=16'], ['learner.group=32']]
    """
    given = dict(_grid(text) for text in grids)
    spans = dict(_range(text) for text in ranges)
    if not given and not spans:
        raise SweepError("there is nothing to try; give --grid KEY=VALUE,VALUE or --range KEY=LOW..HIGH")
    if count is None:
        if spans:
            raise SweepError("a --range has infinitely many values; give the number to draw: --random N")
        keys = list(given)
        total = 1
        for values in given.values():
            total *= len(values)
        if total > TRIALS_MAX:
            raise SweepError(
                f"the grid has {total:,} points, more than {TRIALS_MAX:,}; draw some: --random N"
            )
        points = itertools.product(*given.values())
        return [Trial(), *(Trial(tuple(zip(keys, point, strict=True))) for point in points)]
    if count > TRIALS_MAX:
        raise SweepError(f"--random {count}: at most {TRIALS_MAX:,}")
    draw = random.Random(seed)
    trials: dict[Trial, None] = {Trial(): None}
    for _ in range(count * DRAWS_PER_TRIAL):
        if len(trials) > count:
            break
        point = [(key, draw.choice(values)) for key, values in given.items()]
        point += [(key, _drawn(draw, low, high)) for key, (low, high) in spans.items()]
        trials[Trial(tuple(point))] = None
    return list(trials)


def _grid(text: str) -> tuple[str, list[str]]:
    key, sign, values = text.partition("=")
    # commas inside brackets or quotes belong to the value
    found = [part.strip() for part in re.findall(r"""(?:\[[^]]*\]|"[^"]*"|'[^']*'|[^,\["'])+""", values)]
    if not sign or not key.strip() or not found or not all(found):
        raise SweepError(f"--grid {text}: expected KEY=VALUE,VALUE, for example learner.group=16,32")
    return key.strip(), list(dict.fromkeys(found))


def _range(text: str) -> tuple[str, tuple[str, str]]:
    match = re.fullmatch(r"([\w.-]+)=([-+.\w]+?)\.\.([-+.\w]+)", text.strip())
    try:
        if match is None or not 0.0 < float(match[2]) < float(match[3]) < float("inf"):
            raise ValueError
    except ValueError:
        raise SweepError(
            f"--range {text}: expected KEY=LOW..HIGH with 0 < LOW < HIGH, for example "
            "learner.deep_rate=0.0001..0.01"
        ) from None
    return match[1], (match[2], match[3])


def _drawn(draw: random.Random, low: str, high: str) -> str:
    value = float(low) * (float(high) / float(low)) ** draw.random()
    whole = low.isdigit() and high.isdigit()
    return str(round(value)) if whole else f"{value:.3g}"
