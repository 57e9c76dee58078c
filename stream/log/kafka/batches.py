"""Kafka's record batches, version 2: records to bytes and back.

The client library does both one attribute at a time, which costs more than everything else that a role
does with a record; here a record costs about a microsecond either way. Compressed batches and those of
older versions, which only other producers write, are left to the library.

The layout is that of the protocol guide, "Record Batch" (kafka.apache.org/documentation/#recordbatch).
A record's producer and sequence number travel in one header, `freshet: PRODUCER/SEQ`.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import crc32c
from kafka.record import MemoryRecords

from stream.log.base import Outgoing, Record

HEADER = b"freshet"
HEADER_TEXT = HEADER.decode()
BATCH_BYTES = 61  # before the first record
RECORD_BYTES = 64  # what a record adds to its key, value and producer, at most

_HEAD = struct.Struct(">qiibIhiqqqhii")
_PREFIX = struct.Struct(">qiib")
_CRC_FROM = 21  # the checksum covers all behind itself
_CODEC_BITS = 0x07
_APPEND_TIME_BIT = 0x08
_CONTROL_BIT = 0x20


class Producing(NamedTuple):
    """By what the broker recognises a batch that it has already: id, epoch, number of its first record."""

    producer_id: int
    epoch: int
    sequence: int


def encode_batch(records: Sequence[Outgoing], producing: Producing, now_ms: int) -> bytes:
    """The records as one uncompressed batch, at `now_ms` (Unix ms)."""
    pieces = []
    for i, record in enumerate(records):
        key, value = record.key, record.value
        if record.producer or record.seq >= 0:
            mark = f"{record.producer}/{record.seq}".encode()
            tail = _HEADER_START + _varint(len(mark)) + mark
        else:
            tail = b"\x00"  # no headers
        # attributes and time, both 0: all have the batch's own time
        body = b"".join((b"\x00\x00", _varint(i), _varint(len(key)), key, _varint(len(value)), value, tail))
        pieces.append(_varint(len(body)))
        pieces.append(body)
    payload = b"".join(pieces)
    count = len(records)
    head = _HEAD.pack(
        0,  # the broker sets the base offset
        BATCH_BYTES - 12 + len(payload),
        -1,  # leader epoch
        2,  # version
        0,  # checksum, below
        0,  # attributes: no compression
        count - 1,
        now_ms,
        now_ms,
        producing.producer_id,
        producing.epoch,
        producing.sequence,
        count,
    )
    batch = bytearray(head + payload)
    struct.pack_into(">I", batch, _CRC_FROM - 4, crc32c.crc32c(memoryview(batch)[_CRC_FROM:]))
    return bytes(batch)


def decode_batches(data: bytes, topic: str, partition: int, start: int) -> tuple[list[Record], int]:
    """The records from offset `start` on, and the offset behind the last complete batch (0: there is none).

    A fetch may end in the middle of a batch, and begin with records before the offset asked for.

    Raises:
        ValueError: a batch is damaged.
    """
    records: list[Record] = []
    position, end, behind = 0, len(data), 0
    while end - position >= _PREFIX.size:
        _, length, _, version = _PREFIX.unpack_from(data, position)
        stop = position + 12 + length
        if stop > end:
            break
        if version == 2:
            behind = _decode_batch(data, position, stop, topic, partition, start, records)
        else:
            behind = _decode_by_library(data[position:stop], topic, partition, start, records)
        position = stop
    return records, behind


def _decode_batch(
    data: bytes, position: int, stop: int, topic: str, partition: int, start: int, records: list[Record]
) -> int:
    (base, _, _, _, checksum, attributes, last, _, latest_ms, _, _, _, count) = _HEAD.unpack_from(
        data, position
    )
    behind: int = base + last + 1
    if behind <= start:
        return behind
    if crc32c.crc32c(memoryview(data)[position + _CRC_FROM : stop]) != checksum:
        raise ValueError(f"the batch at offset {base} is damaged: its checksum does not fit")
    if attributes & _CONTROL_BIT:
        return behind  # a transaction's end, by some other producer
    if attributes & _CODEC_BITS:
        _decode_by_library(data[position:stop], topic, partition, start, records)
        return behind
    # a time that a producer wrote is no evidence of when the log took the record
    ingest_ms = latest_ms if attributes & _APPEND_TIME_BIT else 0
    at = position + BATCH_BYTES
    add = records.append
    for _ in range(count):
        # Nearly every number here is a varint of one or two bytes: those are read in place, since a call
        # for each would take longer than all the rest.
        while data[at] > 0x7F:  # the record's length, not needed
            at += 1
        at += 2  # its last byte, and the attributes
        while data[at] > 0x7F:  # the time, not needed
            at += 1
        at += 1
        number = data[at]
        if number < 0x80:
            number >>= 1
            at += 1
        else:
            number, at = _number(data, at)
        length = data[at]
        if length < 0x80:
            length = -1 if length & 1 else length >> 1
            at += 1
        else:
            length, at = _number(data, at)
        key = b""
        if length > 0:
            key = data[at : at + length]
            at += length
        length = data[at]
        if length < 0x80:
            length = -1 if length & 1 else length >> 1
            at += 1
        elif data[at + 1] < 0x80:
            length = (length & 0x7F | data[at + 1] << 7) >> 1
            at += 2
        else:
            length, at = _number(data, at)
        value = b""
        if length > 0:
            value = data[at : at + length]
            at += length
        producer, seq = "", -1
        if data[at]:
            producer, seq, at = _headers(data, at)
        else:
            at += 1
        offset = base + number
        if offset >= start:
            add(Record(topic, partition, offset, key, value, producer, seq, ingest_ms))
    if at != stop:
        raise ValueError(f"the batch at offset {base} is damaged: its records do not fill it")
    return behind


def _headers(data: bytes, at: int) -> tuple[str, int, int]:
    """(producer, sequence number, position behind) of a record's headers."""
    if data.startswith(_HEADER_START, at):  # what our own producers write: this header and no other
        at += len(_HEADER_START)
        length = data[at]
        if length < 0x80:
            mark, at = data[at + 1 : at + 1 + (length >> 1)], at + 1 + (length >> 1)
        else:
            length, at = _number(data, at)
            mark, at = data[at : at + length], at + length
        return *_parse_mark(mark), at
    producer, seq = "", -1
    count, at = _number(data, at)
    for _ in range(count):
        length, at = _number(data, at)
        name = data[at : at + length]
        at += length
        length, at = _number(data, at)
        if name == HEADER:
            producer, seq = _parse_mark(data[at : at + max(length, 0)])
        at += max(length, 0)
    return producer, seq, at


def _parse_mark(mark: bytes) -> tuple[str, int]:
    """(producer, sequence number); ("", -1) of what is no such mark, which any producer may send."""
    name, _, number = mark.rpartition(b"/")
    try:
        return name.decode(), int(number)
    except ValueError:
        return "", -1


def _decode_by_library(data: bytes, topic: str, partition: int, start: int, records: list[Record]) -> int:
    behind = 0
    for batch in MemoryRecords(data):
        if not batch.validate_crc():
            raise ValueError(f"the batch at offset {batch.base_offset} is damaged: its checksum does not fit")
        if getattr(batch, "is_control_batch", False):
            behind = batch.next_offset
            continue
        for found in batch:
            behind = found.offset + 1
            if found.offset < start:
                continue
            marks = [value or b"" for name, value in found.headers if name == HEADER_TEXT]
            producer, seq = _parse_mark(marks[-1]) if marks else ("", -1)
            taken_ms = found.timestamp if found.timestamp_type == 1 else 0
            records.append(
                Record(
                    topic,
                    partition,
                    found.offset,
                    bytes(found.key or b""),
                    bytes(found.value or b""),
                    producer,
                    seq,
                    taken_ms,
                )
            )
    return behind


def _number(data: bytes, at: int) -> tuple[int, int]:
    """(a zigzag varint, the position behind it)."""
    byte = data[at]
    at += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at
    number, shift = byte & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
        shift += 7


def _encode_varint(number: int) -> bytes:
    number <<= 1  # zigzag of what is not negative
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_SHORT = [_encode_varint(n) for n in range(8192)]


def _varint(number: int) -> bytes:
    """A length or a count as a zigzag varint."""
    return _SHORT[number] if number < 8192 else _encode_varint(number)


_HEADER_START = _encode_varint(1) + _encode_varint(len(HEADER)) + HEADER
