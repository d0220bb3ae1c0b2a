"""Pictures of CT slices for reports and the demo."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ..hu import WINDOWS_HU

DIFFERENCE_HU = (-60.0, 60.0)


def picture_rows(
    path: str | os.PathLike[str],
    rows: Mapping[str, Mapping[str, np.ndarray]],
    difference: tuple[str, str],
    *,
    aspect: float = 1.0,
) -> None:
    """Write a PNG: rows of images in the abdomen window, and the difference of two of each, with scale bars in HU.

    Args:
        rows: label to panels (title to image (H, W) in HU, left to right), top to bottom; all with the same titles.
        difference: titles of the two panels to subtract, first minus second.
        aspect: height of a pixel over its width.
    """
    from matplotlib.figure import Figure

    first, second = difference
    images = [{**panels, f"{first} - {second}": panels[first] - panels[second]} for panels in rows.values()]
    height, width = next(iter(images[0].values())).shape
    count = len(images[0])
    figure = Figure(figsize=(3.6 * count, 0.7 + 3.6 * len(images) * height * aspect / width), layout="constrained")
    grid = figure.subplots(len(images), count, squeeze=False)
    for row, (line, label, panels) in enumerate(zip(grid, rows, images, strict=True)):
        for axes, (title, image) in zip(line, panels.items(), strict=True):
            lower, upper = WINDOWS_HU["abdomen"] if title in rows[label] else DIFFERENCE_HU
            shown = axes.imshow(image, cmap="gray", vmin=lower, vmax=upper, interpolation="nearest", aspect=aspect)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(title)
            if row == len(images) - 1:
                figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.8, label="HU")
        line[0].set_ylabel(label)
    figure.savefig(path, dpi=100, bbox_inches="tight")
