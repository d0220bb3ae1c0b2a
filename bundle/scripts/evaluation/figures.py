"""Pictures of CT slices for reports and the demo."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ..hu import WINDOWS_HU


def comparison_figure(
    path: str | os.PathLike[str],
    panels: Mapping[str, np.ndarray],
    difference: tuple[str, str],
    *,
    window_hu: tuple[float, float] = WINDOWS_HU["abdomen"],
    difference_hu: float = 60.0,
) -> None:
    """Write a PNG: each panel in one HU window, and the difference of two of them, with scale bars in HU.

    Args:
        path: the PNG.
        panels: title to image (H, W) in HU, left to right.
        difference: titles of the two panels to subtract, first minus second.
        window_hu: grey scale of the panels, lower and upper HU.
        difference_hu: the difference is shown from minus to plus this.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, second = difference
    images = {**panels, f"{first} - {second}": panels[first] - panels[second]}
    figure = Figure(figsize=(3.6 * len(images), 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, image) in zip(figure.subplots(1, len(images)), images.items(), strict=True):
        lower, upper = window_hu if title in panels else (-difference_hu, difference_hu)
        shown = axes.imshow(image, cmap="gray", vmin=lower, vmax=upper, interpolation="nearest")
        axes.set_title(title)
        axes.set(xticks=[], yticks=[])
        figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.8, label="HU")
    figure.savefig(path, dpi=100, bbox_inches="tight")
