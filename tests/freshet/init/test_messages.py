"""Every message of `freshet init` is in one table, and docs/data.md says what to do about each."""

import re
from pathlib import Path

import pytest
from paths import ROOT

from freshet.init.messages import ERRORS, LOOK_AT

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
ROOM = ROOT / "freshet" / "init"


@pytest.mark.parametrize("key", [*ERRORS, *LOOK_AT])
def test_page_says_what_to_do(key: str) -> None:
    text = (ERRORS | LOOK_AT)[key]
    as_there = re.sub(r"\{(\w+)[^}]*\}", "…", text).replace("\n", " ").replace("|", "\\|")
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| {as_there} | ")]
    assert len(rows) == 1 and len(rows[0]) > len(as_there) + 12, as_there


def test_every_message_comes_from_the_table_and_all_of_the_table_is_used() -> None:
    code = {path: path.read_text(encoding="utf-8") for path in sorted(Path(ROOM).rglob("*.py"))}
    used = {key for text in code.values() for key in re.findall(r'\b(?:error|look_at)\(\s*"([^"]+)"', text)}
    assert used == {*ERRORS, *LOOK_AT}
    for path, text in code.items():
        # sample.py makes one of each bad line, which is told within a message
        if path.name not in ("messages.py", "sample.py"):
            assert "InitError(" not in text, path
