"""`freshet vectors`: what the newest model in the log has, whole and by changes."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from freshet.config import Config, parse_config
from freshet.errors import ExportError
from freshet.tools.vectors import export_vectors
from freshet.warm.vectors import read_vectors
from ground.keys import key_of
from learner.role.learner import Learner
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, ROLES, SNAPSHOTS, UPDATES, Log, Outgoing
from stream.log.open import open_log
from stream.records.types import Example, Forget, encode
from stream.run.contract import RunnerSettings, Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState


class Live:
    """A log and its learner, which learns what it is given."""

    def __init__(self, folder: Path, targets: dict[str, object] | None = None) -> None:
        table = {
            "targets": targets or {},
            "log": f"sqlite:{folder / 'log.db'}",
            "state": str(folder / "state"),
            "features": {"item": {"kind": "id", "dim": 4}, "n": {"kind": "id", "type": "int", "dim": 4}},
            "learner": {"deep": "logistic", "group": 1},
        }
        self.config: Config = parse_config(table, "test")
        self.log: Log = open_log(self.config.log)
        for topic in (EVENTS, EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES):
            self.log.create_topic(topic, 1)
        self._time = 1e9

    def learn(self, *records: str | Forget) -> None:
        """Learn an example for each item, and forget, and publish."""
        for record in records:
            self._time += 1
            if isinstance(record, str):
                candidate = {"item": record, "n": len(record)}
                made: Example | Forget = Example(
                    str(self._time), self._time, self._time, [candidate], [1.0], {}
                )
            else:
                made = record
            self.log.append(EXAMPLES, [Outgoing(b"", encode(made))])
        config = self.config
        targets = config.known_targets()
        fingerprint = Learner.fingerprint(config.features, config.learner, targets)
        with RoleState(config.state_of("learn"), "learner", fingerprint, sync=False) as state:
            learner = Learner(config.features, config.learner, state, targets)
            learner.publish_to(self.log)
            runner = Runner(
                self.log, state, learner, Subscription(EXAMPLES, "learn"), RunnerSettings()
            ).open()
            while runner.step():
                pass
            runner.commit()
            names = [r for r in records if isinstance(r, str)]
            keys = np.array([key_of(name) for name in names], dtype=np.uint64)
            self.vectors = dict(zip(names, learner.model.tables[0].read(keys)[0], strict=True))


def rows(file: Path) -> dict[object, dict[str, object]]:
    return {row["id"]: row for row in pq.read_table(file).to_pylist()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets",
    [{}, {"click": {}, "buy": {"of": "click"}}, {"minutes": {"kind": "value"}}],
    ids=["one", "two", "value"],
)
def test_export_has_the_newest_vectors_and_changes_say_what_is_new_and_gone(
    tmp_path: Path, targets: dict[str, object]
) -> None:
    live = Live(tmp_path, targets)
    whole, changes = tmp_path / "items.parquet", tmp_path / "changes.parquet"
    with pytest.raises(ExportError, match="no model yet"):
        export_vectors(live.config, "item", whole)
    live.learn("a", "bb", "cc", "a")
    done = export_vectors(live.config, "item", whole)
    assert (done.rows, done.deleted, done.unnamed) == (3, 0, 0)
    found = rows(whole)
    for name, vector in live.vectors.items():
        assert found[name]["vector"] == vector.tolist() and found[name]["key"] == key_of(name)
    export_vectors(live.config, "n", tmp_path / "n.parquet")
    assert set(rows(tmp_path / "n.parquet")) == {1, 2}
    warm = read_vectors("items.parquet", tmp_path)
    assert sorted(warm.ids) == ["a", "bb", "cc"] and warm.values.shape == (3, 4)

    live.learn("dddd", "a", Forget("f", 1e9 + 50, {"item": ["bb"]}))
    done = export_vectors(live.config, "item", changes, since=str(whole))
    found = rows(changes)
    assert {name: row["deleted"] for name, row in found.items()} == {"a": False, "dddd": False, "bb": True}
    assert found["bb"]["vector"] is None and found["a"]["vector"] == live.vectors["a"].tolist()
    assert (done.rows, done.deleted) == (2, 1)
    export_vectors(live.config, "item", whole)
    assert set(rows(whole)) == {"a", "cc", "dddd"}
    done = export_vectors(live.config, "item", changes, since=done.version)
    assert (done.rows, done.deleted) == (0, 0)

    live.log.trim(EXAMPLES, 0, 4)  # the first four are gone, and with them the text of one id
    assert export_vectors(live.config, "item", whole).unnamed == 1
    for since, message in (
        (done.version.partition("-")[0] + "-99", "has not all updates since"),
        ("1-1", "has not all updates since"),
        ("yesterday", "expected an earlier export"),
        (str(tmp_path / "none.parquet"), "cannot be read"),
    ):
        with pytest.raises(ExportError, match=message):
            export_vectors(live.config, "item", changes, since=since)
    with pytest.raises(ExportError, match="'price' has no vectors by id; those that do: item, n"):
        export_vectors(live.config, "price", whole)
    live.log.close()
