"""Checks of what a record says of each of its candidates, beside their features: labels, places, weights."""

import math
from collections.abc import Sequence

from stream.errors import RecordError
from stream.limits import CANDIDATES_MAX, MODELS_MAX, VALUE_MAX, WEIGHT_MAX
from stream.records.targets import UNDECLARED, UNKNOWN, Targets
from stream.records.types import Example, Impression, Served


def check_lists(record: Impression | Example, targets: Targets = UNDECLARED) -> None:
    """Check what is said of each candidate beside its features.

    Args:
        targets: those that are declared. An example of another one may have any numbers, and of UNKNOWN all.

    Raises:
        RecordError: naming the field and what was expected.
    """
    n = len(record.candidates)
    of = record.target if isinstance(record, Example) else ""
    is_value = targets is UNKNOWN or (bool(of) and of not in targets) or targets[of].kind == "value"
    if record.labels is not None:
        _check_labels("labels", record.labels, n, is_value)
    if record.served is not None:
        _check_served(record.served, n, is_value)
    if record.place is not None or record.propensity is not None:
        _check_places(record.place, record.propensity, n)
    if isinstance(record, Example):
        check_numbers("weight", record.weight, n, WEIGHT_MAX)
        if record.before is not None:
            _check_labels("before", record.before, n, is_value)
        return
    if record.shown is not None:
        check_shown(record.shown, n)
    if record.weight is not None:
        weight = record.weight if isinstance(record.weight, list) else [record.weight] * n
        check_numbers("weight", weight, n, WEIGHT_MAX)
    if record.outcomes is not None:
        _check_outcomes(record, record.outcomes, targets)


def check_label(name: str, label: float) -> None:
    """Check that something is said to have happened or not.

    Raises:
        RecordError: the label is neither 0 nor 1.
    """
    if label not in (0.0, 1.0):
        raise RecordError(f"{name} is {label}; expected 0 or 1")


def check_numbers(name: str, numbers: Sequence[float] | None, n: int, most: float = math.inf) -> None:
    """Check one number for each of n candidates.

    Raises:
        RecordError: they are not n finite numbers from 0 to `most`.
    """
    if numbers is None:
        return
    if len(numbers) != n:
        raise RecordError(f"{name} has {len(numbers)} entries for {n} candidates")
    for number in numbers:
        if not 0.0 <= number < math.inf:
            raise RecordError(f"{name} has {number}; expected a finite number of at least 0")
        if number > most:
            raise RecordError(f"{name} has {number}; expected at most {most:g}")


def check_shown(shown: list[int], n: int) -> None:
    """Check the candidates, of n, that are said to have been shown.

    Raises:
        RecordError: one is not among the n, or is named twice.
    """
    for candidate in shown:
        if not 0 <= candidate < n:
            raise RecordError(f"shown holds candidate {candidate}; expected 0 to {n - 1}")
    if len(set(shown)) != len(shown):
        twice = next(candidate for candidate in shown if shown.count(candidate) > 1)
        raise RecordError(f"shown holds candidate {twice} twice")


def _check_labels(name: str, labels: Sequence[float], n: int, is_value: bool) -> None:
    """Check the labels of one target for n candidates."""
    if is_value:
        check_numbers(name, labels, n, VALUE_MAX)
        return
    if len(labels) != n:
        raise RecordError(f"{name} has {len(labels)} entries for {n} candidates")
    for label in labels:
        check_label(name, label)


def _check_outcomes(record: Impression, outcomes: dict[str, list[float | None]], targets: Targets) -> None:
    """Check the labels of further targets, which only candidates have for which the `of` happened."""
    if record.labels is None:
        raise RecordError(f"outcomes without labels; expected labels of {targets.primary} too")
    for name, found in outcomes.items():
        if targets is UNKNOWN:
            said = [0.0 if label is None else label for label in found]
            check_numbers(f"outcomes.{name}", said, len(record.candidates), VALUE_MAX)
            continue
        if name not in targets.names or name == targets.primary:
            known = ", ".join(targets.names[1:]) or "none"
            raise RecordError(f"outcomes of {name!r}, which is no further target; known: {known}")
        of = targets[name].of
        if of in outcomes:
            happened = outcomes[of]
        elif of == targets.primary or not of:
            happened = list(record.labels)
        else:
            raise RecordError(f"outcomes of {name} without those of {of}, among which it is learned")
        if len(found) != len(record.candidates):
            raise RecordError(
                f"outcomes.{name} has {len(found)} entries for {len(record.candidates)} candidates"
            )
        if of:
            for i, (label, it) in enumerate(zip(found, happened, strict=False)):
                if (label is None) == bool(it):
                    rule = f"a label where {of} happened, and null where it did not"
                    raise RecordError(f"outcomes.{name}[{i}] is {label}; expected {rule}")
        elif None in found:
            raise RecordError(
                f"outcomes.{name}[{found.index(None)}] is null; expected a label of each candidate"
            )
        said = [label for label in found if label is not None]
        _check_labels(f"outcomes.{name}", said, len(said), targets[name].kind == "value")


def _check_served(served: Served, n: int, is_value: bool) -> None:
    """Check what was answered for n candidates."""
    for name, scores in (("base", served.base), ("corrected", served.corrected)):
        if len(scores) != n:
            raise RecordError(f"served.{name} has {len(scores)} entries for {n} candidates")
        if is_value:
            check_numbers(f"served.{name}", scores, n)
        elif not all(0.0 <= p <= 1.0 for p in scores):
            raise RecordError(f"served.{name} has a value that is not a probability")
    for target, answered in served.targets.items():
        check_numbers(f"served.targets.{target}.base", answered.base, n)
        check_numbers(f"served.targets.{target}.corrected", answered.corrected, n)
    if len(served.models) > MODELS_MAX:
        raise RecordError(f"served.models has {len(served.models)} entries; expected at most {MODELS_MAX}")
    for model, answered in served.models.items():
        check_numbers(f"served.models.{model}.base", answered.base, n)
        check_numbers(f"served.models.{model}.corrected", answered.corrected, n)


def _check_places(place: list[int] | None, propensity: list[float] | None, n: int) -> None:
    """Check where n candidates were shown, and with which probability."""
    if place is not None:
        if len(place) != n:
            raise RecordError(f"place has {len(place)} entries for {n} candidates")
        if len(set(place)) != n or not all(0 <= at < CANDIDATES_MAX for at in place):
            raise RecordError(f"place must hold {n} different numbers from 0 to {CANDIDATES_MAX - 1}")
    if propensity is not None:
        if len(propensity) != n:
            raise RecordError(f"propensity has {len(propensity)} entries for {n} candidates")
        if not all(0.0 < p <= 1.0 for p in propensity):
            raise RecordError("propensity has a value that is not above 0 and at most 1")
