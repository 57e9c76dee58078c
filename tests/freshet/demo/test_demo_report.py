"""What the report of the demo says of the memory: how much it regained, also where that is all or nothing."""

import asyncio

import numpy as np
import pytest

from freshet.demo.demo import own_prefix
from freshet.demo.history import HistoryCounts
from freshet.demo.player import Player
from freshet.demo.report import demo_page
from freshet.demo.scenes import WorldScene
from freshet.show.report import ReportPage

Y = np.array([1.0, 0.0, 1.0, 0.0])
AUC = {
    1.0: [0.9, 0.2, 0.8, 0.1],
    0.75: [0.9, 0.6, 0.5, 0.1],
    0.5: [0.9, 0.8, 0.2, 0.5],
    0.25: [0.6, 0.8, 0.2, 0.5],
}


def page(frozen: float, memory: float, live: float) -> ReportPage:
    """The report of a play of one request, in which the arms have these AUCs."""

    async def made() -> ReportPage:
        scene = WorldScene(seconds=10.0, seed=0)
        async with Player(scene, "http://127.0.0.1:1", "http://127.0.0.1:1", 10.0) as player:
            arms = {"frozen": frozen, "frozen + memory": memory, "live": live, "live + memory": live}
            arms["ceiling"] = 1.0
            player.board.add(0.0, Y, {arm: np.array(AUC[auc]) for arm, auc in arms.items()}, group=1)
            return demo_page(scene, HistoryCounts(0.0, 1, 0, 1), player, [], 10.0)

    return asyncio.run(made())


@pytest.mark.parametrize(
    ("memory", "lead", "note"),
    [
        (0.25, "regained nothing of that gain.", "regains nothing in this play"),
        (0.5, "regained nothing of that gain.", "regains nothing in this play"),
        (0.75, "regained 50% of that gain.", "regains 50% of what learning gains"),
        (1.0, "regained 100% of that gain.", "regains 100% of what learning gains"),
    ],
)
def test_report_says_what_share_of_the_gain_the_memory_regains(memory: float, lead: str, note: str) -> None:
    made = page(0.5, memory, 1.0)
    assert lead in made.lead
    assert note in [tile.note for tile in made.tiles]


def test_report_says_so_where_the_memory_is_ahead_and_nothing_where_learning_gains_nothing() -> None:
    assert "regained all of that gain" in page(0.5, 1.0, 0.75).lead
    assert "regained" not in page(0.5, 1.0, 0.5).lead


@pytest.mark.parametrize("log", ["kafka://localhost:9092", "KAFKA://localhost:9092/"])
def test_demos_on_one_cluster_share_no_topics(log: str) -> None:
    first, other = own_prefix(log), own_prefix(log)
    assert first != other and all(one.startswith(log.rstrip("/") + "/demo-") for one in (first, other))
    assert own_prefix("kafka://localhost/shop") == "kafka://localhost/shop"
