"""Pictures of one slice: its attention maps, and the results of several priors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ..hu import WINDOWS_HU
from .pictures import COLOUR_MAP, map_limits, on_image


def attention_figure(
    path: str | os.PathLike[str],
    image_hu: np.ndarray,
    maps: Tensor,
    total: Tensor,
    grid: tuple[int, int],
    descriptors: Sequence[str],
    prior: np.ndarray,
) -> None:
    """Write a PNG: the weighted sum and each descriptor's map over the slice, all in one scale.

    Args:
        image_hu: (H, W) in HU.
        maps, total: (K, h, w) and (1, h, w).
        grid: see the networks' ``attention_grids``.
        prior: (K,).
    """
    from matplotlib.figure import Figure

    titles = ["weighted sum", *(f"{word} {share:.1%}" for word, share in zip(descriptors, prior, strict=True))]
    panels = [on_image(one, grid, image_hu.shape)[0].numpy() for one in (total, *maps[:, None])]
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

    right, names = denoised_hu["right"], {"uniform": "uniform prior", "other": f"all on {other}"}
    taken = right - image_hu
    swaps = {title: denoised_hu[name] - right for name, title in names.items()}
    figure = Figure(figsize=(11.0, 6.4), layout="constrained")
    axes = figure.subplots(2, 4)
    above = {"input": image_hu, "right prior": right, **{t: denoised_hu[n] for n, t in names.items()}}
    for one, (title, image) in zip(axes[0], above.items(), strict=True):
        shown = _grey(one, image, WINDOWS_HU["abdomen"])
        one.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=axes[0], shrink=0.8, label="HU")
    axes[1, 0].set_axis_off()
    limit = _limit([taken])
    shown = _grey(axes[1, 1], taken, (-limit, limit))
    axes[1, 1].set_title("right prior - input", fontsize=10)
    figure.colorbar(shown, ax=axes[1, 1], orientation="horizontal", shrink=0.8, label="HU")
    limit = _limit(list(swaps.values()))
    for one, (title, image) in zip(axes[1, 2:], swaps.items(), strict=True):
        shown = _grey(one, image, (-limit, limit))
        one.set_title(f"{title} - right prior", fontsize=10)
    figure.colorbar(shown, ax=axes[1, 2:], orientation="horizontal", shrink=0.8, aspect=40, label="HU")
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


def _grey(axes, image: np.ndarray, limits: tuple[float, float]):  # noqa: ANN001 (matplotlib's)
    return axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")


def _limit(differences: Sequence[np.ndarray]) -> float:
    """Where the grey scale of differences ends: what 99.5% of them stay within, at least 1 HU."""
    return max(1.0, float(np.ceil(np.nanpercentile(np.abs(np.stack(differences)), 99.5))))
