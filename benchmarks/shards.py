"""What N shards cost in quality and in CPU time, against one learner, in one run and one process.

    .venv/bin/python benchmarks/shards.py [--quick] [--movies DIR] [--streams A,B] [--shards 1,2,4,8]
                                          [--turns 1024,8192] [--requests N] [--json OUT]

All learn the same requests, each predicted before it is learned. Quality is that of the last half. CPU time a
request is the sum over all shards, without encoding, with its parts: learning, exchanging (asking, lending,
borrowing, packing) and adding. `machines` is the time that N machines would need, as a multiple of how fast
one is: of each step of a turn the slowest shard, and the bytes at 10 Gbit/s with 50 µs for each exchange.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from quality_parts.streams import Stream, make_stream

from learner.features.labelled import Labelled, joined
from learner.metrics import auc
from learner.model.model import Model
from learner.settings import LearnerSettings
from learner.shards.owners import Owners
from learner.shards.shard import Shard
from learner.shards.together import given_out, in_order
from learner.train.trainer import Learnt, Trainer

WORLDS = ("sudden", "slow", "bursts", "newcomers", "2 features", "50 % clicks")
CHUNK = 512
BYTES_PER_S, LATENCY_S, EXCHANGES = 1.25e9, 50e-6, 4
STEPS = ("ask", "lend", "learn", "add", "end")
"""What a shard does between two exchanges of a turn."""


class Learning:
    """Notes the CPU time that a trainer takes to learn, in `seconds`."""

    def __init__(self, trainer: Trainer) -> None:
        self.seconds = 0.0
        for name in ("learn_labelled", "finish"):
            setattr(trainer, name, self._timed(getattr(trainer, name)))

    def _timed(self, learn: Callable[..., list[Learnt]]) -> Callable[..., list[Learnt]]:
        def timed(*arguments: Labelled) -> list[Learnt]:
            began = time.process_time()
            done = learn(*arguments)
            self.seconds += time.process_time() - began
            return done

        return timed


class Told(NamedTuple):
    """What one way to learn a stream gave."""

    auc: float
    logloss: float
    cpu_us: dict[str, float]  # a request
    wall_us: float  # a request, of N machines
    bytes_per_request: float


def quality(learnt: list[Learnt]) -> tuple[float, float]:
    """(AUC, log loss) of the last half."""
    y, p = (np.concatenate([getattr(one, name) for one in learnt]) for name in ("y", "p"))
    half = len(y) // 2
    said = np.where(y[half:] > 0.5, p[half:], 1.0 - p[half:])
    return float(auc(p[half:], y[half:]) or np.nan), float(-np.log(said.clip(1e-12)).mean())


def play_one(stream: Stream, settings: LearnerSettings, chunks: list[Labelled]) -> Told:
    """One learner without shards."""
    trainer = Trainer(Model(stream.features, settings, learning=True))
    began = time.process_time()
    learnt = [one for chunk in chunks for one in trainer.learn_labelled(chunk)] + trainer.finish()
    cpu_us = (time.process_time() - began) * 1e6 / len(stream.learnt)
    return Told(*quality(learnt), {"learn": cpu_us, "all": cpu_us}, cpu_us, 0.0)


def play_shards(
    stream: Stream, settings: LearnerSettings, chunks: list[Labelled], shards: int, turn: int
) -> Told:
    """N shards, a step at a time, with the time of each."""
    owners = Owners(shards)
    mine = [Shard(rank, owners, stream.features, settings) for rank in range(shards)]
    learnings = [Learning(shard.trainer) for shard in mine]
    whole = joined(chunks)
    spent = dict.fromkeys(STEPS, 0.0)
    learnt, wall, sent = [], 0.0, 0
    for first in range(0, whole.requests, turn):
        part = whole.part(first, min(first + turn, whole.requests))
        shares = given_out(mine[0].model, owners, part)
        exchanges = []
        for shard, share in zip(mine, shares, strict=True):
            kept = np.zeros(part.requests, dtype=np.bool_)
            kept[share] = True
            exchanges.append(shard.turn(part.where(kept) if len(share) else None))
        got = [[] for _ in mine]
        ended = []
        for step in STEPS:
            took, messages = [], []
            for exchange, received in zip(exchanges, got, strict=True):
                began = time.process_time()
                try:
                    messages.append(next(exchange) if step == "ask" else exchange.send(received))
                except StopIteration as end:
                    ended.append(end.value)
                took.append(time.process_time() - began)
            spent[step] += sum(took)
            wall += max(took)
            if messages:
                got = [[each[rank].copy() for each in messages] for rank in range(shards)]
                out = [
                    sum(len(m) for to, m in enumerate(each) if to != rank)
                    for rank, each in enumerate(messages)
                ]
                sent += sum(out)
                wall += max(out) / BYTES_PER_S + (LATENCY_S if shards > 1 else 0.0)
        learnt.append(in_order([one for each in ended for one in each], np.concatenate(shares)))
    n = whole.requests / 1e6
    learning = sum(one.seconds for one in learnings)
    everything = sum(spent.values())
    adding = spent["add"] + spent["end"]
    parts = {"learn": learning, "exchange": everything - learning - adding, "add": adding, "all": everything}
    return Told(*quality(learnt), {k: s / n for k, s in parts.items()}, wall / n, sent / whole.requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one world, 3,000 requests")
    parser.add_argument("--movies", type=Path, metavar="DIR", help="MovieTweetings")
    parser.add_argument("--streams", help="which (all)")
    parser.add_argument("--shards", default="1,2,4,8")
    parser.add_argument("--turns", default="1024,8192", help="requests of a turn, at all shards together")
    parser.add_argument("--requests", type=int, help="of each stream, at most")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    names = ["movietweetings 8"] * (options.movies is not None) + list(WORLDS)
    if options.streams:
        names = options.streams.split(",")
    requests, turns = options.requests, [int(turn) for turn in options.turns.split(",")]
    if options.quick:
        names, requests, turns = ["sudden"], 3_000, [256]
    settings = LearnerSettings()
    told: dict[str, dict[str, object]] = {}
    for name in names:
        stream = make_stream(name, 0, options.movies, requests)
        encoder = Model(stream.features, settings).encoder
        parts = [stream.learnt[i : i + CHUNK] for i in range(0, len(stream.learnt), CHUNK)]
        chunks = [Labelled.of(encoder, part) for part in parts]
        play_one(stream, settings, chunks[:4])  # kernels, caches
        one = play_one(stream, settings, chunks)
        print(f"{name}, {len(stream.learnt):,} requests; one learner: AUC {one.auc:.4f}, log loss "
              f"{one.logloss:.4f}, {one.cpu_us['all']:.1f} µs of CPU a request")  # fmt: skip
        told[name] = {"one": one._asdict()}
        for shards in map(int, options.shards.split(",")):
            for turn in turns:
                got = play_shards(stream, settings, chunks, shards, turn)
                print(
                    f"  {shards} x turn {turn:6,}: AUC {got.auc - one.auc:+.4f}  log loss "
                    f"{got.logloss - one.logloss:+.4f}  CPU x{got.cpu_us['all'] / one.cpu_us['all']:.2f} ("
                    + " ".join(f"{part} {us:.1f}" for part, us in got.cpu_us.items() if part != "all")
                    + f" µs)  machines x{one.wall_us / got.wall_us:.2f}  {got.bytes_per_request:,.0f} bytes"
                )
                told[name][f"{shards} x {turn}"] = got._asdict()
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
