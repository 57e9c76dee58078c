"""What a leader does with orders that it cannot obey: it says so, once, and its model stays."""

from pathlib import Path

import pytest

from learner.features.encoder import FeatureSpec
from learner.role.learner import Learner
from learner.role.rollback import GoBackError, Obedience
from learner.role.shared_snapshots import SharedSnapshots
from learner.settings import LearnerSettings
from stream.log.base import EXAMPLES, SNAPSHOTS, UPDATES
from stream.log.testing import MemoryLog
from stream.orders.orders import MODELS, Rollback, give_order
from stream.run.contract import Subscription
from stream.run.runner import Runner
from stream.state.role_state import RoleState


@pytest.mark.parametrize("skip_to", [{0: 1}, {1: 0}, {0: (1 << 63) - 1}])
def test_order_to_skip_to_where_no_example_is_leaves_the_model(
    tmp_path: Path, skip_to: dict[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    log = MemoryLog()
    for topic in (EXAMPLES, UPDATES, SNAPSHOTS, MODELS):
        log.create_topic(topic, 1)
    with RoleState(tmp_path / "state", "learner", {}, sync=False) as state:
        learner = Learner({"item": FeatureSpec(dim=4)}, LearnerSettings(deep="none"), state)
        runner = Runner(log, state, learner, Subscription(EXAMPLES, "learn")).open()
        snapshots = SharedSnapshots(tmp_path / "snapshots", "a", kept=9)
        snapshots.make(state, 1, 1, alone=False)
        (name,) = (path.name for path in snapshots.there())
        obedience = Obedience(log, "main", learner, runner, snapshots)
        obedience.begin()
        offset = give_order(log, Rollback("main", name, 0.0, skip_to=skip_to))
        obedience.turn(100.0)
        assert learner.meta.order == offset and "does not have" in caplog.text
        give_order(log, Rollback("main", name, 0.0, skip_to={0: 0}))
        with pytest.raises(GoBackError, match=name):
            obedience.turn(200.0)
        learner.close()
