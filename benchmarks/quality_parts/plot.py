"""One plot over time per stream: AUC of the learners in windows of a 24th of the stream."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

SHOWN = ("freshet base", "freshet corrected", "frozen base", "daily base", "vw", "river ftrl", "river fm")


def draw(stream: str, by_seed: Mapping[int, Any], out: Path) -> None:
    """Write the plot as one HTML file that needs no network; lines are means over seeds."""
    figure = go.Figure()
    for name in SHOWN:
        lines = [
            result["learners"][name]["auc_over_time"]
            for result in by_seed.values()
            if name in result["learners"]
        ]
        if not lines:
            continue
        values = np.array(lines, dtype=np.float64)  # (seeds, windows); a window without clicks is NaN
        mean = np.nanmean(values, axis=0)
        share = (np.arange(len(mean)) + 0.5) / len(mean)
        figure.add_scatter(x=share, y=mean, name=name, mode="lines")
    figure.update_layout(
        title=f"{stream}: AUC over time, mean of {len(by_seed)} seeds",
        xaxis_title="share of the stream",
        yaxis_title="AUC in a window",
        template="plotly_white",
    )
    name = stream.replace(" ", "_").replace("%", "pct")
    figure.write_html(out / f"{name}.html", include_plotlyjs=True)
