"""The stream: records, the log they travel in, and the roles' state.

    from stream import open_log, Outgoing, Impression, encode

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Action": "stream.records.types",
    "Commit": "stream.state.role_state",
    "DeadLetter": "stream.records.types",
    "Decoder": "stream.records.decoding",
    "Example": "stream.records.types",
    "Exposure": "stream.records.types",
    "Faults": "stream.log.testing",
    "FaultyLog": "stream.log.testing",
    "Handler": "stream.run.contract",
    "Impression": "stream.records.types",
    "JoinCounts": "stream.join.settings",
    "JoinSettings": "stream.join.settings",
    "Joiner": "stream.join.joiner",
    "Log": "stream.log.base",
    "LogSettings": "stream.log.settings",
    "MemoryLog": "stream.log.testing",
    "Outgoing": "stream.log.base",
    "Producer": "stream.produce.producer",
    "ProducerSettings": "stream.produce.settings",
    "Progress": "stream.run.contract",
    "Record": "stream.log.base",
    "RoleState": "stream.state.role_state",
    "Runner": "stream.run.runner",
    "RunnerSettings": "stream.run.contract",
    "Served": "stream.records.types",
    "encode": "stream.records.types",
    "encode_json": "stream.records.types",
    "open_log": "stream.log.open",
    "read_journal": "stream.state.journal",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'stream' has no attribute {name!r}")
    return getattr(import_module(home), name)
