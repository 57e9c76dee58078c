"""What JSON Schema cannot say of a body, put right in what schemathesis generates from it.

To JSON Schema 1.0 is an integer; Freshet takes it for a number. A request's lists are as long as
its candidates, and a tensor has as many values as its shape says. An entity has an attribute of
its own feature, and a search has the feature of the server's index.
"""

from typing import Any

import schemathesis


def whole(value: Any) -> Any:
    """The same value with integers where a float is one of 64 bits."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2.0**63:
        return int(value)
    if isinstance(value, list):
        return [whole(part) for part in value]
    if isinstance(value, dict):
        return {name: whole(part) for name, part in value.items()}
    return value


TENSORS = [
    {"name": "item", "datatype": "INT64", "shape": [2], "data": [3, 17]},
    {"name": "tags", "datatype": "BYTES", "shape": [1, 2], "data": [["a", ""]]},
]

SEARCH = {"context", "k", "exclude", "time", "request_id", "log", "show", "rank", "feature", "explain"}


def fit(record: Any) -> Any:
    """An impression with as many labels, places, weights and probabilities as candidates; an entity
    with an attribute; a search that this server's index can answer."""
    if isinstance(record, dict) and isinstance(record.get("inputs"), list):
        return {"inputs": TENSORS, "outputs": [{"name": "order"}], "id": "r", "parameters": {"log": False}}
    if isinstance(record, dict) and "set" in record:
        return {**record, "set": {**record["set"], "brand": "b1"}}
    if isinstance(record, dict) and record.keys() <= SEARCH:
        rank = {"by": "2 * click"} if record.get("rank") else None
        return {**record, "feature": "item", "rank": rank, "k": min(record.get("k", 10), 10)}
    if not isinstance(record, dict) or not isinstance(record.get("candidates"), list):
        return record
    n = len(record["candidates"])
    if record.get("labels") is not None:
        record = {**record, "labels": [0, 1] * (n // 2) + [1] * (n % 2)}
    if record.get("place") is not None:
        record = {**record, "place": list(range(n))}
    if record.get("propensity") is not None:
        record = {**record, "propensity": [0.5] * n}
    if record.get("served") is not None:
        scores = {"base": [0.5] * n, "corrected": [0.5] * n}
        others = {name: {"b": scores} for name in ("models",) if record["served"].get(name)}
        served = {**record["served"], **scores, "targets": {"buy": scores}, **others}
        record = {**record, "served": served}
    if "type" in record and record.get("shown") is not None:  # in an impression, not in a score request
        record = {**record, "shown": [candidate for candidate in record["shown"] if candidate < n]}
    if isinstance(record.get("weight"), list):
        record = {**record, "weight": [2.0] * n}
    if "type" not in record:  # a score request
        record = {**record, "rank": {"by": "2 * click"} if record.get("rank") else None}
        record = {**record, "target": "click" if record.get("target") else None}
    if record.get("outcomes") is not None:  # only of targets that are declared, and here are none
        record = {**record, "outcomes": None}
    return record


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Called before each request."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    body = whole(case.body)
    case.body = [fit(record) for record in body] if isinstance(body, list) else fit(body)
