"""`rank.by`: arithmetic over targets and numbers of a candidate, by which candidates are ordered.

    click * (0.1 + 30 * buy) / (1 + price)

An expression has numbers, names, + - * / and brackets, and nothing else. It is parsed here and never
evaluated as Python. x / 0 is 0; what overflows is the largest float. Source of the method: the shunting-yard
algorithm (Dijkstra 1961).
"""

import re
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from learner.features.spec import FeatureSpec
from serving.errors import RankError

if TYPE_CHECKING:
    from learner.features.encoder import Requestlike

Floats = npt.NDArray[np.float64]

CHARACTERS_MAX = 1_000
DEPTH_MAX = 32
"""Brackets and signs inside each other."""
STEPS_MAX = 200
"""Numbers, names and operators."""

_DIGITS = "[0-9]+(?:_[0-9]+)*"
_TOKEN = re.compile(
    rf"\s*(?:({_DIGITS}(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?)|([^\W\d]\w*)|(.))"
)
_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3}


class Operation(NamedTuple):
    """One step of an expression in reverse Polish notation."""

    kind: str  # "number", "name", or an operator
    number: float = 0.0
    name: str = ""


class Ranking:
    """A parsed expression.

    >>> ranking = Ranking("click * (0.1 + 30 * buy)", ["click", "buy"], [])
    >>> ranking({"click": np.array([0.5, 0.1]), "buy": np.array([0.0, 0.2])}).round(3).tolist()
    [0.05, 0.61]

    Args:
        by: the expression.
        targets: names of the targets.
        numbers: names of the candidates' numbers.

    Raises:
        RankError: it is no such expression, or names something else; says where.
    """

    def __init__(self, by: str, targets: Collection[str], numbers: Collection[str]) -> None:
        self.by = by
        self._steps = _parse(by)
        used = {step.name for step in self._steps if step.kind == "name"}
        for name in sorted(used):
            if name in targets and name in numbers:
                raise RankError(f"rank.by: {name!r} is a target and a feature; rename one of them")
            if name not in targets and name not in numbers:
                known = ", ".join([*targets, *numbers])
                raise RankError(
                    f"rank.by: {name!r} is neither a target nor a feature of kind number: {known}"
                )
        if not used & set(targets):
            raise RankError(f"rank.by: {by!r} names no target; known: {', '.join(targets)}")
        self.targets = tuple(name for name in targets if name in used)
        self.numbers = tuple(name for name in numbers if name in used)

    def __repr__(self) -> str:
        return f"Ranking({self.by!r})"

    def __call__(self, values: Mapping[str, Floats]) -> Floats:
        """The candidates' scores; `values` are arrays of one shape by name."""
        stack: list[Floats] = []
        with np.errstate(all="ignore"):
            for kind, number, name in self._steps:
                if kind == "number":
                    stack.append(np.asarray(number))
                elif kind == "name":
                    stack.append(values[name])
                elif kind == "neg":
                    stack.append(-stack.pop())
                else:
                    right, left = stack.pop(), stack.pop()
                    stack.append(np.nan_to_num(_OPERATIONS[kind](left, right)))
        (found,) = stack
        return found


def _divide(left: Floats, right: Floats) -> Floats:
    return np.where(right == 0.0, 0.0, left / right)


_OPERATIONS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": _divide,
}


def _parse(by: str) -> list[Operation]:
    """The steps of an expression in the order in which they are computed."""
    if len(by) > CHARACTERS_MAX:
        raise RankError(f"rank.by has {len(by):,} characters; expected at most {CHARACTERS_MAX:,}")
    steps: list[Operation] = []
    waiting: list[str] = []  # operators and brackets
    operand = True  # whether an operand is expected next, and no operator
    for match in _TOKEN.finditer(by.rstrip()):
        number, name, sign = match.groups()
        at = f"at character {match.start(match.lastindex or 0) + 1}"
        if number is not None or name is not None:
            if not operand:
                raise RankError(f"rank.by: {number or name} {at}: expected an operator")
            if number is not None and float(number) > sys.float_info.max:
                raise RankError(f"rank.by: {number[:32]} {at}: expected at most {sys.float_info.max:.3g}")
            steps.append(
                Operation("number", float(number)) if number is not None else Operation("name", name=name)
            )
            operand = False
        elif sign == "(":
            if not operand:
                raise RankError(f"rank.by: a bracket {at}: expected an operator; there are no functions")
            waiting.append("(")
        elif sign == ")":
            if operand:
                raise RankError(f"rank.by: a closing bracket {at}: expected a number or a name")
            _pop(steps, waiting, 0)
            if not waiting:
                raise RankError(f"rank.by: a closing bracket {at} has no opening one")
            waiting.pop()
        elif operand and sign == "-":
            waiting.append("neg")
        elif sign in "+-*/" and not operand:
            _pop(steps, waiting, _STRENGTH[sign])
            waiting.append(sign)
            operand = True
        else:
            expected = "a number, a name or a bracket" if operand else "+, -, * or /"
            raise RankError(f"rank.by: {sign!r} {at}: expected {expected}")
        if len(waiting) > DEPTH_MAX or len(steps) > STEPS_MAX:
            raise RankError(
                f"rank.by: expected at most {DEPTH_MAX} brackets inside each other and {STEPS_MAX} steps"
            )
    if operand:
        raise RankError("rank.by ends where a number, a name or a bracket is expected")
    _pop(steps, waiting, 0)
    if waiting:
        raise RankError("rank.by: a bracket is not closed")
    return steps


def _pop(steps: list[Operation], waiting: list[str], strength: int) -> None:
    """Move the waiting operators that are at least as strong, up to the next bracket."""
    while waiting and waiting[-1] != "(" and _STRENGTH[waiting[-1]] >= strength:
        steps.append(Operation(waiting.pop()))


def numbers_of(features: Mapping[str, FeatureSpec]) -> list[str]:
    """The names of the features that are numbers."""
    return [name for name, spec in features.items() if spec.kind == "number"]


def numbers_in(request: "Requestlike", names: Collection[str]) -> dict[str, Floats]:
    """The candidates' numbers by name, each (n,); what a candidate lacks comes from the context.

    Raises:
        RankError: a candidate lacks one, or it is no number.
    """
    found = {}
    for name in names:
        values = [candidate.get(name, request.context.get(name)) for candidate in request.candidates]
        for i, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RankError(
                    f"rank.by needs the number {name!r} of each candidate; candidate {i} has none"
                )
        found[name] = np.array(values, dtype=np.float64)
    return found


def ranking_of(by: str, targets: Collection[str], features: Mapping[str, FeatureSpec]) -> Ranking | None:
    """The ranking of an expression; None of an empty one.

    Raises:
        RankError: it is none of these targets and features.
    """
    return ranking_by(by, targets, features) if by else None


def ranking_by(by: str, targets: Collection[str], features: Mapping[str, FeatureSpec]) -> Ranking:
    """The ranking of an expression.

    Raises:
        RankError: it is empty, or none of these targets and features.
    """
    return Ranking(by, list(targets), numbers_of(features))
