"""What Python shows of the public names: signatures in `help()` as written, and reprs of one line."""

import inspect
import pydoc
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from embeddings import DeltaReader, DeltaWriter, FeatureTables, SnapshotFolder, Table, TableFeature, TableSpec
from error_memory import MemorySettings, make_memory
from freshet import Config
from freshet.config import default_config, override_config
from stream import Action, Example, Faults, FaultyLog, Impression, MemoryLog, Producer, RoleState, open_log

PACKAGES = ("embeddings", "error_memory", "freshet", "ground", "learner", "serving", "stream")
PUBLIC = {
    f"{package}.{name}": getattr(import_module(package), name)
    for package in PACKAGES
    for name in import_module(package).__all__
}
NOISE = re.compile(r"numpy\._typing|numpy\.dtype\[|typing\.(Annotated|Union)|msgspec\.Meta| object at 0x")
REPR_MAX = 160


@pytest.mark.parametrize(
    "name", [n for n, thing in PUBLIC.items() if inspect.isclass(thing) or inspect.isfunction(thing)]
)
def test_help_shows_annotations_as_they_are_written(name: str) -> None:
    thing = PUBLIC[name]
    lines = pydoc.render_doc(thing, renderer=pydoc.plaintext).splitlines()
    if thing.__module__ == "stream.records.types":  # msgspec makes the signature, from the resolved types
        lines = [line for line in lines if not line.startswith(f" |  {thing.__name__}(")]

    assert not [line for line in lines if NOISE.search(line)]


def shown(path: Path) -> dict[str, Callable[[], object]]:
    """One of each that a user prints, by what it is."""
    table = Table(TableSpec(name="item", dim=4))
    log = MemoryLog()
    log.create_topic("events", 1)
    return {
        "config": lambda: Config(),
        "known config": lambda: override_config(default_config("movielens"), ["learner.deep=none"]).learner,
        "memory settings": lambda: MemorySettings(),
        "table settings": lambda: TableSpec(name="item"),
        "table": lambda: table,
        "tables": lambda: FeatureTables({"item": TableFeature(TableSpec(dim=4))}),
        "writer": lambda: DeltaWriter(table),
        "reader": lambda: DeltaReader(table),
        "snapshots": lambda: SnapshotFolder(path / "snapshots"),
        "memory": lambda: make_memory(MemorySettings(), columns=2),
        "sketch": lambda: make_memory(MemorySettings(kind="sketch"), columns=2),
        "neighbours": lambda: make_memory(MemorySettings(kind="neighbours"), columns=2),
        "no memory": lambda: make_memory(MemorySettings(kind="none"), columns=2),
        "log in memory": lambda: MemoryLog(),
        "faulty log": lambda: FaultyLog(MemoryLog(), 1, Faults(away=0.1)),
        "faults": lambda: Faults(away=0.1),
        "embedded log": lambda: open_log(f"sqlite:{path}/log.db"),
        "producer": lambda: Producer(log, name="web"),
        "state": lambda: RoleState(path / "state", "joiner", {}),
        "impression": lambda: Impression("r1", 1e9, [{"item": 1}]),
        "action": lambda: Action("r1", 1e9, 0),
        "example": lambda: Example("r1", 1e9, 1e9, [{"item": 1}], [1.0]),
    }


@pytest.mark.slow
def test_reprs_are_of_one_short_line(tmp_path: Path) -> None:
    long = {}
    for name, make in shown(tmp_path).items():
        thing = make()
        text = repr(thing)
        if len(text) > REPR_MAX + len(str(tmp_path)) or "\n" in text or " at 0x" in text:
            long[name] = text
        if hasattr(thing, "close"):
            thing.close()
    assert not long


def test_repr_of_settings_has_what_differs_from_the_defaults() -> None:
    assert repr(Config(state="x")) == "Config(state='x')"
    learner = override_config(default_config("movietweetings"), ["learner.deep=none"]).learner
    assert repr(learner) == "LearnerSettings(deep='none', group_by='user')"
    assert repr(Impression("r1", 1.0, [{"item": 1}])) == (
        "Impression(request_id='r1', time=1.0, candidates=[{'item': 1}])"
    )
