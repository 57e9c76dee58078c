"""What can go wrong at the server, named by cause; each carries the HTTP status it is answered with.

FreshetError
├── RequestError              400: the request cannot be answered as it is
│   ├── AccessError           401: no token, or one that is not known
│   ├── ForbiddenError        403: the token is not for this, or a page of another site asks
│   ├── NotFoundError         404: no such path
│   ├── MethodError           405: the path is there, the method is not
│   ├── SlowRequestError      408: the body did not arrive in time
│   ├── TooLargeError         413: the body, its candidates, or what would be logged of it are too many
│   ├── MediaTypeError        415: the body is of a type, or packed in a way, that is not taken
│   ├── ReusedKeyError        422: the idempotency key came with another body before
│   └── BusyTokenError        429: the token's requests come faster than allowed
├── UnavailableError          503: not now; try again after a moment
├── TokensError               the file of tokens cannot be read or used
└── ListenError               the server cannot listen where its settings say
"""

from ground import FreshetError


class RequestError(FreshetError):
    """The request cannot be answered as it is; the message says what was expected."""

    status = 400


class AccessError(RequestError):
    """There is no token, or it is not known."""

    status = 401


class ForbiddenError(RequestError):
    """The token is known, and not for this; or there are no tokens, and a page of another site asks."""

    status = 403


class NotFoundError(RequestError):
    """No such path; the message names those there are."""

    status = 404


class MethodError(RequestError):
    """The path does not take this method."""

    status = 405

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class SlowRequestError(RequestError):
    """The body did not arrive in time."""

    status = 408


class TooLargeError(RequestError):
    """The body, its candidates, or what would be logged of it are over the limit."""

    status = 413

    def __init__(self, message: str, *, unread: bool = False) -> None:
        """`unread`: some of the body is still to come, so the connection cannot be gone on with."""
        super().__init__(message)
        self.unread = unread


class MediaTypeError(RequestError):
    """The body is of a type, or packed in a way, that is not taken."""

    status = 415


class ReusedKeyError(RequestError):
    """The idempotency key came with another body before."""

    status = 422


class BusyTokenError(RequestError):
    """The token's requests come faster than allowed."""

    status = 429

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(FreshetError):
    """Not now: too much at once, the log does not answer, or the model is still loading."""

    status = 503


class TokensError(FreshetError):
    """The tokens cannot be read or used; the message names the line, and no token."""


class ListenError(FreshetError):
    """The server cannot listen where its settings say."""
