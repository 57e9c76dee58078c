"""The documents are true to the code: every key with its default, every command one that exists."""

import json
import re
import textwrap
import tomllib
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jars import NEWEST
from paths import ROOT

from freshet.cli.main import main
from freshet.config import Config, load_config, parse_config
from freshet.roles import metrics_page
from freshet.show import api_page
from serving.app import routes
from serving.http.frame import Route
from serving.watch import page as live_page
from stream.log.kafka.log import parse_url
from stream.sources.settings import SourceSettings

PAGE = (ROOT / "docs" / "configuration.md").read_text()
BLOCKS = "\n".join(re.findall(r"(?<!<!-- an example -->\n)```toml\n(.*?)```", PAGE, re.DOTALL))

UNSET = re.compile(r"^# (\w+) = (\S+)", re.MULTILINE)
"""A key whose default is that it is not given: TOML has no null, so the page shows it in a comment."""


def struct_of(kind: Any) -> type[msgspec.Struct] | None:
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def undocumented(kind: type[msgspec.Struct], table: dict[str, Any], where: str, unset: set[str]) -> list[str]:
    """Keys of a settings class that `table`, the page's own, does not show or shows with another value."""
    wrong = []
    for field in msgspec.structs.fields(kind):
        if field.name == "sources":
            continue  # docs/sources.md has its keys
        here = f"{where}{field.name}"
        inner = struct_of(field.type)
        args = typing.get_args(field.type)
        entry = struct_of(args[1]) if typing.get_origin(field.type) is dict else None
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if inner is not None:
            wrong += undocumented(inner, table.get(field.name, {}), f"{here}.", unset)
        elif entry is not None:
            for name, part in table.get(field.name, {"NAME": {}}).items():
                wrong += undocumented(entry, part, f"{here}.{name}.", unset)
        elif field.name not in table:
            if not (default in (None, msgspec.UNSET) and field.name in unset):
                wrong.append(f"{here} is not on the page; its default is {default!r}")
        elif msgspec.convert(table[field.name], field.type) != default:
            wrong.append(f"{here} is {table[field.name]!r} on the page; its default is {default!r}")
    return wrong


def test_configuration_page_is_a_config_that_loads() -> None:
    assert parse_config(tomllib.loads(BLOCKS), "docs/configuration.md").features


def test_configuration_page_shows_every_key_with_its_default() -> None:
    unset = {name for name, _ in UNSET.findall(BLOCKS)}
    wrong = undocumented(Config, tomllib.loads(BLOCKS), "", unset)
    assert not wrong, "\n".join(wrong)


def test_sources_page_shows_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "sources.md").read_text()
    shown = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE))
    for field in msgspec.structs.fields(SourceSettings):
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        text = "required" if default is msgspec.NODEFAULT else f"`{json.dumps(msgspec.to_builtins(default))}`"
        assert shown.pop(field.name, None) == text.replace(": ", " = "), field.name
    assert not shown


def code_lines() -> list[str]:
    """Every line of a code block and every code span of the documents."""
    lines: list[str] = []
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines += [line.strip() for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", text)
    return lines


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0, words
    return capsys.readouterr().out


def test_documents_name_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m[1] for line in code_lines() if (m := re.match(r"make ([a-z][\w-]*)", line))}
    assert {"demo", "test"} <= named
    assert named <= targets


@pytest.mark.slow
def test_documents_name_only_commands_and_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    whole = help_of(capsys)
    known = set(re.findall(r"^    ([a-z-]+)\b", whole, re.MULTILINE))
    texts: dict[tuple[str, ...], str] = {}
    for line in code_lines():
        match = re.match(r"(?:\.venv/bin/)?freshet ([a-z][a-z-]*)(?: (list|show|retry)\b)?(.*)", line)
        if match is None:
            continue
        command, rest = match[1], match[3].partition("#")[0]
        assert command in known, f"{line!r}: freshet has no {command}"
        options = re.findall(r"(?<!\S)--[a-z-]+", rest)
        words = (command, match[2]) if match[2] else (command,)
        if words not in texts:
            texts[words] = help_of(capsys, *words)
        for option in options:
            assert re.search(rf"{option}\b", texts[words]), f"{line!r}: freshet {command} has no {option}"
    assert {("demo",), ("up",), ("replay",)} <= texts.keys()


def test_http_page_names_every_route() -> None:
    page = (ROOT / "docs" / "http.md").read_text()
    paths = [
        value.path
        for module in (routes, live_page)
        for value in vars(module).values()
        if isinstance(value, Route)
    ]
    assert len(paths) > 10
    assert not [path for path in paths if path not in page]


@pytest.mark.slow
def test_api_page_is_the_one_made_from_the_docstrings() -> None:
    assert (ROOT / "docs" / "api.md").read_text() == api_page.page(), (
        "run: python -m freshet.show.api_page > docs/api.md"
    )


def test_metrics_page_is_the_one_made_from_the_code() -> None:
    made = metrics_page.page()
    assert made.count("`freshet_") > 40
    assert (ROOT / "docs" / "metrics.md").read_text() == made, (
        "run: python -m freshet.roles.metrics_page > docs/metrics.md"
    )


def test_documents_name_only_metrics_that_exist() -> None:
    known = {
        name for role in ("ingest", "joiner", "learner", "server") for name in metrics_page.families(role)
    }
    for line in code_lines():
        for name in re.findall(r"\bfreshet_[a-z_]+", line):
            whole = re.sub(r"_(bucket|sum|count)$", "", name)
            assert {name, whole} & known, f"{line!r}: there is no metric {name}"


@pytest.mark.parametrize("service", ["join", "learn", "serve"])
@pytest.mark.parametrize("file", ["compose.yaml", "compose.kafka.yaml"])
def test_containers_run_every_role(file: str, service: str) -> None:
    assert f"command: [{service}, --config," in (ROOT / "deploy" / file).read_text()


@pytest.mark.parametrize("file", ["freshet.toml", "freshet.kafka.toml"])
def test_config_of_containers_loads(file: str) -> None:
    config = load_config(ROOT / "deploy" / file)
    assert config.server.host == "0.0.0.0"
    assert f"http://127.0.0.1:{config.server.port}/" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_config_inside_the_kubernetes_file_loads() -> None:
    text = (ROOT / "deploy" / "kubernetes.yaml").read_text()
    block = re.search(r"^  freshet\.toml: \|\n((?:    .*\n)+)", text, re.MULTILINE)
    assert block is not None
    config = parse_config(tomllib.loads(textwrap.dedent(block[1])), "deploy/kubernetes.yaml")
    servers, _ = parse_url(config.log)
    assert len(servers) == config.stream.log.kafka.replication == 3


def test_every_file_names_the_broker_that_the_tests_run() -> None:
    pom = (ROOT / "deploy" / "kafka" / "pom.xml").read_text()
    assert re.findall(r"<kafka\.version>(.*)</kafka\.version>", pom) == [NEWEST]
    for file in ("compose.kafka.yaml", "kubernetes.yaml"):
        assert re.findall(r"image: apache/kafka:(\S+)", (ROOT / "deploy" / file).read_text()) == [NEWEST]


def quality_table(title: str) -> dict[str, dict[str, str]]:
    """A table of docs/quality.md, below a heading, by stream and column."""
    text = (ROOT / "docs" / "quality.md").read_text().split(f"## {title}\n", 1)[1]
    lines = [line.strip("| ").split(" | ") for line in text.split("\n## ")[0].splitlines() if line[:1] == "|"]
    head, rows = lines[0], lines[2:]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows if len(row) == len(head)}


def test_readme_has_the_numbers_of_the_quality_page() -> None:
    readme = (ROOT / "README.md").read_text()
    by_age = quality_table("By the age of the served base")
    for stream, row in (("movietweetings 8", "MovieTweetings"), ("sudden", "simulated shop")):
        old, gain = map(float, by_age[stream]["daily"].split()[:2])
        live = float(by_age[stream]["live"].split()[0])
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| {row}")]
        said = [cell.strip("* ") for cell in line.strip("| ").split("|")[1:]]
        digits = len(said[0]) - 1
        assert [float(n) for n in said] == [round(n, digits) for n in (old, old + gain / 1e4, live)]
    base = quality_table("The base against other online learners")
    gains = [
        float(row["difference"].split(" / ")[0])
        for name, row in base.items()
        if name not in ("permuted", "thinned")
    ]
    mean = f"{sum(gains) / len(gains):.3f}".removeprefix("0")
    assert f"Over {len(gains)} streams the live model is {mean} AUC above" in readme
    questions = (ROOT / "docs" / "questions.md").read_text()
    assert f"+{mean} AUC over Vowpal Wabbit" in questions and f"over {len(gains)} streams" in questions


def without_blocks(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made by who renders Markdown."""
    heads = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def test_links_lead_to_pages_and_headings_that_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
    pages += sorted((ROOT / "docs").glob("*.md"))
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)\s:]+)\)", without_blocks(page))]
    assert len(links) > 200
    for page, link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_thirty_first_questions_each_have_an_answer_and_a_page_to_read_on() -> None:
    rows = re.findall(
        r"^\| (.+\?) \| (.+) \| (.+) \|$", (ROOT / "docs" / "questions.md").read_text(), re.MULTILINE
    )
    assert len(rows) == len({question for question, _, _ in rows}) == 30
    assert all(answer and "](" in more for _, answer, more in rows)
