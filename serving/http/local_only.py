"""A server without tokens answers only programs on this machine and its own web page.

Such a server listens on loopback only. But a browser on the same machine can reach it, and so can every page
in that browser: by a form or `fetch` to `http://localhost:8470`, or by a name of the page's own site that its
DNS server now resolves to 127.0.0.1 (DNS rebinding). So three headers are checked:

- `Host` names this machine: `localhost`, a loopback address, or the configured host. A page that uses
  rebinding sends the name of its own site.
- `Origin` and `Sec-Fetch-Site`, which pages cannot set themselves, say that no other site sent the request.
- `Content-Type` of a POST is one that a page can send to another site only if that site allows it (CORS; this
  server never does). The type of `curl -d`, and a POST without a type, are accepted if no header shows that a
  browser sent them.

https://fetch.spec.whatwg.org (CORS-safelisted requests), https://www.w3.org/TR/fetch-metadata.
"""

import ipaddress
import re
from collections.abc import Collection, Mapping

from serving.errors import ForbiddenError, MediaTypeError

JSON_TYPES = frozenset(
    (
        b"application/json", b"application/x-ndjson", b"application/ndjson", b"application/jsonl",
        b"application/x-jsonlines", b"application/jsonlines", b"application/msgpack",
        b"application/x-msgpack", b"application/vnd.msgpack", b"application/octet-stream",
    )
)  # fmt: skip
"""Content types that a page can send to another site only after a CORS preflight."""

PLAIN_TYPES = frozenset((b"", b"application/x-www-form-urlencoded"))
"""The types of `curl -d` and of clients that send none; a page can send both to any site."""

HOSTS_KEPT_MAX = 64
"""Number of valid `Host` values in the cache, so that the usual one is parsed once."""

_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]@]*))(?::[0-9]*)?")

_MARKS = (b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest")


class LocalOnly:
    """Checks requests to a server without tokens.

    Args:
        hosts: accepted `Host` names besides those of loopback.
    """

    def __init__(self, hosts: Collection[str] = ()) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._good: set[bytes] = set()

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Check one request.

        Args:
            headers: by lower-case name.

        Raises:
            ForbiddenError: the request names another host, or a page of another site sent it.
            MediaTypeError: a POST has a content type that a page of another site could send.
        """
        host = headers.get(b"host")
        if host is not None and host not in self._good:
            self._check_host(host)
        origin = headers.get(b"origin")
        if origin is not None and not _is_own(origin, host):
            raise ForbiddenError(
                f"a page of {_shown(origin)} sent this; without tokens this server answers its own page and "
                "programs on this machine only. Give it tokens ([server] tokens), or ask from your own server"
            )
        site = headers.get(b"sec-fetch-site")
        if site is not None and site not in (b"same-origin", b"none") and not _is_link(method, headers):
            raise ForbiddenError(
                f"a page of another site sent this (Sec-Fetch-Site: {_shown(site)}); without tokens this "
                "server answers its own page and programs on this machine only"
            )
        if method == "POST" and headers.get(b"content-type") != b"application/json":
            _check_type(headers)

    def _check_host(self, host: bytes) -> None:
        name = host_of(host)
        if not (is_local(name) or name in self._hosts):
            raise ForbiddenError(
                f"Host is {_shown(host)}, which is not a name of this machine; without tokens this server is "
                "asked as localhost or 127.0.0.1. Other names can be allowed with [server] hosts"
            )
        if len(self._good) < HOSTS_KEPT_MAX:
            self._good.add(host)


def host_of(authority: bytes) -> str:
    """The name or address in `HOST` or `HOST:PORT`, in lower case; "" if there is none.

    >>> host_of(b"LocalHost:8470"), host_of(b"[::1]:8470"), host_of(b"127.0.0.1"), host_of(b"a:@b.org")
    ('localhost', '::1', '127.0.0.1', '')
    """
    found = _AUTHORITY.fullmatch(authority.decode("latin-1").strip().lower())
    return "" if found is None else found[1] or found[2].rstrip(".")


def is_local(name: str) -> bool:
    """Whether a host name or address is a loopback name or address.

    >>> is_local("localhost"), is_local("127.0.0.2"), is_local("::1"), is_local("example.org")
    (True, True, True, False)
    """
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_own(origin: bytes, host: bytes | None) -> bool:
    """Whether an origin is this server: its host equals the `Host` of the request."""
    scheme, _, authority = origin.partition(b"://")
    return host is not None and scheme in (b"http", b"https") and authority.lower() == host.lower()


def _is_link(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a person followed a link from another page; then no page can read the answer."""
    return (
        method in ("GET", "HEAD")
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest") == b"document"
    )


def _check_type(headers: Mapping[bytes, bytes]) -> None:
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind in JSON_TYPES or (kind.startswith(b"application/") and kind.endswith(b"+json")):
        return
    if kind in PLAIN_TYPES:
        if not _by_browser(headers):
            return
        text = "a browser's request needs the header `Content-Type: application/json`"
    else:
        text = f"Content-Type is {_shown(kind)}; send JSON as application/json"
    raise MediaTypeError(f"{text} (or application/x-ndjson, application/msgpack on /v1/events)")


def _by_browser(headers: Mapping[bytes, bytes]) -> bool:
    return any(mark in headers for mark in _MARKS) or headers.get(b"user-agent", b"").startswith(b"Mozilla/")


def _shown(value: bytes) -> str:
    """A header's value, shortened and quoted for a message."""
    text = value[:100].decode("latin-1")
    return repr(text if len(value) <= 100 else f"{text}…")
