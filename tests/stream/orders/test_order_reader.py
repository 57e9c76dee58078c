"""Whoever may write to topic `models` may write anything; its readers skip what is no order."""

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
        msgspec.msgpack.encode(Traffic({}, 1e9)),
    ],
    ids=["empty", "text", "no UTF-8", "nested deeply", "no shares"],
)
def test_what_is_no_order_is_skipped(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog()
    log.create_topic(MODELS, 1)
    log.append(MODELS, [Outgoing(b"order", value, 0)])
    offset = give_order(log, Traffic({"ann": 1.0}, 1e9))
    assert [placed.offset for placed in OrderReader(log).read()] == [offset]
    assert "record 0 of topic models is no order" in caplog.text
