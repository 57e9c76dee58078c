"""Vowpal Wabbit as in `comparators.py`, with numbers as they are instead of their buckets.

    python values.py EVENTS.npz OUT.npz

Its users give it values, and on some data that is better.
"""

import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from comparators import NAMESPACES, Events, read_events, run_vw_lines, values


def lines(events: Events, numbers: dict[int, npt.NDArray[np.float64]]) -> Iterator[str]:
    """The examples as text; `numbers` by field, (n,), NaN where there is none."""
    for i, (y, row) in enumerate(zip(events.y.tolist(), values(events), strict=True)):
        parts = [f"{1 if y > 0.5 else -1}"]
        for j, ids in enumerate(row):
            said = [f"v:{numbers[j][i]:.9g}"] if j in numbers else map(str, ids)
            if ids:
                parts.append(f"|{NAMESPACES[j]} {' '.join(said)}")
        yield " ".join(parts)


def main() -> None:
    """Run every setting."""
    given, out = sys.argv[1:]
    events = read_events(given)
    with np.load(given) as saved:
        numbers = {int(name[6:]): saved[name] for name in saved.files if name.startswith("number")}
    found = run_vw_lines(events, list(lines(events, numbers)))
    np.savez(out, **{f"{setting} (values)": p for setting, p in found.items()})


if __name__ == "__main__":
    main()
