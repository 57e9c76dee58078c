"""The live page: three files that are the same for everybody, and the texts behind its numbers.

Nothing in them is secret or of this server, so they need no token; what they show comes from `/v1/live`,
which does. A browser is told to load nothing from elsewhere and to run nothing that is not in them.
The texts are `guide.md` and `runbook.md`, which docs/operations.md repeats word for word.
"""

import gzip
import hashlib
import re
from importlib import resources
from typing import NamedTuple

from markdown_it import MarkdownIt

from serving.http import Call, Response, Route

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),  # asked for again each time; mostly the answer is that nothing changed
    (b"vary", b"accept-encoding"),
)
_FILES = {
    "/": ("live.html", b"text/html; charset=utf-8", "The live page."),
    "/live.css": ("live.css", b"text/css; charset=utf-8", "How the live page looks."),
    "/live.js": ("live.js", b"text/javascript; charset=utf-8", "How the live page moves."),
}


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
        """The file, packed where the caller can unpack it; nothing where the caller has it."""
        headers = (*HEADERS, (b"etag", self.tag))
        if self.tag in call.headers.get(b"if-none-match", b""):
            return Response(304, b"", self.kind, headers)
        return packed(call, self.plain, self.packed, self.kind, headers)


def packed(
    call: Call, plain: bytes, squeezed: bytes, kind: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Response:
    """One of two forms of the same answer."""
    if b"gzip" in call.headers.get(b"accept-encoding", b""):
        return Response(200, squeezed, kind, (*headers, (b"content-encoding", b"gzip")))
    return Response(200, plain, kind, headers)


def page_routes() -> dict[str, Route]:
    """The routes of the page's files."""
    routes = {}
    for path, (name, kind, about) in _FILES.items():
        data = page() if name == "live.html" else _read(name)
        asset = Asset.of(data.encode(), kind)

        async def answer(call: Call, asset: Asset = asset) -> Response:
            return asset.answer(call)

        routes[path] = Route(
            "GET", answer, bounded=False, open=True, about=about, gives={200: str}, media=kind.decode()
        )
    return routes


def page() -> str:
    """The page's HTML with its texts in it."""
    html = _read("live.html")
    for name in ("guide", "runbook"):
        html = html.replace(f"<!--{name}-->", _articles(_read(f"{name}.md")))
    return html


def anchor(title: str) -> str:
    """The id of a text by its title.

    >>> anchor("Log loss"), anchor("FreshetLagging")
    ('log-loss', 'FreshetLagging')
    """
    return title if title.startswith("Freshet") else title.lower().replace(" ", "-")


def titles(text: str) -> list[str]:
    """The titles of a text's sections."""
    return re.findall(r"^### (.+)$", text, re.MULTILINE)


def _articles(text: str) -> str:
    """Each section as an article that can be linked to; names of alerts become links to theirs."""
    markdown = MarkdownIt("commonmark", {"html": False})
    known = titles(_read("runbook.md"))
    parts = []
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        # links between the documents lead nowhere from here
        body = re.sub(r"\[([^\]]+)\]\((?!#)[^)]*\)", r"\1", body)
        html = markdown.render(body)
        html = re.sub(r"(?<![\w>])Freshet[A-Z]\w+", lambda m: _link(m[0], known), html)
        parts.append(f'<article id="{anchor(title)}"><h3>{title}</h3>\n{html}</article>\n')
    return "".join(parts)


def _link(name: str, known: list[str]) -> str:
    return f'<a href="#{name}">{name}</a>' if name in known else name


def _read(name: str) -> str:
    return resources.files("serving").joinpath(name).read_text(encoding="utf-8")
