"""Arms are scored on the same labels, over everything and over a sliding window."""

import numpy as np

from freshet.demo.scoreboard import Scoreboard

GOOD, BAD = np.array([0.9, 0.1]), np.array([0.1, 0.9])
Y = np.array([1.0, 0.0])


def test_arms_are_told_apart() -> None:
    board = Scoreboard(["a", "b"], window_s=10.0)
    board.add(0.0, Y, {"b": BAD, "a": GOOD}, group=1)
    assert board.overall()["a"]["auc"] == 1.0
    assert board.overall()["b"]["auc"] == 0.0
    assert board.requests == 1


def test_recent_forgets_what_overall_keeps() -> None:
    board = Scoreboard(["a"], window_s=10.0)
    board.add(0.0, Y, {"a": BAD}, group=1)
    board.add(20.0, Y, {"a": GOOD}, group=-1)
    assert board.recent(20.0)["a"]["auc"] == 1.0
    assert board.overall()["a"]["examples"] == 4


def test_recent_without_anything_is_undefined() -> None:
    board = Scoreboard(["a"], window_s=10.0)
    assert board.recent(0.0)["a"]["auc"] is None
    board.add(0.0, Y, {"a": GOOD}, group=1)
    assert board.recent(99.0)["a"]["examples"] == 0


def test_per_user_auc_uses_the_group() -> None:
    board = Scoreboard(["a"], window_s=10.0)
    board.add(0.0, Y, {"a": np.array([0.2, 0.1])}, group=1)
    board.add(0.0, Y, {"a": np.array([0.9, 0.8])}, group=2)
    recent = board.recent(0.0)["a"]
    assert recent["gauc"] == 1.0 and recent["auc"] is not None and recent["auc"] < 1.0
