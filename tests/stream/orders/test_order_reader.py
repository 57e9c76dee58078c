"""Whoever may write to topic `models` may write anything; its readers skip what is no order."""

import math

import msgspec
import pytest

from stream.log.base import Outgoing
from stream.log.testing import MemoryLog
from stream.orders.orders import MODELS, OrderReader, Traffic, give_order

ORDER = msgspec.msgpack.encode(Traffic({"ann": 1.0}, 1e9))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"no order",
        ORDER.replace(b"ann", b"a\xff\xfe"),
        b"\x81" + msgspec.msgpack.encode("why") + b"\x91" * 100_000 + b"\xc0",
        *(
            msgspec.msgpack.encode({"type": "traffic", "shares": shares, "time": 1e9})
            for shares in ({}, {"ann": 0.0}, {"ann": math.nan}, {"ann": -1.0}, {"ann": math.inf})
        ),
        *(
            msgspec.msgpack.encode(
                {"type": "rollback", "model": "m", "snapshot": "", "time": 0.0, "skip_to": to}
            )
            for to in ({-1: 0}, {0: -1}, {0: 1 << 63}, {1 << 40: 0})
        ),
    ],
)
def test_what_is_no_order_is_skipped(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog()
    log.create_topic(MODELS, 1)
    log.append(MODELS, [Outgoing(b"order", value, 0)])
    offset = give_order(log, Traffic({"ann": 1.0}, 1e9))
    assert [placed.offset for placed in OrderReader(log).read()] == [offset]
    assert "record 0 of topic models is no order" in caplog.text
