"""The live page: three files that are the same for everybody, the texts behind its numbers, and these.

    GET  /, /live.css, /live.js   the files
    GET  /v1/live                 what the page shows now
    GET  /v1/live/history         the same over time

Nothing in the files is secret or of this server, so they need no token; the numbers do. A browser is told
to load nothing from elsewhere and to run nothing that is not in them. The texts are `guide.md` and
`runbook.md`, which docs/operations.md repeats word for word.
"""

import asyncio
import gzip
import hashlib
import re
from importlib import resources
from typing import NamedTuple

import msgspec
from markdown_it import MarkdownIt

from serving.http.frame import JSON, Call, Handler, Response, Route
from serving.watch.live import Live, LiveHistory
from serving.watch.overview import Overview

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),  # revalidated each time; usually the answer is 304
    (b"vary", b"accept-encoding"),
)
_UNSTORED = ((b"cache-control", b"no-store"),)
_FILES = {
    "/": ("live.html", b"text/html; charset=utf-8", "The live page."),
    "/live.css": ("live.css", b"text/css; charset=utf-8", "How the live page looks."),
    "/live.js": ("live.js", b"text/javascript; charset=utf-8", "How the live page moves."),
}

NOW = Route(
    "GET",
    "/v1/live",
    bounded=False,
    about="What the live page shows now: the last status of every role.",
    gives={200: Live},
)
HISTORY = Route(
    "GET",
    "/v1/live/history",
    about="The live page's numbers over time: ten minutes by the second, a day by the minute.",
    gives={200: LiveHistory},
)


class Asset(NamedTuple):
    """A file as it is sent."""

    plain: bytes
    packed: bytes
    kind: bytes
    tag: bytes

    @classmethod
    def of(cls, data: bytes, kind: bytes) -> "Asset":
        """Packed and named once."""
        tag = hashlib.blake2b(data, digest_size=12).hexdigest()
        return cls(data, gzip.compress(data, mtime=0), kind, f'"{tag}"'.encode())

    def answer(self, call: Call) -> Response:
        """Answer with the file, gzipped if the client accepts that; with 304 if the client has it."""
        headers = (*HEADERS, (b"etag", self.tag))
        if self.tag in call.headers.get(b"if-none-match", b""):
            return Response(304, b"", self.kind, headers)
        return packed(call, self.plain, self.packed, self.kind, headers)


def packed(
    call: Call, plain: bytes, squeezed: bytes, kind: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Response:
    """Answer with the plain or the gzipped form."""
    if b"gzip" in call.headers.get(b"accept-encoding", b""):
        return Response(200, squeezed, kind, (*headers, (b"content-encoding", b"gzip")))
    return Response(200, plain, kind, headers)


class LivePage:
    """Answers the requests of a browser that shows the page.

    Args:
        overview: the source of the numbers.
    """

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._newest = overview.live, b""  # with its JSON, encoded once

    def routes(self) -> list[tuple[Route, Handler]]:
        """The routes of the numbers and of the page's files."""
        routes: list[tuple[Route, Handler]] = [(NOW, self.now), (HISTORY, self.history)]
        for path, (name, kind, about) in _FILES.items():
            asset = Asset.of((page() if name == "live.html" else _read(name)).encode(), kind)

            async def answer(call: Call, asset: Asset = asset) -> Response:
                return asset.answer(call)

            route = Route(
                "GET", path, bounded=False, open=True, about=about, gives={200: str}, media=kind.decode()
            )
            routes.append((route, answer))
        return routes

    async def now(self, _: Call) -> Response:
        """GET /v1/live: encoded once a second, for all clients."""
        live, body = self._newest
        if live is not self._overview.live or not body:
            live = self._overview.live
            body = msgspec.json.encode(live)
            self._newest = live, body
        return Response(200, body, headers=_UNSTORED)

    async def history(self, call: Call) -> Response:
        """GET /v1/live/history."""
        plain, squeezed = await asyncio.to_thread(self._overview.encoded_history)
        return packed(call, plain, squeezed, JSON, _UNSTORED)


def page() -> str:
    """The page's HTML with the texts inserted."""
    html = _read("live.html")
    for name in ("guide", "runbook"):
        html = html.replace(f"<!--{name}-->", _articles(_read(f"{name}.md")))
    return html


def anchor(title: str) -> str:
    """The id of a section by its title.

    >>> anchor("Log loss"), anchor("FreshetLagging")
    ('log-loss', 'FreshetLagging')
    """
    return title if title.startswith("Freshet") else title.lower().replace(" ", "-")


def titles(text: str) -> list[str]:
    """The titles of a text's sections."""
    return re.findall(r"^### (.+)$", text, re.MULTILINE)


def _articles(text: str) -> str:
    """Each section as an article with an anchor; names of alerts become links to their articles."""
    markdown = MarkdownIt("commonmark", {"html": False})
    known = titles(_read("runbook.md"))
    parts = []
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        # links to other documents do not work on the page
        body = re.sub(r"\[([^\]]+)\]\((?!#)[^)]*\)", r"\1", body)
        html = markdown.render(body)
        html = re.sub(r"(?<![\w>])Freshet[A-Z]\w+", lambda m: _link(m[0], known), html)
        parts.append(f'<article id="{anchor(title)}"><h3>{title}</h3>\n{html}</article>\n')
    return "".join(parts)


def _link(name: str, known: list[str]) -> str:
    return f'<a href="#{name}">{name}</a>' if name in known else name


def _read(name: str) -> str:
    return resources.files("serving.watch").joinpath(name).read_text(encoding="utf-8")
