"""`freshet dead-letters` as a person meets it, over a real log with a real joiner's letters."""

import json
from pathlib import Path

import pytest

from freshet.cli.main import main
from stream.join.joiner import Joiner
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, Outgoing
from stream.log.sqlite.log import SqliteLog
from stream.records.types import Impression, encode
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState

BAD = [
    b'{"type":"impression","request_id":"r","time":"noon","candidates":[{}]}',
    b"\x1b[2Jclears the screen \xff",
    encode(Impression("ahead", 4e9, [{"item": 1}])),
]


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A config beside a log in which a joiner has buried BAD, at offsets 0, 1 and 2."""
    file = tmp_path / "freshet.toml"
    file.write_text('log = "sqlite:log.db"\n[features.item]\nkind = "id"\n')
    log = SqliteLog(tmp_path / "log.db")
    for topic in (EVENTS, EXAMPLES, DEAD_LETTERS):
        log.create_topic(topic, 1)
    log.append(EVENTS, [Outgoing(b"key \x1b", value) for value in BAD])
    with RoleState(tmp_path / ".freshet" / "join", "joiner", {}) as state:
        runner = Runner(log, state, Joiner(state), Subscription(EVENTS, "join")).open()
        runner.step()
        runner.commit()
    log.close()
    return str(file)


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert main(["dead-letters", *arguments]) == 0
    said = capsys.readouterr()
    return said.out, said.err


def test_list_is_a_line_each(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = say(capsys, "list", "--config", config)
    lines = out.splitlines()
    assert len(lines) == 5
    assert "joiner    events/0 at 1" in lines[2] and "neither JSON" in lines[2]
    assert lines[-1] == "3 of 3 shown; 3 by the joiner"
    out, _ = say(capsys, "list", "--config", config, "--reason", "max_ahead_s", "--since", "2020-01-01")
    assert "1 of 1 shown" in out
    out, _ = say(capsys, "list", "--config", config, "--until", "2020-01-01")
    assert out == "no dead letters match\n"
    assert main(["dead-letters", "list", "--config", config, "--since", "yesterday"]) == 2
    assert "--since" in capsys.readouterr().err


def test_list_for_programs_has_everything(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = say(capsys, "list", "--config", config, "--json", "--limit", "2")
    found = [json.loads(line) for line in out.splitlines()]
    assert [entry["letter"] for entry in found] == [1, 2]
    assert found[0].keys() >= {"buried", "stage", "topic", "partition", "offset", "reason", "original", "key"}


def test_show_prints_the_record_as_it_came(config: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    main(["dead-letters", "show", "0", "--config", config])
    main(["dead-letters", "show", "1", "--config", config])
    main(["dead-letters", "show", "2", "--config", config])
    said = capfdbinary.readouterr().out
    assert b'"time": "noon"' in said  # JSON
    assert b"clears the screen \\xff" in said and b"key \\x1b" in said
    assert b"\x1b" not in said  # nothing that would steer the terminal
    assert b'"request_id": "ahead"' in said  # MessagePack
    assert b"topic events, partition 0, offset 2" in said
    main(["dead-letters", "show", "1", "--config", config, "--raw"])
    assert capfdbinary.readouterr().out == BAD[1]


def test_retry_sends_again_once_and_warns_the_second_time(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = say(capsys, "retry", "--config", config, "--reason", "max_ahead_s", "--dry-run")
    assert out == "would send 1 letters again: 2\n"
    out, err = say(capsys, "retry", "--config", config, "--reason", "max_ahead_s")
    assert (out, err) == ("sent 1 letters again: 1 to events\n", "")
    out, err = say(capsys, "retry", "--config", config, "2")
    assert out == "sent 0 letters again\n"
    assert "warning: 1 letters were retried before and are skipped: 2; --again" in err
    out, _ = say(capsys, "list", "--config", config)
    assert [line.endswith("[sent again]") for line in out.splitlines()[1:4]] == [False, False, True]
    log = SqliteLog(tmp_path / "log.db")
    again = log.read(EVENTS, 0, 3)
    log.close()
    assert [(record.key, record.value) for record in again] == [(b"key \x1b", BAD[2])]


def test_retry_of_nothing_and_of_what_is_not_there_says_so(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead-letters", "retry", "--config", config]) == 2
    assert "name the letters" in capsys.readouterr().err
    assert main(["dead-letters", "show", "99", "--config", config]) == 2
    assert "no dead letter at offset 99" in capsys.readouterr().err
