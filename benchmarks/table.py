"""The embedding table: speed beside FBGEMM and torch, eviction, growth, memory, threads, and what bounds it.

The workload: steps of 4096 examples × 20 ids, dim 16, ids drawn zipf(1.05) from 10 million and spread
over all 64 bits; TTL and admission on. A step finds every id (inserting what is new), hands out a
vector for each, takes a gradient for each and applies the optimizer. FBGEMM and torch do the same with
ids hashed to 10 million rows, so theirs collide. One thread; everybody takes turns within one run, and
the figures are medians over repeats of the medians of a repeat's steps.

    .venv/bin/python benchmarks/table.py [--quick] [--json OUT] [--peer-python PATH] [--only PART ...]

--peer-python names an interpreter with FBGEMM (benchmarks/README.md has the recipe); without it only
torch is the peer. Growth and memory want 4 GiB, sizes 6 GiB.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from table_parts.compiled import machine
from table_parts.eviction import measure_eviction
from table_parts.growth import measure_growth, measure_memory, measure_sizes
from table_parts.plot import cache_sizes, draw_sizes
from table_parts.speed import measure_speed

PARTS = ("speed", "eviction", "growth", "memory", "sizes")


def told_speed(speed: dict[str, Any]) -> list[str]:
    """Lines for people."""
    lines = [
        f"{speed['ids']} ids a step, {speed['distinct']:.0f} distinct, {speed['rows']} rows, "
        f"medians of {speed['repeats']} repeats"
    ]
    for name, rate in speed["ids_per_second"].items():
        lines.append(f"  {name:34s} {rate / 1e6:6.1f} M ids/s   step {speed['step_ms'][name]:.2f} ms")
    for name, ratio in speed["ratios"].items():
        of_least = speed["ratios_of_least"][name]
        lines.append(f"  {name}: {ratio:.2f} times; of the quickest step of each {of_least:.2f} times")
    for name, parts in speed["profile_ms"].items():
        lines.append(f"  {name}, ms: " + ", ".join(f"{part} {took:.2f}" for part, took in parts.items()))
    for name, limit in speed["limit"].items():
        lines.append(
            f"  {name}, limit: {limit['index_lines'] + limit['row_lines']:.1f} lines for each distinct id, "
            f"{limit['row_line_ns']:.1f} to {limit['index_line_ns']:.1f} ns a line: "
            f"{limit['limit_ms']:.2f} ms, "
            f"of which the step reaches {100 * limit['share_reached']:.0f} %"
        )
    expiry, threads = speed["expiry"], speed["threads"]
    lines.append(
        f"  expiry: sweeping 4096 slots a step takes {100 * expiry['share']:.1f} % of it; an expired row "
        f"{expiry['expired_row_ns']:.0f} ns, so {expiry['rows_a_step_within_5_percent']:.0f} rows a step "
        "are within 5 %"
    )
    lines.append(
        f"  lookups: one thread {threads['one_ids_per_second'] / 1e6:.1f} M ids/s, two at once "
        f"{threads['two_over_one']:.2f} times that; one beside training "
        f"{threads['beside_training_ids_per_second'] / 1e6:.1f} M ids/s"
    )
    return lines


def told_eviction(eviction: dict[str, Any]) -> list[str]:
    """Lines for people."""
    return [
        "eviction, processor time of a step with 1 % new ids at the row budget over one without eviction:"
    ] + [
        f"  {name} ids, {told['rows']} rows: {100 * told['share']:+.1f} % (median; the quicker quarter "
        f"{100 * told['share_of_quiet']:+.1f} %), {told['evicting_ms']:.2f} ms; all steps together "
        f"{100 * told['share_of_all']:+.1f} % ({told['evicted']:.0f} rows evicted, worst step "
        f"{told['worst_ms']:.1f} ms)"
        for name, told in eviction.items()
    ]


def told_growth(growth: dict[str, Any]) -> list[str]:
    """Lines for people."""
    step, supply = growth["step"], growth["page_supply_2_mib"]
    worst = ", ".join(f"{value:.1f}" for value in growth["worst_over_median_each_run"])
    return [
        f"growth to {growth['rows']} rows in {growth['steps']} steps, 30 % new: "
        f"median {step['median_ms']:.2f} ms, p99 {step['p99_ms']:.2f}, worst {step['worst_ms']:.2f}",
        f"  worst step over the median: {growth['worst_over_median_of_least']:.2f} of the least time of each "
        f"step over {growth['repeats']} equal runs; {worst} in each run",
        f"  this machine hands out 2 MiB of new memory in {supply['median_ms']:.2f} ms, at worst "
        f"{supply['worst_ms']:.2f} ms",
    ]


def told_memory(memory: dict[str, Any]) -> list[str]:
    """Lines for people."""
    more = 100 * (memory["peak_after_turnover"] - 1)
    return [
        f"memory at {memory['rows']} rows ({memory['optimizer']}): {memory['over_key_and_row']:.3f} times "
        f"key and row bytes; after half expired and as many came {more:+.1f} %"
    ]


def told_sizes(sizes: list[dict[str, float]]) -> list[str]:
    """Lines for people."""
    return ["ns per id of a step, by rows:"] + [
        f"  {line['rows']:>10.0f} rows, {line['table_bytes'] / 2**20:7.1f} MiB: "
        f"zipf {line['zipf_ns_per_id']:6.1f}, uniform {line['uniform_ns_per_id']:6.1f}"
        for line in sizes
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows: under a minute")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the results here")
    parser.add_argument("--peer-python", type=Path, metavar="PATH", help="an interpreter that has FBGEMM")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these alone")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw time per id by rows here")
    arguments = parser.parse_args()
    quick = arguments.quick
    torch.set_num_threads(1)
    # torch warns where this is left undecided.
    torch.sparse.check_sparse_tensor_invariants.disable()

    report: dict[str, Any] = {"benchmark": "table", "quick": quick, "machine": machine()}
    print("{processor}, kernels compiled for {target}: {vector_bits}-bit vectors".format(**report["machine"]))
    if "speed" in arguments.only:
        report["speed"] = measure_speed(
            1_000_000 if quick else 10_000_000, 5 if quick else 12, 5, arguments.peer_python
        )
        print("\n".join(told_speed(report["speed"])), flush=True)
    if "eviction" in arguments.only:
        report["eviction"] = measure_eviction(1_000_000 if quick else 10_000_000)
        print("\n".join(told_eviction(report["eviction"])), flush=True)
    if "growth" in arguments.only:
        report["growth"] = measure_growth(1_000_000 if quick else 20_000_000, 3)
        print("\n".join(told_growth(report["growth"])), flush=True)
    if "memory" in arguments.only:
        report["memory"] = measure_memory(1_000_000 if quick else 10_000_000)
        print("\n".join(told_memory(report["memory"])), flush=True)
    if "sizes" in arguments.only:
        sizes = [10_000, 100_000, 1_000_000] + ([] if quick else [10_000_000, 40_000_000])
        report["sizes"] = measure_sizes(sizes, 8, 5)
        print("\n".join(told_sizes(report["sizes"])), flush=True)
        if arguments.plot:
            draw_sizes(report["sizes"], arguments.plot, cache_sizes())
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
