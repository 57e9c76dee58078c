"""The stream: records, the log they travel in, and the roles' state.

    from stream import open_log, Outgoing, Impression, encode

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Action": "stream.records",
    "Commit": "stream.state",
    "DeadLetter": "stream.records",
    "Decoder": "stream.decoding",
    "Example": "stream.records",
    "Handler": "stream.runner",
    "Impression": "stream.records",
    "JoinCounts": "stream.join_settings",
    "JoinSettings": "stream.join_settings",
    "Joiner": "stream.joiner",
    "Log": "stream.log",
    "LogSettings": "stream.log",
    "Outgoing": "stream.log",
    "Producer": "stream.producer",
    "ProducerSettings": "stream.producer_settings",
    "Progress": "stream.runner",
    "Record": "stream.log",
    "RoleState": "stream.state",
    "Runner": "stream.runner",
    "RunnerSettings": "stream.runner",
    "Served": "stream.records",
    "encode": "stream.records",
    "encode_json": "stream.records",
    "open_log": "stream.log_open",
    "read_journal": "stream.journal",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'stream' has no attribute {name!r}")
    return getattr(import_module(home), name)
