"""Serving: a live copy of the model, its error memory, and the HTTP server that uses both."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.app.app import App
    from serving.app.server import serve
    from serving.errors import ListenError, RequestError, TokensError, UnavailableError
    from serving.replica.replica import Replica
    from serving.replica.status import Scored
    from serving.settings import ServerSettings

_HOMES = {
    "App": "app.app",
    "ListenError": "errors",
    "Replica": "replica.replica",
    "RequestError": "errors",
    "Scored": "replica.status",
    "ServerSettings": "settings",
    "TokensError": "errors",
    "UnavailableError": "errors",
    "serve": "app.server",
}

__all__ = [
    "App",
    "ListenError",
    "Replica",
    "RequestError",
    "Scored",
    "ServerSettings",
    "TokensError",
    "UnavailableError",
    "serve",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `freshet --help` does not import numba."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"serving.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'serving' has no attribute {name!r}")
