"""A replay of a log whose model went back is refused, where it would learn what the model passed over."""

from pathlib import Path

import pytest

from freshet.cli.main import main
from freshet.config import parse_config
from freshet.errors import ReplayError
from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions
from stream.log.base import EXAMPLES, Outgoing
from stream.log.open import open_log
from stream.log.settings import LogSettings
from stream.orders.orders import MODELS, Order, Rollback, Traffic, give_order
from stream.records.types import Example, encode

SKIPS = Rollback("main", "learn-1-5", 0.0, skip_to={0: 30, 1: 20})
AGAIN = Rollback("main", "learn-1-5", 0.0)
HOLDS = Rollback("main", "learn-1-5", 0.0, hold=True)
OTHERS = Rollback("challenger", "learn-1-5", 0.0, skip_to={0: 30})


def log_with(folder: Path, *orders: Order) -> str:
    url = f"sqlite:{folder / 'log.db'}"
    log = open_log(url, LogSettings(sync=False))
    log.create_topic(EXAMPLES, 2)
    for n in range(80):
        example = Example(f"r{n}", 1e9 + n, 1e9 + n, [{"item": n % 5}], [float(n % 2)], {"user": n % 3})
        log.append(EXAMPLES, [Outgoing(b"", encode(example), n % 2)])
    if orders:
        log.create_topic(MODELS, 1)
    for order in orders:
        give_order(log, order)
    log.close()
    return url


@pytest.mark.parametrize(
    ("orders", "begin", "refused"),
    [
        ((), None, ""),
        ((Traffic({"main": 1.0}, 0.0), AGAIN, OTHERS), None, ""),
        ((SKIPS,), None, r"order 0 in topic models\) to snapshot learn-1-5, .* --from offset:30,20"),
        ((SKIPS,), "offset:29,20", "--through-rollbacks"),
        ((SKIPS,), "offset:30,20", ""),
        ((OTHERS, HOLDS), "offset:35,35", "order 1 in topic models.*--through-rollbacks"),
    ],
)
def test_a_range_that_a_rollback_passed_over_is_refused(
    tmp_path: Path, orders: tuple[Order, ...], begin: str | None, refused: str
) -> None:
    config = parse_config({"features": {"user": {}, "item": {}}, "learner": {"deep": "none"}}, "c")
    options = {"data": log_with(tmp_path, *orders), "begin": begin}
    if refused:
        with pytest.raises(ReplayError, match=refused):
            replay(config, ReplayOptions(**options))  # type: ignore[arg-type]
    report = replay(config, ReplayOptions(**options, through_rollbacks=bool(refused)))  # type: ignore[arg-type]
    assert report["events"] > 0


@pytest.mark.parametrize("begin", ["offset:-1,3", "offset:3", "offset:3,x", "offset:3,3,3", "offset:"])
def test_offsets_are_one_for_each_partition(tmp_path: Path, begin: str) -> None:
    config = parse_config({"features": {"user": {}, "item": {}}, "learner": {"deep": "none"}}, "c")
    with pytest.raises(ReplayError, match="one number per partition, of which there are 2"):
        replay(config, ReplayOptions(data=log_with(tmp_path), begin=begin))


def test_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = log_with(tmp_path, SKIPS)
    config = tmp_path / "c.toml"
    config.write_text("[features.user]\n[features.item]\n[learner]\ndeep = 'none'\n")
    assert main(["replay", "--config", str(config), "--data", url]) != 0
    assert "passed over examples" in capsys.readouterr().err
    assert main(["replay", "--config", str(config), "--data", url, "--through-rollbacks"]) == 0
