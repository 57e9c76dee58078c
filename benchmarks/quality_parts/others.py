"""The other learners, which have an environment of their own: what they are given, and running them."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from learner.model.model import Model
from learner.settings import LearnerSettings
from quality_parts.cache import ROOT
from quality_parts.freshet import encode_rows
from quality_parts.streams import Arrays, Stream

Found = dict[str, npt.NDArray[Any]]


def events_of(stream: Stream, arrays: Arrays) -> Found:
    """Labels, requests, and the ids of each field, as `foreign/comparators.py` reads them."""
    rows = encode_rows(stream, Model(stream.features, LearnerSettings(pairs_max=0, deep="none")))
    events: Found = {
        "y": arrays.y, "requests": arrays.requests, "visible": arrays.visible,
        "names": np.array(list(stream.features)),
    }  # fmt: skip
    entry_row = np.repeat(np.arange(rows.n), np.diff(rows.start))
    for j in range(len(stream.features)):
        mine = rows.column == j
        counts = np.bincount(entry_row[mine], minlength=rows.n)
        events[f"start{j}"] = np.concatenate([[0], np.cumsum(counts)])
        events[f"ids{j}"] = rows.key[mine]
    return events


def run_other(python: str, script: str, events: Mapping[str, npt.NDArray[Any]], *arguments: str) -> Found:
    """Run a script of this repository by another interpreter, on events in a shared file."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder, "events.npz"), Path(folder, "out.npz")
        np.savez(given, **events)  # type: ignore[arg-type]
        subprocess.run([python, str(ROOT / script), str(given), str(out), *arguments], check=True)
        with np.load(out) as found:
            return dict(found)
