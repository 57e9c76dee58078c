"""Limits of the stream fit together, and what waits in a partition never passes what one record may send."""

from collections import Counter
from pathlib import Path

import pytest

from stream import limits
from stream.join import pairing
from stream.join.joiner import Joiner
from stream.join.outputs import offset_of, output_seq
from stream.join.settings import JoinSettings
from stream.log.base import DEAD_LETTERS, EVENTS, Record
from stream.records.types import Action, Impression, encode
from stream.state.role_state import RoleState


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PENDING_MAX", limits.OUTPUTS_MAX),
        ("PENDING_MAX", limits.OUTPUTS_MAX - limits.BATCH_EVENTS_MAX),
        ("BATCH_EVENTS_MAX", 400_000),
        ("CANDIDATES_MAX", 20_000),
        ("TEXT_MAX", 1 << 20),
        ("FORGET_IDS_IN_RECORD_MAX", 2_000),
        ("SPLICED_BYTES_MAX", 1 << 20),
        ("TIME_MIN_S", 1e12),
    ],
)
def test_limit_that_others_count_on_cannot_be_raised_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    limits.check_relations()
    monkeypatch.setattr(limits, name, value)
    with pytest.raises(ValueError, match="do not fit together"):
        limits.check_relations()


@pytest.mark.parametrize(
    ("name", "edge", "beyond", "broken"),
    [
        ("ENTITY_BYTES_MAX", 9 * limits.VECTOR_MAX + 4 * limits.LONG_TEXT_MAX, -1, "one entity are kept"),
        ("PENDING_MAX", limits.OUTPUTS_MAX - limits.BATCH_EVENTS_MAX - limits.WAITING_MAX, 1, "an index"),
        ("CANDIDATES_MAX", (limits.SPLICED_BYTES_MAX - 64) // 9, 1, "labels of all candidates"),
        ("SPLICED_BYTES_MAX", limits.RECORD_BYTES_MAX // 16, 1, "a copied event fits"),
        ("FORGET_IDS_IN_RECORD_MAX", limits.RECORD_BYTES_MAX // limits.TEXT_MAX // 4, 1, "ids to forget"),
        ("AT_ONCE_BYTES_MAX", (1 << 31) - limits.RECORD_BYTES_MAX - 1, 1, "fits into an outbox"),
    ],
)
def test_relation_of_limits_holds_at_its_edge_and_no_further(
    monkeypatch: pytest.MonkeyPatch, name: str, edge: int, beyond: int, broken: str
) -> None:
    monkeypatch.setattr(limits, name, edge)
    limits.check_relations()
    monkeypatch.setattr(limits, name, edge + beyond)
    with pytest.raises(ValueError, match=broken):
        limits.check_relations()


def test_every_allowed_pending_max_leaves_each_output_a_number() -> None:
    for pending_max in (1, JoinSettings().pending_max, limits.PENDING_MAX):
        waiting = pending_max + limits.further_actions_max(pending_max)
        assert output_seq(limits.OFFSET_END - 1, waiting + limits.BATCH_EVENTS_MAX - 1) < 1 << 63
        assert offset_of(output_seq(7, waiting)) == 7
    with pytest.raises(ValueError, match="pending_max"):
        JoinSettings(pending_max=limits.PENDING_MAX + 1)


def test_actions_that_wait_are_bounded_over_all_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairing, "further_actions_max", lambda pending_max: 100)
    events = [
        Action(f"r{request}", 1e9, number % 50, name=str(number))
        for number in range(20)
        for request in range(30)
    ]
    with RoleState(tmp_path, "joiner", {}, sync=False) as state:
        joiner = Joiner(state, JoinSettings(dead_letter_share_max=1.0))
        commit = state.begin()
        records = [Record(EVENTS, 0, i, b"", encode(event)) for i, event in enumerate(events)]
        records.append(Record(EVENTS, 0, len(events), b"", encode(Impression("end", 1e9 + 100.0, [{}]))))
        for record in records:
            joiner.handle([record], commit)
        joiner.flush(commit)
        state.commit(commit)
        letters = [
            record for block in state.unsent() if block.topic == DEAD_LETTERS for record in block.records
        ]
        assert len(letters) == len(events), "each action is an orphan, once"
        assert joiner.counts.orphans == len(events)
        by_record = Counter(offset_of(record.seq) for record in letters)
        assert by_record[len(events)] <= 30 + 100, "the last record ends what still waits"


def test_offset_beyond_what_can_be_numbered_is_refused_in_words(tmp_path: Path) -> None:
    with RoleState(tmp_path, "joiner", {}, sync=False) as state:
        record = Record(EVENTS, 0, limits.OFFSET_END, b"", encode(Impression("a", 1e9, [{}])))
        with pytest.raises(Exception, match="use a new topic"):
            Joiner(state).handle([record], state.begin())
