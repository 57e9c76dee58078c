"""Questions about a sample, and their answers: each with the settings that it means and its reasons.

A question is answered by candidates with points: a name that says so, values that can be nothing else. An
answer is sure when its points are many, and more than any other's.
"""

import math
from typing import NamedTuple

from freshet.files import Json
from freshet.init.column import Column

SURE_POINTS, SURE_GAP = 2.5, 1.0
ONLY_POINTS = 2.0  # of the only answer there is, from which on it is sure


class AsValue(NamedTuple):
    """A label that is predicted as a number.

    Attributes:
        scale: on which it is learned, as in [targets.NAME].
        why: the reason for the scale.
        middle: the number from which on a line counts as 1 where two kinds of lines are compared.
    """

    scale: str
    why: str
    middle: float


class Answer(NamedTuple):
    """One answer to a question: the settings of [data] that it means, and why.

    Attributes:
        column: the column that is meant; None: no column.
        settings: keys of [data] beside the column's name.
        why: a reason for each key; under the empty key the one of the column itself.
        points: how much speaks for it.
        value: of a label, that it is the label of a value; None: of an event.
    """

    column: Column | None
    settings: Json
    why: dict[str, str]
    points: float
    value: AsValue | None = None


class Question(NamedTuple):
    """A question with its answers, best first; `sure` if the first leaves no doubt."""

    text: str
    answers: list[Answer]
    sure: bool


def rank(text: str, answers: list[Answer]) -> Question:
    best = sorted(answers, key=lambda answer: -answer.points)  # stable: else in the file's order
    second = best[1].points if len(best) > 1 else -math.inf
    enough = ONLY_POINTS if len(best) == 1 else SURE_POINTS
    sure = bool(best) and best[0].points >= enough and best[0].points - second >= SURE_GAP
    return Question(text, best, sure)
