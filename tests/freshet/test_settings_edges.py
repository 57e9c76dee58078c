"""Each bound of a setting holds at its edge: the edge is taken, what lies just beyond is refused by name."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from embeddings.spec import EVICT_ROWS_MIN, ROWS_LIMIT
from error_memory.settings import MemorySettings
from freshet.sections.models import ModelSettings
from freshet.sections.stream_and_metrics import MetricsSettings, StreamSettings
from ground.errors import FreshetError
from learner.features.spec import FeatureSpec
from learner.settings import (
    ENTITIES_BYTES_MIN,
    ENTITY_VERSIONS_MAX,
    SHARDS_MAX,
    TURN_REQUESTS_MAX,
    VARIANCE_MAX,
    WINDOW_MAX,
    LearnerSettings,
    ShardSettings,
)
from serving.nearest.settings import ITEMS_MAX, SCORED_MAX, NearestSettings
from serving.settings import CONNECTIONS_LIMIT, GuardSettings, ServerSettings
from stream.group.membership import SNAPSHOTS_KEPT, SNAPSHOTS_KEPT_MAX, GroupSettings
from stream.limits import (
    CANDIDATES_MAX,
    DEAD_LETTER_WINDOW_MAX,
    PENDING_MAX,
    RECORD_BYTES_MAX,
    REFUSE_S_MAX,
    TARGET_WINDOW_S_MAX,
)
from stream.log.base import PARTITIONS_MAX
from stream.log.settings import RECORD_BYTES_LIMIT, KafkaSettings, LogSettings
from stream.log.testing.faulty import Faults
from stream.produce.settings import ProducerSettings
from stream.records.targets import Target
from stream.run.contract import RunnerSettings
from stream.world.settings import WorldSettings

NEXT = 1e-6
"""How far beyond an edge of a number that is no integer."""

Bounds = tuple[str, float | None, float | None]  # names, least, most; None: there is no such bound

SETTINGS: dict[Callable[..., object], list[Bounds]] = {
    ServerSettings: [
        ("port", 0, 65_535),
        ("candidates_max explain_candidates_max", 1, CANDIDATES_MAX),
        ("body_bytes_max", 1, RECORD_BYTES_MAX),
        ("show", 0, CANDIDATES_MAX),
        ("freeze_after_examples", 0, None),
        ("concurrency_max log_queue_max backlog_max", 1, None),
        ("connections_max", 1, CONNECTIONS_LIMIT),
        ("idempotency_max idempotency_bytes_max", 1, None),
        ("window", 1, WINDOW_MAX),
        ("header_bytes_max", 1 << 10, 1 << 20),
        ("idempotency_s", NEXT, 7 * 86_400.0),
        ("rate_max", 0.0, 1e6),
        ("forget_refuse_s", 0.0, REFUSE_S_MAX),
        ("explore_draws", 1, 10_000),
        ("marks_max", 2, None),
        ("read_timeout_s keep_alive_s stop_s log_wait_s ready_age_s_max", NEXT, 3_600.0),
    ],
    GuardSettings: [("margin", NEXT, 10.0), ("for_s", 1.0, 3_600.0), ("examples_min", 1, None)],
    NearestSettings: [("score", 32, SCORED_MAX), ("items_max", 1, ITEMS_MAX), ("refresh_s", 1.0, 86_400.0)],
    KafkaSettings: [("away_after_s", 0.1, 600.0), ("replication", 1, 1000)],
    LogSettings: [
        ("record_bytes_max", 1, RECORD_BYTES_LIMIT),
        ("busy_timeout_s", 0.0, 3_600.0),
        ("poll_s", 1e-4, 60.0),
    ],
    RunnerSettings: [
        ("commit_every_s", 0.0, 1e9),
        ("commit_records_max journal_max read_bytes_max", 1, 1 << 30),
        ("commit_bytes_max", 1, 1 << 40),
        ("read_max", 1, 1_000_000),
        ("wait_s", 0.0, 60.0),
        ("producers_max", 1, 10_000_000),
    ],
    ProducerSettings: [
        ("batch_max batch_bytes_max buffer_max buffer_bytes_max", 1, None),
        ("linger_s full_wait_s give_up_s", 0.0, 86_400.0),
    ],
    GroupSettings: [
        ("beat_s", 0.05, None),
        ("timeout_s", 2.0, 3_600.0),
        ("snapshots_kept", SNAPSHOTS_KEPT, SNAPSHOTS_KEPT_MAX),
        ("snapshot_every_s", 0.1, 86_400.0),
    ],
    Faults: [
        ("append_lost append_in_doubt append_late repeat away short_read uneven delay", 0.0, 1.0),
    ],
    Target: [("window_s observe_s", 0.0, TARGET_WINDOW_S_MAX)],
    ShardSettings: [("count", 1, SHARDS_MAX), ("turn", 1, TURN_REQUESTS_MAX)],
    LearnerSettings: [
        ("dead_letter_share_max self_correction", 0.0, 1.0),
        ("dead_letter_window", 1, DEAD_LETTER_WINDOW_MAX),
        ("publish_rows_max", 1, 1 << 40),
        ("update_bytes_max", 1, 1 << 29),
        ("publish_every_s", 0.0, 3_600.0),
        ("deep_rate", 0.0, 10.0),
        ("deep_clip", 1e-9, 1e9),
        ("count_tau", NEXT, VARIANCE_MAX),
        ("embedding_rate", 0.0, 1e6),
        ("embedding_accumulator", 0.0, 1e12),
        ("pairs_max", 0, 65_536),
        ("seed", 0, (1 << 63) - 1),
        ("threads", 1, 1_024),
        ("snapshot_ratio", 0.0, 1e9),
        ("snapshot_bytes_min", 0, 1 << 50),
        ("pairs_rows_max", 1, ROWS_LIMIT // 2),
        ("pairs_memory_rows", 1, 1 << 24),
        ("pairs_ttl_s", 0.0, 1e10),
        ("pairs_admit_after", 1, 255),
        ("trust_margin", 0.0, 1e6),
        ("entities_bytes_max", ENTITIES_BYTES_MIN, 1 << 50),
        ("entity_versions", 1, ENTITY_VERSIONS_MAX),
        ("window", 1, WINDOW_MAX),
        ("group", 1, 1_024),
    ],
    FeatureSpec: [
        ("dim", 1, 512),
        ("ttl_s", 0.0, None),
        ("admit_after", 1, 255),
        ("admit_share", NEXT, 1.0),
        ("rows_max", 1, ROWS_LIMIT // 2),
        ("rate", 0.0, 1e3),
        ("length", 1, 1_000),
    ],
    ModelSettings: [("share", 0.0, 1.0), ("metrics_port", 0, 65_535)],
    MetricsSettings: [("join_port learn_port ingest_port", 0, 65_535)],
    StreamSettings: [("partitions", 1, PARTITIONS_MAX)],
    MemorySettings: [
        ("capacity", 8, 1 << 30),
        ("generations", 2, 64),
        ("span", 1, 1 << 40),
        ("half_life_s", 0.0, 1e12),
        ("gate_bias", -20.0, 20.0),
        ("gate_decay gate_toll gamma lam", 0.0, 1.0),
        ("arrays", 1, 1_024),
        ("bits", 1, 20),
        ("newest", None, 1 << 20),
        ("nearest", 1, 4_096),
        ("temperature", 1e-3, 1e3),
    ],
    WorldSettings: [
        ("users", 1, 10_000_000),
        ("items", None, 1_000_000),
        ("slate", 1, 500),
        ("categories", 1, 10_000),
        ("dim", 1, 256),
        ("click_rate", 1e-4, 0.9),
        ("requests_per_s", 1e-3, 1e6),
        ("new_items_per_h new_users_per_h", 0.0, 1e7),
        ("item_half_life_h", 1e-3, 1e6),
        ("drift_slow burst_share", 0.0, 1.0),
        ("shift_every_s burst_every_s spike_every_s spike_s", 0.0, 1e9),
        ("label_delay_s minutes", 0.0, 1e6),
        ("recurring", 0, 1_000),
        ("attributes noise_features", 0, 100),
        ("buy_rate", 0.0, 0.9),
        ("buy_delay_s", 0.0, 1e7),
        ("start_time", 0.0, 4e9),
    ],
}


@pytest.mark.parametrize("make", SETTINGS, ids=lambda make: make.__name__)
def test_bounds_hold_at_their_edges(make: Callable[..., Any]) -> None:
    for names, least, most in SETTINGS[make]:
        for name in names.split():
            for edge, sign in ((least, -1), (most, 1)):
                if edge is None:
                    continue
                assert getattr(make(**{name: edge}), name) == edge
                beyond = edge + sign * (1 if isinstance(edge, int) else max(NEXT, abs(edge) * NEXT / 2))
                with pytest.raises((ValueError, FreshetError), match=name):
                    make(**{name: beyond})


@pytest.mark.parametrize("make", SETTINGS, ids=lambda make: make.__name__)
def test_settings_are_never_changed_and_take_no_unknown_key(make: Any) -> None:
    name = make.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(make(), name, getattr(make(), name))
    with pytest.raises(TypeError):
        make(getattr(make(), name))
    with pytest.raises(msgspec.ValidationError, match="unknown"):
        msgspec.convert({"unknown": 1}, make)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"speeds": (1.0, 0.0), "speed_tau": (1.0, 1.0)}, "speeds must lie in"),
        ({"pair_speeds": (1.0, 1.01)}, "pair_speeds must lie in"),
        ({"speeds": (1.0,)}, "speeds and speed_tau need the same length"),
        ({"pair_speeds": (1.0,) * 5, "pair_tau": (1.0,) * 5}, "the same length, 1 to 4"),
        ({"pairs_rows_max": EVICT_ROWS_MIN - 1, "pairs_evict": "lru"}, "with pairs_evict at least"),
        ({"pairs_rows_max": 10, "pairs_memory_rows": 11}, "pairs_memory_rows must be 1 to pairs_rows_max"),
        ({"deep_version": "two words"}, "one word"),
        ({"deep_version": "w" * 65}, "one word"),
    ],
)
def test_settings_that_depend_on_others(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LearnerSettings(**bad)


def test_pending_of_a_joiner_has_both_bounds() -> None:
    from stream.join.settings import JoinSettings

    taken = JoinSettings(
        pending_max=PENDING_MAX, pending_max_memory=1, waiting_bytes_max=1, dead_letter_window=1,
        dead_letter_share_max=1.0, window_s=30 * 86_400.0, negative_rate=1.0, partitions=PARTITIONS_MAX,
        max_ahead_s=0.0, clock_ahead_s=0.0,
    )  # fmt: skip
    assert taken.pending_max == PENDING_MAX and JoinSettings(pending_max=1, dead_letter_share_max=0.0)
    for bad in (
        {"pending_max": 0}, {"pending_max": PENDING_MAX + 1}, {"pending_max_memory": 0},
        {"waiting_bytes_max": 0}, {"dead_letter_window": 0}, {"dead_letter_share_max": 1.01},
        {"dead_letter_share_max": -0.01}, {"window_s": 0.0}, {"window_s": 30 * 86_400.0 + 0.5},
        {"negative_rate": 0.0}, {"negative_rate": 1.01}, {"partitions": -1},
        {"partitions": PARTITIONS_MAX + 1}, {"max_ahead_s": -0.1}, {"clock_ahead_s": -0.1},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            JoinSettings(**bad)
