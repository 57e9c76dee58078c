"""A producer takes the numbers of NumPy and pandas, and refuses None where an event needs a value."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream import Impression, Producer
from stream.errors import LogError, RecordError
from stream.log.base import EVENTS
from stream.log.open import open_log
from stream.records.decoding import Decoder, split_batch
from stream.records.types import Action

decode = Decoder(Impression, Action).decode


def sent(url: str) -> list[Impression | Action]:
    log = open_log(url)
    try:
        return [decode(part) for record in log.read(EVENTS, 0, 0) for part in split_batch(record.value)]
    finally:
        log.close()


@pytest.mark.parametrize("features", [None, ("user", "item", "price", "tags")])
def test_numpy_values_arrive_as_python_values(tmp_path: Path, features: tuple[str, ...] | None) -> None:
    url = f"sqlite:{tmp_path}/log.db"
    context: Any = {"user": np.int32(3), "tags": np.array([1, 2]), "price": np.float32(7.5)}
    candidates: Any = [{"item": np.int64(7)}, {"item": np.str_("a")}, {"item": [np.uint8(1)]}]
    labels: Any = [np.int64(1), np.float64(0.0), np.float32(0.0)]
    with Producer(url, partitions=1, features=features) as producer:
        shown = producer.impression(
            candidates, context=context, labels=labels, time_s=np.float64(1_700_000_000.5)
        )
        producer.action(shown, np.int64(1), label=np.float32(1.0), time_s=np.int64(1_700_000_001))  # type: ignore[arg-type]
    impression, action = sent(url)
    assert isinstance(impression, Impression) and isinstance(action, Action)
    assert impression.context == {"user": 3, "tags": [1, 2], "price": 7.5}
    assert impression.candidates == [{"item": 7}, {"item": "a"}, {"item": [1]}]
    assert impression.time == 1_700_000_000.5, "a fraction of a second is kept"
    assert impression.labels == [1.0, 0.0, 0.0] and action.candidate == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda producer: producer.impression(None),
        lambda producer: producer.impression([None]),
        lambda producer: producer.impression([{"item": object()}]),
        lambda producer: producer.impression([{"item": 1}], context={"user": np.int64(1), "price": np.nan}),
        lambda producer: producer.impression([{"item": np.complex128(1)}]),
        lambda producer: producer.action(None, 0),
        lambda producer: producer.action("r", None),
        lambda producer: producer.action("r", np.int64(-1)),
    ],
)
def test_values_that_no_record_has_are_record_errors(tmp_path: Path, call: Any) -> None:
    with Producer(f"sqlite:{tmp_path}/log.db", partitions=1) as producer:
        with pytest.raises(RecordError):
            call(producer)
        assert producer.waiting == 0, "nothing is sent"


def test_log_without_topics_says_how_to_create_them(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no topic 'events'; create it first: start the roles.* partitions=N"):
        Producer(f"sqlite:{tmp_path}/log.db")
