"""Sections [stream] and [metrics]."""

import msgspec

from ground.short_repr import ShortRepr
from stream.limits import RECORD_BYTES_MAX
from stream.log.base import PARTITIONS_MAX
from stream.log.settings import LogSettings
from stream.run.contract import RunnerSettings


class StreamSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [stream]: how the log is laid out and read."""

    partitions: int = 1  # of topics events and examples; fixed once they exist
    log: LogSettings = LogSettings()
    runner: RunnerSettings = RunnerSettings()

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= PARTITIONS_MAX:
            raise ValueError(f"partitions must be 1 to {PARTITIONS_MAX}")
        if self.log.record_bytes_max < RECORD_BYTES_MAX:
            raise ValueError(
                f"log.record_bytes_max must be {RECORD_BYTES_MAX:,} or more, what a record may have"
            )


class MetricsSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [metrics]: where roles answer `/metrics`; the server has it on its own port."""

    host: str = "127.0.0.1"  # there is no authentication: put any other address behind a firewall
    join_port: int = 0  # 0: none
    learn_port: int = 0
    ingest_port: int = 0

    def __post_init__(self) -> None:
        for name in ("join_port", "learn_port", "ingest_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise ValueError(f"{name} must be 0 to 65535")
