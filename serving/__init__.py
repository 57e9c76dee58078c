"""Serving: a live copy of the model, its error memory, and the HTTP server that answers from them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.app import App
    from serving.replica import Replica
    from serving.server import serve
    from serving.settings import ServerSettings
    from serving.status import Scored

_HOMES = {
    "App": "app",
    "Replica": "replica",
    "Scored": "status",
    "ServerSettings": "settings",
    "serve": "server",
}

__all__ = ["App", "Replica", "Scored", "ServerSettings", "serve"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must not pay for numba to print its help."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"serving.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'serving' has no attribute {name!r}")
