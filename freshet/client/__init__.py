"""A client of a server in Python: typed answers, retries that write once, sync and async."""

from freshet.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
