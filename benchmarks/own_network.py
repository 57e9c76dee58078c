"""Replay speed with a network of one's own, beside the built-in ones.

    .venv/bin/python benchmarks/own_network.py [--quick] [--json OUT]

The stream is that of benchmarks/replay.py: one candidate a request, eight ids. The networks take turns, and
the figures are medians over the rounds.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import msgspec
import torch
from replay import config_of, write_stream
from torch import nn

from freshet.replay.replay import replay
from freshet.replay.tape import ReplayOptions

FEATURES = 8
DEEP = ("dcn", "own_network:TwoTower", "own_network:CrossAndMLP", "deepfm", "none")


class TwoTower(nn.Module):
    """The network of docs/own-network.md on two halves of the features."""

    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__()
        ids = [name for name in widths if name.startswith("embedding.")]
        self.sides = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(sum(widths[name] for name in side), 64), nn.ReLU(), nn.Linear(64, 32))
            for side in self.sides
        )
        self.rest = nn.Linear(widths["means"] + widths["counts"] + widths["logit"], 1)
        self.scale = nn.Parameter(torch.zeros(32))
        nn.init.zeros_(self.rest.weight)
        nn.init.zeros_(self.rest.bias)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        left, right = (
            tower(torch.cat([inputs[name] for name in side], 1))
            for tower, side in zip(self.towers, self.sides, strict=True)
        )
        rest = torch.cat([inputs["means"], inputs["counts"], inputs["logit"]], 1)
        return (left * right) @ self.scale + self.rest(rest).squeeze(1)


class CrossAndMLP(nn.Module):
    """DCN-v2 as the built-in one computes it, in torch."""

    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__()
        width = sum(widths.values())
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.out = nn.Linear(width + 32, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        x0 = torch.cat(list(inputs.values()), 1)
        x = x0
        for layer in self.cross:
            x = x0 * layer(x) + x
        return self.out(torch.cat([x, self.mlp(x0)], 1)).squeeze(1)


def main() -> None:
    """Run, print, write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="20,000 requests, three rounds")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    options = parser.parse_args()
    requests, rounds = (20_000, 3) if options.quick else (options.requests, options.rounds)
    rates: dict[str, list[float]] = {deep: [] for deep in DEEP}
    aucs = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.csv"
        write_stream(path, requests, FEATURES)
        for turn in range(rounds + 1):  # the first one warms up
            for deep in DEEP:
                config = config_of(FEATURES, deep)
                learner = msgspec.structs.replace(config.learner, deep_path=str(Path(__file__).parent))
                config = msgspec.structs.replace(config, learner=learner)
                report = replay(config, ReplayOptions(data=str(path), limit=2_000 if turn == 0 else None))
                aucs[deep] = report["base"]["last_half"]["auc"]
                if turn:
                    rates[deep].append(report["events_per_second"])
    result = {
        deep: {"requests_per_second": statistics.median(found), "all": found, "auc": aucs[deep]}
        for deep, found in rates.items()
    }
    built_in = statistics.median(rates["dcn"])
    for deep, found in rates.items():
        rate = statistics.median(found)
        print(
            f"{deep:<26}{rate:>9,.0f} requests/s, {rate / built_in:.2f} times dcn "
            f"({min(found):,.0f} to {max(found):,.0f} in {rounds}); AUC {aucs[deep]:.4f}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps({"benchmark": "own_network", "requests": requests, **result}))


if __name__ == "__main__":
    main()
