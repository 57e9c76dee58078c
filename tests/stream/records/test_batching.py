"""Many events in one message: joined as if each had come alone, and a bad one is buried alone."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import RecordError
from stream.join.joiner import Joiner, JoinSettings
from stream.limits import BATCH_EVENTS_MAX, RECORD_BYTES_MAX
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.log.settings import LogSettings
from stream.log.sqlite.log import SqliteLog
from stream.records.decoding import Decoder, split_batch
from stream.records.types import Action, DeadLetter, Example, Impression, encode, encode_json, join_batch
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

T = 1_700_000_000.0
Event = Impression | Action


def as_json(events: Sequence[Event]) -> bytes:
    return b"[" + b", ".join(encode_json(event) for event in events) + b"]"


def as_msgpack(events: Sequence[Event]) -> bytes:
    return join_batch([encode(event) for event in events])


BOTH_FORMS = pytest.mark.parametrize("pack", [as_json, as_msgpack])
Pack = Callable[[Sequence[Event]], bytes]


def stream(requests: int) -> list[Event]:
    """Requests two seconds apart, each clicked once, a little later."""
    events: list[Event] = []
    for i in range(requests):
        at = T + 2.0 * i
        events.append(Impression(f"r{i}", at, [{"item": i}, {"item": i + 1}], context={"user": f"u{i % 3}"}))
        events.append(Action(f"r{i}", at + 1.0, i % 2))
    return events


def join(folder: Path, messages: Sequence[Outgoing]) -> tuple[Joiner, list[Example], list[DeadLetter]]:
    """The joiner after these messages, the examples and the dead letters it sent."""
    folder.mkdir(exist_ok=True)
    log = SqliteLog(folder / "log.db", LogSettings(sync=False))
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
        log.create_topic(topic, 1)
    for message in messages:
        log.append(EVENTS, [message])
    with RoleState(folder / "state", "joiner", {}, sync=False) as state:
        joiner = Joiner(state, JoinSettings(window_s=10.0))
        runner = Runner(log, state, joiner, Subscription(EVENTS, "join")).open()
        while runner.step():
            pass
        runner.commit()
    examples = [Decoder(Example).decode(record.value) for record in log.read(EXAMPLES, 0, 0, 10_000)]
    letters = [Decoder(DeadLetter).decode(record.value) for record in log.read(DEAD_LETTERS, 0, 0, 10_000)]
    log.close()
    return joiner, examples, letters


@BOTH_FORMS
def test_batched_events_join_like_the_same_events_one_by_one(tmp_path: Path, pack: Pack) -> None:
    events = stream(200)
    alone = [Outgoing(event.request_id.encode(), encode(event)) for event in events]
    together = [Outgoing(b"", pack(events[i : i + 37])) for i in range(0, len(events), 37)]
    first, examples, _ = join(tmp_path / "a", alone)
    second, batched, letters = join(tmp_path / "b", together)
    assert examples and batched == examples and not letters
    assert first.counts == second.counts


@BOTH_FORMS
def test_bad_event_of_a_batch_is_buried_alone_with_its_own_bytes(tmp_path: Path, pack: Pack) -> None:
    good = stream(20)
    bad = Action("r3", T * 1000.0, 0)  # milliseconds
    _, examples, letters = join(tmp_path, [Outgoing(b"k", pack([*good[:10], bad, *good[10:]]))])
    assert len(examples) > 10
    assert [letter.offset for letter in letters] == [0]
    assert "milliseconds" in letters[0].reason
    assert letters[0].original == (encode_json(bad) if pack is as_json else encode(bad))
    # what lies in the letter is an event that may be sent again by itself
    assert split_batch(letters[0].original) == [letters[0].original]


def test_orphan_of_a_batch_is_buried_with_its_own_bytes(tmp_path: Path) -> None:
    lost = Action("nobody", T, 0)
    _, _, letters = join(tmp_path, [Outgoing(b"", as_json([lost, *stream(20)]))])
    assert [letter.original for letter in letters] == [encode_json(lost)]
    assert "without impression" in letters[0].reason


def test_malformed_batch_is_one_dead_letter(tmp_path: Path) -> None:
    broken = [
        b"[",
        b"[]",
        b"\x90",
        b"\xdc\x00\x05\x01",
        b"[1,",
        b'[{"type":"action"} {}]',
        b"\xdd\xff\xff\xff\xff",
    ]
    _, examples, letters = join(tmp_path, [Outgoing(b"", data) for data in broken])
    assert not examples
    assert [letter.original for letter in letters] == broken
    assert all("batch" in letter.reason for letter in letters)


def test_repeats_are_recognised_by_message_number_and_by_request_id(tmp_path: Path) -> None:
    events = stream(30)
    first, second = as_msgpack(events[:30]), as_msgpack(events[30:])
    joiner, examples, _ = join(
        tmp_path,
        [
            Outgoing(b"", first, producer="p", seq=0),
            Outgoing(b"", second, producer="p", seq=1),
            Outgoing(b"", second, producer="p", seq=1),  # sent again by the same producer
            Outgoing(b"", as_json(events[50:]), producer="q", seq=0),  # some of it again by another one
        ],
    )
    assert joiner.counts.impressions == 30
    assert joiner.counts.duplicate_impressions == 5
    assert len({example.request_id for example in examples}) == len(examples)


def test_batch_over_a_limit_is_refused() -> None:
    with pytest.raises(RecordError, match="bytes, more than"):
        split_batch(b"[" + b" " * RECORD_BYTES_MAX + b"1]")
    with pytest.raises(RecordError, match="expected 1 to"):
        split_batch(b"[" + b"1," * BATCH_EVENTS_MAX + b"1]")


@settings(max_examples=many(20), deadline=None)
@given(st.lists(st.binary(min_size=0, max_size=40), min_size=1, max_size=70_000 // 1000))
def test_joined_batch_splits_into_what_was_joined(values: list[bytes]) -> None:
    parts = [msgspec.msgpack.encode(value) for value in values]
    assert split_batch(join_batch(parts)) == parts


@pytest.mark.parametrize("count", [1, 15, 16, 9_999])
def test_joined_batch_has_the_right_head_whatever_its_size(count: int) -> None:
    batch = join_batch([b"\x01"] * count)
    assert msgspec.msgpack.decode(batch) == [1] * count
    assert len(split_batch(batch)) == count


@settings(max_examples=many(80), deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_make_the_splitter_fail_otherwise_than_as_a_record_error(data: bytes) -> None:
    for start in (b"", b"[", b"\x93", b"\xdc", b"\xdd"):
        try:
            parts = split_batch(start + data)
        except RecordError:
            continue
        assert parts


def test_json_text_of_the_parts_is_kept(tmp_path: Path) -> None:
    text = b'[ {"a" : 1.50},\n {"b":[ ]} ]'
    assert [json.loads(part) for part in split_batch(text)] == [{"a": 1.5}, {"b": []}]
    assert split_batch(text)[0] == b'{"a" : 1.50}'
