"""Every command and code block of the documents does what it says, in the shop that the tutorial builds."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from blocks import LANGUAGES, ROOT, Block, all_blocks, blocks_of, pages
from copies import ORIGINAL
from starting import COPY, environment, original

from freshet.config import parse_config

START_S_MAX = 200.0  # kernels not yet compiled, on a busy machine
BLOCK_S_MAX = 240.0
RATINGS = 1_500
BLOCKS = all_blocks()
TUTORIAL = "docs/tutorial.md"


class Shop:
    """A folder in which the blocks run, the names that a page's Python has, and the server if it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self._names: dict[str, dict[str, Any]] = {}
        self._server: subprocess.Popen[bytes] | None = None
        _lay_out(folder)

    def run(self, block: Block) -> None:
        """Run one block; an error fails the test with what was said."""
        if block.mark == "server":
            self._start(block)
        elif block.language == "sh":
            self._shell(block)
        else:
            self._python(block)

    def close(self) -> None:
        """Let go of connections, and stop the server as Ctrl-C does."""
        for value in [value for names in self._names.values() for value in names.values()]:
            if isinstance(value, httpx.Client):
                value.close()
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            assert self._server.wait(240.0) == 130

    def _start(self, block: Block) -> None:
        command = [*shlex.split(block.text), "--set", "server.port=0"]
        out = self.folder / "server.out"
        with out.open("wb") as file:
            self._server = subprocess.Popen(
                [str(self.folder / ".venv/bin" / command[0]), *command[1:]],
                cwd=self.folder, stdout=file, stderr=file, env=self._environment, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_S_MAX
        while not (ready := re.search(r"^serve: ready (\S+)$", out.read_text(), re.MULTILINE)):
            assert self._server.poll() is None and time.monotonic() < deadline, out.read_text()
            time.sleep(0.1)
        self.url = ready[1]

    def _shell(self, block: Block) -> None:
        text = f"{block.more}\n{block.text}" if block.mark == "given" else block.text
        if block.mark == "args":
            command, dashes, more = block.more.partition("-")
            line = rf"^((?:\.venv/bin/)?freshet {command}[^#\n]*)"
            text = re.sub(line, rf"\1 {dashes}{more}", text, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(text)],
            cwd=self.folder, env=self._environment, timeout=BLOCK_S_MAX,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"{block.place} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )

    def _python(self, block: Block) -> None:
        names = self._names.setdefault(block.page, {"__name__": "docs"})
        if block.mark == "given":
            exec(compile(block.more, f"{block.place} (given)", "exec"), names)
        exec(compile("\n" * block.line + self._here(block.text), block.page, "exec"), names)

    def _here(self, text: str) -> str:
        return text.replace("http://localhost:8470", self.url).replace(
            "localhost:8470", self.url.removeprefix("http://")
        )

    @property
    def _environment(self) -> dict[str, str]:
        path = f"{self.folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        curl = {"CURL_HOME": str(self.folder), "NO_PROXY": "*", "no_proxy": "*"}
        return environment(PATH=path, **curl, **{ORIGINAL: original()})


def _lay_out(folder: Path) -> None:
    """What a reader has: the commands, and a folder of ratings."""
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name, command in (("freshet", COPY), ("python", [sys.executable])):
        (tools / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (tools / name).chmod(0o755)
    (folder / ".curlrc").write_text("fail-with-body\n")  # an answer of 4xx or 5xx fails the block
    ratings = folder / "ratings"
    ratings.mkdir()
    lines = (f"{i % 97}::{i * i % 53:07}::{i * 7 % 11}::{1381945744 + i}\n" for i in range(RATINGS))
    (ratings / "ratings.dat").write_text("".join(lines))
    movies = (f"{i:07}::Film {i} (1999)::{'Crime|Drama' if i % 2 else 'Short'}\n" for i in range(53))
    (ratings / "movies.dat").write_text("".join(movies))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop of the tutorial, with its server running: the tutorial up to there is run for it."""
    made = Shop(tmp_path_factory.mktemp("shop"))
    before = Path.cwd()
    os.chdir(made.folder)
    try:
        for block in blocks_of(ROOT / TUTORIAL):
            if block.language in ("sh", "python"):
                made.run(block)
            if block.mark == "server":
                break
        yield made
    finally:
        os.chdir(before)
        made.close()


def _runnable() -> list[Block]:
    """What the fixture has not run: the rest of the tutorial, and every other page."""
    server = next(block for block in BLOCKS if block.mark == "server")
    return [
        block
        for block in BLOCKS
        if block.language in ("sh", "python")
        and block.mark != "skip"
        and (block.page != TUTORIAL or block.line > server.line)
    ]


@pytest.mark.process
@pytest.mark.parametrize("block", _runnable(), ids=lambda block: block.place)
def test_block_runs(block: Block, shop: Shop) -> None:
    shop.run(block)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=lambda block: block.place)
def test_toml_block_is_a_config(block: Block) -> None:
    parse_config(tomllib.loads(block.text), block.place)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=lambda block: block.place)
def test_json_block_is_json(block: Block) -> None:
    decoder, text = json.JSONDecoder(), block.text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        assert isinstance(value, dict | list)
        text = text[end:].lstrip()


def test_every_block_says_what_it_is() -> None:
    wrong = [block.place for block in BLOCKS if block.language not in LANGUAGES]
    assert not wrong, f"give these blocks one of {sorted(LANGUAGES)}: {', '.join(wrong)}"
    fences = sum(page.read_text().count("```") for page in pages())
    assert fences == 2 * len(BLOCKS), "a fence is not closed, or not understood"


def test_block_that_is_not_run_says_why() -> None:
    marks = {"", "skip", "args", "given", "server"}
    assert not [block.place for block in BLOCKS if block.mark not in marks]
    assert not [block.place for block in BLOCKS if block.mark == "skip" and len(block.more) < 10]
    ran = [block for block in BLOCKS if block.language in ("sh", "python") and block.mark != "skip"]
    skipped = [block for block in BLOCKS if block.mark == "skip"]
    assert len(ran) > 2 * len(skipped), "most blocks are run"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    names = [page.name for page in pages() if page.parent.name == "docs" and page.name != "README.md"]
    assert not [name for name in names if f"({name})" not in index]


def test_index_is_of_the_four_kinds_and_readme_leads_to_it() -> None:
    assert "docs/README.md" in (ROOT / "README.md").read_text()
    words = len((ROOT / "README.md").read_text().split())
    assert words < 1_000, f"README has {words} words: two minutes' reading is less"
