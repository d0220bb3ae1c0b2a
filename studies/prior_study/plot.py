"""The plot of the study: gain over each baseline, patient by patient, with mean and 95% interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.staging import staged_file

from .summary import TARGET_DB

#: Patients, and mean with interval.
GREY, BLUE = "#999999", "#0072b2"
#: Dots of patients lie in so many rows below the mean, so that few hide another.
ROWS, ROW = 3, 0.11


def plot_gains(summary: Mapping[str, Any], path: Path) -> None:
    """Gain over each baseline: mean and interval, below them a dot per patient, and the band within `TARGET_DB`."""
    from matplotlib.figure import Figure

    panels = {
        name: [(arm, one["gain_db"][name]) for arm, one in summary["arms"].items() if name in one["gain_db"]]
        for name in summary["baselines"]
    }
    panels = {name: rows for name, rows in panels.items() if rows}
    figure = Figure(figsize=(9, 1.2 + 0.5 * sum(1 + len(rows) for rows in panels.values())), layout="constrained")
    drawn = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (name, rows) in zip(drawn, panels.items(), strict=True):
        axes.axvspan(-TARGET_DB, TARGET_DB, color="#dddddd", zorder=0, label=f"within {TARGET_DB} dB of 0")
        axes.axvline(0.0, color="black", linewidth=0.8)
        for height, (_, one) in enumerate(reversed(rows)):
            dots = sorted(one["by_patient"].values())
            heights = [height - 0.12 - ROW * (place % ROWS) for place in range(len(dots))]
            first = height == 0
            axes.plot(dots, heights, "o", color=GREY, markersize=4, label="a patient" if first else None)
            mean, interval = one["mean"], one["interval_95"] or [one["mean"], one["mean"]]
            axes.errorbar(
                *([mean], [height + 0.15]),
                xerr=[[mean - interval[0]], [interval[1] - mean]],
                **{"fmt": "D", "color": BLUE, "capsize": 4, "linewidth": 2, "markersize": 5},
                label="mean, 95% interval" if first else None,
            )
        axes.set_yticks(range(len(rows)), [arm for arm, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_title(f"against {name}", loc="left")
        axes.tick_params(labelbottom=True)
    drawn[-1].set_xlabel("gain (dB): more is less error")
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    with staged_file(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
