"""A small stream of clicks in a file, and a config that learns it."""

import random
from pathlib import Path

from freshet.config import Config, load_config

CONFIG = """
[features.user]
ttl_s = 4000
[features.item]
admit_after = 2
[features.tags]
kind = "ids"
[features.hour]
kind = "hour"
[data]
request = "request"
context = ["user"]
"""


def write_clicks(
    folder: Path, requests: int = 800, items: int = 40, *, by_user: bool = True
) -> tuple[Config, Path]:
    """A stream whose clicks depend on user and item, or on the item alone; four candidates a request."""
    draw = random.Random(5)
    lines = ["time,request,user,item,tags,label"]
    for i in range(requests):
        user = draw.randrange(30)
        for item in draw.sample(range(items), 4):
            label = int(draw.random() < (0.8 if (by_user * user + item) % 3 == 0 else 0.1))
            lines.append(f"{1_700_000_000 + 10 * i},r{i},u{user},{item},a|b{item % 5},{label}")
    (folder / "freshet.toml").write_text(CONFIG)
    (folder / "clicks.csv").write_text("\n".join(lines))
    return load_config(folder / "freshet.toml"), folder / "clicks.csv"
