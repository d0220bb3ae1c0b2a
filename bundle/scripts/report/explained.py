"""Pictures of one slice: its attention maps, and the results of several priors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..hu import WINDOWS_HU
from .pictures import COLOUR_MAP, map_limits, on_image


def attention_figure(
    path: str | os.PathLike[str], image_hu: np.ndarray, maps: Tensor, grid: tuple[int, int], shares: Mapping[str, float]
) -> None:
    """Write a PNG: the weighted sum and each descriptor's map over the slice, all in one scale.

    Args:
        image_hu: (H, W) in HU.
        maps: (1 + K, h, w), the weighted sum first.
        grid: see the networks' ``attention_grids``.
        shares: the prior, by descriptor.
    """
    from matplotlib.figure import Figure

    titles = ["weighted sum", *(f"{word} {share:.1%}" for word, share in shares.items())]
    panels = list(on_image(maps, grid, image_hu.shape).numpy())
    lower, upper = map_limits(panels[1:])
    columns = min(6, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.75 * columns, 2.0 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.set_axis_off()
    for one, title, panel in zip(axes.flat, titles, panels, strict=False):
        _grey(one, image_hu, WINDOWS_HU["abdomen"])
        shown = one.imshow(panel, cmap=COLOUR_MAP, vmin=lower, vmax=upper, alpha=0.6)
        one.set_title(title, fontsize=9, fontweight="bold" if title == "weighted sum" else "normal")
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.4, aspect=40, label="attention")
    bar.solids.set_alpha(1.0)
    figure.savefig(path, dpi=100)


def swap_figure(
    path: str | os.PathLike[str], image_hu: np.ndarray, denoised_hu: Mapping[str, np.ndarray], other: str
) -> None:
    """Write a PNG: the input and its results with the right, the uniform and another region's prior; below, changes.

    Args:
        image_hu: (H, W), the input.
        denoised_hu: ``right``, ``uniform`` and ``other`` to the result (H, W).
        other: the descriptor of ``other``.
    """
    from matplotlib.figure import Figure

    right = denoised_hu["right"]
    swapped = {"uniform prior": denoised_hu["uniform"], f"all on {other}": denoised_hu["other"]}
    figure = Figure(figsize=(11.0, 6.4), layout="constrained")
    axes = figure.subplots(2, 4)
    axes[1, 0].set_axis_off()
    _draw(axes[0], {"input": image_hu, "right prior": right, **swapped}, WINDOWS_HU["abdomen"])
    _draw(axes[1, 1:2], {"right prior - input": right - image_hu}, orientation="horizontal")
    changes = {f"{title} - right prior": image - right for title, image in swapped.items()}
    _draw(axes[1, 2:], changes, orientation="horizontal", aspect=40)
    figure.savefig(path, dpi=100)


def _draw(
    axes: np.ndarray, images: Mapping[str, np.ndarray], limits: tuple[float, float] | None = None, **bar: Any
) -> None:
    """Images by title with one grey scale and its bar; without `limits` 99.5% of differences lie in it, or 1 HU."""
    if limits is None:
        largest = max(1.0, float(np.ceil(np.nanpercentile(np.abs(np.stack(list(images.values()))), 99.5))))
        limits = (-largest, largest)
    for one, (title, image) in zip(axes, images.items(), strict=True):
        shown = _grey(one, image, limits)
        one.set_title(title, fontsize=10)
        one.set(xticks=[], yticks=[])
    axes[0].figure.colorbar(shown, ax=axes, shrink=0.8, label="HU", **bar)


def _grey(axes, image: np.ndarray, limits: tuple[float, float]):  # noqa: ANN001 (matplotlib's)
    return axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
