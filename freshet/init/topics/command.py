"""`freshet init --topic`: reads the newest records of topics and writes a config with their sources."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from freshet.config import Config, load_config, parse_config
from freshet.init.config import write_out
from freshet.init.messages import error
from freshet.init.topics.choose import look_at_topic
from freshet.init.topics.parts import parts_of
from freshet.init.topics.propose import propose
from freshet.init.topics.records import TopicRecords, read_topic, split_topic
from freshet.init.topics.tried import keep_what_gains
from freshet.init.topics.write import write_topics
from stream.log.open import embedded_path
from stream.log.settings import LOG_DEFAULTS


def run_init_topics(
    topics: Sequence[str],
    data: str | None,
    out: str,
    force: bool = False,
    registry: str = "",
    config_file: str = "",
) -> None:
    """Write a config whose sources are topics of others.

    Args:
        topics: each `URL/NAME`, or the name alone of a topic in the log of the config.
        data: a file, which makes no sense beside topics; None: not given.
        out: the config's path; "-" prints it.
        registry: URL of a schema registry; empty: there is none.
        config_file: a config whose log and log-ins are used; then only the sections to add to it are written.

    Raises:
        InitError: no config can be made for them, or it cannot be written.
        LogError: a topic cannot be read.
    """
    if data is not None:
        raise error("data or topic")
    here = out == "-" or Path(out).resolve().parent == Path.cwd()
    if out != "-" and Path(out).exists() and not force:
        raise error("there already", out=out)
    base = load_config(config_file) if config_file else None
    read = [_read(topic, registry, base, here) for topic in dict.fromkeys(topics)]
    parts = [part for records in read for part in parts_of(records, len(read) == 1)]
    proposal = keep_what_gains(propose([look_at_topic(part) for part in parts]))
    text = write_topics(proposal, read, whole=base is None)
    parse_config(tomllib.loads(text), out)
    if not write_out(text, out, proposal.guessed):
        return
    if base is not None:
        print(f"add it   to {config_file}, then: freshet ingest --check --config {config_file}")
        return
    print(f"try it   freshet ingest --check --config {out}")
    print(f"go live  freshet up --config {out}")


def _read(topic: str, registry: str, base: Config | None, here: bool) -> TopicRecords:
    """Read a topic; paths in the config will be relative to its folder, which is `here` or elsewhere."""
    url, name = split_topic(topic, base.log if base is not None else "")
    path = embedded_path(url)
    if path is not None and not here:
        url = f"sqlite:{Path(path).absolute()}"
    if base is None:
        return read_topic(url, name, registry, LOG_DEFAULTS)
    return read_topic(url, name, registry, base.stream.log, base.ingest.registry)
