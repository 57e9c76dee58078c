"""The fenced blocks of the documents, and the marks before them that say how a test runs them.

A mark is an HTML comment on the line before a block, so that no reader sees it:

    <!-- test: skip: REASON -->        not run
    <!-- test: args: --limit 5 -->     added to every `freshet` line; `replay --limit 5`: to those of replay
    <!-- test: given: CODE -->         Python that goes before a Python block, shell before a shell block
    <!-- test: server -->              starts the server that the rest of the documents talk to
"""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from paths import ROOT

LANGUAGES = {"sh", "python", "toml", "json", "text"}
_FENCE = re.compile(
    r"(?:^[ \t]*<!-- test: (?P<mark>\w+)(?:: ?(?P<more>.*?))? ?-->\n)?"
    r"^(?P<indent>[ \t]*)```(?P<language>\w*)\n(?P<text>.*?)^[ \t]*```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """One fenced block.

    Attributes:
        page: its file, from the repository's root.
        line: where it begins.
        language: sh, python, toml, json or text.
        mark: skip, args, given, server, or empty.
        more: what the mark says beyond that.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str
    more: str

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README and all documents, the tutorial first: it makes what the others use."""
    docs = sorted((ROOT / "docs").glob("*.md"), key=lambda page: (page.name != "tutorial.md", page.name))
    last = [page for page in docs if page.name == "forgetting.md"]  # the others may ask for what it forgets
    return [*(page for page in docs if page not in last), ROOT / "README.md", *last]


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            str(page.relative_to(ROOT)),
            text.count("\n", 0, found.start("text")),
            found["language"],
            textwrap.dedent(found["text"]),
            found["mark"] or "",
            textwrap.dedent(found["more"] or "").strip(),
        )
        for found in _FENCE.finditer(text)
    ]


def all_blocks() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in pages() for block in blocks_of(page)]
