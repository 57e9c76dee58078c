"""The stream: records, the log they travel in, and the roles' state.

    from stream import open_log, Outgoing, Impression, encode

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream.errors import (
        DeadLetterError,
        DeadLetterFloodError,
        GroupError,
        LogAwayError,
        LogError,
        ProducerError,
        RecordError,
        SourceError,
        StateError,
    )
    from stream.join.joiner import Joiner
    from stream.join.settings import JoinCounts, JoinSettings
    from stream.log.base import Log, Outgoing, Record
    from stream.log.open import open_log
    from stream.log.settings import LogSettings
    from stream.log.testing import Faults, FaultyLog, MemoryLog
    from stream.produce.producer import Producer
    from stream.produce.settings import ProducerSettings
    from stream.records.decoding import Decoder
    from stream.records.types import (
        Action,
        DeadLetter,
        Example,
        Exposure,
        Impression,
        Served,
        encode,
        encode_json,
    )
    from stream.run.contract import Handler, Progress, RunnerSettings
    from stream.run.runner import Runner
    from stream.state.journal import read_journal
    from stream.state.role_state import Commit, RoleState

_HOME = {
    "Action": "stream.records.types",
    "Commit": "stream.state.role_state",
    "DeadLetter": "stream.records.types",
    "DeadLetterError": "stream.errors",
    "DeadLetterFloodError": "stream.errors",
    "Decoder": "stream.records.decoding",
    "Example": "stream.records.types",
    "Exposure": "stream.records.types",
    "Faults": "stream.log.testing",
    "FaultyLog": "stream.log.testing",
    "GroupError": "stream.errors",
    "Handler": "stream.run.contract",
    "Impression": "stream.records.types",
    "JoinCounts": "stream.join.settings",
    "JoinSettings": "stream.join.settings",
    "Joiner": "stream.join.joiner",
    "Log": "stream.log.base",
    "LogAwayError": "stream.errors",
    "LogError": "stream.errors",
    "LogSettings": "stream.log.settings",
    "MemoryLog": "stream.log.testing",
    "Outgoing": "stream.log.base",
    "Producer": "stream.produce.producer",
    "ProducerError": "stream.errors",
    "ProducerSettings": "stream.produce.settings",
    "Progress": "stream.run.contract",
    "Record": "stream.log.base",
    "RecordError": "stream.errors",
    "RoleState": "stream.state.role_state",
    "Runner": "stream.run.runner",
    "RunnerSettings": "stream.run.contract",
    "Served": "stream.records.types",
    "SourceError": "stream.errors",
    "StateError": "stream.errors",
    "encode": "stream.records.types",
    "encode_json": "stream.records.types",
    "open_log": "stream.log.open",
    "read_journal": "stream.state.journal",
}

__all__ = [
    "Action",
    "Commit",
    "DeadLetter",
    "DeadLetterError",
    "DeadLetterFloodError",
    "Decoder",
    "Example",
    "Exposure",
    "Faults",
    "FaultyLog",
    "GroupError",
    "Handler",
    "Impression",
    "JoinCounts",
    "JoinSettings",
    "Joiner",
    "Log",
    "LogAwayError",
    "LogError",
    "LogSettings",
    "MemoryLog",
    "Outgoing",
    "Producer",
    "ProducerError",
    "ProducerSettings",
    "Progress",
    "Record",
    "RecordError",
    "RoleState",
    "Runner",
    "RunnerSettings",
    "Served",
    "SourceError",
    "StateError",
    "encode",
    "encode_json",
    "open_log",
    "read_journal",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'stream' has no attribute {name!r}")
    return getattr(import_module(home), name)
