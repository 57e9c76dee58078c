"""The command line as a table: one rule for all commands, older spellings, messages that name what works."""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from depth import many
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from freshet.cli.main import COMMANDS, main
from freshet.cli.table import Command
from freshet.config import load_config, parse_config
from freshet.errors import ConfigError
from freshet.sections.overrides import toml_text
from ground import FreshetError

PACKAGES = ("ground", "stream", "embeddings", "error_memory", "learner", "serving", "freshet")


def leaves(commands: tuple[Command, ...] | list[Command], before: str = "") -> Iterator[tuple[str, Command]]:
    for command in commands:
        name = f"{before}{command.name}"
        yield name, command
        yield from leaves(list(command.actions), f"{name} ")


ALL = dict(leaves(COMMANDS))


def names(command: Command) -> set[str]:
    return {name for option in command.options for name in option.names}


def test_one_name_means_one_thing_in_all_commands() -> None:
    metavars: dict[str, set[str]] = {}
    for command in ALL.values():
        for option in command.options:
            if option.names[0] in ("--data", "--config", "--report", "--html", "--set"):
                metavars.setdefault(option.names[0], set()).add(str(option.settings.get("metavar")))
    assert metavars["--config"] == {"FILE"} and metavars["--set"] == {"KEY=VALUE"}
    assert metavars["--html"] == {"FILE"} and metavars["--data"] == {"PATH", "PATH|URL"}
    # --report is JSON everywhere; the demo's older --report, a page, is hidden behind --html
    shown = [
        n
        for n, c in ALL.items()
        for o in c.options
        if "--report" in o.names and "FILE" in o.settings.values()
    ]
    assert set(shown) == {"replay", "compare", "evaluate"}


def told_commands() -> Iterator[tuple[str, str]]:
    """What messages call a command: each `freshet ...` in backticks in a string of the packages."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text()
            if "`freshet " not in source:
                continue
            for node in ast.walk(ast.parse(source)):
                text = ""
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = node.value
                for found in re.findall(r"`freshet ([^`\n]+)`", text):
                    yield f"{path.relative_to(ROOT)}", found


@pytest.mark.slow
def test_messages_and_docstrings_name_commands_and_options_that_exist() -> None:
    seen = 0
    for where, line in told_commands():
        words = line.split()
        if not re.fullmatch(r"[a-z][a-z-]*", words[0]):
            continue
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in ALL), None)
        assert name is not None, f"{where}: there is no `freshet {line}`"
        for option in re.findall(r"(?<!\S)--[a-z-]+", line):
            assert option in names(ALL[name]), f"{where}: `freshet {line}`: no {option}"
        seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("demo --report x.html --seconds 1", "demo --html x.html --seconds 1"),
        ("produce no.csv --producer a", "produce --data no.csv --name a"),
        ("init no.csv", "init --data no.csv"),
        ("replay no.csv", "replay --data no.csv"),
        ("export no.parquet --data no.csv", "export --out no.parquet --data no.csv"),
        ("train no.csv --until 5", "train --data no.csv --until 5"),
    ],
)
def test_older_spellings_do_the_same(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("freshet.toml").write_text("[features.user]\n")
    told = []
    for line in (old, new):
        assert main(line.split()) == 2
        told.append(capsys.readouterr().err)
    assert told[0] == told[1] != ""


def test_config_in_the_folder_is_the_default_of_all_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("freshet.toml").write_text("[features.user]\nkind = 'nothing'\n")
    Path("c.csv").write_text("time,user,label\n1,2,1\n")
    for line in ("replay c.csv", "sweep c.csv --grid learner.group=1,2", "export --out o.parquet", "join"):
        assert main(line.split()) == 2
        assert "freshet.toml: key features.user.kind: 'nothing' is none of" in capsys.readouterr().err


def test_data_that_is_not_there_is_told_before_a_config_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["replay", "--data", "no.csv"]) == 2
    assert "no.csv: no such file" in capsys.readouterr().err


def test_port_is_short_for_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("freshet.toml").write_text("[features.user]\n[server]\nhost = '192.0.2.1'\n")
    assert main(["up", "--port", "4711"]) == 2
    assert "192.0.2.1, port 4711" in capsys.readouterr().err
    assert main(["up"]) == 2
    assert "192.0.2.1, port 8470" in capsys.readouterr().err, "an option belongs to its own command"


@pytest.mark.slow
@given(st.text())
def test_text_of_an_option_is_one_value_of_its_setting(text: str) -> None:
    override = f"group.name={toml_text(text)}"
    try:
        assert parse_config({}, "c", [override]).group.name == text
    except ConfigError as error:
        assert "letters, digits, dots and dashes" in str(error) or "U+0000" in str(error)


@pytest.mark.slow
@settings(max_examples=many(120))
@given(st.text(max_size=40), st.text(max_size=40) | st.integers(5, 3000).map(lambda n: "[" * n))
def test_any_override_is_taken_or_refused_in_a_sentence(key: str, value: str) -> None:
    for override in (
        f"{key}={value}",
        f"learner.deep={value}",
        f"learner.group={value}",
        f"features.{key}.kind={value}",
    ):
        try:
            parse_config({}, "c", [override])
        except FreshetError as error:
            assert str(error)


@settings(max_examples=many(80))
@given(
    st.text(max_size=200)
    | st.sampled_from(["a = 1" + "0" * 5000, "a = " + "[" * 3000, "learner.group = 1e400"])
)
def test_any_config_file_is_taken_or_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_config(file)
    except ConfigError as error:
        assert str(error).startswith(str(file))


QUICK = [
    name
    for name in ALL
    if name.split()[0] not in ("demo", "up", "join", "learn", "serve", "warmup", "dead-letters")
]


@pytest.mark.slow
@settings(max_examples=many(60), deadline=None)
@given(data=st.data())
def test_any_command_line_ends_without_a_traceback(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    word = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
    name = data.draw(st.sampled_from(QUICK))
    options = sorted(
        names(ALL[name]) - {"--config", "--html", "--report", "--out", "--predictions", "--port"}
    )
    line = [*name.split()]
    for option in data.draw(
        st.lists(st.sampled_from([o for o in options if o.startswith("--")] or ["--no"]), max_size=4)
    ):
        line += [option, data.draw(word.map(lambda w: f"{folder}/no{w}") if option == "--data" else word)]
    line += data.draw(st.lists(word, max_size=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        try:
            assert main(line) in (0, 1, 2)
        except SystemExit as ended:
            assert ended.code in (0, 2)


def test_help_tells_the_options_of_every_command() -> None:
    for name, command in leaves(COMMANDS):
        told = [one for one in command.options if one.settings.get("help") != argparse.SUPPRESS]
        assert told or not command.options, name
        assert all(len(one.settings["help"]) > 5 for one in told), name
