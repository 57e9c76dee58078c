"""Labels as Python has them: of one target, or of several by name; and the examples that they make."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from freshet.errors import ModelError
from freshet.python.rows import plain
from learner.features.encoder import Request
from stream.limits import VALUE_MAX, WEIGHT_MAX
from stream.records.targets import Targets
from stream.records.types import Example, picked

Labels = list[float | None]


def examples_of(
    requests: Sequence[Request],
    labels: object,
    targets: Targets,
    target: str = "",
    before: object = None,
    weight: object = None,
) -> list[Example]:
    """The examples of requests, in their order; a request's further targets behind its first one.

    Args:
        requests: R requests with n candidates in all.
        labels: (n,), of `target`; or, by target, of the first one and of further ones. A further one has an
            example of the candidates for which its `of` happened and whose label is not None.
        targets: those that labels may be of.
        target: of which they are, if they are not by target; empty: the first.
        before: (n,), labels as they were learned before, which these correct; None: these are the first.
        weight: (n,), how much each counts; None: 1.

    Raises:
        ModelError: there are too few or too many, or one is no label of its target; or a target is unknown.
    """
    by_name = by_target(labels)
    if by_name is None:
        by_name = {target or targets.primary: labels}
    elif target or before is not None:
        raise ModelError("labels are by target: `target` and `before` are for those of one target")
    elif targets.primary not in by_name:
        raise ModelError(f"labels are by target, and those of the first, {targets.primary}, are missing")
    unknown = next((name for name in by_name if name not in targets), None)
    if unknown is not None:
        raise ModelError(f"{unknown!r} is no target; declared: {', '.join(targets)}")
    if target:
        return list(_of_one(requests, by_name[target], targets, target, before, weight))
    for name in by_name:
        of = targets[name].of
        if of and of not in by_name:
            raise ModelError(f"labels of {name} came without those of {of}, among which it is learned")
    names = [name for name in targets.ordered if name in by_name]
    read = {
        name: list(_by_request(name, by_name[name], targets, requests, missing=name != targets.primary))
        for name in names
    }
    was = _numbers("before", before, requests)
    weights = _numbers("weight", weight, requests, WEIGHT_MAX)
    found = []
    for r, request in enumerate(requests):
        for name in names:
            of = targets[name].of
            mine = read[name][r]
            at = [i for i, label in enumerate(mine) if label is not None and (not of or read[of][r][i])]
            if at:
                found.append(
                    _example(request, mine, at, "" if name == targets.primary else name, was[r], weights[r])
                )
    return found


def by_target(labels: object) -> dict[str, object] | None:
    """Labels by target, of a dict or of a frame; None: they are of one target."""
    if isinstance(labels, Mapping):
        return {str(name): values for name, values in labels.items()}
    if hasattr(labels, "columns") and hasattr(labels, "__getitem__"):
        return {str(name): labels[name] for name in labels.columns}
    return None


def flat_labels(labels: object, n: int, what: str = "labels") -> list[object]:
    """Labels as a list of n, from one for each row, or a list for each request.

    Raises:
        ModelError: there are too few or too many.
    """
    flat: list[object] = []
    given = labels.tolist() if hasattr(labels, "tolist") else labels
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise ModelError(f"{what} are a {type(labels).__name__}: expected one for each candidate")
    for label in given:
        flat.extend(label) if isinstance(label, list | tuple) else flat.append(label)
    if len(flat) != n:
        raise ModelError(f"{len(flat)} {what} came for {n} candidates: give one for each")
    return flat


def _of_one(
    requests: Sequence[Request], labels: object, targets: Targets, target: str, before: object, weight: object
) -> Iterator[Example]:
    """The examples of one target, among candidates for all of which its `of` happened."""
    was = _numbers("before", before, requests)
    weights = _numbers("weight", weight, requests, WEIGHT_MAX)
    name = "" if target == targets.primary else target
    read = _by_request(target, labels, targets, requests, missing=False)
    for request, mine, w, b in zip(requests, read, weights, was, strict=True):
        yield _example(request, mine, list(range(len(mine))), name, b, w)


def _example(
    request: Request,
    labels: Labels,
    at: list[int],
    target: str,
    before: list[float] | None,
    weight: list[float] | None,
) -> Example:
    return Example(
        "",
        request.time,
        request.time,
        [request.candidates[i] for i in at],
        [float(labels[i] or 0.0) for i in at],
        request.context,
        late=before is not None,
        target=target,
        weight=picked(weight, at),
        before=picked(before, at),
    )


def _by_request(
    name: str, labels: object, targets: Targets, requests: Sequence[Request], *, missing: bool
) -> Iterator[Labels]:
    """The labels of each request.

    Args:
        missing: whether None is taken.
    """
    flat = flat_labels(labels, sum(len(request.candidates) for request in requests))
    read = [plain(label) for label in flat]
    of_what = f" of {name}" if targets.declared else ""
    value = targets[name].kind == "value"
    for given, label in zip(flat, read, strict=True):
        if label is None and missing:
            continue
        if value:
            if isinstance(label, bool) or not isinstance(label, int | float) or not 0.0 <= label <= VALUE_MAX:
                expected = f"a finite number of at least 0, at most {VALUE_MAX:g}"
                raise ModelError(f"a label{of_what} is {given!r}; expected {expected}")
        elif label is None or label not in (0, 1):
            raise ModelError(f"a label{of_what} is {given!r}; expected 0 or 1")
    at = 0
    for request in requests:
        end = at + len(request.candidates)
        yield [None if label is None else float(label) for label in read[at:end]]  # type: ignore[arg-type]
        at = end


def _numbers(
    what: str, numbers: object, requests: Sequence[Request], most: float = VALUE_MAX
) -> list[list[float] | None]:
    """Numbers of at least 0 of each request; None: none are given."""
    if numbers is None:
        return [None] * len(requests)
    flat = flat_labels(numbers, sum(len(request.candidates) for request in requests), f"numbers in {what}")
    read: list[float] = []
    for given in flat:
        number = plain(given)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0.0 <= number <= most:
            raise ModelError(
                f"a number in {what} is {given!r}; expected a finite one of at least 0, at most {most:g}"
            )
        read.append(float(number))
    found: list[list[float] | None] = []
    for request in requests:
        found.append(read[: len(request.candidates)])
        del read[: len(request.candidates)]
    return found
