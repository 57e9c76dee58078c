"""The errors of the server, named by cause. Each class has the HTTP status of its answer.

FreshetError
├── RequestError              400: the request is invalid
│   ├── RankError             400: an expression to rank by is invalid, or a candidate lacks what it names
│   ├── AccessError           401: the token is missing or unknown
│   ├── ForbiddenError        403: the token lacks the scope, or a page of another site sent the request
│   ├── NotFoundError         404: the path does not exist
│   ├── MethodError           405: the path does not accept the method
│   ├── SlowRequestError      408: the body did not arrive in time
│   ├── TooLargeError         413: the body, its candidates, or the record to be logged are over the limit
│   ├── MediaTypeError        415: the content type or content encoding is not supported
│   ├── ReusedKeyError        422: the idempotency key was used before with a different body
│   └── BusyTokenError        429: the token is over its request rate
├── UnavailableError          503: temporarily unavailable; the client should retry
├── TokensError               the token file cannot be read or is invalid
└── ListenError               the server cannot listen on the configured address
"""

from ground import FreshetError


class RequestError(FreshetError):
    """The request is invalid; the message says what was expected."""

    status = 400


class RankError(RequestError, ValueError):
    """An expression to rank by is invalid, or a candidate lacks a number that it names."""


class AccessError(RequestError):
    """The token is missing or unknown."""

    status = 401


class ForbiddenError(RequestError):
    """The token lacks the scope; or the server has no tokens, and a page of another site sent the request."""

    status = 403


class NotFoundError(RequestError):
    """The path does not exist; the message lists the paths of the server."""

    status = 404


class MethodError(RequestError):
    """The path does not accept this method."""

    status = 405

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class SlowRequestError(RequestError):
    """The body did not arrive in time."""

    status = 408


class TooLargeError(RequestError):
    """The body, its candidates, or the record to be logged are over the limit."""

    status = 413

    def __init__(self, message: str, *, unread: bool = False) -> None:
        """`unread`: part of the body was not read, so the connection must be closed."""
        super().__init__(message)
        self.unread = unread


class MediaTypeError(RequestError):
    """The content type or content encoding of the body is not supported."""

    status = 415


class ReusedKeyError(RequestError):
    """The idempotency key was used before with a different body."""

    status = 422


class BusyTokenError(RequestError):
    """The token is over its request rate."""

    status = 429

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(FreshetError):
    """The server is overloaded, the log does not respond, or the model is still loading."""

    status = 503


class TokensError(FreshetError):
    """The tokens cannot be read or are invalid; the message names the line and shows no token."""


class ListenError(FreshetError):
    """The server cannot listen on the configured address."""
